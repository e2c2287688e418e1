"""Weighted F-measure (Margolin et al., CVPR 2014), without a look at more pixels than needed.

The measure weighs a false alarm by its distance from the object, and forgives an error inside the
object where errors around it are smaller. "Around" is a Gaussian mean over 7 x 7 pixels in which a
pixel outside the object takes the error of the nearest pixel inside. So that nearest pixel matters
only for pixels within 3 rows and 3 columns of the object, and lies within a distance of sqrt(18).
As its distance is known, few pixels can be it, at most eight, and they are tried in turn.

Passes over the pixels: exact distances (most of the time), the false alarms, the object's
neighbours; then, over the object's bounding box only, the Gaussian. Beside the distances, 4 bytes a
pixel, and two copies, 1 byte a pixel, all is done in strips of rows: memory does not grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

_EPS = np.spacing(1.0)
_RADIUS = 3  # of the Gaussian
_GAUSS = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2 * 5.0**2))
_GAUSS /= _GAUSS.sum()
_NEAR = 2 * _RADIUS**2  # squared distance from the object within which the Gaussian looks
_REACH = 4  # rows or columns that a pixel so near can be away
_FARTHEST = 266  # from here on a false alarm weighs 2 to the last bit
_STRIP = 2**17  # pixels looked at together

Floats = NDArray[np.float64]
Grey = NDArray[np.uint8]


def weighted_f(pred: Grey, mask: NDArray[np.bool_], levels: Floats) -> float:
    """Return the weighted F-measure with beta 1 (eq. 8 to 12); 0 for an empty mask.

    Args:
        pred: saliency map, [H, W], contiguous.
        mask: [H, W], contiguous.
        levels: saliency of each grey value in [0, 1], never falling, [256].

    Returns:
        In [0, 1].
    """
    positives = np.count_nonzero(mask)
    if positives == 0:
        return 0.0
    distance = _distances(mask)
    missed = _missed(_spread(pred, mask, distance), mask, levels)
    false = _false_alarms(pred, mask, distance, levels)
    recall = 1 - missed / positives
    true = positives - missed
    precision = true / (true + false + _EPS)
    return float(2 * recall * precision / (recall + precision + _EPS))


def _distances(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distance of each pixel from the object."""
    # OpenCV's own code is a fifth faster than that of Intel's library, which it takes otherwise.
    intel = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        outside = (~mask).view(np.uint8)
        return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    finally:
        cv2.ipp.setUseIPP(intel)


def _false_alarms(
    pred: Grey, mask: NDArray[np.bool_], distance: NDArray[np.float32], levels: Floats
) -> float:
    """Return the saliency outside the object, each pixel weighted by its distance from it."""
    black = int(np.searchsorted(levels, 0, side="right"))  # lower grey values count nothing
    weights = _weights()
    total = 0.0
    for rows in _strips(0, *pred.shape):
        at = np.flatnonzero((pred[rows] >= black) & ~mask[rows])
        if not at.size:
            continue
        saliency = cv2.LUT(pred[rows].ravel().take(at), levels).ravel()
        squared = _squared(distance[rows].ravel().take(at))
        total += float((saliency * weights.take(squared, mode="clip")).sum())
    return total


def _squared(distance: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return squared distances, which are integers.

    OpenCV's last bits vary from run to run: rounding mends it.
    """
    return np.rint(distance * distance).astype(np.intp)


@cache
def _weights() -> Floats:
    """Return the weight of a false alarm, 1 to 2, for each squared distance from the object.

    The last one holds for all that are farther.
    """
    distance = np.sqrt(np.arange(_FARTHEST**2 + 1))
    return 2 - np.exp(np.log(0.5) / 5 * distance)


def _missed(spread: Grey, mask: NDArray[np.bool_], levels: Floats) -> float:
    """Return the sum of the errors in the object, each lessened to the mean around it if smaller.

    Args:
        spread: the map as the Gaussian sees it, see `_spread`.
        mask: the object.
        levels: saliency of each grey value.
    """
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    columns = slice(max(left - _RADIUS, 0), left + width + _RADIUS)
    errors = 1 - levels
    total = 0.0
    for rows in _strips(top, top + height, width):
        first = max(rows.start - _RADIUS, 0)
        error = cv2.LUT(spread[first : rows.stop + _RADIUS, columns], errors)
        smooth = cv2.sepFilter2D(error, cv2.CV_64F, _GAUSS, _GAUSS, borderType=cv2.BORDER_CONSTANT)
        own = slice(rows.start - first, rows.stop - first)
        lessened = np.minimum(error[own], smooth[own])
        total += float(lessened[mask[rows, columns]].sum())
    return total


def _spread(pred: Grey, mask: NDArray[np.bool_], distance: NDArray[np.float32]) -> Grey:
    """Return the map, where pixels near the object have the grey value of its nearest pixel.

    Among equally near pixels it is the one of the leftmost column, then of the uppermost row, as
    SciPy's distance_transform_edt chooses. The choice shows in the score, so it must be that one.
    """
    spread, inside = (
        cv2.copyMakeBorder(image, *(_REACH,) * 4, cv2.BORDER_CONSTANT)
        for image in (pred, mask.view(np.uint8))
    )
    width, stride = pred.shape[1], spread.shape[1]
    values, inside = spread.ravel(), inside.ravel()
    steps = _places() @ (stride, 1)
    for rows in _strips(0, *pred.shape):
        at = np.flatnonzero((distance[rows] < _NEAR**0.5 + 0.01) & ~mask[rows])
        squared = _squared(distance[rows].ravel().take(at))
        row = at // width
        at += (rows.start + _REACH) * stride + _REACH + row * (stride - width)
        candidates = at[:, None] + steps.take(squared, axis=0)
        hits = np.packbits(inside.take(candidates))  # a byte for each pixel, first in the high bit
        first = np.arange(0, 8 * len(at), 8) + _highest_bit().take(hits)
        values[at] = values.take(candidates.ravel().take(first))
    return spread[_REACH:-_REACH, _REACH:-_REACH]


@cache
def _places() -> NDArray[np.intp]:
    """Return (row, column) steps to pixels at each squared distance, in the order of preference.

    [19, 8, 2]; fewer than eight are filled up with the first again.
    """
    steps = range(-_REACH, _REACH + 1)
    places = np.zeros((_NEAR + 1, 8, 2), np.intp)
    for squared in range(_NEAR + 1):
        found = [
            (row, column) for column in steps for row in steps if row**2 + column**2 == squared
        ]
        if found:
            places[squared] = found + found[:1] * (8 - len(found))
    return places


@cache
def _highest_bit() -> NDArray[np.intp]:
    """Return the place of the highest bit of each byte, counted from the high end, [256]."""
    return np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).argmax(axis=1)


def _strips(top: int, bottom: int, width: int) -> Iterator[slice]:
    """Yield slices of rows that hold about `_STRIP` pixels each."""
    step = max(1, _STRIP // width)
    for first in range(top, bottom, step):
        yield slice(first, min(first + step, bottom))
