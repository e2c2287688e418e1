"""Read images and masks of any common format, and write PNG files.

Pillow reads here rather than OpenCV, because it raises on a truncated file where OpenCV returns
the missing rows as grey. Only plain grey PNG files, as most masks and all our maps are, go to
OpenCV, which decodes them faster, after their checksums have been looked at.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.index import Sample
from utils.cores import core_count
from utils.errors import UserError
from utils.files import atomic_path

ORIENTATION_TAG = 0x0112
WIDTH_TAG, HEIGHT_TAG, SAMPLE_FORMAT_TAG = 256, 257, 339

# What turns stored pixels upright, by EXIF orientation.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PLAIN_CHUNKS = frozenset({b"IDAT", b"IEND", b"pHYs", b"tIME", b"gAMA", b"cHRM", b"sRGB"})
"""PNG chunks, beside the header, that neither library lets change a grey value."""

_PNG_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_EXIF_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Keywords, with which such a chunk begins, of texts that may tell an orientation."""

Result = TypeVar("Result")


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image as it should be seen.

    Transparency is laid on white, 16-bit and deeper grey is scaled by its range (floats: 0..1),
    the EXIF orientation is applied. Of several frames the first is read.

    Returns:
        uint8 of shape (H, W, 3), RGB, 0..255, C-contiguous.

    Raises:
        UserError: the file is missing, empty, truncated, no image, or too large to decode safely.
    """
    return _opened(path, lambda image: _upright(_rgb(image), image, path))


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a mask, binarised at half of its file's range.

    Returns:
        bool of shape (H, W), True on the object.

    Raises:
        UserError: as for `read_image`.
    """
    values, full = read_grey(path)
    return values >= half_of(full)


def half_of(full: float) -> float:
    """Return half of white: values from there on count as object, from 128 in 8 bits."""
    return full / 2


def read_grey(path: str | os.PathLike[str]) -> tuple[np.ndarray, float]:
    """Read a mask's grey values at their own depth.

    Colours (of a palette, too) become their luminance; transparency is ignored. The EXIF
    orientation is applied.

    Returns:
        ``(values, full)``: values of shape (H, W), uint8, uint16, uint32, int32 or float32, and
        the value of white: 255, 65535, 2^32 - 1, 2^31 - 1, or 1.0 for floats.

    Raises:
        UserError: as for `read_image`.
    """

    plain = _plain_grey_png(path)
    if plain is not None:
        return plain, 255.0

    def decode(image: Image.Image) -> tuple[np.ndarray, float]:
        values, full = _deep_grey(image) or (np.asarray(_luminance(image)), 255.0)
        return _upright(values, image, path), full

    return _opened(path, decode)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return ``(width, height)`` after the EXIF orientation, without decoding the pixels.

    Raises:
        UserError: the file is missing, empty, no image, or too large to decode safely.
    """

    def measure(image: Image.Image) -> tuple[int, int]:
        width, height = image.size
        if image.format == "TIFF":
            # Newer Pillow has turned the size of a TIFF already, older has not: take the file's.
            width, height = image.tag_v2[WIDTH_TAG], image.tag_v2[HEIGHT_TAG]
        return (height, width) if _orientation(image, path) >= 5 else (width, height)

    return _opened(path, measure)


def native_sizes(samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Return each image's own (width, height)."""
    with ThreadPoolExecutor(core_count()) as pool:
        return list(pool.map(lambda sample: image_size(sample.image), samples))


def write_png(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write a uint8 array of shape (H, W) or (H, W, 3) as a PNG, whole or not at all.

    Raises:
        ValueError: the array has another type or shape.
        UserError: the disk is full, read-only, or may not be written.
    """
    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    ):
        raise ValueError(f"uint8 of (H, W) or (H, W, 3) wanted, got {array.dtype} {array.shape}")
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(array)).save(temporary, format="PNG")


def _plain_grey_png(path: str | os.PathLike[str]) -> np.ndarray | None:
    """Return the values of a sound 8-bit grey PNG without extras, None for every other file."""
    try:
        with open(path, "rb") as file:
            head = file.read(33)
            # Signature; header chunk: length, name, width, height, bits a value, colour type.
            if head[:8] != _PNG_START or head[12:16] != b"IHDR" or head[24:26] != b"\x08\x00":
                return None
            data = head + file.read()
    except OSError:
        return None
    width, height = struct.unpack(">II", head[16:24])
    if width * height > (Image.MAX_IMAGE_PIXELS or 0) or not _sound_png(data):
        return None
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def _sound_png(data: bytes) -> bool:
    """Tell whether a PNG's chunks are whole, their checksums right, and all of them plain."""
    at = len(_PNG_START)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data) or (name not in _PLAIN_CHUNKS and at != len(_PNG_START)):
            return False
        if zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return False
        if name == b"IEND":
            return True
        at = end + 4
    return False


