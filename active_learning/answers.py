"""Answers on disk: a journal that loses nothing, and what follows from it.

The journal is a CSV with the columns ``image,x,y,answer,round,annotator,seconds,time``, to which
lines are only ever added. An answer is ``f`` (foreground), ``b`` (background), ``s`` (can't say) or
``u``, by which an annotator takes back what he or she said of that pixel. ``seconds`` went by
between question and answer; ``time`` is when the answer came, UTC.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from active_learning.questions import Pixel, Question, by_image
from utils.errors import UserError
from utils.line_log import State, append_line, read_if_changed, whole_lines
from utils.tables import csv_lines

FOREGROUND, BACKGROUND, CANNOT_SAY, UNDO = "f", "b", "s", "u"
LABELS = {FOREGROUND: 1, BACKGROUND: 0}
"""Answers that label a pixel, and the label in a points file."""

REVIEWER = "review:"
"""The name of an annotator who looks the others' answers over begins with this."""

UNREADABLE = "unreadable"
"""Annotator of the "can't say" that stands for the questions of a picture nobody could be shown;
no person, so none of the clicks and no opinion is counted as one's."""

LONGEST_NAME = 64
TIME_FORM = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class Answer(NamedTuple):
    """What one annotator said of pixel (x, y) of an image."""

    image: str
    x: int
    y: int
    answer: str
    round: int
    annotator: str
    seconds: float
    time: str

    @property
    def pixel(self) -> Pixel:
        """The pixel as `standing` knows it."""
        return self.image, self.x, self.y


COLUMNS = Answer._fields
HEADER = ",".join(COLUMNS) + "\n"

BOM = "\ufeff"
"""What spreadsheets put before the first line, as they end lines by CR LF; both are passed over."""


def now() -> str:
    """Return the time as the journal has it: UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def check_annotator(name: str) -> None:
    """Raise `UserError` unless a name can stand in the journal."""
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise UserError(
            f"annotator {name[: 2 * LONGEST_NAME]!r}: must be 1 to {LONGEST_NAME} characters, no "
            "control characters and no space at its ends: choose another name"
        )


class Journal:
    """The journal of a trial's answers; may be used by several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._edits = 0
        self._start_anew()

    def _start_anew(self) -> None:
        self._state: State | None = None
        self._answers: list[Answer] = []
        self._lines = 0
        self._end = 0
        self._digest = hashlib.blake2b()  # of what stands before the end

    def answers(self) -> list[Answer]:
        """Return all answers, in the order in which they came; raise as `read`."""
        return self.read()[1]

    def read(self, edits: int = 0, known: int = 0) -> tuple[int, list[Answer]]:
        """Return how often the file was seen to be edited, and the answers in their order.

        While that number stays the same, answers were only added. What this journal added itself is
        not read again, as long as nobody else has touched the file. If somebody has, only what is
        new is parsed, unless what was read before is no longer there as it was: then the file was
        edited, and all of it is.

        Args:
            edits, known: what an earlier call returned, and how many answers there were by then:
                only the answers behind these are returned, unless the file was edited since.

        Raises:
            UserError: a line is damaged; names the file and the line.
        """
        with self._lock:
            state, found = read_if_changed(self.path, self._state)
            if state != self._state:
                before = hashlib.blake2b(memoryview(found)[: self._end])
                if len(found) < self._end or before.digest() != self._digest.digest():
                    self._edits += 1
                    self._start_anew()
                self._take_up(found, self._end, state)
            return self._edits, self._answers[known if edits == self._edits else 0 :]

    def _take_up(self, found: bytes, start: int, state: State) -> None:
        """Parse what begins at byte ``start``, and goes on behind all that was read before."""
        lines, end = whole_lines(self.path, found, start, self._is_whole)
        new = []
        for number, line in enumerate(lines, start=self._lines + 1):
            if number > 1:
                new.append(self._parse(line, number))
            elif line.removeprefix(BOM).removesuffix("\r") + "\n" != HEADER:
                raise UserError(f"{self.path}: the first line must be {HEADER.strip()}")
        self._answers += new
        self._lines += len(lines)
        self._end += end - start
        self._digest.update(memoryview(found)[start:end])
        self._state = state

    def append(self, answer: Answer) -> None:
        """Add an answer; when this returns, the disk holds it.

        Raises:
            UserError: the answer cannot be meant, or the disk is full or cannot be written.
        """
        self.extend([answer])

    def extend(self, answers: Sequence[Answer]) -> None:
        """Add answers, in one go; as `append`. Of one that cannot be meant, none is added."""
        for answer in answers:
            if fault := _fault(answer):
                raise UserError(f"answer to {answer.image!r}: {fault}")
        if answers:
            lines = csv_lines(answers)
            with self._lock:
                before, after = append_line(self.path, HEADER, lines, self._is_whole)
                new = lines.encode()
                if before == self._state and after.size == self._end + len(new):
                    self._take_up(new, 0, after)

    def _is_whole(self, text: str) -> bool:
        """Tell whether a line is whole without its newline: its last value has one length."""
        try:
            self._parse(text, 0)
        except UserError:
            return False
        return True

    def _parse(self, line: str, number: int) -> Answer:
        where = f"{self.path}, line {number}"
        try:
            values = next(csv.reader([line], strict=True), [])
            if len(values) != len(COLUMNS):
                raise UserError(f"{where}: {len(COLUMNS)} values are needed: mend or delete it")
            image, x, y, said, round_index, annotator, seconds, time = values
            answer = Answer(
                image, int(x), int(y), said, int(round_index), annotator, float(seconds), time
            )
        except (ValueError, csv.Error) as error:
            raise UserError(f"{where}: {error}: mend or delete it") from None
        if fault := _fault(answer):
            raise UserError(f"{where}: {fault}: mend or delete it")
        return answer


