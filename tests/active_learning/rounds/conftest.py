"""The pool of `world`, rounds asked of it, and networks that cost less time."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

import active_learning.query as query
import datasets.masks as masks
from config import Config
from models.stored import load_model
from tests.active_learning.rounds.world import (
    SIZES,
    SmallNet,
    World,
    give_snapshots,
    make_net,
    paint,
    save_pair,
    seed_that_holds_out_spares,
)
from tests.small_trials import ask_round
from utils.checkpoints import save_checkpoint
from utils.settings import to_dict


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(1)
    masks = {}
    for name, size in SIZES.items():
        image, masks[name] = paint(name, size, rng)
        save_pair(root / "data", name, image, masks[name])
    config = Config(
        trial="t",
        runs=str(root / "runs"),
        data_root=str(root / "data"),
        trainset="TR",
        seed=seed_that_holds_out_spares(root / "data"),
        backbone="resnet18",
        backbone_weights="none",
        width=8,
        size=32,
        epochs=2,
        snapshots=2,
        rounds=3,
        retrain=0,
        points_per_image=12,
        points_per_round="4+3+5",
        superpixels=20,
        attack_steps=2,
        device="cpu",
        precision="fp32",
    )
    snapshots = [root / f"epoch_{epoch:04d}.pth" for epoch in (1, 2)]
    for seed, path in enumerate(snapshots):
        state = {"model": make_net(seed).state_dict(), "config": to_dict(config)}
        state |= {"arm": "points", "round": 0, "epoch": seed + 1, "val_MAE": 0.5}
        save_checkpoint(path, state)
    return World(root, masks, config, snapshots)


@pytest.fixture(scope="module")
def asked(world):
    """A run folder in which rounds 0 and 1 were asked, at random; do not write into it."""
    config = dataclasses.replace(world.config, acquisition="random")
    give_snapshots(world, config, 0)
    for index in (0, 1):
        ask_round(config, "points", index)
    return config.run_folder


@pytest.fixture(scope="module")
def loaded():
    """Networks of snapshots read so far, by file name: all trials here have the same files."""
    return {}


@pytest.fixture
def fast(monkeypatch, loaded):
    """Read each snapshot file once, not once a trial."""

    def load(path, machine):
        if path.name not in loaded:
            loaded[path.name] = load_model(path, machine)
        return loaded[path.name]

    monkeypatch.setattr(query, "load_model", load)


@pytest.fixture
def small(monkeypatch):
    """Put a small network in the place of every snapshot."""
    nets = functools.cache(lambda name: SmallNet(int(name[-5:-4])).eval())
    monkeypatch.setattr(query, "load_model", lambda path, machine: (nets(path.name), {}))


@pytest.fixture
def opened(monkeypatch):
    """The masks that the oracle opens, in order."""
    paths = []
    read_mask = masks.read_mask

    def spy(path):
        paths.append(Path(path))
        return read_mask(path)

    monkeypatch.setattr(masks, "read_mask", spy)
    return paths
