"""Questions on disk: which pixels somebody is to label, chosen before anyone is asked.

A questions file is a CSV with the columns ``image,x,y,round,reserve``, one pixel a line, in its
image's order of choice. Those with ``reserve`` 0 are asked. Those with ``reserve`` 1 take the place
of pixels that nobody can tell, one after another, so that the image still gets its budget.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from datasets.points import Pixel, Point
from utils.errors import UserError
from utils.run_folder import RunFolder
from utils.tables import read_rows, write_rows

COLUMNS = ("image", "x", "y", "round", "reserve")


class Question(NamedTuple):
    """A pixel (x, y) of an image that is asked about in a round, or kept in reserve."""

    image: str
    x: int
    y: int
    round: int
    reserve: bool

    @property
    def pixel(self) -> Pixel:
        """The pixel as `standing` knows it."""
        return self.image, self.x, self.y


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write a questions file, whole or not at all.

    Raises:
        UserError: an image's name has a line break, which the journal of answers could not keep.
    """
    rows = []
    for question in questions:
        if set(question.image) & set("\n\r\0"):
            raise UserError(f"image {question.image!r}: its name has a line break: rename it")
        rows.append({**question._asdict(), "reserve": int(question.reserve)})
    write_rows(path, COLUMNS, rows)


def read_questions(path: Path) -> list[Question]:
    """Read a questions file.

    Raises:
        UserError: missing or unreadable file, a value that is no whole number, a reserve other
            than 0 and 1, the same pixel twice; names the file and the line.
    """
    questions: list[Question] = []
    seen: set[Pixel] = set()
    for line, row in enumerate(read_rows(path, COLUMNS), start=2):
        try:
            x, y, round_index, reserve = (int(row[column]) for column in COLUMNS[1:])
        except ValueError:
            raise UserError(f"{path}, line {line}: x, y, round, reserve must be integers") from None
        if reserve not in (0, 1):
            raise UserError(f"{path}, line {line}: reserve {reserve}: must be 1 or 0")
        question = Question(row["image"], x, y, round_index, bool(reserve))
        if question.pixel in seen:
            raise UserError(f"{path}, line {line}: pixel ({x}, {y}) is asked twice: keep one")
        seen.add(question.pixel)
        questions.append(question)
    return questions


def question_files(run: RunFolder) -> list[Path]:
    """Return the questions files of a trial in the order in which they are to be answered.

    The validation images come first, then the rounds, the random arm's after the same round.
    """
    rounds = [
        (int(index), arm, path)
        for arm, folder in enumerate((run.root, run.root / "random"))
        for path in folder.glob("round_*/questions.csv")
        if (index := path.parent.name.removeprefix("round_")).isdecimal()
    ]
    first = [path for path in [run.validation_questions] if path.exists()]
    return first + [path for _, _, path in sorted(rounds)]


def by_image(questions: Iterable[Question]) -> dict[str, tuple[list[Question], list[Question]]]:
    """Return the questions and the reserve of each image, both in order."""
    found: dict[str, tuple[list[Question], list[Question]]] = {}
    for question in questions:
        found.setdefault(question.image, ([], []))[question.reserve].append(question)
    return found


def untold(questions: Iterable[Question], points: Iterable[Point]) -> list[Question]:
    """Return the questions that were asked and that nobody could tell.

    Args:
        questions: of one file.
        points: what came of them: all that were told.
    """
    told = {(point.image, point.x, point.y) for point in points}
    found: list[Question] = []
    for asked, reserve in by_image(questions).values():
        missing = [question for question in asked if question.pixel not in told]
        found += missing
        places = len(missing)
        for question in reserve:
            if not places:
                break
            if question.pixel in told:
                places -= 1
            else:
                found.append(question)
    return found
