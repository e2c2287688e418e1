"""The benchmark of pseudo labels: what it counts, and that each line is what it says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import active_learning.__main__ as asking
import train
from active_learning.self_training import Taught, Teacher
from benchmarks import pseudo_labels as benchmark
from tests.small_trials import run_of


def test_faults_of_a_shifted_square() -> None:
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    found = np.roll(mask, 6, axis=1)
    wrong, far, overlap = benchmark.faults(found, mask)
    assert wrong == 2 * 6 * 16 / 32**2
    # Of the six columns on either side, two are more than four pixels from the outline; at the
    # square's upper and lower end the missed ones are near to it.
    assert far == pytest.approx((2 * 16 + 2 * 8) / 32**2)
    assert overlap == 10 / 22
    assert benchmark.faults(mask, mask) == (0, 0, 1)


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_without_outline_is_far_from_it(value: bool) -> None:
    mask = np.full((8, 8), value)
    assert benchmark.faults(~mask, mask) == (1, 1, 0)
    assert benchmark.faults(mask, mask) == (0, 0, 1)


@pytest.mark.parametrize(("by", "other"), [("grabcut", "smoothing"), ("smoothing", "grabcut")])
def test_ways_build_up_and_take_away(by: str, other: str) -> None:
    ways = list(benchmark.ways_of(Taught(3, 160, True, True, 0.5, cut_by=by), 128).values())
    assert ways.pop(5) == dataclasses.replace(ways[4], cut_by=other)
    assert {way.cut_by for way in ways} == {by}
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("cv2.ximgproc")
        without = benchmark.ways_of(Taught(3, 160, True, True, 0.5, cut_by="grabcut"), 128)
    assert {way.cut_by for way in without.values()} == {"grabcut"}
    told = [(way.snapshots, way.side, way.agree, way.cut, way.colours, way.trust) for way in ways]
    assert told == [
        (3, 128, False, False, False, 0),
        (3, 160, False, False, False, 0),
        (3, 160, True, False, False, 0),
        (3, 160, True, False, True, 0),
        (3, 160, True, True, True, 0),
        (3, 128, True, True, True, 0),
        (3, 160, False, True, True, 0),
        (3, 160, True, True, False, 0),
        (1, 160, True, True, True, 0),
        (3, 160, True, True, True, 0.5),
    ]


def test_the_table_of_a_trial(tiny: list[str], capsys: pytest.CaptureFixture) -> None:
    asking.main(tiny)
    train.main(tiny)
    asking.main([*tiny, "--round", "1"])
    capsys.readouterr()
    benchmark.main([*tiny, "--images", "5"])
    lines = capsys.readouterr().out.splitlines()
    values = [line.split()[-6:] for line in lines if line.startswith(("the", "+", "...", "all"))]
    assert len(values) == 11
    assert {trusted for *_, trusted, _, _ in values[:-1]} == {"100.0"}
    for wrong, far, overlap, trusted, *of_some in values:
        assert 0 <= float(far) <= float(wrong) <= 100
        share = float(trusted) / 100
        parts = zip((share, 1 - share), of_some, strict=True)
        whole = sum(weight * float(part) for weight, part in parts if part != "-")
        assert whole == pytest.approx(float(overlap), abs=2e-3)
    assert len({tuple(value) for value in values}) > 3


def test_the_last_round_that_was_trained_teaches(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round 2 follows one that is asked alone."""
    flags = [*tiny, "--rounds", "3", "--points_per_image", "6", "--train_every", "2"]
    asking.main(flags)
    train.main(flags)
    for at in ("1", "2"):
        asking.main([*flags, "--round", at])
    teachers = []

    def making(*args) -> Teacher:
        teachers.append(args[5])
        return Teacher(*args)

    monkeypatch.setattr(benchmark, "Teacher", making)
    benchmark.main([*flags, "--images", "3", "--round", "2"])
    assert set(teachers) == {run_of(flags).snapshots("points", 0)}


def test_the_labels_of_some_images_are_their_own() -> None:
    class Named:
        def at(self, index: int, matrix: np.ndarray) -> tuple[int, int]:
            return index, len(matrix)

    some = benchmark.Some(Named(), [4, 7])
    assert some.at(1, np.eye(3)) == (7, 3)
