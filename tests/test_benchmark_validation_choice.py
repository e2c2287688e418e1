"""The benchmark of the validation: its three checkpoints are what they are said to be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import train
from active_learning.validation import Estimate
from benchmarks import validation_choice as benchmark
from utils.checkpoints import load_checkpoint
from utils.tables import read_rows


@pytest.fixture
def flags(tiny: list[str], tmp_path: Path) -> list[str]:
    return [*tiny, "--epochs", "4", "--seeds", "1", "--out", str(tmp_path / "out.csv")]


def errors_as(
    monkeypatch: pytest.MonkeyPatch, points: list[float], masks: list[float], deviation: float = 0.0
) -> None:
    """Give the validations these errors, epoch by epoch, and a standard error to those of masks."""
    told: dict[str, Iterator[Estimate]] = {
        "points": iter([Estimate(mean, 0.0) for mean in points]),
        "dense": iter([Estimate(mean, deviation) for mean in masks]),
    }
    make = train.make_validation

    def watched(config: object, run: object, arm: str, samples: object) -> train.Validation:
        made = make(config, run, arm, samples)
        made.arm = arm
        return made

    for module in (train, benchmark):
        monkeypatch.setattr(module, "make_validation", watched)
    monkeypatch.setattr(train.Validation, "error", lambda self, *_: next(told[self.arm]))


def checkpoints(flags: list[str]) -> dict[str, dict]:
    runs = Path(flags[flags.index("--runs") + 1])
    folder = runs / "tiny/seed0/round_00/checkpoints"
    return {
        choice: load_checkpoint(folder / f"{name}.pth")
        for choice, name in benchmark.CHOICES.items()
    }


def test_each_judge_has_its_own_checkpoint(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    errors_as(monkeypatch, [0.4, 0.2, 0.3, 0.5], [0.3, 0.1, 0.2, 0.4], 0.15)
    benchmark.main(flags)
    found = checkpoints(flags)
    assert {choice: state["epoch"] for choice, state in found.items()} == {
        "points": 2,
        "masks": 3,
        "nothing": 4,
    }
    rows = read_rows(Path(flags[-1]), benchmark.COLUMNS)
    assert [(row["chosen_by"], row["points_MAE"], row["masks_MAE"]) for row in rows] == [
        ("points", "0.2", "0.1"),
        ("masks", "0.3", "0.2"),
        ("nothing", "0.5", "0.4"),
    ]
    assert len({row["MAE"] for row in rows}) == 3
    assert all(row["set"] == "SAMPLE-TE" for row in rows)
    assert re.search(r"^masks +3  ", capsys.readouterr().out, re.MULTILINE)


def test_points_train_as_in_any_trial(flags: list[str], tiny: list[str], tmp_path: Path) -> None:
    """Looking at the masks beside it moves no weight."""
    benchmark.main(flags)
    plain = [*tiny, "--epochs", "4", "--rounds", "1", "--runs", str(tmp_path / "plain")]
    benchmark.asking.main(plain)
    train.main(plain)
    expected = load_checkpoint(tmp_path / "plain/tiny/round_00/checkpoints/last.pth")["model"]
    found = checkpoints(flags)["nothing"]["model"]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("killed_in", ["save", "keep"])
def test_a_killed_run_goes_on(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    masks = [0.5, 0.1, 0.3, 0.2]
    errors_as(monkeypatch, [0.4] * 9, masks[:2] + masks[1:] if killed_in == "save" else masks)

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    owner, name = (train.Trainer, "save") if killed_in == "save" else (benchmark.shutil, "copyfile")
    real = getattr(owner, name)

    def second(*args: object) -> None:
        calls.append(0)
        (kill if len(calls) == 2 else real)(*args)

    calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, second)
        with pytest.raises(Killed):
            benchmark.main(flags)
    benchmark.main(flags)
    assert checkpoints(flags)["masks"]["epoch"] == 2
    assert checkpoints(flags)["nothing"]["epoch"] == 4
