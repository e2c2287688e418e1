"""How far a saliency map is from its labels, and how far from being binary at all."""

from __future__ import annotations

import torch
from torch import Tensor

from losses.supervision import Supervision, full_precision, split_labels, weighted_mean


def mse(logits: Tensor, supervision: Supervision) -> Tensor:
    """Squared error of the saliency, averaged over all answers of the batch.

    With saliency p it is ``p^2`` for a background and ``(1 - p)^2`` for a foreground answer. For a
    binary mask this is the usual mean squared error, an option of GCoNet+ (Zheng et al., TPAMI
    2023); for a soft mask m it is that plus a constant, the mean of ``m (1 - m)``.

    Args:
        logits: (B, 1, H, W), float of any precision.
        supervision: its ``labels`` are used.

    Returns:
        A scalar in [0, 1]; zero without labels.
    """
    logits = full_precision(logits)
    labels = torch.cat(split_labels(logits, supervision), dim=1)
    # 1 - p as the sigmoid of -x: as a difference it would be zero, and learn nothing, from x = 17.
    total = supervision.total(torch.sum, labels.sum())
    return weighted_mean(torch.cat((logits, -logits), dim=1).sigmoid().square(), labels, total)


def reg(logits: Tensor, supervision: Supervision) -> Tensor:
    """Mean over all pixels of ``1 - p^2 - (1 - p)^2``: pushes the saliency p towards 0 or 1.

    An option of GCoNet+ (Zheng et al., TPAMI 2023). Needs no labels; it asks for certainty, right
    or wrong, so it is of use only beside a loss that knows labels.

    Args:
        logits: (B, 1, H, W), float of any precision.
        supervision: nothing of it is used.

    Returns:
        A scalar in [0, 1/2].
    """
    logits = full_precision(logits)
    return 2 * (logits.sigmoid() * (-logits).sigmoid()).mean() * supervision.share
