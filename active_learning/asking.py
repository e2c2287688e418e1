"""Between the choice of pixels and the points: questions are written down, and answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from active_learning.oracle import Oracle
from active_learning.questions import (
    Question,
    by_image,
    read_questions,
    untold,
    write_questions,
)
from datasets.images import native_sizes
from datasets.index import Sample
from datasets.points import Point, check_points, named_sizes, read_points, write_points
from utils.background import in_background
from utils.cores import core_count
from utils.errors import UserError

NONE = np.empty((0, 2), np.int64)


def put_questions(
    path: Path,
    round_index: int,
    samples: Sequence[Sample],
    chosen: Sequence[np.ndarray],
    reserve: Sequence[np.ndarray],
) -> None:
    """Write the questions of a round.

    Args:
        path: the questions file.
        round_index: the round.
        samples: the images.
        chosen: int (K, 2) of x and y an image, the pixels that are asked.
        reserve: the same of those that take the places of what cannot be told; empty: none has any.
    """
    questions = (
        Question(sample.name, x, y, round_index, kept)
        for sample, asked, more in zip(
            samples, chosen, reserve or [NONE] * len(samples), strict=True
        )
        for kept, pixels in ((False, asked), (True, more))
        for x, y in pixels.tolist()
    )
    write_questions(path, questions)


def asked_pixels(path: Path, samples: Sequence[Sample]) -> list[np.ndarray]:
    """Return the pixels of a questions file, (K, 2) of x and y an image, without the reserve."""
    of_image = by_image(read_checked(path, samples))
    return [_pixels(of_image.get(sample.name, ([], []))[0]) for sample in samples]


def untold_pixels(
    files: Sequence[tuple[Path, Path]], samples: Sequence[Sample]
) -> list[np.ndarray]:
    """Return the pixels, (U, 2) of x and y an image, that nobody could tell.

    Args:
        files: questions and points of each round; those without questions have none.
        samples: the images.
    """
    found: dict[str, list[Question]] = {sample.name: [] for sample in samples}
    there = [pair for pair in files if pair[0].exists()]
    sizes = native_sizes(samples) if there else []
    for path, points in there:
        for question in untold(read_checked(path, samples, sizes), read_points(points)):
            found[question.image].append(question)
    return [_pixels(questions) for questions in found.values()]


def answer_questions(path: Path, samples: Sequence[Sample], oracle: Oracle, to: Path) -> None:
    """Have the oracle answer a questions file, and write the points.

    Args:
        path: the questions.
        samples: the images they are about.
        oracle: is asked image by image; then, one by one, about the reserve. It prepares for the
            next images meanwhile.
        to: the points file.

    Raises:
        UserError: the questions are missing or damaged, or do not fit the images; or none could be
            told. The oracle's own errors, too.
    """
    questions = read_checked(path, samples)
    of_image = by_image(questions)
    points: list[Point] = []
    images = ((sample, *of_image.get(sample.name, ([], []))) for sample in samples)
    ready = in_background(
        lambda sample, asked, _: oracle.prepare(sample, _pixels(asked)), images, core_count()
    )
    for image, _ in ready:
        points += _told(oracle, *image)
    if questions and not points:
        raise UserError(
            f"{path}: none of its pixels could be told: take some answers back, or begin a trial "
            "of pictures in which something can be seen"
        )
    # The ledger first: no answer is ever used that it does not hold.
    oracle.save()
    write_points(to, points, oracle.people)


def read_checked(
    path: Path, samples: Sequence[Sample], sizes: Sequence[tuple[int, int]] | None = None
) -> list[Question]:
    """Read a questions file that must fit the images, whose sizes are read if they are not given.

    Raises:
        UserError: it is missing or damaged, or asks about another image or a pixel outside of one.
    """
    questions = read_questions(path)
    points = (Point(q.image, q.x, q.y, 0, q.round) for q in questions)
    check_points(points, named_sizes(samples, sizes), path)
    return questions


def _told(
    oracle: Oracle, sample: Sample, asked: Sequence[Question], reserve: Sequence[Question]
) -> list[Point]:
    points = _ask(oracle, sample, asked)
    for question in reserve:
        if len(points) == len(asked):
            break
        points += _ask(oracle, sample, [question])
    return points


def _ask(oracle: Oracle, sample: Sample, questions: Sequence[Question]) -> list[Point]:
    return oracle.ask(sample, _pixels(questions), questions[0].round if questions else 0)


def _pixels(questions: Sequence[Question]) -> np.ndarray:
    return np.array([(q.x, q.y) for q in questions], np.int64).reshape(-1, 2)
