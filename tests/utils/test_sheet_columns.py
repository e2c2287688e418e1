"""The sheet of a round shows what there is, and no empty columns."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from utils.pictures import SheetRow, draw_sheet

POINTS = np.array([[1, 2, 1], [7, 3, 0]])
ASKED = SheetRow(
    image=np.full((8, 10, 3), 90, np.uint8),
    known=POINTS[:0],
    new=POINTS,
    labels=np.full((8, 10), 128, np.uint8),
)
FULL = dataclasses.replace(
    ASKED,
    mask=np.zeros((8, 10), bool),
    clean=np.zeros((4, 4)),
    attacked=np.zeros((4, 4)),
    scores=np.zeros((4, 4)),
    candidates=POINTS[:, :2],
)


def columns(rows: list[SheetRow], path: Path) -> float:
    draw_sheet(rows, path)
    with Image.open(path) as sheet:
        return sheet.width / (1.9 * 110)


def test_columns_that_nothing_is_known_for_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    assert round(columns([FULL, FULL], path)) == 8
    assert round(columns([dataclasses.replace(FULL, mask=None)], path)) == 7
    # What one row has is shown.
    assert round(columns([dataclasses.replace(FULL, mask=None), FULL], path)) == 8
    assert round(columns([ASKED, ASKED], path)) == 3
