"""What questions cost: by the number of images, by kind of ensemble, and in half precision."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

import active_learning.query as query
from active_learning.query import Pool
from benchmarks.pipeline_clock import Clock, resident_peak
from benchmarks.pipeline_stages import whole_epoch
from benchmarks.pipeline_trial import ask_second, begin, forget_round, prepare
from models import Prediction
from models.stored import load_model
from train import Trainer
from utils.device import Machine
from utils.errors import UserError
from utils.run_folder import RunFolder, list_snapshots
from utils.tables import text_table

Found = tuple[str, list[dict[str, Any]]]
"""A table, and its numbers, as far as they are known."""

TINY = {
    "backbone": "mobilenet_v2",
    "size": 32,
    "width": 8,
    "batch_size": 32,
    "snapshots": 2,
    "attack_steps": 2,
    "superpixels": 50,
    "cache_mb": 0,
}
"""Settings of `scaling`, under the command line's: ten thousand images shall take minutes. Decoded
images are not kept: up to ``cache_mb`` their memory grows with their number, and that is known."""


def _table(header: Sequence[str], rows: Sequence[dict[str, Any]]) -> Found:
    lines = [
        [value if isinstance(value, str) else f"{value:.3g}" for value in row.values()]
        for row in rows
    ]
    return text_table(header, lines), list(rows)


def scaling(flags: dict[str, Any], args: argparse.Namespace, folder: Path) -> Iterator[Found]:
    """Ask about ever more images: seconds an image, and the peak of memory so far."""
    counts = [int(word) for word in args.counts.split(",") if word.isdecimal()]
    if not counts or min(counts) < 12 or counts != sorted(counts):
        raise UserError(f"--counts {args.counts}: give rising numbers from 12, joined by commas")
    rows = []
    for count in counts:
        config = prepare({**flags, **TINY, **args.given}, count, 1, folder)
        pool, machine = begin(config, args.networks)
        clock = Clock(machine.device, args.cpu)
        seconds = clock.seconds(lambda pool=pool, machine=machine: ask_second(pool, machine))
        each = seconds / len(pool.samples)
        rows.append(
            {
                "images": str(len(pool.samples)),
                "seconds": seconds,
                "ms an image": 1000 * each,
                "ratio": each / (rows[0]["ms an image"] / 1000) if rows else 1.0,
                "peak MiB": f"{resident_peak():.0f}",
            }
        )
        yield _table(["images asked", "seconds", "ms an image", "ratio", "peak MiB"], rows)


def ensembles(flags: dict[str, Any], args: argparse.Namespace, folder: Path) -> Iterator[Found]:
    """Time a round with snapshots of one training, and with as many trainings.

    A training is its looks (self-training) and epochs, an epoch and a look of each member being
    measured and taken as often as the settings say.
    """
    base = prepare(flags, args.images, args.tests, folder)
    machine = begin(base, args.networks)[1]
    clock = Clock(machine.device, args.cpu)
    run = RunFolder(base.run_folder)
    snapshots = list_snapshots(run.snapshots("points", 0))
    for member, path in enumerate(snapshots):
        folder_of = run.snapshots("points", 0, member)
        for source in snapshots:
            _copy(source, folder_of / source.name)
        _copy(path, run.checkpoint("points", 0, "last", member))
    rows = []
    head = ["ensemble", "networks trained", "training, s", "asking, s", "together, s", "ratio"]
    for kind in ("snapshots", "deep"):
        config = replace(base, ensemble=kind)
        pool = Pool(config)
        members = range(config.snapshots if kind == "deep" else 1)
        asked = _asking_seconds(pool, machine, clock, args.turns)
        trainers = (Trainer(config, "points", 1, member) for member in members)
        train = sum(_training_seconds(trainer, clock, args.turns) for trainer in trainers)
        row = {"ensemble": kind, "networks trained": str(len(members)), "training": train}
        rows.append({**row, "asking": asked, "together": train + asked})
        rows[-1]["ratio"] = rows[-1]["together"] / rows[0]["together"]
        yield _table(head, rows)


def _copy(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _training_seconds(trainer: Trainer, clock: Clock, turns: int) -> float:
    """Return what a whole training takes: a look a snapshot, and the epochs."""
    looks = 0.0
    if trainer.teacher:
        looks = clock.seconds(lambda: trainer.teacher.look(0, trainer.machine))
    whole_epoch(trainer)
    epoch = median(clock.seconds(lambda: whole_epoch(trainer)) for _ in range(turns))
    return trainer.config.snapshots * looks + trainer.config.epochs * epoch


def _asking_seconds(pool: Pool, machine: Machine, clock: Clock, turns: int) -> float:
    """Return what a round of questions takes, superpixels being there."""
    spent = []
    for _ in range(turns + 1):
        forget_round(pool.config)
        spent.append(clock.seconds(lambda: ask_second(pool, machine)))
    return median(spent[1:])


TF32 = "fp32, convolutions in TF32"


class Half(nn.Module):
    """A network in bfloat16.

    Args:
        model: the network.
        attacked: in the passes of the attack, too, which are those that gradients are taken of.
    """

    def __init__(self, model: nn.Module, attacked: bool) -> None:
        super().__init__()
        self.model = model
        self.attacked = attacked

    def forward(self, image: torch.Tensor) -> Prediction:
        """Predict as the network does, in bfloat16."""
        on = self.attacked or not torch.is_grad_enabled()
        with torch.autocast(image.device.type, torch.bfloat16, enabled=on):
            return self.model(image)


def chosen_points(pool: Pool, machine: Machine, ways: Any) -> tuple[list[np.ndarray], list[Any]]:
    """Ask the second round with networks as ``ways`` makes them; return points and regions."""
    forget_round(pool.config)
    real = query.load_model
    query.load_model = lambda path, where: (ways(load_model(path, where)[0]), {})
    try:
        ask_second(pool, machine)
    finally:
        query.load_model = real
    known = pool.known("points", 2)
    later = [points[points_before:, :2] for points, points_before in _second(pool, known)]
    return later, [pool.regions(sample) for sample in pool.samples]


def _second(pool: Pool, known: list[np.ndarray]) -> list[tuple[np.ndarray, int]]:
    before = pool.known("points", 1)
    return [(points, len(first)) for points, first in zip(known, before, strict=True)]


def agreement(
    one: Sequence[np.ndarray], other: Sequence[np.ndarray], regions: Sequence[np.ndarray]
) -> dict[str, float]:
    """Return the share of the points of one choice that the other made, too.

    Args:
        one, other: int (K, 2) of x, y, an array an image.
        regions: the images' superpixels.

    Returns:
        ``pixel``: the very same; ``superpixel``: one in the same superpixel.
    """
    same = within = total = 0
    for a, b, region in zip(one, other, regions, strict=True):
        same += len({*map(tuple, a.tolist())} & {*map(tuple, b.tolist())})
        within += int(np.isin(region[a[:, 1], a[:, 0]], region[b[:, 1], b[:, 0]]).sum())
        total += len(a)
    return {"pixel": same / total, "superpixel": within / total}


def overlap(flags: dict[str, Any], args: argparse.Namespace, folder: Path) -> Iterator[Found]:
    """Ask in single and in half precision: which points are the same, and what it costs.

    Single precision in batches of another size tells what rounding alone changes. On a GPU it is
    strict, and stands beside what PyTorch takes for it by itself: convolutions in TF32.
    """
    config = prepare(flags, args.images, args.tests, folder)
    pool, machine = begin(config, args.networks)
    clock = Clock(machine.device, args.cpu)
    ways = {
        "fp32": (pool, lambda model: model),
        "fp32, other batches": (
            _with_batches(pool, max(1, config.batch_size // 2 + 1)),
            lambda model: model,
        ),
        "bf16": (pool, lambda model: Half(model, attacked=True)),
    }
    if config.attack != "none":
        ways["bf16 but for the attack"] = (pool, lambda model: Half(model, attacked=False))
    if machine.device.type == "cuda":
        ways[TF32] = (pool, lambda model: model)
    rows, found, spent = [], {}, {}
    for name, (of, way) in ways.items():
        turns = []
        for _ in range(args.turns + 1):
            made: list[Any] = []

            def ask(of: Pool = of, way: Any = way, made: list[Any] = made) -> None:
                made.append(chosen_points(of, machine, way))

            with torch.backends.cudnn.flags(enabled=True, allow_tf32=name == TF32):
                turns.append(clock.seconds(ask))
            found[name] = made[0]
        spent[name] = median(turns[1:])
        same = agreement(found["fp32"][0], found[name][0], found["fp32"][1])
        rows.append({"way": name, **same, "speed": spent["fp32"] / spent[name]})
        yield _table(["questions in", "same pixel", "same superpixel", "speed"], rows)


def _with_batches(pool: Pool, size: int) -> Pool:
    """Return a pool of the same trial that looks at so many images at a time."""
    return Pool(replace(pool.config, batch_size=size))
