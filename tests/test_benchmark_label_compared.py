"""The p values of the label-efficiency benchmark, against numbers made without it."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.label_arms import ARMS
from benchmarks.label_compared import Compared
from benchmarks.label_kept import IMAGES, keep_images, pack, read_images
from benchmarks.label_scores import Block, Entry
from utils.errors import UserError
from utils.files import read_json, write_json
from utils.metrics import PARTS, paired_means
from utils.run_folder import RunFolder
from utils.tallies import TallyLog, log_path, make_record

PLAIN = Path(__file__).parent / "utils" / "metrics" / "plain.py"
random_tallies = runpy.run_path(str(PLAIN))["random_tallies"]
BOTH, ONLY_A = Block("both", ("A", "B")), Block("A", ("A",))


def keep(folder: Path, **values: Sequence[float]) -> None:
    """Keep scores of maps whose S are given, by set; their other counts are alike everywhere."""
    run = RunFolder(folder)
    for set_name, of_set in values.items():
        marks = np.arange(len(of_set), dtype=np.uint64)
        path = log_path(folder / "tallies" / "dense-best", set_name, "pysodmetrics")
        log = TallyLog(path, "pysodmetrics", PARTS, marks)
        tallies = random_tallies(len(of_set), seed=len(of_set))
        tallies["S"] = of_set
        for mark, tally in zip(marks, tallies, strict=True):
            log.append(make_record(int(mark), tally, False))
        log.close([f"{mark:03d}.png" for mark in marks], marks)
    keep_images(run, [run.checkpoint("dense", 0, "best")], list(values))


def entry(arm: str, seed: int, folder: Path) -> Entry:
    rounds = ((10.0, {}),)
    kept = (folder / IMAGES, "dense-best")
    return Entry(arm, seed, arm, rounds, 0.1, 2.0, "pixel", {}, 1.0, 2.0, kept, 1, 1.0)


def holm_by_hand(p: dict[str, float]) -> dict[str, float]:
    """Multiply the smallest by their number, the next by one less; none is below one before."""
    found: dict[str, float] = {}
    for place, arm in enumerate(sorted(p, key=lambda arm: p[arm])):
        value = min(1.0, (len(p) - place) * p[arm])
        found[arm] = max([value, *found.values()])
    return found


def test_seeds_are_averaged_and_each_trial_is_tested_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, better = (
        {"A": 30, "B": 20},
        {"default": 0, "margin": 0.012, "bald": 0.035, "random": 0.02},
    )
    scores = {
        (arm, seed, name): np.round(0.5 + more + rng.normal(0, 0.05, number), 6)
        for arm, more in better.items()
        for seed in (0, 1)
        for name, number in images.items()
    }
    for arm, seed in {(arm, seed) for arm, seed, _ in scores}:
        mine = {name: scores[arm, seed, name] for name in images}
        keep(tmp_path / f"{arm}_{seed}", **mine)
    same = {"ours_10": "default", "random_10": "random"}  # arms that are a trial of another name
    entries = [
        entry(arm, seed, tmp_path / f"{same.get(arm, arm)}_{seed}")
        for arm in (*better, *same)
        for seed in (0, 1)
        if (arm, seed) != ("bald", 1)
    ]
    found = Compared(entries, [BOTH, ONLY_A]).p
    seeds = {"margin": (0, 1), "bald": (0,), "random": (0, 1)}
    for block in (BOTH, ONLY_A):
        alone = {
            arm: paired_means(
                *(
                    [np.mean([scores[of, s, name] for s in common], axis=0) for name in block.sets]
                    for of in (arm, "default")
                ),
                resamples=20_000,
            ).p
            for arm, common in seeds.items()
        }
        expected = holm_by_hand(alone)
        assert sum(expected[arm] != alone[arm] for arm in alone) >= 2
        expected["random_10"] = expected["random"]
        mine = {
            arm: p
            for (title, arm, metric), p in found.items()
            if (title, metric) == (block.title, "S")
        }
        assert mine == pytest.approx(expected, abs=1e-12)
        # Equal maps do not differ, whatever the family.
        assert {found[block.title, arm, "MAE"] for arm in expected} == {1.0}
    assert len(found) == 2 * 2 * 4


def test_seeds_are_drawn_where_there_are_several(tmp_path: Path) -> None:
    """A better arm is so with each seed; one that is so with two of three may not be again."""
    level = np.linspace(0.4, 0.6, 20)
    more = {"default": (0, 0.1, 0.05), "margin": (0.02, 0.11, 0.08), "bald": (0.03, 0.13, 0.04)}
    for arm, steps in more.items():
        for seed, step in enumerate(steps):
            keep(tmp_path / f"{arm}_{seed}", A=np.round(level + step, 6))
    known = [(arm, seed) for arm in more for seed in range(3)]
    entries = [entry(arm, seed, tmp_path / f"{arm}_{seed}") for arm, seed in known]
    entries.append(entry("random", 1, tmp_path / "margin_1"))
    found = Compared(entries, [ONLY_A])
    least = 2 / 20_001
    assert found.p["A", "margin", "S"] == found.p["A", "bald", "S"] == pytest.approx(3 * least)
    assert found.p["A", "random", "S"] == pytest.approx(3 * least)
    assert found.p_of_both["A", "margin", "S"] == pytest.approx(2 * least)
    # One draw in 27 takes the third seed alone; any other is above 0.
    assert found.p_of_both["A", "bald", "S"] == pytest.approx(2 / 27, abs=0.01)
    assert ("A", "random", "S") not in found.p_of_both


def test_many_arms_leave_a_small_p_small(tmp_path: Path) -> None:
    keep(tmp_path / "default", A=np.full(8, 0.5))
    keep(tmp_path / "other", A=np.round(np.linspace(0.6, 0.7, 8), 6))
    entries = [entry("default", 0, tmp_path / "default")]
    arms = [arm for arm in ARMS if arm != "default"][:30]
    for arm in arms:
        (tmp_path / arm).symlink_to(tmp_path / "other")
        entries.append(entry(arm, 0, tmp_path / arm))
    found = Compared(entries, [ONLY_A]).p
    assert [found["A", arm, "S"] for arm in arms] == pytest.approx([30 * 2 / 20_001] * 30)


def test_without_the_reference_nothing_is_tested(tmp_path: Path) -> None:
    keep(tmp_path / "a", A=[0.5, 0.6])
    keep(tmp_path / "b", A=[0.7, 0.9])
    pair = [entry("random", 0, tmp_path / "a"), entry("margin", 0, tmp_path / "b")]
    assert Compared(pair, [ONLY_A]).p == {}
    assert Compared([*pair, entry("default", 1, tmp_path / "a")], [ONLY_A]).p == {}


def test_scores_of_images_are_kept_and_damage_is_told(tmp_path: Path) -> None:
    keep(tmp_path, A=[0.25, 0.123456789], B=[0.5])
    path = tmp_path / IMAGES
    names, scores = read_images(path, "dense-best", "A")
    assert names == ["000.png", "001.png"]
    assert scores["S"].tolist() == [0.25, 0.123457]
    assert scores["MAE"].shape == (2,)
    sound = read_json(path)
    for spoilt in (
        {},
        {"dense-best": {"B": sound["dense-best"]["B"]}},
        {"dense-best": {"A": {**sound["dense-best"]["A"], "S": [0.25]}}},
        {"dense-best": {"A": {**sound["dense-best"]["A"], "S": ["x", "y"]}}},
        {"dense-best": {"A": {**sound["dense-best"]["A"], "S": [0.25, None]}}},
        {"dense-best": {"A": {**sound["dense-best"]["A"], "MAE": [float("inf"), 0.1]}}},
        {"dense-best": {"A": {"images": names}}},
        [1],
    ):
        write_json(path, spoilt)
        with pytest.raises(UserError, match=r"images.json: lacks the scores of each image"):
            read_images(path, "dense-best", "A")


def test_other_images_are_not_compared(tmp_path: Path) -> None:
    keep(tmp_path / "a", A=[0.5, 0.6])
    keep(tmp_path / "b", A=[0.7, 0.9, 0.8])
    pair = [entry("default", 0, tmp_path / "a"), entry("margin", 0, tmp_path / "b")]
    with pytest.raises(UserError, match=r"not the same images: .*b.images.json alone has 002.png"):
        Compared(pair, [ONLY_A])


def test_a_trial_that_lacks_a_file_is_not_kept(tmp_path: Path) -> None:
    keep(tmp_path / "seed_0" / "a", A=[0.5])
    with pytest.raises(UserError, match=r"cannot keep .*bench.json: No such file"):
        pack([tmp_path / "seed_0" / "a"], tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
