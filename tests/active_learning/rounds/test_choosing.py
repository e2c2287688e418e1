"""What a round chooses: its budget, its rules, and that it repeats."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from active_learning.attacks import ATTACKS
from active_learning.diversity import DIVERSITY
from active_learning.query import Pool
from active_learning.uncertainty import ACQUISITIONS
from datasets.points import read_points
from tests.active_learning.rounds.world import (
    POOL,
    ask_rounds,
    assert_answers,
    give_snapshots,
    run_of,
    trial,
)
from tests.small_trials import ask_round

PAIRS = [
    (attack, name)
    for attack in ATTACKS
    for name, acquisition in ACQUISITIONS.items()
    if not (acquisition.needs_attack and attack == "none")
]


@pytest.mark.parametrize(("attack", "acquisition"), PAIRS)
def test_contract_of_every_combination(world, asked, small, tmp_path, attack, acquisition):
    for rule in DIVERSITY:
        config = trial(
            world, tmp_path / rule, attack=attack, acquisition=acquisition, diversity=rule
        )
        shutil.copytree(asked, config.run_folder)
        give_snapshots(world, config, 1)
        paths = [run_of(config).points("points", index) for index in range(3)]
        assert not paths[2].exists()
        assert ask_round(config, "points", 2) == paths[2]
        assert_answers(world, config, paths)


@pytest.mark.parametrize("rule", DIVERSITY)
def test_all_rounds_and_the_same_seed_the_same_choice(world, fast, tmp_path, rule):
    found = []
    attacks = list(ATTACKS)[1:]
    attack = attacks[list(DIVERSITY).index(rule) % len(attacks)]
    for number in ("1", "2"):
        config = trial(world, tmp_path / number, diversity=rule, attack=attack)
        give_snapshots(world, config, 0, 1)
        paths = ask_rounds(config, 3)
        assert_answers(world, config, paths)
        paths += [run_of(config).validation_points, run_of(config).ledger]
        found.append([path.read_bytes() for path in paths])
    assert found[0] == found[1]


def test_another_seed_another_choice(world, tmp_path):
    config = trial(world, tmp_path / "a", acquisition="random")
    other = trial(world, tmp_path / "b", acquisition="random", seed=world.config.seed + 1)
    common = set(POOL) - {sample.name for sample in Pool(other).validation}

    def pixels(chosen):
        points = read_points(ask_round(chosen, "points", 0))
        return {(p.image, p.x, p.y) for p in points if p.image in common - {"tiny.png"}}

    assert not len(pixels(config) & pixels(other)) > len(common)


def test_snapshot_files_are_read_and_not_changed(world, tmp_path):
    config = trial(world, tmp_path)
    give_snapshots(world, config, 0)
    folder = run_of(config).snapshots("points", 0)

    def state():
        files = sorted(folder.iterdir())
        return [
            (f.name, hashlib.sha256(f.read_bytes()).digest(), f.stat().st_mtime_ns) for f in files
        ]

    before = state()
    assert len(before) == 2
    ask_rounds(config, 2)
    assert state() == before
