"""Score against the share of wrong answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import annotators
from benchmarks.label_arms import ARMS, ERRORS, PEOPLE, flags_of, fresh
from benchmarks.label_efficiency import Outcome
from benchmarks.label_scores import Entry
from config import Config
from datasets.images import read_mask
from datasets.index import list_sets
from datasets.points import Point, write_points
from utils.errors import UserError
from utils.run_folder import RunFolder
from utils.tables import read_rows

WRONG = {"default": 0, "errors_10": 4, "errors_20": 7, "random": 0, "random_errors_20": 9}
"""Wrong ones among the 40 answers that each arm is trained on."""


def entry(arm: str, seed: int, value: float) -> Entry:
    scores = {"A": dict.fromkeys(("maxF", "meanF", "wF", "S", "meanE", "MAE"), value)}
    points = () if arm == "dense" else ((2.0, scores),)
    rounds = (*points, (4.0 if points else None, scores))
    return Entry(arm, seed, arm, rounds, 0.1, None, "pixel", {"A": 6}, 1.0, 2.0, Path("x"), 4, 1)


def outcome(root: Path, arms: list[str], seeds: int = 2) -> Outcome:
    base = Config(data_root=str(root), trainset="SAMPLE-TR")
    entries = [entry(arm, s, 0.5 + s / 10) for arm in ["dense", *arms] for s in range(seeds)]
    return Outcome(base, list(range(seeds)), ["A"], [], entries, [])


def answer(root: Path, out: Path, arm: str, seed: int, wrong: int) -> None:
    """Write an arm's four rounds of 10 points each, so many of them wrong."""
    rng, run = np.random.default_rng(seed), RunFolder(out / f"seed_{seed}" / arm)
    samples = list_sets(root, "SAMPLE-TR")[:10]
    points = []
    for number in range(40):
        sample = samples[number % 10]
        mask = read_mask(sample.mask)
        y, x = (int(rng.integers(side)) for side in mask.shape)
        label = int(mask[y, x] != (number < wrong))
        points.append(Point(sample.name, x, y, label, number // 10))
    for index in range(4):
        kind = "random" if arm.startswith("random") else "points"
        write_points(run.points(kind, index), points[10 * index : 10 * (index + 1)])


def test_the_arms_err_as_their_names_say() -> None:
    for line, arms in PEOPLE.items():
        random = line.startswith("random")
        assert arms[0] == ("random" if random else "default")
        field = "answer_errors_border" if line.endswith("at borders") else "answer_errors"
        for percent, name in zip(ERRORS, arms[1:], strict=True):
            assert ARMS[name].settings == {field: percent / 100}
            assert ARMS[name].supervision == ("random" if random else "points")
            given = {"trainset": "A", "data_root": "D"}
            found = fresh(flags_of(given, ARMS[name], name, 0, Path("no such folder")))
            assert getattr(found, field) == percent / 100


def test_wrong_answers_are_found_by_the_masks(sample_root: Path, tmp_path: Path) -> None:
    for arm, wrong in WRONG.items():
        for seed in range(2):
            answer(sample_root, tmp_path, arm, seed, wrong + seed)
    shares = annotators.wrong_shares(outcome(sample_root, [*WRONG]), tmp_path)
    assert shares == {(arm, s): 100 * (WRONG[arm] + s) / 40 for arm in WRONG for s in range(2)}
    first, second = annotators.error_lines(outcome(sample_root, [*WRONG]).entries, shares)
    assert first.name == "asked points, errors anywhere"
    assert [at for at, _ in first.places] == [1.25, 11.25, 18.75]
    assert second.name == "random points, errors anywhere"
    assert [[e.arm for e, _ in of] for _, of in second.places] == [
        ["random"] * 2,
        ["random_errors_20"] * 2,
    ]


def test_the_report(sample_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arm, wrong in WRONG.items():
        for seed in range(2):
            answer(sample_root, tmp_path, arm, seed, wrong)
    found = outcome(sample_root, [*WRONG])._replace(failed=["seed 0, border_5: it broke"])
    asked = []

    def pretend(args, flags, names, command):
        asked.extend(names)
        return found

    monkeypatch.setattr(annotators, "carry_out", pretend)
    assert annotators.main(["--seeds", "2", "--out", str(tmp_path)]) == 1
    assert len(asked) == len(set(asked)) == 2 + 4 * len(ERRORS)
    lines = (tmp_path / "annotators.md").read_text().splitlines()
    row = next(line for line in lines if "| errors_20 |" in line)
    assert row.startswith("| asked points, errors anywhere | errors_20 | 2 | 17.50 ± 0.00 | 0.55")
    assert any(line.startswith("| dense masks | dense | 2 | - | 0.5500 ±") for line in lines)
    rows = read_rows(tmp_path / "annotators.csv", ("arm", "seed", "set", "wrong_percent", "maxF"))
    assert len(rows) == 2 * len(WRONG)
    told = {(r["arm"], r["seed"]): (r["wrong_percent"], r["maxF"]) for r in rows}
    assert told["random_errors_20", "1"] == ("22.5000", "0.6")
    assert (tmp_path / "annotators.png").stat().st_size > 10_000


def test_without_masks_nothing_is_known(sample_root: Path, tmp_path: Path) -> None:
    answer(sample_root, tmp_path, "default", 0, 0)
    (bare := tmp_path / "bare").mkdir()
    (bare / "images").symlink_to(sample_root / "images")
    with pytest.raises(UserError, match="no masks of the training images"):
        annotators.wrong_shares(outcome(bare, ["default"], 1), tmp_path)


def test_the_arms_are_not_the_users_to_choose() -> None:
    with pytest.raises(UserError, match="go with label_efficiency"):
        annotators.main(["--arms", "random"])
