"""What one saliency map leaves behind, about 2 kB: all scores of a set follow from such tallies.

Only this and the modules it calls look at pixels. The passes over the pixels are: the least and
the greatest grey value, the counts (one `cv2.calcHist`), and those that the parts need, as their
modules say.
"""

from __future__ import annotations

from collections.abc import Set

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError
from utils.metrics.border import boundary_iou
from utils.metrics.conventions import Convention
from utils.metrics.structure import quadrants, s_measure
from utils.metrics.weighted_f import weighted_f

TALLY = np.dtype([("counts", "<u4", (2, 256)), ("S", "<f8"), ("wF", "<f8"), ("BIoU", "<f8")])
"""Of one map: pixels of each grey value outside (0) and inside (1) the mask, and the three scores
that do not follow from these counts; NaN where a score was not asked for."""

PARTS = frozenset({"S", "wF", "BIoU"})
"""The metrics that need the pixels; all others follow from a tally's counts."""

_EXACT = 2**24  # OpenCV counts in single precision: exact up to here


def tally(
    pred: NDArray[np.uint8],
    mask: NDArray[np.bool_ | np.uint8],
    convention: Convention,
    parts: Set[str] = PARTS,
) -> NDArray[np.void]:
    """Count one saliency map against its mask.

    Args:
        pred: saliency map, uint8 [H, W].
        mask: true mask of the same size, bool or uint8 (foreground where > 128).
        convention: the way of scoring that S, wF and BIoU follow. The counts are the same in all.
        parts: those of `PARTS` to measure; the others are NaN and cost nothing.

    Returns:
        TALLY of shape (), the same bit for bit whatever the arrays' strides.

    Raises:
        UserError: the sizes differ, an array is empty or not of two dimensions, or an 8-bit mask
            holds only 0 and 1.
        TypeError: an array is of another dtype.
    """
    # One copy here of what is not in rows, or OpenCV and NumPy make one in each of their calls.
    mask = np.ascontiguousarray(checked_mask(pred, mask))
    pred = np.ascontiguousarray(pred)
    lowest, highest = int(pred.min()), int(pred.max())
    levels = convention.levels(lowest, highest)
    regions = [(slice(None), slice(None))]
    if "S" in parts:
        regions = quadrants(mask, convention.centroid_offset)
    by_region = np.stack([_counts(pred[region], mask[region]) for region in regions])
    result = np.zeros((), TALLY)
    result["counts"] = by_region.sum(axis=0)
    result["S"] = result["wF"] = result["BIoU"] = np.nan
    if "S" in parts:
        result["S"] = s_measure(by_region, regions, pred.shape[1], levels, convention.epsilon)
    if "wF" in parts:
        result["wF"] = weighted_f(pred, mask, levels)
    if "BIoU" in parts:
        result["BIoU"] = boundary_iou(pred >= convention.half(lowest, highest), mask)
    return result


def checked_mask(pred: NDArray, mask: NDArray) -> NDArray[np.bool_]:
    """Return the mask as Boolean, after checking the pair; errors as `tally` says."""
    if pred.shape != mask.shape:
        raise UserError(
            f"saliency map is {_size(pred)} but its mask is {_size(mask)}: "
            "resize the map to the mask's size"
        )
    if pred.ndim != 2 or pred.size == 0:
        raise UserError(
            f"saliency map and mask are {_size(pred)}: give non-empty grey images, height x width"
        )
    if pred.dtype != np.uint8:
        raise TypeError(f"saliency map must be uint8, not {pred.dtype}")
    if mask.dtype == np.bool_:
        return mask
    if mask.dtype != np.uint8:
        raise TypeError(f"mask must be bool or uint8, not {mask.dtype}")
    if mask.max() == 1:
        raise UserError("the mask's values are 0 and 1, all background on a scale to 255: use bool")
    return foreground(mask)


def foreground(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where an 8-bit mask is foreground in every convention."""
    return mask > 128


def _size(image: NDArray) -> str:
    return " x ".join(map(str, image.shape))


def _counts(pred: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the pixels of each grey value outside and inside the mask, int64 [2, 256]."""
    counts = np.zeros((256, 2), np.int64)
    if pred.size:
        step = max(1, _EXACT // pred.shape[1])
        for top in range(0, len(pred), step):
            strip = [pred[top : top + step], mask[top : top + step].view(np.uint8)]
            found = cv2.calcHist(strip, [0, 1], None, [256, 2], [0, 256, 0, 2])
            counts += found.astype(np.int64)
    return counts.T
