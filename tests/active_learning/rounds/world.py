"""A pool of hostile pictures, snapshots, and what a round of it must leave."""

from __future__ import annotations

import dataclasses
import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from config import Config
from datasets.index import list_sets, split_train_validation
from datasets.points import read_points
from models import Prediction, SaliencyNet
from models.stored import parts_of
from tests.small_trials import ask_round
from utils.device import choose_machine
from utils.run_folder import RunFolder
from utils.settings import to_dict

CPU = choose_machine("cpu", "fp32")
EXIF_QUARTER_TURN = 6

# Name: (width, height) as seen. In the pool:
POOL = {
    "empty mask.png": (36, 36),
    "flat.png": (40, 40),
    "große Wiese 2.png": (50, 33),
    "group/landscape.jpg": (70, 41),
    "portrait.png": (30, 64),
    "tiny.png": (3, 3),
    "turned.jpg": (45, 30),
}
SPARE = {"spare 1.png": (20, 20), "spare 2.png": (33, 20), "spare 3.png": (5, 5)}
SIZES = POOL | SPARE


@dataclass(frozen=True)
class World:
    """A data root, its masks as arrays, settings, and snapshot files."""

    root: Path
    masks: dict[str, np.ndarray]
    config: Config
    snapshots: list[Path]


def paint(name, size, rng):
    """Return an image (a disc on noise) and its mask."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    radius = 0.33 * min(size) + 0.7
    mask = (x - 0.45 * width) ** 2 + (y - 0.55 * height) ** 2 < radius**2
    image = rng.integers(0, 90, (height, width, 3)) + 130 * mask[..., None]
    if name == "flat.png":
        image[:] = 77
    if name == "empty mask.png":
        mask = np.zeros_like(mask)
    return image.astype(np.uint8), mask


def save_pair(root, name, image, mask):
    image_path = root / "images" / "TR" / name
    mask_path = (root / "gts" / "TR" / name).with_suffix(".png")
    for path in (image_path, mask_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(mask_path)
    if name == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = EXIF_QUARTER_TURN  # stored a quarter turn to the left of what is seen
        Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(image_path, exif=exif)
    else:
        Image.fromarray(image).save(image_path)


def seed_that_holds_out_spares(root):
    samples = list_sets(root, "TR")
    for seed in range(200):
        _, held_out = split_train_validation(samples, 0.1, seed)
        if {sample.name for sample in held_out} <= set(SPARE):
            return seed
    raise AssertionError("no seed holds out spare images only")


def make_net(seed):
    """A network whose batch norm statistics are not the initial ones."""
    torch.manual_seed(seed)
    net = SaliencyNet("resnet18", 8, parts_of(to_dict(Config()), 0))
    net.head.weight.data *= 5
    with torch.no_grad():
        net.train()(torch.rand(4, 3, 64, 64))
    return net.eval()


kept_net = functools.cache(make_net)
"""For tests that do not change it."""


class SmallNet(nn.Module):
    """Stands for a snapshot where only speed matters."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 5, 4, 2), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, image):
        features = self.body(image)
        logits = nn.functional.interpolate(5 * self.head(features), image.shape[-2:])
        return Prediction(logits, features)


def trial(world, runs, **changes):
    return dataclasses.replace(world.config, runs=str(runs), **changes)


def give_snapshots(world, config, *rounds):
    for index in rounds:
        folder = RunFolder(config.run_folder).snapshots("points", index)
        folder.mkdir(parents=True)
        for path in world.snapshots:
            os.link(path, folder / path.name)
        RunFolder(config.run_folder).trained("points", index).write_text("{}")


def ask_rounds(config, count, arm="points"):
    return [ask_round(config, arm, index) for index in range(count)]


def run_of(config):
    return RunFolder(config.run_folder)


def files_below(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_answers(world, config, paths):
    """The budget, no repeats, true labels, for the rounds whose files are given in order."""
    samples = list_sets(config.data_root, config.trainset)
    train, _ = split_train_validation(samples, config.validation_fraction, config.seed)
    taken = {sample.name: set() for sample in train}
    for index, path in enumerate(paths):
        before = {name: len(pixels) for name, pixels in taken.items()}
        points = read_points(path)
        for point in points:
            assert (point.x, point.y) not in taken[point.image], "asked twice"
            taken[point.image].add((point.x, point.y))
            assert point.round == index
            assert 0 <= point.x < SIZES[point.image][0]
            assert 0 <= point.y < SIZES[point.image][1]
            assert point.label == world.masks[point.image][point.y, point.x]
        for name, count in before.items():
            left = SIZES[name][0] * SIZES[name][1] - count
            assert len(taken[name]) - count == min(config.schedule[index], left)
    labels = {point.label for path in paths for point in read_points(path)}
    assert labels == {0, 1}
    ledger = {(p.image, p.x, p.y) for p in read_points(run_of(config).ledger)}
    answered = {(name, *pixel) for name, pixels in taken.items() for pixel in pixels}
    validation = read_points(run_of(config).validation_points)
    assert ledger == answered | {(p.image, p.x, p.y) for p in validation}
    assert len(ledger) == len(read_points(run_of(config).ledger))
