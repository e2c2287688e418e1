"""A trial to time the pipeline on: some linked images, first points, and networks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from active_learning.query import Pool
from active_learning.rounds import answer_round, choose_round
from config import Config
from datasets.cache import ResizedImages
from datasets.index import IMAGES_FOLDER, MASKS_FOLDER, Sample, list_sets
from datasets.sample import TEST_SET, TRAIN_SET, make_sample
from models import SaliencyNet, build_model
from models.stored import parts_of
from utils import settings
from utils.checkpoints import save_checkpoint
from utils.device import Machine, choose_machine
from utils.errors import UserError
from utils.files import write_json
from utils.run_folder import RunFolder, list_snapshots, snapshot_name
from utils.schedule import snapshot_epochs
from utils.settings import to_dict

DRAWN = 100
"""Most pictures that are drawn; where more are wanted they are linked under several names."""

_SPREAD = 3.0
"""Standard deviation of a made-up network's logits: sure of most pixels, not of all."""


def prepare(flags: Mapping[str, Any], images: int, tests: int, folder: Path) -> Config:
    """Return the settings of a new trial on linked images; its folder is emptied.

    Args:
        flags: fields of `Config` that are given; of a data root its sets are linked from, too.
        images: training images, those of the validation included.
        tests: test images.
        folder: of data and runs.
    """
    shutil.rmtree(folder / "runs", ignore_errors=True)
    config = Config(**{"trial": "pipeline", "rounds": 2, **flags, "runs": str(folder / "runs")})
    if config.data_root:
        sources = config.data_root, config.trainset, config.testsets or config.trainset
    else:
        wanted = min(images, DRAWN), min(tests, DRAWN)
        drawn = make_sample(
            folder / f"drawn_{wanted[0]}_{wanted[1]}", *wanted, round(1.4 * config.size)
        )
        sources = str(drawn), TRAIN_SET, TEST_SET
    shutil.rmtree(folder / "data", ignore_errors=True)
    root, train, test = sources
    link_images(list_sets(root, train), images, folder / "data", "TR")
    link_images(list_sets(root, test), tests, folder / "data", "TE")
    return replace(config, data_root=str(folder / "data"), trainset="TR", testsets="TE")


def link_images(samples: Sequence[Sample], count: int, root: Path, name: str) -> None:
    """Make a set of ``count`` images, evenly taken of some; more than these in several turns."""
    for number in range(count):
        stride = max(len(samples), count) / count
        sample = samples[int(number * stride) % len(samples)]
        for path, kind in ((sample.image, IMAGES_FOLDER), (sample.mask, MASKS_FOLDER)):
            target = root / kind / name / f"{number:06d}{path.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path.resolve(), target)


def made_up_network(config: Config, seed: int, pixels: torch.Tensor) -> SaliencyNet:
    """Return a network whose maps of some images are half black, half white, and grey between.

    An untrained one's maps are flat, and cost those less who look at them.

    Args:
        config: backbone and parts.
        seed: of the weights that are drawn.
        pixels: (B, 3, S, S) in [0, 1], on the CPU.
    """
    torch.manual_seed(seed)
    parts = parts_of(to_dict(config), 0)
    model, _ = build_model(config.backbone, config.width, config.backbone_weights, parts)
    head = model.head
    with torch.no_grad():
        model.train()(pixels)  # batch statistics
        logits = model.eval()(pixels).logits
        scale = _SPREAD / logits.std().clamp_min(1e-6)
        head.weight *= scale
        head.bias.copy_((head.bias - logits.median()) * scale)
    return model


def forget_round(config: Config) -> None:
    """Delete the questions and the answers of the second round."""
    run = RunFolder(config.run_folder)
    for path in (run.questions("points", 1), run.points("points", 1)):
        path.unlink(missing_ok=True)


def ask_second(pool: Pool, machine: Machine) -> None:
    """Ask the second round."""
    pool.choose_uncertain(1, machine)
    pool.answer("points", 1)


def begin(config: Config, networks: Path | None = None) -> tuple[Pool, Machine]:
    """Ask the first round and put networks in the place of its training.

    Args:
        config: the trial's settings.
        networks: folder of snapshots, the newest of which are taken; None: made-up ones.

    Raises:
        UserError: there are fewer snapshots than the settings want.
    """
    settings.save(config)
    pool, run = Pool(config), RunFolder(config.run_folder)
    choose_round(pool, "points", 0)
    answer_round(pool, "points", 0)
    folder = run.snapshots("points", 0)
    write_json(run.trained("points", 0), {})
    if networks is not None:
        files = list_snapshots(networks)[-config.snapshots :]
        if len(files) < config.snapshots:
            raise UserError(f"--networks {networks}: {config.snapshots} snapshots are needed")
        folder.mkdir(parents=True)
        for path in files:
            shutil.copyfile(path, folder / path.name)
        return pool, choose_machine(config.device, config.precision)
    some = ResizedImages(pool.samples[:4], config.size, 0, "some")
    pixels = some.batch(range(len(some))).float() / 255
    epochs = snapshot_epochs(config.epochs, config.snapshots, config.first_cycle)
    about = {"config": to_dict(config), "arm": "points", "round": 0, "classes": 0}
    for seed, epoch in enumerate(epochs):
        weights = made_up_network(config, seed, pixels).state_dict()
        state = {"model": weights, "epoch": epoch, "val_MAE": 0.5, **about}
        save_checkpoint(folder / snapshot_name(epoch), state)
    return pool, choose_machine(config.device, config.precision)
