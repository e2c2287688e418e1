"""The saliency maps and masks the golden scores were made from, the same on every machine.

Integers only, and raw bits of PCG64, whose stream NumPy promises to keep: no library's change of
a filter or of a random distribution can alter them.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """Return uniform random bytes, uint8 [height, width]."""
    raw = np.random.PCG64(seed).random_raw(height * width)
    return (raw >> np.uint64(56)).astype(np.uint8).reshape(height, width)


def blur(image: np.ndarray, radius: int) -> np.ndarray:
    """Return the mean over a window of 2 x radius + 1, rounded down, uint8."""
    size = 2 * radius + 1
    padded = np.pad(image.astype(np.int64), radius, mode="edge")
    total = np.pad(padded.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    window = (
        total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    )
    return (window // size**2).astype(np.uint8)


def blobs(seed: int, height: int, width: int, percent: int = 70, radius: int = 4) -> np.ndarray:
    """Return an irregular mask that leaves about ``percent`` of the image black, 0 or 255."""
    ground = blur(blur(noise(seed, height, width), radius), radius)
    cut = np.sort(ground, axis=None)[ground.size * percent // 100]
    return np.where(ground > cut, 255, 0).astype(np.uint8)


def ellipse(height: int, width: int, cy: int, cx: int, ry: int, rx: int) -> np.ndarray:
    """Return a filled ellipse, 0 or 255."""
    y, x = np.mgrid[:height, :width]
    inside = ((y - cy) * rx) ** 2 + ((x - cx) * ry) ** 2 <= (ry * rx) ** 2
    return np.where(inside, 255, 0).astype(np.uint8)


def rough(
    mask: np.ndarray, seed: int, radius: int = 3, shift: int = 4, grain: int = 8
) -> np.ndarray:
    """Return a likely prediction of the mask: moved, blurred and grainy, uint8."""
    moved = blur(np.roll(mask, (shift, -shift), axis=(0, 1)), radius).astype(np.int64)
    grains = noise(seed, *mask.shape).astype(np.int64) // grain - 128 // grain
    return (moved + grains).clip(0, 255).astype(np.uint8)


def spot(height: int, width: int, y: int, x: int) -> np.ndarray:
    """Return a mask of one pixel, 0 or 255."""
    mask = np.zeros((height, width), np.uint8)
    mask[y, x] = 255
    return mask


def golden_pairs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (map, mask) by name, both uint8 [H, W]."""
    empty, full = np.zeros((31, 44), np.uint8), np.full((31, 44), 255, np.uint8)
    blob = blobs(1, 61, 80)
    disc = ellipse(48, 64, 20, 30, 11, 17)
    corner = ellipse(45, 37, 0, 0, 14, 12)
    random_mask = np.where(noise(2, 37, 53) > 128, 255, 0).astype(np.uint8)
    two = np.maximum(ellipse(50, 70, 14, 16, 9, 10), ellipse(50, 70, 34, 52, 8, 12))
    line = np.repeat(np.array([[0, 255, 255, 0, 0, 255, 0, 0, 0]], np.uint8), 2, axis=1)
    ramp = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    ramp_mask = np.where(noise(3, 3, 256) > 100, 255, 0).astype(np.uint8)
    narrow = (noise(4, 40, 40) // 8 + 100).astype(np.uint8)
    grey = noise(5, 33, 41) // 64 + 126
    y, x = np.mgrid[:67, :101]
    stripes = np.where((3 * y + 2 * x) % 40 < 17, 255, 0).astype(np.uint8)
    board = np.where((y // 4 + x // 4) % 2, 255, 0).astype(np.uint8)
    pairs = {
        "random": (noise(6, 37, 53), random_mask),
        "random on blob": (noise(7, 61, 80), blob),
        "blob, good": (rough(blob, 8, 1, 1), blob),
        "blob, fair": (rough(blob, 9, 4, 3), blob),
        "blob, poor": (rough(blob, 10, 6, 12, 2), blob),
        "blob, perfect": (blob, blob),
        "blob, inverted": (255 - blob, blob),
        "blob, inverted and soft": (255 - rough(blob, 11), blob),
        "blob, binary": (blobs(12, 61, 80), blob),
        "blob, binary and dim": (blobs(12, 61, 80) // 3, blob),
        "blob, few and bright": (np.where(noise(13, 61, 80) > 250, 255, 3).astype(np.uint8), blob),
        "blobs, small": (rough(blobs(14, 90, 71, 93, 2), 15), blobs(14, 90, 71, 93, 2)),
        "blobs, large": (rough(blobs(16, 71, 90, 20, 5), 17), blobs(16, 71, 90, 20, 5)),
        "disc": (rough(disc, 18), disc),
        "disc, no grain": (blur(disc, 5), disc),
        "disc, all but 0": (np.maximum(rough(disc, 19), 17), disc),
        "disc, constant 0": (np.zeros_like(disc), disc),
        "disc, constant 128": (np.full_like(disc, 128), disc),
        "disc, constant 77": (np.full_like(disc, 77), disc),
        "disc, constant 255": (np.full_like(disc, 255), disc),
        "disc, two values": (disc // 2 + 60, disc),
        "corner": (rough(corner, 20, 2, 2), corner),
        "corner, constant 51": (np.full_like(corner, 51), corner),
        "lower corner": (rough(corner[::-1, ::-1], 21, 2, 2), corner[::-1, ::-1].copy()),
        "two discs": (rough(two, 22), two),
        "two discs, one found": (ellipse(50, 70, 14, 16, 9, 10), two),
        "empty mask": (noise(23, 31, 44), empty),
        "empty mask, black": (empty, empty),
        "empty mask, white": (full, empty),
        "full mask": (noise(24, 31, 44), full),
        "full mask, black": (empty, full),
        "full mask, white": (full, full),
        "all but one pixel": (noise(25, 31, 44), 255 - spot(31, 44, 9, 40)),
        "one pixel": (blur(noise(26, 23, 29), 2), spot(23, 29, 7, 19)),
        "one pixel, found": (spot(23, 29, 7, 19), spot(23, 29, 7, 19)),
        "one pixel, last row": (noise(27, 23, 29), spot(23, 29, 22, 4)),
        "one row": (noise(28, 1, 18), line),
        "one column": (noise(29, 18, 1), line.T.copy()),
        "two by two": (np.array([[9, 200], [90, 30]], np.uint8), spot(2, 2, 0, 0)),
        "one by one": (np.array([[200]], np.uint8), np.array([[255]], np.uint8)),
        "all levels": (ramp, ramp_mask),
        "levels 0 to 199": (np.minimum(ramp, 199), ramp_mask),
        "levels 57 to 254": (ramp.clip(57, 254), ramp_mask),
        "narrow range": (narrow, blobs(30, 40, 40, 60)),
        "grey mask": (noise(31, 33, 41), grey),
        "half adaptive tie": (ramp // 128 * 255, ramp_mask),
        "levels 60 to 187": (ramp // 2 + 60, ramp_mask),
        "half tie": ((ramp % 3) * 127, ramp_mask),
        "half tie, constant 127": (np.full_like(ramp, 127), ramp_mask),
        "empty mask, constant 99": (empty + 99, empty),
        "full mask, constant 99": (empty + 99, full),
        "empty mask, one row": (noise(34, 1, 18), np.zeros_like(line)[:1]),
        "full mask, one column": (noise(35, 18, 1), np.full((18, 1), 255, np.uint8)),
        "one pixel, first corner": (noise(36, 23, 29), spot(23, 29, 0, 0)),
        "stripes": (rough(stripes, 37, 2, 2), stripes),
        "stripes on board": (stripes // 2 + board // 4, board),
        "binary on binary": (stripes, board),
        "larger": (rough(blobs(32, 201, 277, 75, 12), 33, 5, 6), blobs(32, 201, 277, 75, 12)),
    }
    return pairs


def digest(pred: np.ndarray, mask: np.ndarray) -> str:
    """Return a checksum of a pair, to tell changed inputs from changed scores."""
    return f"{zlib.crc32(pred.tobytes() + mask.tobytes()):08x} {pred.shape[0]}x{pred.shape[1]}"


def read_golden() -> dict:
    """Return the golden scores, ``metrics.json``; curves are packed, see `unpacked`."""
    return json.loads(Path(__file__).with_name("metrics.json").read_text(encoding="utf-8"))


def unpacked(value: float | list | None) -> float | np.ndarray | None:
    """Return a golden number as it is, and a curve from its runs of [value, how often]."""
    if not isinstance(value, list):
        return value
    numbers, lengths = zip(*value, strict=True)
    return np.repeat(numbers, lengths)
