"""What all formats have in common: the questions of an image, and answers found in a file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from active_learning.answers import (
    BACKGROUND,
    CANNOT_SAY,
    FOREGROUND,
    TIME_FORM,
    Answer,
    Standing,
    check_annotator,
    label_of,
    now,
    progress,
)
from active_learning.questions import Pixel, Question
from datasets.images import image_size
from datasets.index import IMAGES_FOLDER, Sample
from utils.errors import UserError
from utils.files import write_text

MARKS = {FOREGROUND: "Foreground", BACKGROUND: "Background", CANNOT_SAY: "Can't say"}
"""What an answer is called in other tools."""

ASKED = "Asked"
"""What a pixel is called there that nobody has answered yet."""

ANSWERS = {text: answer for answer, text in MARKS.items()} | {ASKED: ""}
"""The other way round; an empty answer is none."""

COLOURS = dict(zip(ANSWERS, ("#ffb000", "#3b6fd4", "#808080", "#d55e00"), strict=True))
"""Of the labels there."""

MOST_BYTES = 2**28
"""Of a file that is read."""

MOST_WRITTEN = MOST_BYTES // 4
"""Of a file that is written: other tools send it back with much of their own in it."""

_UPLOAD = re.compile(r"[0-9a-f]{8}-")


class Asked(NamedTuple):
    """A pixel that is asked about, and the answers that stand, the one that came first first."""

    x: int
    y: int
    round: int
    answers: tuple[Answer, ...]


class Task(NamedTuple):
    """The questions about an image.

    Attributes:
        image: its name in the trial.
        path: its file below the data root, with ``/``.
        width, height: its own pixels, after its EXIF rotation.
        asked: all pixels that are, or were, to be answered; the reserve only where it was used.
    """

    image: str
    path: str
    width: int
    height: int
    asked: tuple[Asked, ...]


class Found(NamedTuple):
    """An answer in a file; ``time`` is when it was given, empty where that is unknown."""

    image: str
    x: int
    y: int
    answer: str
    annotator: str
    seconds: float
    time: str


class Whose(NamedTuple):
    """Whose the answers of a file are.

    Attributes:
        name: the annotator where the file names none.
        always: whether also where it names one, whatever it has there.
    """

    name: str
    always: bool = False


class Taken(NamedTuple):
    """What became of the answers of a file.

    Attributes:
        new: those to questions that were open, as the journal has them.
        known: how many say again what stands.
        contradicting: those that say otherwise; what stands, stands.
        not_asked: how many are of pixels, or images, that the trial has not asked about.
    """

    new: list[Answer]
    known: int
    contradicting: list[Found]
    not_asked: int


class Pictures:
    """The images of a trial, by the names that other tools have for them."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = {sample.name: sample for sample in samples}
        self._sizes: dict[str, tuple[int, int]] = {}

    def find(self, told: str) -> str | None:
        """Return the image of a name or path; None: it is none of the trial's.

        Folders before the name are passed over, and the eight letters that Label Studio puts
        before the name of a picture that is sent to it.
        """
        parts = told.replace("\\", "/").split("/")
        for names in (parts, [*parts[:-1], _UPLOAD.sub("", parts[-1], count=1)]):
            for start in range(len(names)):
                name = "/".join(names[start:])
                if name in self._samples:
                    return name
        return None

    def size(self, image: str) -> tuple[int, int]:
        """Return width and height of an image, by its name in the trial."""
        if image not in self._sizes:
            self._sizes[image] = image_size(self._samples[image].image)
        return self._sizes[image]

    def check_size(self, image: str, width: float, height: float, where: str) -> None:
        """Raise `UserError` unless a file means a picture of the same size."""
        known = self.size(image)
        if (width, height) != known:
            raise UserError(
                f"{where}: {image} is {width:g} x {height:g} pixels there and {known[0]} x "
                f"{known[1]} here: mark the same picture, unscaled"
            )

    def path(self, image: str) -> str:
        """Return the file below the data root."""
        return f"{IMAGES_FOLDER}/{self._samples[image].set}/{image}"


def make_tasks(
    files: Iterable[Sequence[Question]], standing: Standing, pictures: Pictures
) -> list[Task]:
    """Return the questions of a trial, image by image, in the order of the files.

    Args:
        files: the questions of each file.
        standing: the answers that stand.
        pictures: the images.

    Raises:
        UserError: an image that is asked about is not among them, or cannot be read.
    """
    by_image: dict[str, dict[Pixel, Asked]] = {}
    for questions in files:
        wanted = {q for one in progress(questions, standing).values() for q in one.wanted}
        for question in questions:
            answers = tuple(standing.get(question.pixel, ()))
            if question in wanted or answers:
                asked = Asked(question.x, question.y, question.round, answers)
                by_image.setdefault(question.image, {}).setdefault(question.pixel, asked)
    tasks = []
    for image, asked in by_image.items():
        if pictures.find(image) != image:
            raise UserError(f"image '{image}' is asked about, but has gone: put it back")
        size = pictures.size(image)
        tasks.append(Task(image, pictures.path(image), *size, tuple(asked.values())))
    return tasks


