"""The shapes of the sample set's objects, and their drawing.

A shape is a list of parts, which are united; a part is a list of closed loops, filled by the
even-odd rule (so a second loop inside the first is a hole). A loop is a float array (N, 2) of
(x, y). Coordinates are about -1..1; turning, scaling and placing is `rasterise`'s work.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np

Shape = list[list[np.ndarray]]

_SUPERSAMPLING = 4
_MAX_SPAN = 0.96  # of the box; a longer shape is scaled down


def rasterise(
    shape: Shape,
    rng: np.random.Generator,
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    area: float,
) -> np.ndarray:
    """Turn a shape at random, place it in a box at random, and draw it.

    Args:
        shape: the shape.
        rng: source of the angle and the place.
        size: (H, W) of the result.
        box: (left, top, right, bottom) in pixels that the shape stays in.
        area: share of the whole picture to cover; less if the box is too tight.

    Returns:
        Coverage, float32 (H, W) in 0..1.
    """
    height, width = size
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = [[loop @ turn for loop in part] for part in shape]
    points = np.concatenate([loop for part in turned for loop in part])
    low, high = points.min(axis=0), points.max(axis=0)
    start, room = np.array(box[:2]), np.array(box[2:]) - np.array(box[:2])
    scale = np.sqrt(area * height * width / _unit_area(turned, low, high))
    scale = min(scale, _MAX_SPAN * float((room / (high - low)).min()))
    slack = room - scale * (high - low)
    origin = start + rng.uniform(0.1, 0.9, 2) * slack - scale * low
    placed = [[loop * scale + origin for loop in part] for part in turned]
    canvas = _fill(placed, (height * _SUPERSAMPLING, width * _SUPERSAMPLING), _SUPERSAMPLING)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)


def _fill(shape: Shape, size: tuple[int, int], factor: float) -> np.ndarray:
    """Draw a shape, its coordinates times ``factor``, as float32 0 or 1 of ``size``."""
    canvas = np.zeros(size, np.uint8)
    for part in shape:
        cv2.fillPoly(canvas, [np.rint(loop * factor).astype(np.int32) for loop in part], 1)
    return canvas.astype(np.float32)


def _unit_area(shape: Shape, low: np.ndarray, high: np.ndarray) -> float:
    """Return a shape's area in its own units; parts that overlap count once."""
    factor = 96 / float((high - low).max())
    moved = [[loop - low for loop in part] for part in shape]
    return float(_fill(moved, (100, 100), factor).sum()) / factor**2


def wavy_loop(rng: np.random.Generator, waves: float) -> np.ndarray:
    """Return a circle of radius 1 with random waves of relative height ``waves``."""
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = np.ones_like(angles)
    for count in range(2, 6):
        phase = rng.uniform(0, 2 * np.pi)
        radius += waves * rng.normal() / count * np.cos(count * angles + phase)
    return np.clip(radius, 0.3, 2)[:, None] * _on_circle(angles)


