"""The benchmark of wrong pixels: what is missed, what is called, and where."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import wrong_pixels as benchmark
from utils.errors import UserError


def square(left: int, top: int = 16) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[top : top + 32, left : left + 32] = True
    return mask


def put(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels.astype(np.uint8))


def test_what_a_shifted_square_gets_wrong() -> None:
    missed, missed_near, called, called_near, share = benchmark.wrong(square(21), square(16))
    assert missed == called == 5 * 32 / 64**2
    # Of the five columns missed, the three outer ones are near, and the ends of the two others;
    # of those called, the three next to the square are, and nothing beyond.
    assert missed_near == pytest.approx((3 * 32 + 2 * 2 * 3) / 64**2)
    assert called_near == pytest.approx(3 * 32 / 64**2)
    assert share == 0.25


def test_a_table_by_source_and_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, left in (("cat_1", 16), ("cat_2", 16), ("dog_1", 0)):
        put(tmp_path / "D/images/A" / f"{name}.jpg", np.zeros((64, 64, 3)))
        put(tmp_path / "D/gts/A" / f"{name}.png", 255 * square(left))
        for folder, moved in (("same", 0), ("right", 8)):
            path = tmp_path / folder / "A" / f"{name}.png"
            put(path, np.where(square(left + moved), 150, 100))
    maps = [str(tmp_path / "same"), str(tmp_path / "right")]
    flags = ["--data_root", str(tmp_path / "D"), "--testsets", "A", "--size", "64"]
    benchmark.main([*flags, "--sources", "--maps", *maps])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:3] for row in rows] == [["A", "cat", "2"]] * 2 + [["A", "dog", "1"]] * 2
    assert [[row[4], row[6]] for row in rows] == [["0.00", "0.00"], ["6.25", "6.25"]] * 2
    assert {row[8] for row in rows} == {"25.00"}
    benchmark.main([*flags, "--maps", maps[1]])
    row = capsys.readouterr().out.splitlines()[2].split()
    assert (row[:2], row[3]) == (["A", "3"], "6.25")
    with pytest.raises(UserError, match="none"):
        benchmark.main([*flags, "--maps", str(tmp_path / "none")])
    with pytest.raises(UserError, match="give --data_root"):
        benchmark.main(flags)
