"""Augmentation that carries an image, its mask and its points together.

Every change of geometry is one affine map, applied once to the pixels and exactly to the points'
coordinates. Coordinates are those of pixel centres: the centre of the top left pixel is (0, 0), so
a flip takes x to w - 1 - x and a resize by s takes x to (x + 0.5) s - 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """How strongly images are changed.

    Attributes:
        flip: probability of a horizontal flip.
        crop: smallest side of a random crop as a share of the image's side; 1 crops nothing.
        rotate: largest rotation, degrees, either way.
        colour: largest relative change of brightness, contrast and saturation.
        pepper: share of the image's pixels turned black or white (the labels stay).
    """

    flip: float = 0.0
    crop: float = 1.0
    rotate: float = 0.0
    colour: float = 0.0
    pepper: float = 0.0


NONE = Augmentation()


def resize_map(width: int, height: int, size: int) -> np.ndarray:
    """Return the affine map (3, 3) from an image's own pixels to the size x size grid."""
    sx, sy = size / width, size / height
    return np.array([[sx, 0, sx / 2 - 0.5], [0, sy, sy / 2 - 0.5], [0, 0, 1]], np.float64)


def random_map(augmentation: Augmentation, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a flip, a rotation and a crop as one affine map (3, 3) of the size x size grid."""
    flip = rng.random() < augmentation.flip
    angle = np.deg2rad(rng.uniform(-1, 1) * augmentation.rotate)
    side = rng.uniform(augmentation.crop, 1.0)
    left, top = rng.uniform(0, 1, 2) * (1 - side) * size

    # In continuous coordinates (pixel centres at one half), where a resize is a plain scaling.
    to_centre, from_centre = np.eye(3), np.eye(3)
    to_centre[:2, 2], from_centre[:2, 2] = -size / 2, size / 2
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    mirror = np.diag([-1.0 if flip else 1.0, 1.0, 1.0])
    crop = np.array([[1 / side, 0, -left / side], [0, 1 / side, -top / side], [0, 0, 1]])
    half, back = np.eye(3), np.eye(3)
    half[:2, 2], back[:2, 2] = 0.5, -0.5
    return back @ crop @ from_centre @ turn @ mirror @ to_centre @ half


def move(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Apply an affine map (3, 3) to points (K, 2) of x, y; float64 (K, 2)."""
    return points.astype(np.float64) @ affine[:2, :2].T + affine[:2, 2]


def warp(pixels: np.ndarray, affine: np.ndarray, nearest: bool = False) -> np.ndarray:
    """Apply an affine map (3, 3) to the pixels of a square grid; what lies outside is mirrored."""
    if np.array_equal(affine, np.eye(3)):
        return pixels
    side = pixels.shape[0]
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.warpAffine(
        pixels, affine[:2], (side, side), flags=how, borderMode=cv2.BORDER_REFLECT
    )


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize (H, W[, 3]) to size x size: mean areas where it shrinks, bilinear where it grows."""
    height, width = pixels.shape[:2]
    smaller = min(height, size), min(width, size)
    if smaller != (height, width):
        pixels = cv2.resize(pixels, smaller[::-1], interpolation=cv2.INTER_AREA)
    if smaller != (size, size):
        pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)
    return pixels


def change_colours(
    image: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Draw a change of brightness, contrast and saturation, and pepper; uint8 RGB in and out."""
    if augmentation.colour:
        bright, contrast, saturation = 1 + rng.uniform(-1, 1, 3) * augmentation.colour
        values = image.astype(np.float32)
        grey = values @ np.float32([0.299, 0.587, 0.114])
        values = grey[..., None] + np.float32(saturation) * (values - grey[..., None])
        values = (values - grey.mean()) * np.float32(contrast) + grey.mean() * np.float32(bright)
        image = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    if augmentation.pepper:
        hit = rng.random(image.shape[:2]) < augmentation.pepper
        image = image.copy()
        image[hit] = rng.integers(0, 2, (int(hit.sum()), 1), np.uint8) * 255
    return image
