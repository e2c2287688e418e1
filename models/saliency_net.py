"""The saliency network: encoder, decoder and head, and those parts of GCoNet+ that are on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones import build_encoder
from models.binarise import Binarise, Binarised
from models.classification import MASK_OPERATIONS, ClassHead, MaskedImage
from models.decoder import Decoder, Detail
from models.group_affinity import RELATIONS, ContrastHead, GroupConsensus
from models.refiner import Refiner
from utils.distributed import gather_rows
from utils.errors import UserError
from utils.registry import look_up

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MIN_SIZE = 32
"""Smallest image side in pixels: the coarsest feature map is then one pixel wide."""

_PRIOR = 0.2

REFINERS = ("none", "map", "image")
BINARISED = ("none", "decoder", "refiner", "both")


@dataclass(frozen=True)
class Parts:
    """The switches of `SaliencyNet`: what it has beside encoder, decoder and head.

    A part that is off is neither built nor run.

    Attributes:
        fine: the decoder is deep and has a last level of the image's size, from which the map is
            read (`models.decoder`).
        relation: how the images of a group are related (GAM): a name in `RELATIONS`, or ``none``.
        contrast: predict from features crossed with the other group's consensus, too (GCM).
        classes: number of group classes to tell apart (ACM); 0: none.
        masked_classes: classify again, by the image masked with the predicted map (RACM).
        mask_operation: how image and map are joined there: a name in `MASK_OPERATIONS`.
        binarise: whose output is binarised (CEM): ``none``, ``decoder``, ``refiner``, ``both``.
        binarise_k: steepness of the binarisation.
        refiner: ``none``, or what it sees: ``map``, or map and ``image``.
        levels: give a map at every level of the decoder but its finest.

    Raises:
        UserError: a name is unknown, or a switch has no meaning without another.
    """

    fine: bool = False
    relation: str = "none"
    contrast: bool = False
    classes: int = 0
    masked_classes: bool = False
    mask_operation: str = "x"
    binarise: str = "none"
    binarise_k: float = 300.0
    refiner: str = "none"
    levels: bool = False

    def __post_init__(self) -> None:
        look_up({"none": None, **RELATIONS}, self.relation, "relation")
        look_up(MASK_OPERATIONS, self.mask_operation, "mask operation")
        look_up(dict.fromkeys(REFINERS), self.refiner, "refiner")
        look_up(dict.fromkeys(BINARISED), self.binarise, "place to binarise")
        if self.contrast and self.relation == "none":
            raise UserError("contrast crosses the consensus of two groups: choose a relation, too")
        if self.masked_classes and self.classes == 0:
            raise UserError("masked classification needs the classification of the image, too")
        if self.binarise in ("refiner", "both") and self.refiner == "none":
            raise UserError(f"binarise {self.binarise}: there is no refiner: choose one, too")


NO_PARTS = Parts()


class Prediction(NamedTuple):
    """What the network says of a batch of images.

    Attributes:
        logits: (B, 1, H, W), of the image's size and dtype; their sigmoid is the saliency map.
        features: (B, width, h, w), the decoder features from which the logits are read (where the
            decoder is fine, by way of its last level), at the finest encoder stride, non-negative
            and not normalised.
        others: logits (B, 1, h, w) of the decoder's levels, coarse to fine, and of the decoder
            where a refiner follows; empty without these parts.
        crossed: logits (B, 1, h, w) by the image's own and by the other group's consensus, or None.
        classes: logits (B, classes) of the image's group, or None.
        masked_classes: the same of the image masked by its predicted map, or None.
        pooled: (B, C), the mean of the top features, where classes are told apart.
        masked_pooled: the same of the masked image.
        soft_logits: (B, 1, H, W), a map of the same objects with grey levels, where the final map
            is binarised, else None.

    Between ``features`` and ``soft_logits`` all is for training: in eval mode empty or None.
    """

    logits: Tensor
    features: Tensor
    others: tuple[Tensor, ...] = ()
    crossed: tuple[Tensor, Tensor] | None = None
    classes: Tensor | None = None
    masked_classes: Tensor | None = None
    pooled: Tensor | None = None
    masked_pooled: Tensor | None = None
    soft_logits: Tensor | None = None


class SaliencyNet(nn.Module):
    """Encoder, decoder and head, after GCoNet+ (TPAMI 2023), with any of its `Parts`.

    With a relation, the batch is made of groups of co-salient images, and each image's top
    features are weighted by the consensus of its group; without, images know nothing of each
    other.

    Args:
        backbone: a name in `models.backbones.BACKBONES`; the weights are random.
        width: channels of the decoder.
        parts: what is switched on.

    Raises:
        UserError: no backbone has this name.
    """

    def __init__(self, backbone: str, width: int = 64, parts: Parts = NO_PARTS) -> None:
        super().__init__()
        self._frozen = False
        # Kept in the state dict: weights are of no use without their normalisation.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.parts = parts
        self.encoder = build_encoder(backbone)
        top = self.encoder.channels[-1]
        self.decoder = Decoder(self.encoder.channels, width, deep=parts.fine)
        read = width
        if parts.fine:
            self.detail, read = Detail(width), Detail.CHANNELS
        if parts.binarise in ("decoder", "both"):
            self.head: nn.Module = Binarise(read, parts.binarise_k)
        else:
            self.head = saliency_head(read)
        if parts.relation != "none":
            self.consensus = GroupConsensus(top, parts.relation)
        if parts.contrast:
            self.contrast_head = ContrastHead(top)
        if parts.classes:
            self.class_head = ClassHead(top, parts.classes)
        if parts.masked_classes:
            self.masked_image = MaskedImage(parts.mask_operation)
        if parts.levels:
            self.level_heads = nn.ModuleList(
                saliency_head(width) for _ in self.encoder.channels[1:]
            )
        if parts.refiner != "none":
            k = parts.binarise_k if parts.binarise in ("refiner", "both") else None
            self.refiner = Refiner(4 if parts.refiner == "image" else 1, width, k)

    def forward(
        self,
        image: Tensor,
        groups: Sequence[int] | None = None,
        consensus: Tensor | None = None,
        place: range | None = None,
    ) -> Prediction:
        """Predict saliency for RGB images (B, 3, H, W), float in [0, 1], H and W at least 32.

        Args:
            image: the batch.
            groups: sizes of its groups, in order; None: it is one group. Without a relation they
                mean nothing.
            consensus: (1, C) of the whole group that the batch is a part of, see `group_consensus`;
                None: that of the batch itself.
            place: which images of the batch these are; other processes hold the others, and
                ``groups`` are those of the whole batch. None: they are all.

        Raises:
            UserError: the image is too small, or a training batch is one image of at most
                63 pixels, of which batch norm sees a single coarse pixel.
        """
        size = image.shape[-2:]
        alone = self.parts.relation == "nonlocal"  # whose batch norm sees one group at a time
        self._check_size(min(groups) if alone and groups else image.shape[0], *size)
        normalised = (image - self.mean) / self.std
        maps = self.encoder(normalised)
        top, extras = maps[-1], {}
        if self.parts.relation != "none":
            if consensus is None:
                batch = top if place is None else gather_rows(top, place, sum(groups))
                consensus = self.consensus.consensus(batch, groups)
            groups = groups if place is None else _inside(groups, place)
            maps[-1] = self.consensus(top, groups, consensus)
            if self.training and self.parts.contrast:
                crossed = self.consensus.cross(top, groups, consensus)
                extras["crossed"] = (self.contrast_head(maps[-1]), self.contrast_head(crossed))
        levels = self.decoder.levels(maps)
        features = self.decoder.joined(levels)
        read = self.detail(features, normalised) if self.parts.fine else features
        coarse, soft = _both(self.head(read))
        logits = _grow(coarse, image)
        if self.parts.refiner != "none":
            refined, soft = _both(self.refiner.head(self.refiner.features(logits, normalised)))
            logits = (logits + refined if soft is None else refined).to(image.dtype)
        if soft is not None:
            extras["soft_logits"] = _grow(soft, image)
        if self.training:
            if self.parts.levels:
                pairs = zip(self.level_heads, levels[:-1], strict=True)
                extras["others"] = tuple(head(level) for head, level in pairs)
            if self.parts.refiner != "none":
                extras["others"] = (*extras.get("others", ()), coarse)
            if self.parts.classes:
                extras |= self._classify(normalised, top, logits)
        return Prediction(logits, features, **extras)

    def _classify(self, normalised: Tensor, top: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """Tell the class from the image, and again from the image masked by its map."""
        pooled = ClassHead.pool(top)
        found = {"pooled": pooled, "classes": self.class_head(pooled)}
        if self.parts.masked_classes:
            masked = self.masked_image(normalised, logits.sigmoid())
            found["masked_pooled"] = ClassHead.pool(self.encoder(masked)[-1])
            found["masked_classes"] = self.class_head(found["masked_pooled"])
        return found

    def top_features(self, image: Tensor) -> Tensor:
        """Return the encoder's coarsest map (B, C, h, w), all that a group's consensus needs."""
        return self.encoder((image - self.mean) / self.std)[-1]

    def group_consensus(self, top: Tensor) -> Tensor | None:
        """Return the consensus (1, C) of a whole group's `top_features`; None without a relation.

        Given to `forward` with any part of the group, it makes that part's maps the same as the
        whole group in one batch would.
        """
        if self.parts.relation == "none":
            return None
        return self.consensus.consensus(top, None)

    def freeze_encoder(self) -> None:
        """Let the encoder learn no more: neither its weights nor its batch statistics."""
        self.encoder.requires_grad_(False)
        self._frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> SaliencyNet:
        """Switch to training, or to eval mode; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self._frozen:
            self.encoder.eval()
        return self

    def _check_size(self, batch: int, height: int, width: int) -> None:
        if min(height, width) < MIN_SIZE:
            raise UserError(
                f"image of {width}x{height} pixels is too small for the network: "
                f"give at least {MIN_SIZE} pixels a side"
            )
        if self.training and batch == 1 and max(height, width) < 2 * MIN_SIZE:
            raise UserError(
                f"a training batch (with --relation nonlocal, a group) of one image of "
                f"{width}x{height} pixels leaves batch norm a single value: give two images, or "
                f"{2 * MIN_SIZE} pixels a side"
            )

    def parameter_groups(
        self, lr: float, backbone_lr_factor: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        """Sort the trainable parameters into groups for a torch optimiser.

        Only the weights of convolutions and linear layers decay; biases, norms and learned scales
        do not. The encoder learns at ``lr * backbone_lr_factor``, the rest at ``lr``.

        Returns:
            Groups with the keys ``name``, ``params``, ``lr`` and ``weight_decay``; empty ones
            are left out.
        """
        groups: dict[str, dict[str, Any]] = {}
        for part, rate in (("encoder", lr * backbone_lr_factor), ("rest", lr)):
            for kind, decay in (("weights", weight_decay), ("scales", 0.0)):
                name = f"{part}/{kind}"
                groups[name] = {"name": name, "params": [], "lr": rate, "weight_decay": decay}
        for prefix, module in self.named_modules():
            part = "encoder" if prefix.split(".")[0] == "encoder" else "rest"
            multiplies = isinstance(module, (nn.Conv2d, nn.Linear))
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    kind = "weights" if multiplies and name == "weight" else "scales"
                    groups[f"{part}/{kind}"]["params"].append(parameter)
        return [group for group in groups.values() if group["params"]]


def _inside(groups: Sequence[int], place: range) -> list[int]:
    """Return how many images of each group, in order, are among those at ``place``."""
    ends = list(accumulate(groups, initial=0))
    return [max(0, min(end, place.stop) - max(start, place.start)) for start, end in pairwise(ends)]


def _both(read: Tensor | Binarised) -> tuple[Tensor, Tensor | None]:
    """Return the logits that a head reads, and the soft ones if it binarises."""
    return read if isinstance(read, Binarised) else (read, None)


def _grow(logits: Tensor, image: Tensor) -> Tensor:
    """Return logits of the image's size and dtype (full precision again after autocast)."""
    size = image.shape[-2:]
    return F.interpolate(logits.to(image.dtype), size=size, mode="bilinear", align_corners=False)


def saliency_head(width: int) -> nn.Conv2d:
    """Return a layer that reads logits (B, 1, h, w) from features (B, width, h, w)."""
    head = nn.Conv2d(width, 1, 3, padding=1)
    # About a fifth of an image is salient. Starting there spares the first steps, at a small
    # learning rate, from doing nothing but lower the whole map (Lin et al., ICCV 2017, 3.3).
    nn.init.constant_(head.bias, math.log(_PRIOR / (1 - _PRIOR)))
    return head
