"""The sheet of a round, read from its numbers and its answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.images import image_size
from datasets.index import list_set
from datasets.points import Point, write_points
from datasets.round_sheet import read_sheet
from utils.errors import UserError


def test_of_the_answers_only_those_of_shown_pictures_are_looked_up(
    tmp_path: Path, sample_root: Path, measured: list[str]
) -> None:
    samples = list_set(sample_root, "SAMPLE-TR")
    answers, numbers = tmp_path / "points.csv", tmp_path / "sheet.npz"
    stored: dict[str, np.ndarray] = {}
    for row, sample in enumerate(samples[3:5]):
        regions = np.zeros(image_size(sample.image)[::-1], np.int32)
        known = np.empty((0, 3), np.int64)
        stored |= {f"name_{row}": np.array(sample.name), f"known_{row}": known}
        stored[f"regions_{row}"] = regions
    np.savez_compressed(numbers, **stored)
    points = [Point(sample.name, 1, 2, 1, 0) for sample in samples]
    write_points(answers, points)
    measured.clear()
    assert [row.new.tolist() for row in read_sheet(samples, numbers, answers)] == [[[1, 2, 1]]] * 2
    assert sorted(measured) == [sample.name for sample in samples[3:5]]
    for row, wrong, told in (
        (4, Point(samples[4].name, 999, 2, 1, 0), r"line 6: point \(999, 2\) lies outside"),
        (9, Point("gone.jpg", 1, 2, 1, 0), r"line 11: image 'gone\.jpg' is not among the 16"),
    ):
        write_points(answers, [*points[:row], wrong, *points[row + 1 :]])
        with pytest.raises(UserError, match=told):
            read_sheet(samples, numbers, answers)