def _fault(answer: Answer) -> str:
    """Tell what is wrong with an answer; nothing: an empty string."""
    if answer.answer not in (*LABELS, CANNOT_SAY, UNDO):
        return f"answer {answer.answer[:20]!r}: must be f, b, s or u"
    if not answer.image or set(answer.image) & set("\n\r\0"):
        return "no image's name"
    if min(answer.x, answer.y, answer.round) < 0:
        return "x, y, round must be 0 or more"
    if not 0 <= answer.seconds < math.inf:
        return f"seconds {answer.seconds}: must be 0 or more"
    if not TIME_FORM.fullmatch(answer.time):
        return f"time {answer.time[:40]!r}: must be like 2026-01-31T12:00:00Z"
    try:
        check_annotator(answer.annotator)
    except UserError as error:
        return str(error)
    return ""


Standing = Mapping[Pixel, Sequence[Answer]]


def standing(answers: Iterable[Answer]) -> dict[Pixel, list[Answer]]:
    """Return what is said of each pixel, when all that was taken back or said anew is left out.

    Of each annotator the latest answer stands. They come in the order in which they first answered
    for the pixel, taken back or not: who corrects himself keeps his place. Reviewers follow, in the
    order in which they last spoke. Pixels of which nothing is said any more are not there.
    """
    said: dict[Pixel, dict[str, Answer | None]] = {}
    reviewed: dict[Pixel, dict[str, Answer]] = {}
    for answer in answers:
        who, undone = answer.annotator, answer.answer == UNDO
        if who.startswith(REVIEWER):
            reviews = reviewed.setdefault(answer.pixel, {})
            reviews.pop(who, None)
            if not undone:
                reviews[who] = answer
        elif not undone:
            said.setdefault(answer.pixel, {})[who] = answer
        elif who in said.get(answer.pixel, {}):
            said[answer.pixel][who] = None
    found = {}
    for pixel in {**said, **reviewed}:
        both = [*said.get(pixel, {}).values(), *reviewed.get(pixel, {}).values()]
        if stands := [answer for answer in both if answer is not None]:
            found[pixel] = stands
    return found


def counting(answers: Sequence[Answer]) -> Answer | None:
    """Return the answer that counts, of those that `standing` has for a pixel.

    It is the last reviewer's, or, where none has spoken, that of the first annotator.
    """
    if answers and answers[-1].annotator.startswith(REVIEWER):
        return answers[-1]
    return answers[0] if answers else None


def label_of(answers: Sequence[Answer]) -> str | None:
    """Return ``f``, ``b`` or ``s`` of the answer that counts, see `counting`; None: there is none.

    Args:
        answers: those that `standing` has for a pixel.
    """
    answer = counting(answers)
    return None if answer is None else answer.answer


@dataclass(frozen=True)
class Progress:
    """How far the questions of one file about one image have got.

    Attributes:
        wanted: the questions whose answers are wanted now: those asked that nobody found impossible
            to tell, then as much of the reserve as takes the places of the others, in order.
        told: those of ``wanted`` with a label, and the answer that counts.
        open: those of ``wanted`` that nobody has answered.
        short: how many could not be replaced, since nothing is left in reserve.
    """

    wanted: list[Question]
    told: dict[Question, Answer]
    open: list[Question]
    short: int

    @property
    def complete(self) -> bool:
        """Whether nothing is left to answer."""
        return not self.open


def progress(questions: Iterable[Question], stands: Standing) -> dict[str, Progress]:
    """Return how far each image's questions have got.

    Args:
        questions: of one file.
        stands: what `standing` found.

    Returns:
        By image, in the order of the questions.
    """
    return {
        image: _progress_of(asked, reserve, stands)
        for image, (asked, reserve) in by_image(questions).items()
    }


def _progress_of(asked: list[Question], reserve: list[Question], stands: Standing) -> Progress:
    wanted: list[Question] = []
    told: dict[Question, Answer] = {}
    for question in [*asked, *reserve]:
        if question.reserve and len(wanted) == len(asked):
            break
        answer = counting(stands.get(question.pixel, ()))
        if answer is not None and answer.answer == CANNOT_SAY:
            continue
        wanted.append(question)
        if answer is not None:
            told[question] = answer
    still = [question for question in wanted if question not in told]
    return Progress(wanted, told, still, len(asked) - len(wanted))
