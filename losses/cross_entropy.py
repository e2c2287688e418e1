"""Cross-entropy at labelled pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.supervision import Supervision, full_precision, split_labels, weighted_mean


def bce(logits: Tensor, supervision: Supervision) -> Tensor:
    """Binary cross-entropy in nats, averaged over all answers of the batch.

    Every answer weighs the same, wherever it stands; unlabelled pixels count neither above nor
    below the fraction bar, so logits of zero give ln 2 however few the answers are.

    Args:
        logits: (B, 1, H, W), float of any precision.
        supervision: its ``labels`` are used.

    Returns:
        A scalar >= 0; zero without labels.
    """
    logits = full_precision(logits)
    labels = torch.cat(split_labels(logits, supervision), dim=1)
    total = supervision.total(torch.sum, labels.sum())
    return weighted_mean(-F.logsigmoid(torch.cat((-logits, logits), dim=1)), labels, total)


def balanced_bce(logits: Tensor, supervision: Supervision) -> Tensor:
    """Binary cross-entropy in nats, the mean of its means over background and over foreground.

    So each class weighs one half, however few its answers are; a class without answers in the
    batch is left out.

    Args:
        logits: (B, 1, H, W), float of any precision.
        supervision: its ``labels`` are used.

    Returns:
        A scalar >= 0; zero without labels.
    """
    logits = full_precision(logits)
    background, foreground = split_labels(logits, supervision)
    own = torch.stack((background.sum(), foreground.sum()))
    totals = supervision.total(lambda labels: labels.sum((0, 2, 3)), own)
    means = weighted_mean(-F.logsigmoid(-logits), background, totals[0]) + weighted_mean(
        -F.logsigmoid(logits), foreground, totals[1]
    )
    return means / (totals > 0).sum().clamp(min=1)
