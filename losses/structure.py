"""Structural similarity: of a map to its mask, and of the maps of an image at two scales."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from losses.supervision import Supervision, full_precision, split_labels, weighted_mean

_C1, _C2 = 0.01**2, 0.03**2
_GAUSSIAN = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
SSIM_WINDOW = tuple(weight / sum(_GAUSSIAN) for weight in _GAUSSIAN)
"""One axis of the 11 x 11 Gaussian, sigma 1.5 pixels, of Wang et al. 2004."""

CONSISTENCY_WINDOW = (1 / 3, 1 / 3, 1 / 3)
"""One axis of the 3 x 3 mean of Godard et al., CVPR 2017, which SCWSSOD uses."""


def ssim_map(a: Tensor, b: Tensor, window: tuple[float, ...]) -> Tensor:
    """Structural similarity (Wang et al., IEEE TIP 2004, eq. 13) of maps in [0, 1].

    Args:
        a: maps (B, 1, H, W).
        b: maps of the same shape.
        window: weights along one axis, summing to one, k of them; the window is their product.

    Returns:
        (B, 1, H - k + 1, W - k + 1), one value in [-1, 1] a window that lies wholly in the map.
        H and W must be at least k.
    """
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = (
        _smooth(_smooth(x, window, dim=2), window, dim=3) for x in (a, b, a * a, b * b, a * b)
    )
    variances = mean_aa - mean_a.square() + mean_bb - mean_b.square()
    covariance = mean_ab - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _C1) / (mean_a.square() + mean_b.square() + _C1)
    return likeness * (2 * covariance + _C2) / (variances + _C2)


def _smooth(x: Tensor, window: tuple[float, ...], dim: int) -> Tensor:
    # Shifted sums, not a convolution: autocast and TF32 would round a convolution's inputs, and
    # the variance, a small difference of large numbers, would be lost.
    length = x.shape[dim] - len(window) + 1
    shifted = [x.narrow(dim, start, length) * weight for start, weight in enumerate(window)]
    return sum(shifted[1:], start=shifted[0])


def ssim(logits: Tensor, supervision: Supervision) -> Tensor:
    """One minus the structural similarity of saliency map and mask (as in BASNet, CVPR 2019).

    The mean over those 11 x 11 windows in which every pixel is labelled: a mask gives all that
    lie in the image, single points give none, and no label is made up.

    Args:
        logits: (B, 1, H, W), float of any precision.
        supervision: its ``labels`` are used; a pixel's mask value is its foreground share.

    Returns:
        A scalar in [0, 2]; zero without a fully labelled window.
    """
    logits = full_precision(logits)
    size = len(SSIM_WINDOW)
    if min(logits.shape[-2:]) < size:
        return (logits * 0).sum()
    background, foreground = split_labels(logits, supervision)
    answers = background + foreground
    mask = foreground / answers.where(answers > 0, answers.new_ones(()))
    whole = _labelled_windows(answers)
    total = supervision.total(lambda labels: _labelled_windows(labels.sum(1)).sum(), whole.sum())
    return weighted_mean(1 - ssim_map(logits.sigmoid(), mask, SSIM_WINDOW), whole, total)


def _labelled_windows(answers: Tensor) -> Tensor:
    """Return 1 for each window of (..., H, W) in which every pixel is labelled, else 0."""
    unlabelled = (answers == 0).to(answers.dtype)
    return 1 - F.max_pool2d(unlabelled, len(SSIM_WINDOW), stride=1)


def consistency(logits: Tensor, supervision: Supervision, alpha: float = 0.85) -> Tensor:
    """Saliency structure consistency of SCWSSOD (Yu et al., AAAI 2021).

    ``alpha (1 - SSIM) / 2 + (1 - alpha) |S - S'|``, averaged, between the shrunk saliency map of
    the image and the map of the shrunk image. Needs no labels.

    Args:
        logits: (B, 1, H, W), float of any precision.
        supervision: its ``small_logits`` are used.
        alpha: weight of the structural part.

    Returns:
        A scalar in [0, 1]; zero without ``small_logits``.
    """
    logits = full_precision(logits)
    if supervision.small_logits is None:
        return (logits * 0).sum()
    small = full_precision(supervision.small_logits).sigmoid()
    shrunk = F.interpolate(
        logits.sigmoid(), size=small.shape[-2:], mode="bilinear", align_corners=False
    )
    share = supervision.share
    difference = (1 - alpha) * (small - shrunk).abs().mean() * share
    if min(small.shape[-2:]) < len(CONSISTENCY_WINDOW):
        return difference
    unlike = (1 - ssim_map(small, shrunk, CONSISTENCY_WINDOW)).mean() * share
    return difference + alpha * unlike / 2
