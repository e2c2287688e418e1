"""Random numbers are fixed by their key, and the global state survives a file."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.checkpoints import load_checkpoint, save_checkpoint
from utils.seeding import (
    generator_for,
    random_state,
    restore_random_state,
    seed_everything,
    seed_for,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _keep_global_state():
    state = random_state()
    yield
    restore_random_state(state)


def draw():
    return (
        [random.random() for _ in range(3)] + [random.gauss(0, 1)],
        np.random.rand(3).tolist() + np.random.randn(1).tolist(),  # noqa: NPY002
        torch.rand(3).tolist() + torch.randn(1).tolist(),
    )


def test_a_seed_fixes_all_three_generators():
    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_seed_for_is_the_same_in_another_process(monkeypatch):
    code = "from utils.seeding import seed_for; print(seed_for(0, 'é', 3, 'a.jpg'))"
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, cwd=ROOT
    ).stdout
    assert int(printed) == seed_for(0, "é", 3, "a.jpg")


def test_seed_for_tells_every_part_apart():
    keys = [(0,), (1,), (0, 0), (0, "a"), ("a", 0), (0, "ab"), (0, "a", "b"), (0, 1, 11)]
    keys += [(0, 11, 1), (0, "augmentation", 1, 2), (0, "augmentation", 2, 1)]
    seeds = {seed_for(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generator_for_ignores_the_global_state():
    seed_everything(0)
    first = generator_for(0, "x").random(4)
    seed_everything(1)
    before = draw()
    assert (generator_for(0, "x").random(4) == first).all()
    assert (generator_for(0, "y").random(4) != first).all()
    seed_everything(1)
    generator_for(0, "x").random(4)
    assert draw() == before


@pytest.mark.parametrize("odd", [False, True])
def test_random_state_round_trip_through_a_file(tmp_path, odd):
    seed_everything(5)
    draw()
    if odd:
        # Each of these draws a pair and keeps its second number in the state.
        random.gauss(0, 1)
        np.random.randn(1)  # noqa: NPY002
    save_checkpoint(tmp_path / "a.pth", {"model": {}, "config": {}, "random": random_state()})
    expected = draw()
    seed_everything(6)
    restore_random_state(load_checkpoint(tmp_path / "a.pth")["random"])
    assert draw() == expected


def test_restoring_tolerates_the_state_of_absent_cards():
    seed_everything(5)
    state = random_state()
    expected = draw()
    restore_random_state({**state, "cuda": [torch.zeros(16, dtype=torch.uint8)] * 99})
    assert draw() == expected
