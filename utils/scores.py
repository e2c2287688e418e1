"""The table ``scores.csv``: its columns, and how it is written and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.metrics import METRICS
from utils.tables import read_rows, write_rows

BUDGET = ("points", "labelled_percent", "region_error", "label_mode")
"""Points an image; labelled share of the training pixels, percent; share of wrong labels, percent,
if each answer is spread over its superpixel (whether or not the training did so); how labels were
made of answers (``region_mask`` leaks the mask)."""

NOTES = ("convention", "missing", "extra", "resized")
"""What the scores are by (`utils.metrics.CONVENTIONS`); images left out for want of a map or a
mask; maps left out for want of an image; maps that were of another size than their masks."""

COLUMNS = ("trial", "checkpoint", "set", "images", *METRICS, "arm", "round", *BUDGET, *NOTES)

Row = Mapping[str, Any]


def write_scores(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows: six decimals, empty where a value is unknown."""

    def told(value: Any) -> Any:
        return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else value

    write_rows(path, COLUMNS, ({key: told(row.get(key, "")) for key in COLUMNS} for row in rows))


def read_scores(path: Path) -> list[dict[str, str]]:
    """Read the rows, every value as text.

    Raises:
        UserError: the file is missing or damaged, or lacks columns that were added since.
    """
    rows = read_rows(path, ("checkpoint", "set"))
    lacking = [name for name in COLUMNS if rows and name not in rows[0]]
    if lacking:
        raise UserError(
            f"{path}: an older table, without {', '.join(lacking)}: run evaluate.py again"
        )
    return rows
