"""Losses by name, and their weighted sum.

Every loss maps ``(logits, supervision)`` to a scalar computed in float32 or better, whatever the
precision of the logits; it is finite, with a finite gradient, whatever the labels, none at all
included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from losses.coherence import coherence
from losses.cross_entropy import balanced_bce, bce
from losses.region import iou
from losses.structure import consistency, ssim
from losses.supervision import Supervision
from utils.errors import UserError
from utils.registry import look_up

__all__ = ["LOSSES", "Loss", "Supervision", "total_loss"]

Loss = Callable[[Tensor, Supervision], Tensor]

LOSSES: dict[str, Loss] = {
    "bce": bce,
    "balanced_bce": balanced_bce,
    "iou": iou,
    "ssim": ssim,
    "coherence": coherence,
    "consistency": consistency,
}


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
