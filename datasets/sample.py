"""Draw a small synthetic data set to try the code on: ``python -m datasets.sample --out D``.

Four sets: SAMPLE-TR and SAMPLE-TE (flat; one or two objects an image, the mask marks them all),
SAMPLE-CO-TR and SAMPLE-CO-TE (co-salient groups by shape; each image holds one object of its
group's shape and one of another group's, and the mask marks the former only, so one image alone
does not tell which). The clutter borrows the objects' colours, so that colour alone does not tell
them: objects are larger and hold together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datasets.images import write_png
from datasets.index import IMAGES_FOLDER, MASKS_FOLDER
from datasets.sample_shapes import SHAPES, rasterise, wavy_loop
from utils.cli import Parser
from utils.errors import UserError, run_script
from utils.files import atomic_path, read_json, write_json
from utils.progress import track

TRAIN_SET, TEST_SET = "SAMPLE-TR", "SAMPLE-TE"
GROUPED_TRAIN_SET, GROUPED_TEST_SET = "SAMPLE-CO-TR", "SAMPLE-CO-TE"
SETS = (TRAIN_SET, TEST_SET, GROUPED_TRAIN_SET, GROUPED_TEST_SET)
GROUP_SHAPES = ("crescent", "figure", "fish", "ring", "star")
RECORD = "sample.json"
# Counted up when the pictures change, so that an older set is not taken for a current one.
DRAWING = 2
JPEG_QUALITY = 92


@dataclass(frozen=True)
class _Job:
    """One picture to draw: where it goes, and what it shows."""

    set: str
    name: str  # with the group, without the extension
    key: tuple[int, ...]  # seeds the picture's own random numbers
    group: str  # the shape of the object, empty for any


def make_sample(
    out: Path | str, train: int = 120, test: int = 40, size: int = 128, seed: int = 0
) -> Path:
    """Draw the sample sets under ``out`` and record their settings in ``out/sample.json``.

    Each picture has its own random numbers, drawn from the seed, its set and its number, so a
    picture does not depend on how many there are. A finished set of the same settings is left
    alone; an interrupted one is drawn again.

    Args:
        out: the data root to make.
        train: images of SAMPLE-TR, and about as many in SAMPLE-CO-TR (at least 4 a group).
        test: images of SAMPLE-TE, and about as many in SAMPLE-CO-TE (at least 3 a group).
        size: longer side in pixels, at least 32.
        seed: another seed, other pictures.

    Returns:
        ``out`` as a `Path`, to be given as ``--data_root``.

    Raises:
        UserError: a number is out of range, ``out`` holds a sample set of other settings or
            other data under the same names, or the disk is full.
    """
    out = Path(out)
    for name, value, least in (("train", train, 1), ("test", test, 1), ("size", size, 32)):
        if value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    if seed < 0:
        raise UserError(f"--seed {seed}: must not be negative")
    settings = {"drawing": DRAWING, "train": train, "test": test, "size": size, "seed": seed}
    if _is_finished(out, settings):
        return out
    write_json(out / RECORD, {"settings": settings, "finished": False})
    for job in track(_jobs(train, test), "drawing"):
        image, mask = _draw(np.random.default_rng((seed, *job.key)), size, job.group)
        with atomic_path(out / IMAGES_FOLDER / job.set / f"{job.name}.jpg") as temporary:
            Image.fromarray(image).save(temporary, format="JPEG", quality=JPEG_QUALITY)
        write_png(out / MASKS_FOLDER / job.set / f"{job.name}.png", mask)
    write_json(out / RECORD, {"settings": settings, "finished": True})
    return out


def _is_finished(out: Path, settings: dict[str, int]) -> bool:
    """Tell whether ``out`` holds the finished set of these settings; refuse any other."""
    if not (out / RECORD).exists():
        for set_name in SETS:
            folder = out / IMAGES_FOLDER / set_name
            if folder.exists():
                raise UserError(
                    f"{folder}: there already, and without a {RECORD}: choose another --out"
                )
        return False
    record = read_json(out / RECORD)
    if not isinstance(record, dict) or record.get("settings") != settings:
        raise UserError(
            f"{out / RECORD}: a sample set of other settings is here: choose another --out, or "
            "delete this folder"
        )
    return record.get("finished") is True


def _jobs(train: int, test: int) -> list[_Job]:
    """List the pictures of all sets."""
    jobs = [_Job(TRAIN_SET, f"tr_{i:04d}", (0, i), "") for i in range(train)]
    jobs += [_Job(TEST_SET, f"te_{i:04d}", (1, i), "") for i in range(test)]
    for number, shape in enumerate(GROUP_SHAPES):
        jobs += [
            _Job(GROUPED_TRAIN_SET, f"{shape}/tr_{i:04d}", (2, number, i), shape)
            for i in range(max(4, train // len(GROUP_SHAPES)))
        ]
        jobs += [
            _Job(GROUPED_TEST_SET, f"{shape}/te_{i:04d}", (3, number, i), shape)
            for i in range(max(3, test // len(GROUP_SHAPES)))
        ]
    return jobs


def _draw(rng: np.random.Generator, size: int, group: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture.

    Returns:
        The image, uint8 (H, W, 3) RGB, and the mask, uint8 (H, W) of 0 and 255.
    """
    shorter = int(size * rng.uniform(0.7, 1.0))
    height, width = (shorter, size) if rng.random() < 0.6 else (size, shorter)
    grounds, inks = _colours(rng)
    picture = _background(rng, height, width, grounds, inks)
    alphas = _objects(rng, height, width, group)
    marked = np.zeros((height, width), np.float32)
    for alpha, is_marked in alphas:
        picture = _lay_object(rng, picture, alpha, inks)
        if is_marked:
            marked = np.maximum(marked, alpha)
    picture *= 1 + 0.25 * _smooth_noise(rng, height, width, 2)[..., None]
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.8))
    picture += rng.normal(0, rng.uniform(2, 9), picture.shape)
    image = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return image, np.where(marked >= 0.5, np.uint8(255), np.uint8(0))


