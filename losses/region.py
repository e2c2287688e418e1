"""Losses on how regions overlap."""

from __future__ import annotations

from torch import Tensor

from losses.supervision import Supervision, full_precision, split_labels, weighted_mean


def iou(logits: Tensor, supervision: Supervision) -> Tensor:
    """Soft intersection over union at labelled pixels: ``1 - I / U`` (Rahman and Wang, ISVC 2016).

    With saliency p and answers f (foreground) and b (background), I = sum f p and
    U = sum (f + b p) over an image; for a dense binary mask this is the usual soft IoU. The mean
    is taken over the images with a foreground answer: without one, I is zero whatever the map
    says, and there is nothing to learn.

    Args:
        logits: (B, 1, H, W), float of any precision.
        supervision: its ``labels`` are used.

    Returns:
        A scalar in [0, 1]; zero without foreground labels.
    """
    logits = full_precision(logits)
    background, foreground = split_labels(logits, supervision)
    saliency = logits.sigmoid()
    answers = foreground.sum(dim=(1, 2, 3))
    intersection = (foreground * saliency).sum(dim=(1, 2, 3))
    union = answers + (background * saliency).sum(dim=(1, 2, 3))
    defined = (answers > 0).to(logits.dtype)
    total = supervision.total(_count_defined, defined.sum())
    overlap = intersection / union.where(answers > 0, union.new_ones(()))
    return weighted_mean(1 - overlap, defined, total)


def _count_defined(labels: Tensor) -> Tensor:
    return (labels[:, 1].sum(dim=(1, 2)) > 0).sum()
