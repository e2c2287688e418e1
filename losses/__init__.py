"""Losses on the saliency map by name, and their weighted sum.

Every loss here maps ``(logits, supervision)`` to a scalar computed in float32 or better, whatever
the precision of the logits; it is finite, with a finite gradient, whatever the labels, none at all
included. The losses of the group modules, which look at other outputs, are in `losses.groups`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from losses.coherence import coherence
from losses.cross_entropy import balanced_bce, bce
from losses.distance import mse, reg
from losses.levels import at_label_size
from losses.region import iou
from losses.structure import consistency, ssim
from losses.supervision import Supervision
from utils.errors import UserError
from utils.registry import look_up

__all__ = ["LABEL_FREE", "LOSSES", "Loss", "Supervision", "level_loss", "total_loss"]

Loss = Callable[[Tensor, Supervision], Tensor]

LOSSES: dict[str, Loss] = {
    "bce": bce,
    "balanced_bce": balanced_bce,
    "iou": iou,
    "ssim": ssim,
    "mse": mse,
    "reg": reg,
    "coherence": coherence,
    "consistency": consistency,
}

LABEL_FREE = frozenset({"reg", "coherence", "consistency"})
"""Losses that look at no label."""


def total_loss(
    logits: Tensor, supervision: Supervision, weights: Mapping[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add up named losses.

    Args:
        logits: (B, 1, H, W), float of any precision.
        supervision: what the losses learn from.
        weights: a weight >= 0 for each name in `LOSSES` that is wanted; a loss of weight zero is
            not computed.

    Returns:
        The weighted sum, a scalar, and the value of each computed loss before weighting, as
        detached scalar tensors.

    Raises:
        UserError: a name is unknown, a weight is negative, or no loss is left.
    """
    total, values = None, {}
    for name, weight in weights.items():
        loss = look_up(LOSSES, name, "loss")
        if not weight >= 0:
            raise UserError(f"loss weight {name}={weight}: give a number of at least 0")
        if weight == 0:
            continue
        value = loss(logits, supervision)
        values[name] = value.detach()
        total = weight * value if total is None else total + weight * value
    if total is None:
        raise UserError(
            f"no loss to train with (weights {dict(weights)}): "
            f"give one of {', '.join(LOSSES)} a weight above 0"
        )
    return total, values


def level_loss(
    levels: Sequence[Tensor], supervision: Supervision, weights: Mapping[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Average the weighted sum of losses over the outputs of several levels.

    Each level is resized to the labels first, and every loss is computed on it. GCoNet+ (Zheng et
    al., TPAMI 2023) adds its levels up and multiplies by 4 / their number, so a weight of its
    counts four times as much.

    Args:
        levels: at least one tensor of logits (B, 1, h, w), each of a size and precision of its own.
        supervision: what the losses learn from, of the size of the labels.
        weights: as in `total_loss`.

    Returns:
        As in `total_loss`, each the mean over the levels; for one level of the labels' size, the
        same as there.

    Raises:
        UserError: as in `total_loss`.
    """
    totals, values = zip(
        *(total_loss(at_label_size(level, supervision), supervision, weights) for level in levels),
        strict=True,
    )
    means = {name: sum(value[name] for value in values) / len(levels) for name in values[0]}
    return sum(totals) / len(levels), means
