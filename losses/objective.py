"""What a training minimises: the losses on every output of the network, weighted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from losses import level_loss, total_loss
from losses.groups import adversarial_generator, classification, contrast, triplet
from losses.smoothing import smooth_labels
from losses.supervision import Supervision
from utils.distributed import gather_rows, world
from utils.distributed import rows as place
from utils.errors import UserError


class Outputs(Protocol):
    """What is looked at of a prediction, see `models.saliency_net.Prediction`."""

    logits: Tensor
    others: tuple[Tensor, ...]
    crossed: tuple[Tensor, Tensor] | None
    classes: Tensor | None
    masked_classes: Tensor | None
    pooled: Tensor | None
    masked_pooled: Tensor | None


@dataclass(frozen=True)
class Objective:
    """Weights of all losses; those of weight 0 are not computed.

    Attributes:
        last: losses on the final map, by name (`losses.LOSSES`).
        others: losses on the other maps, averaged over them; empty: none.
        contrast: on maps by the image's own and by the other group's consensus (GCM).
        classify: on the class told from the image (ACM).
        classify_masked: on the class told from the masked image (RACM).
        triplet: on the pooled features of the two groups (GST).
        triplet_of: features of the ``image``, of the ``masked`` image, or of ``both``.
        triplet_margin: see `losses.groups.triplet`.
        adversarial: on the discriminator's opinion of the final map.
        smooth: average the losses on maps under hard and under smoothed labels.
    """

    last: Mapping[str, float]
    others: Mapping[str, float] = field(default_factory=dict)
    contrast: float = 0.0
    classify: float = 0.0
    classify_masked: float = 0.0
    triplet: float = 0.0
    triplet_of: str = "image"
    triplet_margin: float = 0.1
    adversarial: float = 0.0
    smooth: bool = False

    def __call__(
        self,
        found: Outputs,
        supervision: Supervision,
        groups: Sequence[int] = (),
        classes: Tensor | None = None,
        judged: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add all losses up.

        Args:
            found: what the network says of the batch, in training mode.
            supervision: labels, image and small map of the batch.
            groups: sizes of the whole batch's groups; needed for triplets.
            classes: int64 (B,), class of each image; needed for classification.
            judged: (B, 1), the discriminator's logits of the final map.

        Returns:
            The weighted sum, a scalar, and the value of each loss before weighting, detached;
            those on the other maps have ``others/`` before their names.

        Raises:
            UserError: a loss's name is unknown, or its weight negative.
        """
        total, parts = self._on_maps(found, supervision)
        more: dict[str, tuple[float, Tensor]] = {}
        if self.contrast and found.crossed is not None:
            more["contrast"] = (self.contrast, contrast(*found.crossed, supervision))
        # These losses are means over the images they see, which may be a part of the batch.
        share = supervision.share
        if self.classify:
            value = classification(found.classes, classes) * share
            more["classify"] = (self.classify, value)
        if self.classify_masked:
            value = classification(found.masked_classes, classes) * share
            more["classify_masked"] = (self.classify_masked, value)
        if self.triplet:
            more["triplet"] = (self.triplet, self._triplets(found, groups))
        if self.adversarial and judged is not None:
            more["adversarial"] = (self.adversarial, adversarial_generator(judged) * share)
        for name, (weight, value) in more.items():
            parts[name] = value.detach()
            total = total + weight * value
        return total, parts

    def _on_maps(
        self, found: Outputs, supervision: Supervision
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total, parts = self._under(found, supervision)
        if self.smooth:
            smoothed, _ = self._under(found, supervision.relabelled(smooth_labels))
            total = (total + smoothed) / 2
        return total, parts

    def _under(self, found: Outputs, supervision: Supervision) -> tuple[Tensor, dict[str, Tensor]]:
        total, parts = total_loss(found.logits, supervision, self.last)
        if self.others and found.others:
            on_others, values = level_loss(found.others, supervision, self.others)
            total = total + on_others
            parts |= {f"others/{name}": value for name, value in values.items()}
        return total, parts

    def _triplets(self, found: Outputs, groups: Sequence[int]) -> Tensor:
        both = {"image": found.pooled, "masked": found.masked_pooled}
        chosen = [both[name] for name in both if self.triplet_of in (name, "both")]
        if not chosen or any(pooled is None for pooled in chosen):
            raise UserError(
                f"triplets of {self.triplet_of}: the network pools no such features: turn "
                "classification (masked: masked classification) on"
            )
        # Triplets join images of all processes: each of them computes every one, and counts its
        # part of the sum.
        rows, total, parts = place(sum(groups)), sum(groups), world() * len(chosen)
        whole = [gather_rows(pooled, rows, total) for pooled in chosen]
        return sum(triplet(pooled, groups, self.triplet_margin) for pooled in whole) / parts