def write_parts(
    path: Path, texts: Iterable[str], whole: Callable[[Sequence[str]], str]
) -> list[Path]:
    """Write tasks to a file, or to several where one could not be read again.

    Args:
        path: the file; of several, ``<name>_1`` is the first.
        texts: a text for each task. None is divided.
        whole: makes a file's text of some of these.

    Returns:
        The files, none of more than `MOST_WRITTEN` bytes and a little, unless it is of one task.
    """
    parts: list[list[str]] = [[]]
    size = 0
    for text in texts:
        # A name that is not UTF-8 is refused, and what to do is told, when it is written.
        length = len(text.encode(errors="surrogatepass"))
        if parts[-1] and size + length > MOST_WRITTEN:
            parts.append([])
            size = 0
        parts[-1].append(text)
        size += length
    paths = [path]
    if len(parts) > 1:
        paths = [path.with_stem(f"{path.stem}_{number}") for number in range(1, len(parts) + 1)]
    for file, part in zip(paths, parts, strict=True):
        write_text(file, whole(part))
    return paths


def by_opinion(task: Task) -> Iterator[tuple[str, list[tuple[Asked, Answer]]]]:
    """Yield annotators and their answers: who answered first first, also where that differs.

    An annotator comes once for the pixels that he or she was the first to answer, once for those
    as the second, and so on, so that the order tells which answers count.
    """
    most = max((len(asked.answers) for asked in task.asked), default=0)
    for rank in range(most):
        mine: dict[str, list[tuple[Asked, Answer]]] = {}
        for asked in task.asked:
            if rank < len(asked.answers):
                answer = asked.answers[rank]
                mine.setdefault(answer.annotator, []).append((asked, answer))
        yield from mine.items()


def take_in(
    found: Iterable[Found], questions: Mapping[Pixel, Question], standing: Standing
) -> Taken:
    """Sort the answers of a file.

    An answer is taken where nothing stood before; of several annotators of one file each is heard.

    Args:
        found: the answers, in the order in which they count.
        questions: all questions of the trial, the reserve too.
        standing: the answers that stand.
    """
    taken = Taken([], 0, [], 0)
    known, not_asked = 0, 0
    heard: dict[tuple[Pixel, str], str] = {}
    for one in found:
        pixel = (one.image, one.x, one.y)
        if pixel not in questions:
            not_asked += 1
            continue
        if before := standing.get(pixel, ()):
            said = {answer.annotator: answer.answer for answer in before}
            stands = said.get(one.annotator) or label_of(before)
        else:
            stands = heard.get((pixel, one.annotator), "")
        if not stands:
            heard[pixel, one.annotator] = one.answer
            when = one.time if TIME_FORM.fullmatch(one.time) else now()
            place = (*pixel, one.answer, questions[pixel].round)
            taken.new.append(Answer(*place, one.annotator, one.seconds, when))
        elif stands == one.answer:
            known += 1
        else:
            taken.contradicting.append(one)
    return taken._replace(known=known, not_asked=not_asked)


def pixel_of(x: float, y: float, size: tuple[int, int], where: str) -> tuple[int, int]:
    """Return the pixel that a place lies in; pixel (0, 0) reaches from 0 to 1 in both directions.

    The right and lower edges of a picture belong to its last pixels.

    Raises:
        UserError: the place lies outside the picture.
    """
    if not (0 <= x <= size[0] and 0 <= y <= size[1]):
        raise UserError(
            f"{where}: ({x:g}, {y:g}) lies outside the picture of {size[0]} x {size[1]} pixels: "
            "mend or remove the mark"
        )
    return min(int(x), size[0] - 1), min(int(y), size[1] - 1)


def number(value: Any, what: str, where: str) -> float:
    """Return a number of a file, or the number that a text says.

    Raises:
        UserError: it is none, is not finite, or is beyond any picture and any patience.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        found = float(value)
    except (ValueError, OverflowError):
        raise UserError(f"{where}: {what} {told(value)} is no number: mend it") from None
    if not math.isfinite(found) or abs(found) > 1e9:
        raise UserError(f"{where}: {what} {told(value)} cannot be meant: mend it")
    return found


def seconds_of(value: Any, where: str) -> float:
    """Return how long an answer took; 0 where that is unknown.

    Raises:
        UserError: it is no number of 0 or more.
    """
    found = 0.0 if value in (None, "") else number(value, "seconds", where)
    if found < 0:
        raise UserError(f"{where}: seconds {found:g}: must be 0 or more: mend it")
    return found


def annotator_of(value: Any, whose: Whose, where: str) -> str:
    """Return the annotator of an answer; ``value`` is the name as a file has it.

    Raises:
        UserError: it counts, and cannot stand in the journal.
    """
    if whose.always or value in (None, ""):
        return whose.name
    if not isinstance(value, str):
        raise UserError(f"{where}: annotator {told(value)} is no text: mend it")
    try:
        check_annotator(value)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return value


def told(value: Any) -> str:
    """Return a value of a file, short and on one line, for a message."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def read_mark(label: Any, where: str) -> str:
    """Return the answer that a label means; empty: none yet.

    Raises:
        UserError: the label is none of ours.
    """
    if not isinstance(label, str) or label not in ANSWERS:
        raise UserError(
            f"{where}: label {told(label)}: must be one of {', '.join(ANSWERS)}: mend it"
        )
    return ANSWERS[label]
