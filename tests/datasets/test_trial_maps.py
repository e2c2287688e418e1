"""Maps of a trial's checkpoints: their labels are counted together."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import datasets.label_budget as label_budget
import evaluate
from datasets.images import read_mask, write_png
from datasets.index import Sample
from datasets.points import Point, write_points
from tests.small_trials import config_of, run_of
from utils import settings
from utils.run_folder import VALIDATION, map_of
from utils.tables import read_rows

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
