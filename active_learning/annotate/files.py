"""The questions of one file, and how far they have got."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from active_learning.answers import Progress, Standing, progress
from active_learning.questions import Pixel, Question


class Counts(NamedTuple):
    """How far all questions have got: pixels wanted, told, not to be replaced any more."""

    wanted: int
    told: int
    short: int


@dataclass
class QuestionsFile:
    """The questions of one file and how far they have got.

    Attributes:
        questions: by image, those asked and those in reserve.
        closed: what came of them has been written down and is used: no answer changes it.
        open: what nobody has answered, in the order in which it is asked.
        progress: by image.
    """

    questions: dict[str, list[Question]]
    closed: bool
    open: dict[Pixel, Question] = field(default_factory=dict)
    progress: dict[str, Progress] = field(default_factory=dict)
    counts: Counts = field(default_factory=lambda: Counts(0, 0, 0))

    def set_out(self, queued: Sequence[Question], stands: Standing) -> None:
        """Find out how far the questions have got; ``queued``: all of them in the order to ask."""
        every = (question for several in self.questions.values() for question in several)
        self.progress = progress(every, stands)
        still = {q for found in self.progress.values() for q in found.open}
        self.open = {q.pixel: q for q in queued if q in still}
        self.counts = total(map(self._count, self.progress.values()))

    def update(self, image: str, stands: Standing) -> None:
        """Do so anew for one image."""
        before = self.progress[image]
        self.progress |= progress(self.questions[image], stands)
        after = self.progress[image]
        for question in before.open:
            if question not in after.open:
                del self.open[question.pixel]
        for question in after.open:
            self.open.setdefault(question.pixel, question)
        changed = zip(self.counts, self._count(before), self._count(after), strict=True)
        self.counts = Counts(*(so_far - old + new for so_far, old, new in changed))

    def _count(self, found: Progress) -> Counts:
        told = len(found.told)
        # What an answer that came too late opens in a closed file is asked of nobody any more.
        return Counts(told if self.closed else len(found.wanted), told, found.short)


def total(counts: Iterable[Counts]) -> Counts:
    """Return the sum of several counts."""
    every = [*counts, Counts(0, 0, 0)]
    return Counts(*(sum(column) for column in zip(*every, strict=True)))
