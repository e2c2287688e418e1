"""Masks beside their images: of the same size, and how far each pixel is from the border."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from datasets.images import read_mask
from utils.errors import UserError


def mask_of_image(path: Path, image: Path, size: tuple[int, int]) -> np.ndarray:
    """Return the mask, bool (H, W), of an image of ``size`` (width, height).

    Raises:
        UserError: the mask is missing, unreadable, or of another size.
    """
    mask = read_mask(path)
    height, width = mask.shape
    if (width, height) != size:
        raise UserError(
            f"{path}: {width} x {height} pixels, but {image} has {size[0]} x {size[1]}: make them "
            "of one size"
        )
    return mask


def border_distance(mask: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to the nearest pixel of the other kind, bool -> float (H, W).

    From centre to centre, in pixels: 1 at the border; infinite where the mask has one kind alone.
    """
    if mask.all() or not mask.any():
        return np.full(mask.shape, math.inf)
    precise = cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    inside, outside = (
        cv2.distanceTransform(kind.astype(np.uint8), *precise) for kind in (mask, ~mask)
    )
    return inside + outside
