"""Point labels: where they are kept, and how they become supervision.

A points file is a CSV with the columns ``image,x,y,label,round``, one answer a line. ``image`` is
the path of the picture below ``images/<SET>/``; ``x`` and ``y`` are whole pixels of the picture in
its own size (after its EXIF rotation), the top left one being (0, 0); ``label`` is 1 for
foreground and 0 for background. A file holds the answers of one round. Where people answered, the
columns ``annotator`` and ``seconds`` follow; here they are not read.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.images import native_sizes
from datasets.index import Sample
from utils.errors import UserError, closest
from utils.tables import read_rows, write_rows

COLUMNS = ("image", "x", "y", "label", "round")
COLUMNS_OF_PEOPLE = ("annotator", "seconds")

Pixel = tuple[str, int, int]
"""Image, x and y."""


class Point(NamedTuple):
    """One answer: the label (1 foreground, 0 background) of pixel (x, y) of an image."""

    image: str
    x: int
    y: int
    label: int
    round: int


def write_points(
    path: Path,
    points: Iterable[Point],
    people: Mapping[Pixel, tuple[str, float]] | None = None,
) -> None:
    """Write a points file, whole or not at all.

    Args:
        path: the file.
        points: what it is to hold.
        people: of each image, x and y the annotator and the seconds the answer took, or None.
    """
    if people is None:
        write_rows(path, COLUMNS, (point._asdict() for point in points))
        return
    rows = (
        point._asdict() | dict(zip(COLUMNS_OF_PEOPLE, people[point[:3]], strict=True))
        for point in points
    )
    write_rows(path, (*COLUMNS, *COLUMNS_OF_PEOPLE), rows)


def read_points(path: Path) -> list[Point]:
    """Read a points file.

    Raises:
        UserError: missing or unreadable file, a value that is no whole number, a label other than
            0 and 1, the same pixel twice; names the file and the line.
    """
    points: list[Point] = []
    seen: set[tuple[str, int, int]] = set()
    for line, row in enumerate(read_rows(path, COLUMNS), start=2):
        try:
            x, y, label, round_index = (int(row[column]) for column in COLUMNS[1:])
        except ValueError:
            raise UserError(f"{path}, line {line}: x, y, label, round must be integers") from None
        if label not in (0, 1):
            raise UserError(f"{path}, line {line}: label {label}: must be 1 or 0")
        if (row["image"], x, y) in seen:
            raise UserError(f"{path}, line {line}: pixel ({x}, {y}) is answered twice: keep one")
        seen.add((row["image"], x, y))
        points.append(Point(row["image"], x, y, label, round_index))
    return points


def check_points(
    points: Iterable[Point], sizes: Mapping[str, tuple[int, int] | None], path: Path
) -> None:
    """Check that every point lies in an image of the set.

    Args:
        points: all points of ``path``, in the order of its lines.
        sizes: (width, height) of the set's images, by name; None: where in such an image its points
            lie is not checked.
        path: the points file.

    Raises:
        UserError: an unknown image, or a point outside its image; names the file and the line.
    """
    for line, point in enumerate(points, start=2):
        if point.image not in sizes:
            raise UserError(
                f"{path}, line {line}: image '{point.image}' is not among the {len(sizes)} images "
                "of this split: put back pictures that were renamed or removed since the trial "
                f"began, and take away those that were added{closest(point.image, sizes)}"
            )
        size = sizes[point.image]
        if size is not None and not (0 <= point.x < size[0] and 0 <= point.y < size[1]):
            raise UserError(
                f"{path}, line {line}: point ({point.x}, {point.y}) lies outside {point.image} "
                f"({size[0]} x {size[1]} pixels): mend or delete the line"
            )


def read_answers(
    paths: Sequence[Path],
    samples: Sequence[Sample],
    ledger: Path | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> list[np.ndarray]:
    """Read points files and check them against the images, and the questions beside them.

    Args:
        paths: a file a round.
        samples: the images.
        ledger: every pixel that was ever told, in the form of a points file; None: unknown.
        sizes: the images' own (width, height), where they are known; None: they are read.

    Returns:
        The points of each sample, int64 (K, 3) of x, y, label, in the order of the files.

    Raises:
        UserError: as for `read_rounds` and `answers_of`.
    """
    return answers_of(read_rounds(paths, samples, ledger, sizes), samples)


def read_rounds(
    paths: Iterable[Path],
    samples: Sequence[Sample],
    ledger: Path | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> dict[Path, list[Point]]:
    """Read points files as `read_answers` does; return the points of each.

    Raises:
        UserError: as for `read_points` and `check_points`; or a file lacks answers to its round's
            questions.
    """
    of_name = named_sizes(samples, sizes)
    told = functools.cache(lambda: _told(ledger))
    rounds: dict[Path, list[Point]] = {}
    for path in paths:
        rounds[path] = read_points(path)
        check_points(rounds[path], of_name, path)
        _require_whole(path, rounds[path], told)
    return rounds


def answers_of(rounds: Mapping[Path, list[Point]], samples: Sequence[Sample]) -> list[np.ndarray]:
    """Return the points of each sample, from those of some files, as `read_answers` does.

    Raises:
        UserError: an image has no answer in any file, though the first round asks about every one,
            and nobody may have said that it cannot be told.
    """
    points = chain.from_iterable(rounds.values())
    answers = by_image(points, (sample.name for sample in samples))
    bare = [sample.name for sample, own in zip(samples, answers, strict=True) if not len(own)]
    first = next(iter(rounds), None)
    if first and bare and not _may_be_untold(first.with_name("questions.csv"), bare):
        raise UserError(
            f"{first}: no answers for {len(bare)} of {len(samples)} images ({bare[0]}"
            f"{', ...' * (len(bare) > 1)}): take away pictures that were added since the trial "
            "began; if the file was cut off, delete it and ask its round again, which costs no "
            "answer twice"
        )
    return answers


def named_sizes(
    samples: Sequence[Sample], sizes: Sequence[tuple[int, int]] | None = None
) -> dict[str, tuple[int, int]]:
    """Return the (width, height) of images by name, from their files where it is not known."""
    sizes = native_sizes(samples) if sizes is None else sizes
    return dict(zip((sample.name for sample in samples), sizes, strict=True))


_TextPixel = tuple[str, str, str]


def _told(ledger: Path | None) -> set[_TextPixel] | None:
    """Return the pixels that a ledger says were told, None where there is no ledger."""
    if ledger is None or not ledger.exists():
        return None
    return {(point.image, str(point.x), str(point.y)) for point in read_points(ledger)}


def _require_whole(
    path: Path, points: Sequence[Point], told: Callable[[], set[_TextPixel] | None]
) -> None:
    """Raise `UserError` if a points file lacks what its round's questions were answered with.

    Where there is a reserve somebody may have been unable to tell, and the ledger says what was
    told. Even so one that was told then may have been taken back since, so it is the last one alone
    that has to be there: without it the file was cut off.
    """
    questions = path.with_name("questions.csv")
    if not questions.exists():
        return
    rows = read_rows(questions, ("image", "x", "y", "reserve"))
    asked = [((row["image"], row["x"], row["y"]), row["reserve"] == "1") for row in rows]
    had = {(point.image, str(point.x), str(point.y)) for point in points}
    if any(reserve for _, reserve in asked):
        pixels = told()
        if pixels is None:
            return
        missing = {pixel for pixel in _expected(asked, pixels)[-1:] if pixel not in had}
    else:
        missing = {pixel for pixel, _ in asked if pixel not in had}
    if missing:
        image, x, y = min(missing)
        raise UserError(
            f"{path}: lacks answers that were given ({image}, pixel ({x}, {y}), ...): if it was "
            "cut off, delete it and ask its round again, which costs no answer twice"
        )


def _expected(
    asked: Sequence[tuple[_TextPixel, bool]], told: AbstractSet[_TextPixel]
) -> list[_TextPixel]:
    """Return the pixels of some questions that are told and used, in order."""
    wanted = Counter(pixel[0] for pixel, reserve in asked if not reserve)
    found = []
    for pixel, _ in asked:  # an image's reserve comes after its questions
        if pixel in told and wanted[pixel[0]]:
            wanted[pixel[0]] -= 1
            found.append(pixel)
    return found


def _may_be_untold(questions: Path, bare: Iterable[str]) -> bool:
    """Whether a round's questions were of a kind that can go unanswered, and asked of all these.

    There is a reserve only where somebody may say that a pixel cannot be told.
    """
    if not questions.exists():
        return False
    rows = read_rows(questions, ("image", "reserve"))
    asked = {row["image"] for row in rows}
    return any(row["reserve"] == "1" for row in rows) and asked.issuperset(bare)


def by_image(points: Iterable[Point], names: Iterable[str]) -> list[np.ndarray]:
    """Return the points of each named image as an int64 array (K, 3) of x, y, label."""
    found: dict[str, list[tuple[int, int, int]]] = {name: [] for name in names}
    for point in points:
        if point.image in found:
            found[point.image].append((point.x, point.y, point.label))
    return [np.array(rows, np.int64).reshape(-1, 3) for rows in found.values()]


def count_labels(points: np.ndarray, pixels: np.ndarray, size: int) -> np.ndarray:
    """Count the answers at each pixel of the network's grid.

    Args:
        points: int array (K, 3) of x, y, label; only the label is used here.
        pixels: float array (K, 2), the points' x and y on the grid (pixel centres are whole).
        size: side of the grid.

    Returns:
        uint8 array (2, size, size): answers background (0) and foreground (1) at each pixel. Two
        answers that fall on one pixel both count; those outside the grid (cropped away) do not.
    """
    labels = np.zeros((2, size, size), np.uint8)
    nearest = np.floor(pixels + 0.5).astype(np.int64)
    inside = ((nearest >= 0) & (nearest < size)).all(axis=1)
    x, y = nearest[inside].T
    np.add.at(labels, (points[inside, 2], y, x), 1)
    return labels
