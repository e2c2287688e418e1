"""What the page shows of an image: the picture, the pixels around a question, its superpixel.

Pictures go by their number in the trial's list, so that no request names a file. They are decoded
by the project's own reader and encoded anew: a browser never sees the file, nor its EXIF
orientation, and its coordinates are those of the points files.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.images import image_size, read_image
from datasets.index import Sample
from datasets.superpixels import SuperpixelCache
from utils.errors import UserError

LARGEST_SIDE = 1600
"""Pixels of the larger side of the picture as it is sent; larger ones are made smaller."""

JPEG_QUALITY = 90

CROPS = (17, 33, 65)
"""Pixels a side of the insets: odd, so that the asked pixel is the one in the middle."""

DECODED_BYTES, ENCODED_BYTES = 256 * 2**20, 64 * 2**20


class Cache:
    """The newest values of a function by key, up to so many bytes; safe with several threads.

    A value that several threads want at a time is computed by each of them: that costs time where
    two people meet at an image, and spares a lock an image.
    """

    def __init__(self, most: int, size: Callable[[Any], int]) -> None:
        self._most, self._size = most, size
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the value kept under ``key``, or make it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = value
                self._bytes += self._size(value)
            while self._bytes > self._most and len(self._kept) > 1:
                self._bytes -= self._size(self._kept.popitem(last=False)[1])
        return value


class Pictures:
    """The images of a trial, by number.

    Args:
        samples: the images; a number is a place in this list.
        data_root: the folder that every image must lie in, links followed.
        regions: makes the superpixels of an image.
    """

    def __init__(
        self, samples: Sequence[Sample], data_root: Path, regions: SuperpixelCache
    ) -> None:
        self.samples = list(samples)
        self.root = data_root.resolve()
        self.regions = regions
        self._decoded = Cache(DECODED_BYTES, lambda pixels: pixels.nbytes)
        self._encoded = Cache(ENCODED_BYTES, len)
        self._sizes: dict[int, tuple[int, int]] = {}
        self._making_regions = threading.Lock()

    def is_there(self, number: int) -> bool:
        """Tell whether an image's file can be read, whatever it holds."""
        return os.access(self.samples[number].image, os.R_OK)

    def size(self, number: int) -> tuple[int, int]:
        """Return ``(width, height)`` of an image as it is seen; errors as for `pixels`."""
        if number not in self._sizes:
            self._sizes[number] = image_size(self._file(number))
        return self._sizes[number]

    def pixels(self, number: int) -> np.ndarray:
        """Return an image, uint8 RGB (H, W, 3).

        Raises:
            UserError: it cannot be decoded, or lies outside of the data root.
        """
        return self._decoded.get(number, lambda: read_image(self._file(number)))

    def large(self, number: int) -> bytes:
        """Return an image as a JPEG of at most `LARGEST_SIDE` pixels a side; errors as `pixels`."""

        def make() -> bytes:
            pixels = self.pixels(number)
            share = LARGEST_SIDE / max(pixels.shape[:2])
            if share < 1:
                height, width = (max(1, round(side * share)) for side in pixels.shape[:2])
                pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
            quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            return cv2.imencode(".jpg", pixels[..., ::-1], quality)[1].tobytes()

        return self._encoded.get(number, make)

    def inset(self, number: int, x: int, y: int, side: int) -> bytes:
        """Return the pixels around one as a PNG of ``side`` x ``side`` pixels, exact.

        What lies beyond the image is transparent (the page hatches it). Errors as for `pixels`.
        """
        return cv2.imencode(".png", crop(self.pixels(number), x, y, side))[1].tobytes()

    def region(self, number: int, x: int, y: int) -> list[list[list[int]]]:
        """Return the outline of a pixel's superpixel: closed lines of ``[x, y]`` pixels.

        Errors as for `pixels`.
        """
        self._file(number)
        with self._making_regions:
            regions = self.regions(self.samples[number])
        inside = (regions == regions[y, x]).astype(np.uint8)
        lines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        return [line[:, 0].tolist() for line in lines]

    def _file(self, number: int) -> Path:
        """Return an image's file, once it is sure that it lies in the data root."""
        sample = self.samples[number]
        if not sample.image.resolve().is_relative_to(self.root):
            raise UserError(
                f"{sample.image}: a link that leads out of the data root {self.root}: put the "
                "file itself there"
            )
        return sample.image


def crop(pixels: np.ndarray, x: int, y: int, side: int) -> np.ndarray:
    """Cut out the pixels around one.

    Args:
        pixels: uint8 RGB (H, W, 3).
        x, y: the pixel in the middle.
        side: odd.

    Returns:
        uint8 (side, side, 4), BGR as OpenCV encodes it, and alpha: 255, or 0 beyond the image.
    """
    height, width = pixels.shape[:2]
    around = side // 2
    out = np.zeros((side, side, 4), np.uint8)
    left, top = max(0, x - around), max(0, y - around)
    part = pixels[top : min(height, y + around + 1), left : min(width, x + around + 1), ::-1]
    row, column = top - (y - around), left - (x - around)
    place = np.s_[row : row + part.shape[0], column : column + part.shape[1]]
    out[(*place, slice(3))] = part
    out[(*place, 3)] = 255
    return out


def require_inside(samples: Sequence[Sample], data_root: Path) -> None:
    """Check that an image lies in the data root at all, so that no whole set is skipped.

    Raises:
        UserError: every one of ``samples`` lies elsewhere, links followed.
    """
    root = data_root.resolve()
    if samples and not any(s.image.resolve().is_relative_to(root) for s in samples):
        raise UserError(
            f"{samples[0].image}: links lead out of the data root {root}, and so do those of every "
            "other image, which the annotation server refuses: put the folders themselves there"
        )
