"""Maps of a trial's checkpoints: labels counted together, held-out points read once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import datasets.label_budget as label_budget
import datasets.trial_maps as trial_maps
import evaluate
from datasets.images import read_mask, write_png
from datasets.index import Sample
from datasets.maps import read_map
from datasets.points import Point, read_points, write_points
from tests.small_trials import config_of, run_of
from utils import settings
from utils.errors import UserError
from utils.metrics import point_scores, point_tally
from utils.run_folder import VALIDATION, map_of
from utils.tables import read_rows
from utils.tallies import logs_in

CHECKPOINTS = {
    "dense-best": ("dense", 0),
    "random-round_01-best": ("random", 1),
    "round_00-best": ("points", 0),
    "round_01-best": ("points", 1),
    "round_01-last": ("points", 1),
}
"""Arm and round of each."""


@pytest.fixture
def trial(tiny: list[str]) -> SimpleNamespace:
    """A trial whose networks never were: answers, and noise as maps of its held-out images."""
    flags = [*tiny, "--testsets", ""]
    run, (train, held_out) = run_of(flags), settings.training_images(config_of(flags))
    rng = np.random.default_rng(0)
    write_points(run.validation_points, answers(held_out, 0, rng))
    for arm, index in (("points", 0), ("points", 1), ("random", 1)):
        write_points(run.points(arm, index), answers(train, index, rng))
    for name, (arm, index) in CHECKPOINTS.items():
        folder = run.predictions / name
        for sample in held_out:
            shape = read_mask(sample.mask).shape
            saliency = rng.integers(0, 256, shape, np.uint8)
            write_png(folder / map_of(sample.name, VALIDATION), saliency)
        (folder / "made_from.json").write_text(json.dumps({"arm": arm, "round": index}))
    return SimpleNamespace(flags=flags, run=run, train=train, held_out=held_out)


def answers(samples: list[Sample], index: int, rng: np.random.Generator) -> list[Point]:
    """Return two true answers of each image."""
    found = []
    for sample in samples:
        mask = read_mask(sample.mask)
        pixels = rng.choice(mask.size, 2, replace=False)
        for y, x in np.transpose(np.unravel_index(pixels, mask.shape)).tolist():
            found.append(Point(sample.name, x, y, int(mask[y, x]), index))
    return found


def rows_of(trial: SimpleNamespace) -> list[dict[str, str]]:
    """Evaluate the trial; return the rows of its table."""
    assert evaluate.main(trial.flags) == 0
    return read_rows(trial.run.scores, ("checkpoint", "MAE"))


def test_labels_of_all_checkpoints_are_counted_in_one_pass(
    trial: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    listed: list[int] = []
    list_images = settings.training_images
    monkeypatch.setattr(
        label_budget, "read_mask", lambda path: read.append(path) or read_mask(path)
    )
    monkeypatch.setattr(settings, "training_images", lambda c: listed.append(0) or list_images(c))
    rows = {row["checkpoint"]: row for row in rows_of(trial)}
    assert {name: (row["arm"], int(row["round"])) for name, row in rows.items()} == CHECKPOINTS
    points = {name: row["points"] for name, row in rows.items()}
    assert points == dict.fromkeys(CHECKPOINTS, "4") | {"dense-best": "", "round_00-best": "2"}
    assert rows["dense-best"]["labelled_percent"] == "100"
    assert sorted(read) == sorted(sample.mask for sample in trial.train)
    assert len(listed) == 1


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every held-out map that was decoded."""
    paths: list[Path] = []
    monkeypatch.setattr(trial_maps, "read_map", lambda path: paths.append(path) or read_map(path))
    return paths


def maps_of(trial: SimpleNamespace, checkpoint: str) -> list[Path]:
    folder = trial.run.predictions / checkpoint
    return [folder / map_of(sample.name, VALIDATION) for sample in trial.held_out]


def assert_scores_are_those_at_the_points(trial: SimpleNamespace, row: dict[str, str]) -> None:
    """Compare a row of the table with the scores of all points thrown together."""
    maps = maps_of(trial, row["checkpoint"])
    paths = {s.name: path for s, path in zip(trial.held_out, maps, strict=True)}
    points = read_points(trial.run.validation_points)
    values = np.array([read_map(paths[p.image])[p.y, p.x] for p in points])
    pooled = point_tally(values, np.array([p.label for p in points]))
    expected = point_scores(pooled["counts"].astype(np.int64))
    assert row["images"] == str(len(trial.held_out))
    assert {name: float(row[name]) for name in expected} == pytest.approx(expected, abs=6e-7)


def test_held_out_maps_are_read_once(trial: SimpleNamespace, decoded: list[Path]) -> None:
    rows = rows_of(trial)
    assert sorted(decoded) == sorted(p for name in CHECKPOINTS for p in maps_of(trial, name))
    assert len({row["MAE"] for row in rows}) == len(CHECKPOINTS)
    for row in rows:
        assert_scores_are_those_at_the_points(trial, row)
    decoded.clear()
    assert rows_of(trial) == rows
    assert decoded == []
    # They are no whole maps, which could be compared with others image by image.
    assert logs_in(trial.run.root / "tallies" / "dense-best") == {}


def test_a_replaced_map_and_a_changed_answer_are_read_anew(
    trial: SimpleNamespace, decoded: list[Path]
) -> None:
    before = rows_of(trial)
    replaced = maps_of(trial, "round_01-best")[1]
    write_png(replaced, 255 - read_map(replaced))
    decoded.clear()
    after = rows_of(trial)
    assert decoded == [replaced]
    assert [one != other for one, other in zip(before, after, strict=True)] == [
        name == "round_01-best" for name in sorted(CHECKPOINTS)
    ]
    first, *others = read_points(trial.run.validation_points)
    changed = first._replace(label=1 - first.label)
    write_points(trial.run.validation_points, [changed, *others])
    decoded.clear()
    for row in rows_of(trial):
        assert_scores_are_those_at_the_points(trial, row)
    place = [sample.name for sample in trial.held_out].index(first.image)
    assert sorted(decoded) == sorted(maps_of(trial, name)[place] for name in CHECKPOINTS)


def test_a_missing_held_out_map_is_told_and_the_others_are_kept(
    trial: SimpleNamespace, decoded: list[Path]
) -> None:
    *others, last = maps_of(trial, "dense-best")
    whole = last.read_bytes()
    last.unlink()
    with pytest.raises(UserError, match=rf"{last.name}: no such file"):
        evaluate.main(trial.flags)
    last.write_bytes(whole)
    decoded.clear()
    rows_of(trial)
    assert last in decoded
    assert not set(others) & set(decoded)
