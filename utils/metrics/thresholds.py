"""Everything that follows from a map's grey values inside and outside the mask, counted.

All functions take the counts of many images at once: uint32 (or any integer) [N, 2, 256], the
pixels of each grey value outside (0) and inside (1) the mask. Memory is about 40 kB an image: give
a few hundred at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.metrics.conventions import Convention

BETA_SQUARED = 0.3
"""Of the F-measure (Achanta et al., CVPR 2009): precision counts more than recall."""

Floats = NDArray[np.float64]
Counts = NDArray[np.integer]


class Curves(NamedTuple):
    """Scores of the binarised maps, float64 [N, T], from the highest threshold to the lowest.

    Attributes:
        precision: share of the found pixels that are foreground; 0 where none is found.
        recall: share of the foreground found; 0 for an empty mask.
        f: F-measure; 0 where no foreground is found.
        fpr: share of the background found; 0 for a full mask.
        e: E-measure.
        iou: intersection over union; 0 where both are empty.
        dice: twice the intersection over the sum of both areas; 0 where both are empty.
        ber: one minus the mean of recall and 1 - fpr, where the share of a class that is not in the
            mask counts as 0; so one half or more for an empty or full mask.
    """

    precision: Floats
    recall: Floats
    f: Floats
    fpr: Floats
    e: Floats
    iou: Floats
    dice: Floats
    ber: Floats


def curves(counts: Counts, convention: Convention) -> Curves:
    """Return the scores at each of the convention's thresholds, [N, T]."""
    return Curves(*(scores[:, :-2] for scores in at_thresholds(counts, convention)))


def at_thresholds(counts: Counts, convention: Convention) -> Curves:
    """Return `curves` with two columns more, [N, T + 2].

    The last but one is at each image's adaptive threshold, the smaller of 1 and twice the mean of
    its stretched map; the last at one half of the stretched map.
    """
    counts = counts.astype(np.int64)
    lowest, highest = grey_spans(counts)
    spans = list(zip(lowest.tolist(), highest.tolist(), strict=True))
    first = np.empty((len(counts), convention.thresholds + 2), np.intp)
    for row, span in zip(first, spans, strict=True):
        row[:-2] = convention.first_found(*span)
        row[-1] = convention.half(*span)
    first[:, -2] = _first_adaptive(counts, spans, convention)
    # The pixels of a class that a binary map finds are the tail of its histogram.
    tails = np.zeros((len(counts), 2, 257))
    tails[..., :256] = counts[..., ::-1].cumsum(axis=-1)[..., ::-1]
    false, true = (np.take_along_axis(tails[:, c], first, axis=1) for c in (0, 1))
    return _scores_of_binary(true, false, tails[:, 1, :1], tails[:, 0, :1], convention)


def mean_errors(counts: Counts, convention: Convention) -> Floats:
    """Return the mean absolute error of each map, float64 [N] (Perazzi et al., CVPR 2012)."""
    lowest, highest = grey_spans(counts)
    levels = np.empty((len(counts), 256))
    for row, low, high in zip(levels, lowest.tolist(), highest.tolist(), strict=True):
        row[:] = convention.mae_levels(low, high)
    errors = (counts[:, 0] * levels + counts[:, 1] * (1 - levels)).sum(axis=1)
    return errors / counts.sum(axis=(1, 2), dtype=np.int64)


def grey_spans(counts: Counts) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the lowest and the highest grey value of each map, [N] each."""
    present = counts.any(axis=1)
    return present.argmax(axis=1), 255 - present[:, ::-1].argmax(axis=1)


def average_precision(precision: Floats, recall: Floats) -> Floats:
    """Return the area under precision against recall, as in the PASCAL VOC of 2010 and later.

    Precision at a recall counts as the highest reached at that recall or a higher one; beyond the
    highest recall it counts as 0.

    Args:
        precision: [..., T], from the highest threshold to the lowest.
        recall: [..., T], never falling.
    """
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    return (np.diff(recall, axis=-1, prepend=0) * envelope).sum(axis=-1)


def area_under_roc(recall: Floats, fpr: Floats, close: bool) -> Floats:
    """Return the area under recall against the share of background found, by trapezia.

    Args:
        recall: [..., T], from the highest threshold to the lowest, never falling.
        fpr: [..., T], never falling.
        close: whether to add the points (0, 0) and (1, 1) at the ends.
    """
    if close:
        ends = [(0, 0)] * (recall.ndim - 1) + [(1, 1)]
        recall, fpr = (np.pad(rates, ends, constant_values=(0, 1)) for rates in (recall, fpr))
    heights = recall[..., 1:] + recall[..., :-1]
    return (np.diff(fpr, axis=-1) * heights).sum(axis=-1) / 2


def _first_adaptive(
    counts: Counts, spans: list[tuple[int, int]], convention: Convention
) -> NDArray[np.int64]:
    """Return the smallest grey value that reaches the adaptive threshold, [N]."""
    zero, one = np.array([convention.span(*span) for span in spans]).reshape(-1, 2).T
    histogram = counts.sum(axis=1)
    pixels = histogram.sum(axis=1)
    total = histogram @ np.arange(256) - zero * pixels
    threshold = np.minimum(2 * total, (one - zero) * pixels)  # of the sum, not the mean
    return zero + -(-threshold // pixels)  # rounded up


def _scores_of_binary(
    true: Floats, false: Floats, positives: Floats, negatives: Floats, convention: Convention
) -> Curves:
    """Score binary maps by the foreground and background they find.

    Args:
        true: foreground pixels found, [N, K].
        false: background pixels found, [N, K].
        positives: foreground pixels, [N, 1].
        negatives: background pixels, [N, 1].
        convention: only the E-measure depends on it.
    """
    found = true + false
    some, other = np.maximum(positives, 1), np.maximum(negatives, 1)
    precision, recall, fpr = true / np.maximum(found, 1), true / some, false / other
    weighted = BETA_SQUARED * precision + recall
    return Curves(
        precision=precision,
        recall=recall,
        f=(1 + BETA_SQUARED) * precision * recall / np.where(true == 0, 1, weighted),
        fpr=fpr,
        e=_e_measure(true, false, positives, negatives, convention),
        iou=true / np.maximum(positives + false, 1),
        dice=2 * true / np.maximum(positives + found, 1),
        ber=1 - (recall + (negatives - false) / other) / 2,
    )


def _e_measure(
    true: Floats, false: Floats, positives: Floats, negatives: Floats, convention: Convention
) -> Floats:
    """Return the E-measure (Fan et al., IJCAI 2018, eq. 5) of binary maps given by their counts.

    The alignment of a pixel depends only on its value in map and mask, so four counts and four
    values stand for the sum over pixels.
    """
    pixels = positives + negatives
    found = true + false
    map_mean, mask_mean = found / pixels, positives / pixels
    missed = positives - true
    total = np.zeros_like(found)
    for number, a, b in (
        (true, 1 - map_mean, 1 - mask_mean),
        (false, 1 - map_mean, -mask_mean),
        (missed, -map_mean, 1 - mask_mean),
        (negatives - false, -map_mean, -mask_mean),
    ):
        total += number * (2 * a * b / (a * a + b * b + convention.epsilon) + 1) ** 2 / 4
    if convention.masks_apart:
        total = np.where(positives == 0, pixels - found, total)
        total = np.where(negatives == 0, found, total)
    return total / np.maximum(pixels - 1, 1)
