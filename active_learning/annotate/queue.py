"""Who is asked what next: open questions, leases, second opinions, undo. No HTTP in here.

What has been answered is in the journal alone; what stands here besides is forgotten when the
server ends, and costs nothing: who holds which question, and what an annotator was to see next.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from active_learning.annotate.files import Counts, QuestionsFile, total
from active_learning.annotate.leases import Leases
from active_learning.answers import (
    CANNOT_SAY,
    REVIEWER,
    UNDO,
    UNREADABLE,
    Answer,
    Journal,
    now,
    standing,
)
from active_learning.questions import Pixel, Question, by_image

ORDERS = ("rows", "mixed")
"""rows: an image's questions in a row; mixed: those of a file in an order that looks random."""

LEASE = 120.0
"""Seconds without a sign of life after which an annotator's questions go to others."""

REMEMBERED = 10_000
"""Requests that are known again when they are sent twice."""


class Closed(Exception):
    """An answer is in use, and cannot be changed any more."""


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
        self._files: list[QuestionsFile] = []
        self._known: dict[Pixel, Question] = {}
        self._closed: set[Pixel] = set()
        self._edits, self._read = 0, 0
        self._rows: dict[Pixel, list[Answer]] = {}
        self._standing: dict[Pixel, list[Answer]] = {}
        self._mine: dict[str, dict[Pixel, None]] = {}
        self._changeable: dict[str, dict[Pixel, None]] = {}  # those of no closed round
        self._first: dict[Pixel, str] = {}
        self._second: dict[str, dict[Pixel, Question]] = {}
        self._next: dict[str, list[Pixel]] = {}
        self._image: dict[str, str] = {}
        self._sent: dict[str, None] = {}
        self._skipped: set[str] = set()

    def load(self, files: Sequence[tuple[Sequence[Question], bool]]) -> None:
        """Take the questions files of the trial, each with whether it is closed, in their order."""
        with self._lock:
            self._files = []
            self._sync()
            self._known = {q.pixel: q for questions, _ in files for q in questions}
            # What a closed round had in reserve may be asked by a later one.
            still_asked = {q.pixel for questions, closed in files if not closed for q in questions}
            self._closed = self._known.keys() - still_asked
            self._changeable = {
                who: {pixel: None for pixel in mine if pixel in still_asked}
                for who, mine in self._mine.items()
            }
            for questions, closed in files:
                images = {i: [*asked, *spare] for i, (asked, spare) in by_image(questions).items()}
                file = QuestionsFile(images, closed)
                mixed = self.order == "mixed"
                queued = sorted(questions, key=_mixed) if mixed else questions
                file.set_out(queued, self._standing)
                self._files.append(file)
            for pixel in self._standing:
                self._note_second(pixel)
            self._leave_out(self._skipped)

    def take(self, annotator: str, count: int) -> list[Question]:
        """Give an annotator the next questions, the first of which is to be shown.

        Those that the annotator held and did not answer come again.
        """
        with self._lock:
            self._sync()
            self.leases.renew(annotator)
            soon = self._next.get(annotator, [])
            self._next[annotator] = [p for p in soon if self._asked(annotator, p)]
            taken = self.leases.taken(annotator)
            found: dict[Pixel, Question] = {}
            for question in self._candidates(annotator, {image for image, _, _ in taken}):
                if question.pixel not in taken and question.image not in self._skipped:
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
            Closed: it would change what the annotator said in a round that is closed. (Second
                opinions are still heard; reviewers always.)
            UserError: the disk is full or cannot be written; nothing has changed then.
        """
        with self._lock:
            if not annotator.startswith(REVIEWER):  # who answers no questions shares none of them
                self.leases.renew(annotator)
            return self._write(annotator, pixel, said, seconds, request)

    def skip_image(self, image: str) -> None:
        """Ask nothing more about an image: what nobody has answered counts as "can't say"."""
        with self._lock:
            self._sync()
            self._skipped.add(image)
            self._leave_out([image])

    def mine(self, annotator: str, most: int) -> list[Answer]:
        """Return what stands of an annotator and may be changed, the latest first."""
        with self._lock:
            found: list[Answer] = []
            for pixel in reversed(self._changeable.get(annotator, {})):
                found += [a for a in self._standing[pixel] if a.annotator == annotator]
                if len(found) == most:
                    break
            return found

    def counts(self) -> Counts:
        """Return how far all questions have got."""
        with self._lock:
            return total(file.counts for file in self._files)

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

    def _leave_out(self, images: Iterable[str]) -> None:
        """Answer "can't say" to what nobody has answered about images, in one go."""
        asked = {
            question.pixel: question
            for image in images
            for file in self._files
            for question in file.questions.get(image, ())
            if question.pixel not in self._standing
        }
        rest = (UNREADABLE, 0.0, now())
        self.journal.extend([Answer(*p, CANNOT_SAY, q.round, *rest) for p, q in asked.items()])
        self._sync()

    def _write(
        self, annotator: str, pixel: Pixel, said: str, seconds: float, request: str = ""
    ) -> bool:
        self._sync()
        question = self._known[pixel]
        stands = {one.annotator: one.answer for one in self._standing.get(pixel, ())}
        nothing_new = stands.get(annotator, UNDO) == said
        if nothing_new or (request and request in self._sent):
            return False
        if pixel in self._closed and annotator in stands and not annotator.startswith(REVIEWER):
            raise Closed
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

    def _candidates(self, annotator: str, busy: set[str]) -> Iterator[Question]:
        """Yield what an annotator may be asked, in order; some of it more than once.

        Args:
            annotator: the name.
            busy: images that others are at.
        """
        yield from filter(None, (self._asked(annotator, p) for p in self._next.get(annotator, [])))
        rows = self.order == "rows"
        files = [file for file in self._files if file.open and not file.closed]
        if rows and files and (found := files[0].progress.get(self._image.get(annotator, ""))):
            yield from found.open
        for first, pixels in self._second.items():
            if first != annotator:
                yield from pixels.values()
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
        first = self._first.get(pixel, annotator)
        return None if first == annotator else self._second[first][pixel]

    def _open_of(self, image: str) -> list[Pixel]:
        found = [file.progress[image] for file in self._files if image in file.progress]
        return [question.pixel for one in found for question in one.open]

    def _sync(self) -> None:
        """Take what is new in the journal, written here or elsewhere; all, if it was edited."""
        edits, new = self.journal.read(self._edits, self._read)
        changed: dict[Pixel, None] = {}
        if edits != self._edits:
            changed = dict.fromkeys(self._rows)  # of which nothing may be said any more
            self._edits, self._read = edits, 0
            self._rows, self._standing, self._mine, self._changeable = {}, {}, {}, {}
            self._skipped.clear()  # what cannot be shown even now is skipped anew
        for answer in new:
            self._rows.setdefault(answer.pixel, []).append(answer)
            _put_last(self._mine, answer, answer.answer != UNDO)
            changeable = answer.pixel in self._known and answer.pixel not in self._closed
            _put_last(self._changeable, answer, changeable and answer.answer != UNDO)
        changed |= dict.fromkeys(answer.pixel for answer in new)
        self._read += len(new)
        for pixel in changed:
            self._standing.pop(pixel, None)
            self._standing |= standing(self._rows.get(pixel, ()))
            self._note_second(pixel)
        for image in dict.fromkeys(pixel[0] for pixel in changed):
            for file in self._files:
                if image in file.questions:
                    file.update(image, self._standing)

    def _note_second(self, pixel: Pixel) -> None:
        """Note whether one more annotator is to be asked about a pixel."""
        if before := self._first.pop(pixel, None):
            del self._second[before][pixel]
        stands = self._standing.get(pixel, ())
        names = {one.annotator for one in stands if not one.annotator.startswith(REVIEWER)}
        wanted = len(names) == 1 and UNREADABLE not in names and pixel in self._known
        if wanted and _chance("twice", pixel) < self.twice:
            self._first[pixel] = first = names.pop()
            self._second.setdefault(first, {})[pixel] = self._known[pixel]

    def _remember(self, request: str) -> None:
        if request:
            self._sent[request] = None
        if len(self._sent) > REMEMBERED:
            del self._sent[next(iter(self._sent))]


def _put_last(kept: dict[str, dict[Pixel, None]], answer: Answer, stands: bool) -> None:
    """Put a pixel behind its annotator's others, or, where nothing stands, take it away."""
    mine = kept.setdefault(answer.annotator, {})
    mine.pop(answer.pixel, None)
    if stands:
        mine[answer.pixel] = None


def _mixed(question: Question) -> float:
    return _chance("order", question.pixel)


def _chance(what: str, pixel: Pixel) -> float:
    """Return a number in [0, 1) that looks random and belongs to a pixel."""
    image, x, y = pixel
    digest = hashlib.sha256(f"{what}\0{image}\0{x}\0{y}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2.0**48
