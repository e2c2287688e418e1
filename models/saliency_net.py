"""The saliency network: encoder, decoder and head."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones import build_encoder
from models.decoder import Decoder
from utils.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MIN_SIZE = 32
"""Smallest image side in pixels: the coarsest feature map is then one pixel wide."""

_PRIOR = 0.2


class Prediction(NamedTuple):
    """What the network says of a batch of images.

    Attributes:
        logits: (B, 1, H, W), of the image's size and dtype; their sigmoid is the saliency map.
        features: (B, width, h, w), the decoder features from which the logits are read, at the
            finest encoder stride, non-negative and not normalised.
    """

    logits: Tensor
    features: Tensor


class SaliencyNet(nn.Module):
    """Encoder, decoder and head, after GCoNet+ (TPAMI 2023) without its group modules.

    Those act on the encoder's maps of a co-salient group, so they belong between ``encoder`` and
    ``decoder`` in `forward`; ungrouped images need none of them.

    Args:
        backbone: a name in `models.backbones.BACKBONES`; the weights are random.
        width: channels of the decoder.

    Raises:
        UserError: no backbone has this name.
    """

    def __init__(self, backbone: str, width: int = 64) -> None:
        super().__init__()
        # Kept in the state dict: weights are of no use without their normalisation.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.encoder = build_encoder(backbone)
        self.decoder = Decoder(self.encoder.channels, width)
        self.head = nn.Conv2d(width, 1, 3, padding=1)
        # About a fifth of an image is salient. Starting there spares the first steps, at a small
        # learning rate, from doing nothing but lower the whole map (Lin et al., ICCV 2017, 3.3).
        nn.init.constant_(self.head.bias, math.log(_PRIOR / (1 - _PRIOR)))

    def forward(self, image: Tensor) -> Prediction:
        """Predict saliency for RGB images (B, 3, H, W), float in [0, 1], H and W at least 32.

        Raises:
            UserError: the image is too small, or a training batch is one image of at most
                63 pixels, of which batch norm sees a single coarse pixel.
        """
        size = image.shape[-2:]
        self._check_size(image.shape[0], *size)
        maps = self.encoder((image - self.mean) / self.std)
        features = self.decoder(maps)
        logits = self.head(features).to(image.dtype)  # full precision again after autocast
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return Prediction(logits, features)

    def _check_size(self, batch: int, height: int, width: int) -> None:
        if min(height, width) < MIN_SIZE:
            raise UserError(
                f"image of {width}x{height} pixels is too small for the network: "
                f"give at least {MIN_SIZE} pixels a side"
            )
        if self.training and batch == 1 and max(height, width) < 2 * MIN_SIZE:
            raise UserError(
                f"a training batch of one image of {width}x{height} pixels leaves batch norm "
                f"a single value: give two images, or {2 * MIN_SIZE} pixels a side"
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
