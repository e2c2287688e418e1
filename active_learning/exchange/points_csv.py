"""Our own points files, with who answered, how fast and when.

The columns are ``image,x,y,label,round,annotator,seconds,time``. The label is 1, 0, ``s`` (can't
say) or empty (open), so that with labels of 1 and 0 alone the file is one of points; of such a file
the last three columns may be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from active_learning.answers import CANNOT_SAY, LABELS
from active_learning.exchange.tasks import (
    MOST_BYTES,
    Found,
    Pictures,
    Task,
    Whose,
    annotator_of,
    seconds_of,
    told,
    write_parts,
)
from datasets.points import COLUMNS
from utils.errors import UserError
from utils.files import read_up_to
from utils.tables import csv_lines, read_rows

MORE = ("annotator", "seconds", "time")
TEXTS = {answer: str(label) for answer, label in LABELS.items()} | {CANNOT_SAY: "s", "": ""}
"""What stands in the column label."""

_ANSWERS = {text: answer for answer, text in TEXTS.items()}


def write(path: Path, tasks: Sequence[Task]) -> list[Path]:
    """Write a row for each answer, and one for each pixel without any.

    Returns:
        The files, see `write_parts`.
    """
    header = csv_lines([(*COLUMNS, *MORE)])
    return write_parts(path, map(_rows, tasks), lambda part: header + "".join(part))


def _rows(task: Task) -> str:
    rows: list[tuple[Any, ...]] = []
    for asked in task.asked:
        place = (task.image, asked.x, asked.y)
        rows += [
            (*place, TEXTS[a.answer], asked.round, *(getattr(a, name) for name in MORE))
            for a in asked.answers
        ] or [(*place, "", asked.round, *("" for _ in MORE))]
    return csv_lines(rows)


def read(path: Path, pictures: Pictures, whose: Whose) -> list[Found]:
    """Read the answers of a points file, the trial's own ones and those of `write`.

    Raises:
        UserError: the file cannot be read, or holds what cannot be meant; names the line.
    """
    read_up_to(path, MOST_BYTES)  # only to refuse what is too large
    found = []
    for line, row in enumerate(read_rows(path, COLUMNS), start=2):
        where = f"{path}, line {line}"
        try:
            x, y = int(row["x"]), int(row["y"])
        except ValueError:
            raise UserError(f"{where}: x and y must be whole numbers: mend the line") from None
        if row["label"] not in _ANSWERS:
            raise UserError(f"{where}: label {told(row['label'])}: must be 1, 0, s or empty")
        if answer := _ANSWERS[row["label"]]:
            image = pictures.find(row["image"]) or row["image"]
            annotator = annotator_of(row.get("annotator"), whose, where)
            seconds = seconds_of(row.get("seconds"), where)
            place = (image, x, y, answer, annotator, seconds)
            found.append(Found(*place, row.get("time", "")))
    return found