def _on_circle(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _ellipse(centre: tuple[float, float], radii: tuple[float, float], angle: float) -> np.ndarray:
    loop = _on_circle(np.linspace(0, 2 * np.pi, 48, endpoint=False)) * radii
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return loop @ turn + np.array(centre)


def _limb(points: np.ndarray, widths: np.ndarray) -> list[list[np.ndarray]]:
    """Return parts for a bent bar through ``points`` (N, 2), of half ``widths`` (N,) at each."""
    parts = []
    for (start, end), (at_start, at_end) in zip(pairwise(points), pairwise(widths), strict=True):
        way = (end - start) / np.linalg.norm(end - start)
        side = np.array([-way[1], way[0]])
        corners = [start + side * at_start, end + side * at_end]
        corners += [end - side * at_end, start - side * at_start]
        parts.append([np.array(corners)])
        parts.append([_ellipse(tuple(end), (at_end, at_end), 0.0)])
    return parts


def _bent_limb(
    rng: np.random.Generator, root: tuple[float, float], angle: float, length: float, width: float
) -> list[list[np.ndarray]]:
    """Return a limb of two members that starts at ``root`` and bends at random."""
    knee = np.array(root) + length / 2 * _on_circle(np.array(angle))
    foot = knee + length / 2 * _on_circle(np.array(angle + rng.uniform(-0.9, 0.9)))
    return _limb(np.array([root, knee, foot]), np.array([width, 0.85 * width, 0.6 * width]))


def _blob(rng: np.random.Generator) -> Shape:
    return [[wavy_loop(rng, 0.3)]]


def _star(rng: np.random.Generator) -> Shape:
    tips = int(rng.integers(5, 9))
    radius = np.where(np.arange(2 * tips) % 2 == 0, 1.0, rng.uniform(0.4, 0.6))
    radius = radius * rng.uniform(0.9, 1.1, 2 * tips)
    return [[radius[:, None] * _on_circle(np.arange(2 * tips) * np.pi / tips)]]


def _polygon(rng: np.random.Generator) -> Shape:
    corners = int(rng.integers(3, 7))
    angles = (np.arange(corners) + rng.uniform(-0.25, 0.25, corners)) * 2 * np.pi / corners
    return [[_on_circle(angles) * rng.uniform(0.75, 1.1, (corners, 1))]]


def _ring(rng: np.random.Generator) -> Shape:
    outer = wavy_loop(rng, 0.12) * (1.0, rng.uniform(0.75, 1.0))
    return [[outer, outer * rng.uniform(0.45, 0.62)]]


def _leaf(rng: np.random.Generator) -> Shape:
    x = np.linspace(-1, 1, 40)
    half = rng.uniform(0.35, 0.55) * (1 - x**2) * (1 - 0.35 * x)
    spine = rng.uniform(-0.3, 0.3) * (1 - x**2)
    loop = np.concatenate(
        [np.stack([x, spine + half], axis=1), np.stack([x, spine - half], axis=1)[::-1]]
    )
    stem = np.array([[-0.95, 0.0], [-1.3, rng.uniform(-0.15, 0.15)], [-1.6, 0.0]])
    return [[loop], *_limb(stem, np.array([0.06, 0.05, 0.04]))]


def _crescent(rng: np.random.Generator) -> Shape:
    opening = rng.uniform(0.5, 0.9)
    outer = _on_circle(np.linspace(opening, 2 * np.pi - opening, 60))
    t = np.linspace(-1, 1, 40)[1:-1]
    depth = rng.uniform(0.15, 0.45)
    inner_x = np.cos(opening) - (np.cos(opening) + depth) * (1 - t**2)
    return [[np.concatenate([outer, np.stack([inner_x, t * np.sin(opening)], axis=1)])]]


def _figure(rng: np.random.Generator) -> Shape:
    parts: Shape = [[_ellipse((0, -0.78), (0.24, 0.28), 0)], [_ellipse((0, -0.1), (0.34, 0.5), 0)]]
    for side in (-1, 1):
        arm = np.pi / 2 - side * rng.uniform(0.5, 1.7)
        leg = np.pi / 2 - side * rng.uniform(0.05, 0.5)
        parts += _bent_limb(rng, (side * 0.24, -0.35), arm, 0.95, 0.11)
        parts += _bent_limb(rng, (side * 0.17, 0.25), leg, 1.05, 0.14)
    return parts


def _insect(rng: np.random.Generator) -> Shape:
    wide = rng.uniform(0.4, 0.6)
    parts: Shape = [[_ellipse((0, 0.15), (wide, 0.75), 0)], [_ellipse((0, -0.7), (0.3, 0.25), 0)]]
    for side in (-1, 1):
        for place, lean in ((-0.25, -0.5), (0.15, 0.05), (0.5, 0.6)):
            angle = lean if side > 0 else np.pi - lean
            parts += _bent_limb(rng, (side * 0.3, place), angle, 0.95, 0.06)
        parts += _bent_limb(rng, (side * 0.1, -0.8), -np.pi / 2 + side * 0.5, 0.7, 0.04)
    return parts


def _flower(rng: np.random.Generator) -> Shape:
    petals = int(rng.integers(5, 8))
    parts: Shape = [[_ellipse((0, 0), (0.35, 0.35), 0)]]
    for angle in np.arange(petals) * 2 * np.pi / petals:
        centre = 0.6 * _on_circle(np.array(angle))
        parts.append([_ellipse(tuple(centre), (0.42, rng.uniform(0.18, 0.27)), angle)])
    return parts + _bent_limb(rng, (0, 0.3), np.pi / 2, 1.5, 0.06)


def _fish(rng: np.random.Generator) -> Shape:
    body = _ellipse((0, 0), (0.9, rng.uniform(0.35, 0.5)), 0)
    spread = rng.uniform(0.35, 0.55)
    tail = np.array([[-0.7, 0], [-1.35, -spread], [-1.15, 0], [-1.35, spread]])
    fin = np.array([[-0.35, -0.25], [-0.2, -rng.uniform(0.6, 0.85)], [0.35, -0.3]])
    return [[body], [tail], [fin]]


SHAPES: dict[str, Callable[[np.random.Generator], Shape]] = {
    "blob": _blob,
    "crescent": _crescent,
    "figure": _figure,
    "fish": _fish,
    "flower": _flower,
    "insect": _insect,
    "leaf": _leaf,
    "polygon": _polygon,
    "ring": _ring,
    "star": _star,
}
