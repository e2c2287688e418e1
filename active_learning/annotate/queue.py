"""Who is asked what next: open questions, leases, second opinions, undo. No HTTP in here.

What has been answered is in the journal alone; what stands here besides is forgotten when the server
ends, and costs nothing: who holds which question (`Leases`), and what an annotator was to see next.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from active_learning.answers import (
    CANNOT_SAY,
    REVIEWER,
    UNDO,
    Answer,
    Journal,
    Progress,
    now,
    progress,
    standing,
)
from active_learning.questions import Pixel, Question, by_image

ORDERS = ("rows", "mixed")
"""rows: an image's questions in a row; mixed: those of a file in an order that looks random."""

UNREADABLE = "unreadable"
"""Annotator of the "can't say" that stands for the questions of a picture nobody could be shown."""

LEASE = 120.0
"""Seconds without a sign of life after which an annotator's questions go to others."""

REMEMBERED = 10_000
"""Requests that are known again when they are sent twice."""


class Counts(NamedTuple):
    """How far all questions have got: pixels wanted, told, not to be replaced any more."""

    wanted: int
    told: int
    short: int


class Leases:
    """Which pixel is with whom, and until when."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock = seconds, clock
        self._holder: dict[Pixel, str] = {}
        self._alive: dict[str, float] = {}

    def renew(self, annotator: str) -> None:
        """Note a sign of life."""
        self._alive[annotator] = self._clock()

    def alive(self) -> set[str]:
        """Return the annotators who are at work."""
        least = self._clock() - self._seconds
        return {name for name, seen in self._alive.items() if seen > least}

    def taken(self, annotator: str) -> set[Pixel]:
        """Return the pixels that others hold."""
        alive = self.alive()
        return {p for p, who in self._holder.items() if who != annotator and who in alive}

    def replace(self, annotator: str, pixels: Iterable[Pixel]) -> None:
        """Let these pixels, and no others, be with an annotator."""
        self._holder = {p: who for p, who in self._holder.items() if who != annotator}
        self._holder |= dict.fromkeys(pixels, annotator)


@dataclass
class _File:
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


class Queue:
    """The questions of a trial, and who is asked them; may be used by several threads.

    Args:
        journal: where answers are kept.
        twice: share of the pixels that two annotators are asked about, where there are two. Which
            these are follows from the pixels alone.
        order: one of `ORDERS`.
        lease: seconds without a sign of life after which questions are given to others.
        clock: seconds that pass.
    """

    def __init__(
        self,
        journal: Journal,
        twice: float = 0.05,
        order: str = "rows",
        lease: float = LEASE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.journal, self.twice, self.order = journal, twice, order
        self.leases = Leases(lease, clock)
        self._lock = threading.RLock()
        self._files: list[_File] = []
        self._known: dict[Pixel, Question] = {}
        self._read = 0
        self._rows: dict[Pixel, list[Answer]] = {}
        self._standing: dict[Pixel, list[Answer]] = {}
        self._mine: dict[str, dict[Pixel, None]] = {}
        self._second: dict[Pixel, Question] = {}
        self._next: dict[str, list[Pixel]] = {}
        self._image: dict[str, str] = {}
        self._sent: dict[str, None] = {}

    def load(self, files: Sequence[tuple[Sequence[Question], bool]]) -> None:
        """Take the questions files of the trial, each with whether it is closed, in their order."""
        with self._lock:
            self._files = []
            for questions, closed in files:
                if self.order == "mixed":
                    sorted_by = sorted(questions, key=lambda q: _chance("order", q.pixel))
                    queued = dict.fromkeys(question.pixel for question in sorted_by)
                else:
                    queued = dict.fromkeys(question.pixel for question in questions)
                images = {i: [*asked, *spare] for i, (asked, spare) in by_image(questions).items()}
                self._files.append(_File(images, closed, queued))  # type: ignore[arg-type]
            self._known = {q.pixel: q for questions, _ in files for q in questions}
            self._sync()
            for file in self._files:
                file.progress = progress(
                    (q for several in file.questions.values() for q in several), self._standing
                )
                still = {q.pixel: q for found in file.progress.values() for q in found.open}
                file.open = {pixel: still[pixel] for pixel in file.open if pixel in still}
            for pixel in self._standing:
                self._note_second(pixel)

    def take(self, annotator: str, count: int) -> list[Question]:
        """Give an annotator the next questions, the first of which is to be shown.

        Those that the annotator held and did not answer come again.
        """
        with self._lock:
            self._sync()
            self.leases.renew(annotator)
            taken = self.leases.taken(annotator)
            found: dict[Pixel, Question] = {}
            for question in self._candidates(annotator, {image for image, _, _ in taken}):
                if question.pixel not in taken:
                    found[question.pixel] = question
                if len(found) == count:
                    break
            self.leases.replace(annotator, found)
            if found:
                self._image[annotator] = next(iter(found))[0]
            return list(found.values())

    def answer(
        self, annotator: str, pixel: Pixel, said: str, seconds: float, request: str = ""
    ) -> bool:
        """Write an answer down; when this returns, the disk holds it.

        It is kept whoever holds the question by now: then it is a second opinion. ``u`` takes back
        what the annotator said of the pixel, so that it comes next.

        Args:
            request: a name for this request, by which it is known again when it is sent twice.

        Returns:
            Whether it was new: not what stands of this annotator already, nor nothing taken back.

        Raises:
            KeyError: nobody asked about this pixel.
            UserError: the disk is full or cannot be written; nothing has changed then.
        """
        with self._lock:
            self._sync()
            self.leases.renew(annotator)
            question = self._known[pixel]
            stands = {one.annotator: one.answer for one in self._standing.get(pixel, ())}
            nothing_new = stands.get(annotator, UNDO) == said
            if nothing_new or (request and request in self._sent):
                return False
            was_open = self._open_of(pixel[0])
            self.journal.append(Answer(*pixel, said, question.round, annotator, seconds, now()))
            self._remember(request)
            self._sync()
            if said in (UNDO, CANNOT_SAY):
                # What has just become open, this pixel or its substitute, is asked next.
                first = [pixel] if said == UNDO else []
                opened = [p for p in self._open_of(pixel[0]) if p not in was_open]
                self._next[annotator] = first + opened + self._next.get(annotator, [])
            return True

    def skip_image(self, image: str) -> None:
        """Count all questions about an image that nobody has answered as "can't say"."""
        with self._lock:
            self._sync()
            for pixel in [p for p in self._known if p[0] == image and p not in self._standing]:
                self.answer(UNREADABLE, pixel, CANNOT_SAY, 0.0)

    def mine(self, annotator: str, most: int) -> list[Answer]:
        """Return what stands of an annotator and may be changed, the latest first."""
        with self._lock:
            closed = {p for f in self._files if f.closed for p in self._pixels(f)}
            found = []
            for pixel in reversed(self._mine.get(annotator, {})):
                if len(found) == most:
                    break
                if pixel in self._known and pixel not in closed:
                    found += [a for a in self._standing[pixel] if a.annotator == annotator]
            return found

    def counts(self) -> Counts:
        """Return how far all questions have got."""
        with self._lock:
            all_of = [found for file in self._files for found in file.progress.values()]
            return Counts(
                sum(len(found.wanted) for found in all_of),
                sum(len(found.told) for found in all_of),
                sum(found.short for found in all_of),
            )

    def standing(self) -> dict[Pixel, list[Answer]]:
        """Return what stands of each pixel that was answered."""
        with self._lock:
            self._sync()
            return dict(self._standing)

    def of_image(self, image: str) -> list[tuple[Question, list[Answer], bool]]:
        """Return the questions of an image, what stands of each, and whether its file is closed.

        Those of the reserve that were not needed are left out.
        """
        with self._lock:
            self._sync()
            found: dict[Pixel, tuple[Question, list[Answer], bool]] = {}
            for file in self._files:
                for question in file.questions.get(image, ()):
                    stands = self._standing.get(question.pixel, [])
                    if stands or not question.reserve:
                        found[question.pixel] = (question, list(stands), file.closed)
            return list(found.values())

    def _pixels(self, file: _File) -> Iterator[Pixel]:
        return (q.pixel for questions in file.questions.values() for q in questions)

    def _candidates(self, annotator: str, busy: set[str]) -> Iterator[Question]:
        """Yield what an annotator may be asked, in order; some of it more than once.

        Args:
            annotator: the name.
            busy: images that others are at.
        """
        for pixel in self._next.get(annotator, []):
            if question := self._asked(annotator, pixel):
                yield question
        rows = self.order == "rows"
        files = [file for file in self._files if not file.closed]
        if rows and annotator in self._image:
            for file in files:
                if found := file.progress.get(self._image[annotator]):
                    yield from found.open
        for pixel in self._second:
            if question := self._asked(annotator, pixel):
                yield question
        # Each at an image of one's own, as long as there are enough.
        for leave in (busy, set()) if rows and busy else (set(),):
            for file in files:
                for pixel, question in file.open.items():
                    if pixel[0] not in leave:
                        yield question

    def _asked(self, annotator: str, pixel: Pixel) -> Question | None:
        """Return the question about a pixel if it is open, or a second opinion is wanted."""
        for file in self._files:
            if pixel in file.open and not file.closed:
                return file.open[pixel]
        stands = self._standing.get(pixel, ())
        if pixel in self._second and all(one.annotator != annotator for one in stands):
            return self._second[pixel]
        return None

    def _open_of(self, image: str) -> list[Pixel]:
        found = [file.progress[image] for file in self._files if image in file.progress]
        return [question.pixel for one in found for question in one.open]

    def _sync(self) -> None:
        """Take what is new in the journal, written here or elsewhere."""
        answers = self.journal.answers()
        if len(answers) < self._read:  # another file by now
            self._read, self._rows, self._standing, self._mine = 0, {}, {}, {}
        for answer in answers[self._read :]:
            self._rows.setdefault(answer.pixel, []).append(answer)
            mine = self._mine.setdefault(answer.annotator, {})
            mine.pop(answer.pixel, None)
            if answer.answer != UNDO:
                mine[answer.pixel] = None
        changed = dict.fromkeys(answer.pixel for answer in answers[self._read :])
        self._read = len(answers)
        for pixel in changed:
            self._standing.pop(pixel, None)
            self._standing |= standing(self._rows[pixel])
            self._note_second(pixel)
        for image in dict.fromkeys(pixel[0] for pixel in changed):
            self._update(image)

    def _update(self, image: str) -> None:
        for file in self._files:
            if image in file.questions and file.progress:
                before = file.progress[image].open
                file.progress |= progress(file.questions[image], self._standing)
                after = file.progress[image].open
                for question in before:
                    if question not in after:
                        file.open.pop(question.pixel, None)
                for question in after:
                    file.open.setdefault(question.pixel, question)

    def _note_second(self, pixel: Pixel) -> None:
        """Note whether one more annotator is to be asked about a pixel."""
        stands = self._standing.get(pixel, ())
        names = {one.annotator for one in stands if not one.annotator.startswith(REVIEWER)}
        wanted = len(names) == 1 and UNREADABLE not in names and pixel in self._known
        if wanted and _chance("twice", pixel) < self.twice:
            self._second[pixel] = self._known[pixel]
        else:
            self._second.pop(pixel, None)

    def _remember(self, request: str) -> None:
        if request:
            self._sent[request] = None
        if len(self._sent) > REMEMBERED:
            del self._sent[next(iter(self._sent))]


def _chance(what: str, pixel: Pixel) -> float:
    """Return a number in [0, 1) that looks random and belongs to a pixel."""
    image, x, y = pixel
    digest = hashlib.sha256(f"{what}\0{image}\0{x}\0{y}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2.0**48