def _objects(
    rng: np.random.Generator, height: int, width: int, group: str
) -> list[tuple[np.ndarray, bool]]:
    """Return the coverage of each object, float32 (H, W) in 0..1, and whether it is marked."""
    names = list(SHAPES)
    if not group:
        if rng.random() < 0.8:
            areas, kinds = [rng.uniform(0.1, 0.32)], [names[rng.integers(len(names))]]
        else:
            areas = list(rng.uniform(0.06, 0.13, 2))
            kinds = [names[i] for i in rng.integers(len(names), size=2)]
        marks = [True] * len(kinds)
    else:
        others = [name for name in GROUP_SHAPES if name != group]
        kinds, marks = [group, others[rng.integers(len(others))]], [True, False]
        areas = list(rng.uniform(0.09, 0.14, 2))
    boxes = _boxes(rng, height, width, len(kinds))
    drawn = [
        (rasterise(SHAPES[kind](rng), rng, (height, width), box, area), mark)
        for kind, box, area, mark in zip(kinds, boxes, areas, marks, strict=True)
    ]
    # The later object's shadow falls on the earlier one: it must not tell which is marked.
    return drawn[::-1] if group and rng.random() < 0.5 else drawn


def _boxes(
    rng: np.random.Generator, height: int, width: int, count: int
) -> list[tuple[float, float, float, float]]:
    """Return the box (left, top, right, bottom) for each of one or two objects, in any order."""
    if count == 1:
        return [(0, 0, width, height)]
    if width >= height:
        boxes = [(0, 0, width / 2, height), (width / 2, 0, width, height)]
    else:
        boxes = [(0, 0, width, height / 2), (0, height / 2, width, height)]
    return boxes if rng.random() < 0.5 else boxes[::-1]


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return three colours for the ground and three for objects, float (3, 3) in 0..255 each."""
    grounds = rng.uniform(35, 220, 3) + rng.normal(0, 38, (3, 3))
    candidates = rng.uniform(20, 235, (12, 3))
    distances = np.linalg.norm(candidates[:, None] - grounds[None], axis=2).min(axis=1)
    # Neither glaring nor drowned in the ground.
    ink = candidates[np.argsort(distances)[rng.integers(5, 11)]]
    inks = ink + rng.normal(0, 38, (3, 3))
    return np.clip(grounds, 5, 250), np.clip(inks, 5, 250)


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Return smooth noise, float32 (H, W), about -1..1, ``cells`` bumps along each side."""
    coarse = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _texture(
    rng: np.random.Generator, height: int, width: int, colours: Sequence[np.ndarray]
) -> np.ndarray:
    """Return a two-coloured texture, float32 (H, W, 3): stripes, dots, noise or a gradient."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    period = rng.uniform(5, 16) * max(height, width) / 128
    kind = rng.integers(4)
    if kind == 0:
        bend = 3 * _smooth_noise(rng, height, width, 3)
        share = 0.5 + 0.5 * np.sin(2 * np.pi * along / period + bend)
    elif kind == 1:
        dots = np.cos(2 * np.pi * along / period) + np.cos(2 * np.pi * across / period)
        share = np.clip(1.5 * dots - 0.7, 0, 1)
    elif kind == 2:
        share = 0.5 + 0.5 * _smooth_noise(rng, height, width, int(rng.integers(6, 24)))
    else:
        share = (along - along.min()) / max(float(np.ptp(along)), 1.0)
    share = np.clip(share, 0, 1)[..., None].astype(np.float32)
    first, second = (np.asarray(colour, np.float32) for colour in colours)
    return first + share * (second - first)


def _pick(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    """Return two different rows of ``colours``, with a little jitter."""
    return colours[rng.permutation(len(colours))[:2]] + rng.normal(0, 12, (2, 3))


def _background(
    rng: np.random.Generator, height: int, width: int, grounds: np.ndarray, inks: np.ndarray
) -> np.ndarray:
    """Return patches of texture with clutter in the ground's and the objects' colours."""
    picture = _texture(rng, height, width, _pick(rng, grounds))
    for _ in range(rng.integers(1, 4)):
        field = _smooth_noise(rng, height, width, int(rng.integers(2, 5)))
        patch = np.clip((field - rng.uniform(-0.2, 0.4)) * 12, 0, 1)[..., None]
        picture += patch * (_texture(rng, height, width, _pick(rng, grounds)) - picture)
    unit = max(height, width) / 128
    for _ in range(rng.integers(14, 32)):
        coverage = _clutter(rng, height, width, unit)[..., None]
        colour = _pick(rng, inks if rng.random() < 0.55 else grounds)[0]
        picture += coverage * rng.uniform(0.6, 1.0) * (colour - picture).astype(np.float32)
    return picture


def _clutter(rng: np.random.Generator, height: int, width: int, unit: float) -> np.ndarray:
    """Return the coverage of one stroke or small piece, float32 (H, W) in 0..1."""
    canvas = np.zeros((2 * height, 2 * width), np.uint8)
    centre = rng.uniform((0, 0), (2 * width, 2 * height))
    if rng.random() < 0.5:
        steps = rng.normal(0, 14 * unit, (4, 2)) + rng.normal(0, 14 * unit, 2)
        line = np.rint(centre + np.cumsum(steps, axis=0)).astype(np.int32)
        thickness = max(1, int(rng.uniform(1.5, 6) * unit))
        cv2.polylines(canvas, [line], False, 255, thickness, cv2.LINE_AA)
    else:
        piece = wavy_loop(rng, 0.35) * rng.uniform(4, 15) * unit * rng.uniform(0.5, 1, 2) + centre
        cv2.fillPoly(canvas, [np.rint(piece).astype(np.int32)], 255, cv2.LINE_AA)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def _lay_object(
    rng: np.random.Generator, picture: np.ndarray, alpha: np.ndarray, inks: np.ndarray
) -> np.ndarray:
    """Return the picture with one textured, shaded object on it, and the object's soft shadow."""
    height, width = alpha.shape
    unit = max(height, width) / 128
    offset = rng.uniform(-5, 5, 2) * unit
    shift = np.array([[1, 0, offset[0]], [0, 1, offset[1]]])
    shadow = cv2.GaussianBlur(cv2.warpAffine(alpha, shift, (width, height)), (0, 0), 3 * unit)
    picture = picture * (1 - rng.uniform(0, 0.4) * shadow[..., None])
    surface = _texture(rng, height, width, _pick(rng, inks))
    # Light from one side: the slope of a blurred coverage is that of a rounded body.
    body = cv2.GaussianBlur(alpha, (0, 0), 5 * unit)
    slope = np.gradient(body)
    angle = rng.uniform(0, 2 * np.pi)
    light = (np.cos(angle) * slope[1] + np.sin(angle) * slope[0]) * 6 * unit
    surface *= 1 + rng.uniform(0.3, 0.9) * np.clip(light, -0.6, 0.6)[..., None]
    return picture + alpha[..., None] * (surface - picture)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the sample sets named on the command line; return the exit code."""
    parser = Parser(prog="python -m datasets.sample", description=__doc__)
    parser.add_argument("--out", type=Path, help="the data root to make (required)")
    parser.add_argument("--train", type=int, default=120, help="images of each training set, about")
    parser.add_argument("--test", type=int, default=40, help="images of each test set, about")
    parser.add_argument("--size", type=int, default=128, help="longer side in pixels")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse(argv)
    if options.out is None:
        raise UserError("--out is missing: name the folder to make")
    out = make_sample(options.out, options.train, options.test, options.size, options.seed)
    print(f"{out}: {', '.join(SETS)}")
    return 0


if __name__ == "__main__":
    run_script(main)
