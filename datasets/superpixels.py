"""Superpixels, and the spreading of an answer over its superpixel.

SLIC with adaptive compactness (SLICO; Achanta et al., PAMI 2012) from OpenCV's contrib modules;
in a build without these our own (datasets/slic.py), whose regions are others, as good, and made ten
times as slowly.
Its region side follows from the wanted count and the picture's area, so that portrait and
landscape pictures get alike numbers of regions.
"""

from __future__ import annotations

import functools
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from datasets.images import image_size, read_image
from datasets.index import Sample
from datasets.slic import slic_regions
from utils.errors import UserError
from utils.files import atomic_path, file_state

SMALLEST_SIDE = 8
ITERATIONS = 10
SMALLEST_PERCENT = 25
"""Regions smaller than this, of the area of one, are given to their neighbours."""

HEADER_END = 33
"""Where in a PNG file the next chunk follows its header."""

UNLABELLED = 128
"""Value of an unlabelled pixel in a label map (0 background, 255 foreground)."""


def superpixels(image: np.ndarray, count: int) -> np.ndarray:
    """Cut an image into about ``count`` connected regions of like colour.

    Args:
        image: uint8 RGB (H, W, 3).
        count: wanted number of regions.

    Returns:
        int32 (H, W) region of each pixel, numbered from 0 without gaps. A picture too small to cut
        (a side below 8 pixels, or some twelve pixels a region or fewer) is given a region a pixel.
    """
    height, width = image.shape[:2]
    side = round((height * width / count) ** 0.5)
    if min(height, width) < SMALLEST_SIDE or side < 4:
        return np.arange(height * width, dtype=np.int32).reshape(height, width)
    lab = cv2.cvtColor(cv2.GaussianBlur(image, (3, 3), 0), cv2.COLOR_RGB2LAB)
    if not hasattr(cv2, "ximgproc"):
        _tell_of_own()
        return _numbered(slic_regions(lab, side, ITERATIONS, SMALLEST_PERCENT))
    slic = cv2.ximgproc.createSuperpixelSLIC(lab, cv2.ximgproc.SLICO, side)
    slic.iterate(ITERATIONS)
    slic.enforceLabelConnectivity(SMALLEST_PERCENT)
    return _numbered(slic.getLabels())


def _numbered(regions: np.ndarray) -> np.ndarray:
    """Number regions (H, W) from 0 without gaps, int32."""
    return np.unique(regions, return_inverse=True)[1].reshape(regions.shape).astype(np.int32)


@functools.cache
def _tell_of_own() -> None:
    print(
        "note: this OpenCV has no cv2.ximgproc: superpixels are made by datasets/slic.py, and "
        "other points are chosen than with opencv-contrib-python-headless"
    )


class SuperpixelCache:
    """Superpixels of a set's images, made once and kept as 16-bit PNG files.

    Each file holds the state of the picture it was made of (`file_state`). A picture that has
    changed since gets new ones, and so does a file without a state, of a version that noted none:
    of the same picture they are the same.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count

    def __call__(self, sample: Sample) -> np.ndarray:
        """Return the int32 (H, W) regions of a sample's image, from disk when they are there."""
        path = self.folder / str(self.count) / f"{sample.name}.png"
        width, height = image_size(sample.image)
        made_of = _text_chunk("made_of", file_state(sample.image))
        regions = _read_png(path, cv2.IMREAD_UNCHANGED, (height, width), made_of)
        if regions is not None and regions.dtype == np.uint16 and regions.ndim == 2:
            return regions.astype(np.int32)
        regions = superpixels(read_image(sample.image), self.count)
        if regions.max() < 2**16:
            # ndarray.tofile would hide that the disk is full.
            encoded = cv2.imencode(".png", regions.astype(np.uint16))[1].tobytes()
            with atomic_path(path) as temporary:
                temporary.write_bytes(encoded[:HEADER_END] + made_of + encoded[HEADER_END:])
        return regions


def spread(points: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Spread each answer over its superpixel.

    Args:
        points: int array (K, 3) of x, y, label in the image's own pixels.
        regions: int (H, W).

    Returns:
        uint8 (H, W) label map: 255 foreground, 0 background, 128 unlabelled. A region whose points
        disagree stays unlabelled, but for the asked pixels themselves.
    """
    total = int(regions.max()) + 1
    votes = np.zeros((2, total), np.int64)
    x, y, label = points.T
    np.add.at(votes, (label, regions[y, x]), 1)
    of_region = np.full(total, UNLABELLED, np.uint8)
    of_region[(votes[1] > 0) & (votes[0] == 0)] = 255
    of_region[(votes[0] > 0) & (votes[1] == 0)] = 0
    label_map = of_region[regions]
    label_map[y, x] = label * 255
    return label_map


def read_label_map(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Read a stored label map (255 foreground, 0 background, 128 unlabelled).

    Raises:
        UserError: it is missing, unreadable, or not of ``shape`` (height, width).
    """
    label_map = _read_png(path, cv2.IMREAD_GRAYSCALE, shape)
    if label_map is None:
        raise UserError(f"{path}: missing or damaged label map: delete its round and run it again")
    return label_map


def _text_chunk(keyword: str, text: str) -> bytes:
    """Return a PNG chunk that holds a text."""
    content = b"tEXt" + f"{keyword}\0{text}".encode("latin-1")
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def _read_png(
    path: Path, how: int, shape: tuple[int, int], after_header: bytes = b""
) -> np.ndarray | None:
    """Return a PNG's pixels, None where it is missing, damaged (OpenCV checks its sums), or not of
    a shape (height, width), which is looked at first: decoding takes memory for what it says. None,
    too, where other bytes than these follow its header.
    """
    raw = np.fromfile(path, np.uint8) if path.exists() else np.zeros(0, np.uint8)
    if raw[16:24].tobytes() != struct.pack(">II", *shape[::-1]):
        return None
    if raw[HEADER_END : HEADER_END + len(after_header)].tobytes() != after_header:
        return None
    return cv2.imdecode(raw, how)