def _opened(path: str | os.PathLike[str], work: Callable[[Image.Image], Result]) -> Result:
    """Return ``work(image)``, with every fault of the file told as a `UserError`."""
    try:
        with Image.open(path) as image:
            return work(image)
    except (UserError, MemoryError):
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: check the path, or put the file there") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder where a file should be: move it away") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read: change the file's permissions") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: too large to decode safely ({error}): scale it down") from None
    except UnidentifiedImageError:
        what = "an empty file" if os.path.getsize(path) == 0 else "not an image, or a damaged one"
        raise UserError(f"{path}: {what}: get the file again or remove it") from None
    except Exception as error:
        # A damaged file makes Pillow's decoders raise nearly anything (OSError, SyntaxError,
        # struct.error, ...), and each means the same to the user.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: unreadable ({reason}): get the file again or remove it") from None


def _orientation(image: Image.Image, path: str | os.PathLike[str]) -> int:
    """Return the EXIF orientation, 1..8; 1 where there is none, or a damaged one."""
    # A PNG's EXIF may follow its pixels, so Pillow decodes the whole file to look for it.
    if image.format == "PNG" and not _may_have_exif(path):
        return 1
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:
        # Damaged EXIF of sound pixels; a fault in the pixels shows when they are decoded.
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _may_have_exif(path: str | os.PathLike[str]) -> bool:
    """Tell by its chunks whether a PNG may have EXIF, without reading its pixels."""
    with open(path, "rb", buffering=0) as file:  # a buffer would be filled at each chunk
        longest = max(map(len, _EXIF_TEXTS))
        file.seek(len(_PNG_START))
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            text = file.read(min(length, longest)) if name in _PNG_TEXTS else b""
            if name == b"eXIf" or text.startswith(_EXIF_TEXTS):
                return True
            if name == b"IEND":
                break
            file.seek(length - len(text) + 4, os.SEEK_CUR)
    return False


def _upright(pixels: np.ndarray, image: Image.Image, path: str | os.PathLike[str]) -> np.ndarray:
    """Apply the EXIF orientation of ``image`` to its ``pixels``; the result owns its memory."""
    turn = _TURNS.get(_orientation(image, path))
    return np.array(turn(pixels) if turn else pixels, order="C")


def _deep_grey(image: Image.Image) -> tuple[np.ndarray, float] | None:
    """Return ``(values, value of white)`` of grey deeper than 8 bits, None for other images."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16), 65535.0
    if image.mode == "I":
        values = np.asarray(image)
        if image.format != "TIFF":
            # Older Pillow gives 16-bit PNG files this mode.
            return values, 65535.0
        signed = getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT_TAG, (1,))[0] == 2
        return (values, 2.0**31 - 1) if signed else (values.view(np.uint32), 2.0**32 - 1)
    if image.mode == "F":
        return np.asarray(image), 1.0
    return None


def _rgb(image: Image.Image) -> np.ndarray:
    """Return the stored pixels as uint8 (H, W, 3), transparency laid on white."""
    deep = _deep_grey(image)
    if deep is not None:
        values, full = deep
        if np.any(values > full):
            raise ValueError("its float values go beyond 1")
        grey = np.clip(np.nan_to_num(values.astype(np.float64)) / full, 0, 1)
        return np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=2)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, coloured).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _luminance(image: Image.Image) -> Image.Image:
    """Return the image in mode L, transparency ignored."""
    if image.mode in ("1", "L", "LA"):
        return image.convert("L")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB").convert("L")
