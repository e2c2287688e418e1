"""What a trial has left so far, for its report. Everything is read when it is first wanted."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from active_learning.answers import (
    LABELS,
    UNREADABLE,
    Answer,
    Journal,
    Progress,
    progress,
    standing,
)
from active_learning.questions import Pixel, Question, question_files, read_questions
from config import Config
from datasets.index import Sample, list_sets
from datasets.points import Point, read_points
from datasets.points_beside_masks import Truth, truths, with_masks
from utils import settings
from utils.errors import UserError
from utils.ranking import check_numbers
from utils.run_folder import VALIDATION, RunFolder
from utils.scores import read_scores

MOST_MASKS = 500
"""Images whose masks are looked at; of more, so many at even distances."""


class LeftOut(Exception):
    """A part of the report cannot be made; says why."""


class Round(NamedTuple):
    """The answers of one round.

    Attributes:
        arm: ``points``, ``random`` or ``validation``.
        index: the round.
        points: all labels, or as many as there are yet.
        finished: whether all is answered.
    """

    arm: str
    index: int
    points: list[Point]
    finished: bool

    @property
    def name(self) -> str:
        """What the report calls it."""
        if self.arm == VALIDATION:
            return "validation images"
        return f"{'random ' * (self.arm == 'random')}round {self.index}"


class Trial:
    """The files of a trial; faults of single ones become `UserError` when they are read."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.run = RunFolder(config.run_folder)

    @cached_property
    def samples(self) -> list[Sample]:
        """All images that may be asked about."""
        return list_sets(self.config.data_root, self.config.trainset)

    @cached_property
    def scores(self) -> list[dict[str, str]]:
        """The rows of ``scores.csv``."""
        if not self.run.scores.exists():
            raise LeftOut("nothing has been scored yet")
        rows = read_scores(self.run.scores)
        check_numbers(rows, self.run.scores)
        return rows

    @cached_property
    def answers(self) -> list[Answer]:
        """The journal of people's answers."""
        return Journal(self.run.journal).answers()

    @property
    def clicks(self) -> list[Answer]:
        """Those of them that a person gave."""
        return [answer for answer in self.answers if answer.annotator != UNREADABLE]

    @cached_property
    def standing(self) -> dict[Pixel, list[Answer]]:
        """The answers that stand."""
        return standing(self.answers)

    @cached_property
    def questions(self) -> dict[tuple[str, int], list[Question]]:
        """All questions, the reserve too, by arm and round; where there are files of them."""
        return {self._place(path): read_questions(path) for path in question_files(self.run)}

    @cached_property
    def asked(self) -> dict[tuple[str, int], dict[str, Progress]]:
        """How far the questions have got, by arm and round, then by image."""
        # A round that only trains again has a file without questions.
        return {place: progress(of, self.standing) for place, of in self.questions.items() if of}

    @cached_property
    def finished(self) -> dict[tuple[str, int], list[Point]]:
        """The labels of the rounds that are answered, by arm and round."""
        files = {place: self._points_file(*place) for place in self._places()}
        return {place: read_points(path) for place, path in files.items() if path.exists()}

    @cached_property
    def rounds(self) -> list[Round]:
        """All rounds that have answers, the validation images' first."""
        found = []
        for place in self._places():
            if place in self.finished:
                found.append(Round(*place, self.finished[place], True))
            elif told := list(self._told(*place)):
                found.append(Round(*place, told, False))
        if not found:
            raise LeftOut("nothing has been answered yet")
        return found

    @cached_property
    def truths(self) -> dict[Pixel, Truth]:
        """What the masks say of all answered pixels, of `MOST_MASKS` images."""
        pixels: dict[str, dict[tuple[int, int], None]] = {}
        named = [(point.image, point.x, point.y) for one in self.rounds for point in one.points]
        for image, x, y in [*named, *self.standing]:
            pixels.setdefault(image, {})[x, y] = None
        there = [sample.name for sample in with_masks(self.samples) if sample.name in pixels]
        if not there:
            raise LeftOut("no image has a mask")
        chosen = there[:: -(-len(there) // MOST_MASKS)]
        self.masks_of = (len(chosen), len(there), len(pixels))
        return truths({image: pixels[image] for image in chosen}, self.samples)

    masks_of: tuple[int, int, int] = (0, 0, 0)
    """Images whose masks were looked at, that have one, and in all; known after `truths`."""

    def _places(self) -> list[tuple[str, int]]:
        """Return arm and round of all that is asked."""
        rounds = [(arm, i) for i in range(self.config.rounds) for arm in ("points", "random")]
        return [(VALIDATION, 0), *(place for place in rounds if place != ("random", 0))]

    def _points_file(self, arm: str, index: int) -> Path:
        return self.run.validation_points if arm == VALIDATION else self.run.points(arm, index)

    def _told(self, arm: str, index: int) -> Iterable[Point]:
        """Yield the labels of a round that is under way."""
        for one in self.asked.get((arm, index), {}).values():
            for question, answer in one.told.items():
                yield Point(*question.pixel, LABELS[answer.answer], index)

    def _place(self, path: Path) -> tuple[str, int]:
        if path == self.run.validation_questions:
            return VALIDATION, 0
        arm = "points" if path.parent.parent == self.run.root else "random"
        return arm, int(path.parent.name.removeprefix("round_"))


def read_trial(config: Config) -> Trial:
    """Return a trial, for which there must be settings.

    Raises:
        UserError: there is none of this name.
    """
    trial = Trial(config)
    if not trial.run.config.exists():
        raise UserError(f"{trial.run.config}: no such file: name a trial that has begun")
    return trial


def changed_settings(config: Config) -> dict[str, tuple[Any, Any]]:
    """Return the settings that are not the defaults: ``{name: (value, default)}``."""
    return {n: (new, old) for n, (old, new) in settings.differences(Config(), config).items()}
