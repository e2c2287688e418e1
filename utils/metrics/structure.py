"""S-measure (Fan et al., ICCV 2017), from the counts of grey values in four quadrants.

One pass over the mask for its centroid; the rest follows from the histograms of the quadrants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

ALPHA = 0.5
"""Share of the object term."""

_CONSTANT = 1e-6  # sum of squared deviations; a step of one grey value makes it 7e-6 or more

Floats = NDArray[np.float64]
Region = tuple[slice, slice]


def quadrants(mask: NDArray[np.bool_], centroid_offset: int) -> list[Region]:
    """Return the four parts of the image about the mask's centroid.

    Args:
        mask: [H, W], contiguous.
        centroid_offset: 1 where the first part holds the centroid's row and column, else 0.

    Returns:
        Upper left, upper right, lower left, lower right; some may be empty. For an empty mask the
        first is the whole image.
    """
    height, width = mask.shape
    row, column = height, width
    by_row = cv2.reduce(mask.view(np.uint8), 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    if positives := int(by_row.sum(dtype=np.int64)):
        by_column = cv2.reduce(mask.view(np.uint8), 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
        row = round(int(by_row @ np.arange(height)) / positives) + centroid_offset
        column = round(int(by_column @ np.arange(width)) / positives) + centroid_offset
    upper, lower = slice(0, row), slice(row, height)
    left, right = slice(0, column), slice(column, width)
    return [(upper, left), (upper, right), (lower, left), (lower, right)]


def s_measure(
    by_region: NDArray[np.int64],
    regions: Sequence[Region],
    width: int,
    levels: Floats,
    epsilon: float,
) -> float:
    """Return the S-measure (eq. 2): likeness of objects and of regions.

    The mean of the map where the mask is full, one minus it where the mask is empty. An empty
    quadrant weighs nothing; a class of one pixel has no spread.

    Args:
        by_region: pixels of each grey value outside and inside the mask, [4, 2, 256].
        regions: the four quadrants, see `quadrants`.
        width: of the image.
        levels: saliency of each grey value, [256].
        epsilon: added to divisors that could be 0.

    Returns:
        In [0, 1].
    """
    by_region = by_region.astype(np.float64)  # exact, and products of one type are faster
    background, foreground = by_region.sum(axis=0)
    # Of each quadrant and class: pixels, sum of the saliency, sum of its square.
    sums = (by_region @ np.stack([np.ones(256), levels, levels**2], axis=1)).tolist()
    positives = sum(inside[0] for _, inside in sums)
    pixels = positives + sum(outside[0] for outside, _ in sums)
    if positives in (0, pixels):
        mean = float((background + foreground) @ levels) / pixels
        return mean if positives else 1 - mean
    objects = positives * _object_likeness(levels, foreground, epsilon)
    objects += (pixels - positives) * _object_likeness(1 - levels, background, epsilon)
    alike = 0.0
    for quadrant, (outside, inside) in enumerate(sums):
        if number := outside[0] + inside[0]:
            squares = outside[2] + inside[2] - (outside[1] + inside[1]) ** 2 / number
            if squares < _CONSTANT:
                level = levels[by_region[quadrant].sum(axis=0).argmax()]
                alike += number * _flat_likeness(level, regions[quadrant], width, inside[0])
            else:
                alike += number * _region_likeness(outside, inside, squares, epsilon)
    return max(0.0, (ALPHA * objects + (1 - ALPHA) * alike) / pixels)


def _object_likeness(levels: Floats, counts: Floats, epsilon: float) -> float:
    """Return the likeness of the values to a constant 1 (eq. 4 to 6)."""
    number = counts.sum()
    mean = counts @ levels / number
    spread = math.sqrt(counts @ (levels - mean) ** 2 / max(number - 1, 1))
    return 2 * mean / (mean**2 + 1 + spread + epsilon)


def _region_likeness(
    outside: Sequence[float], inside: Sequence[float], squares: float, epsilon: float
) -> float:
    """Return the structural similarity of map and mask in one quadrant (eq. 1).

    Args:
        outside: pixels outside the mask and the sum of their saliency.
        inside: the same inside the mask.
        squares: sum over all of the squared deviations of the saliency from its mean.
        epsilon: added to divisors that could be 0.
    """
    number = outside[0] + inside[0]
    mean, share = (outside[1] + inside[1]) / number, inside[0] / number
    freedom = number - 1 + epsilon
    map_variance = squares / freedom
    mask_variance = number * share * (1 - share) / freedom
    covariance = (1 - share) * (inside[1] - inside[0] * mean)
    covariance -= share * (outside[1] - outside[0] * mean)
    above = 4 * mean * share * covariance / freedom
    below = (mean**2 + share**2) * (map_variance + mask_variance)
    if above != 0:
        return above / (below + epsilon)
    return float(below == 0)


def _flat_likeness(level: float, region: Region, width: int, positives: float) -> float:
    """Return the structural similarity in a quadrant of one grey value.

    Without a border of the mask in it the outcome is 1 or 0 with the last bit of the mean, and the
    bit wanted is that of the mean of the pixels, as NumPy adds them up in that window.
    """
    rows, columns = region
    window = np.full((rows.stop - rows.start, width), level)[:, columns]
    if 0 < positives < window.size:
        return 0.0
    return float(level == window.mean())
