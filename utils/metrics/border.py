"""Boundary IoU (Cheng et al., CVPR 2021): do the outlines agree, however large the objects are?"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

RATIO = 0.02
"""Width of a boundary as a share of the image's diagonal, as in the paper."""


def boundary_iou(found: NDArray[np.bool_], mask: NDArray[np.bool_]) -> float:
    """Return the intersection over union of the boundaries of two binary images.

    The boundary is what an erosion by a square of 2 d + 1 pixels takes away, d being 2 % of the
    diagonal, rounded, at least 1. Outside the image is background, so an object that touches the
    image's border has a boundary there. Passes over the pixels: two erosions, four bit by bit.

    Args:
        found: binarised saliency map, [H, W], contiguous.
        mask: [H, W], contiguous.

    Returns:
        In [0, 1]; 1 where both boundaries are empty, 0 where only one is.
    """
    distance = max(1, round(RATIO * math.hypot(*mask.shape)))
    one, other = _boundary(found.view(np.uint8), distance), _boundary(mask.view(np.uint8), distance)
    shared = cv2.countNonZero(cv2.bitwise_and(one, other))
    either = cv2.countNonZero(cv2.bitwise_or(one, other))
    return shared / either if either else 1.0


def _boundary(binary: NDArray[np.uint8], distance: int) -> NDArray[np.uint8]:
    """Return the pixels of an object that are within a Chebyshev distance of what is outside it."""
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    eroded = cv2.erode(binary, square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return cv2.bitwise_xor(binary, eroded)
