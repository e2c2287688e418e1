"""The stages of a round, each with the least that it cannot do without."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import nn

import active_learning.choosing as choosing
import active_learning.maps as maps
import active_learning.self_training as self_training
from active_learning.attacks import ATTACKS
from active_learning.query import Pool
from benchmarks.pipeline_clock import Clock, Parts, Row, Work, measure
from benchmarks.pipeline_trial import ask_second, forget_round
from config import Config
from datasets.cache import ResizedImages, ResizedMasks
from datasets.images import read_image, read_mask
from datasets.index import list_set
from datasets.maps import Pair, read_map, read_true_mask
from datasets.scoring import prepare_process, score_task
from datasets.superpixels import SuperpixelCache
from models.mean_maps import as_seen, enlarged
from models.stored import load_model
from test import Segmenter
from train import Trainer
from utils.cores import core_count
from utils.device import Machine
from utils.epoch_sums import EpochSums
from utils.metrics import METRICS, parts_of
from utils.run_folder import RunFolder, list_snapshots


def network_passes(models: Sequence[nn.Module], pixels: torch.Tensor, times: float) -> None:
    """Let networks look at a batch without gradients, so often."""
    with torch.no_grad():
        for _ in range(round(times)):
            for model in models:
                model(pixels)


def attack_passes(model: nn.Module, pixels: torch.Tensor, times: int) -> None:
    """Take the gradient of a sum of the map with respect to the image, so often."""
    for _ in range(times):
        moved = pixels.detach().requires_grad_(True)
        torch.autograd.grad(model(moved).logits.sum(), moved)


def gradient_passes(config: Config) -> int:
    """Return how many passes with a gradient an attack makes."""
    steps = {"none": 0, "fgsm": 1, "patch_pgd": 2 * config.attack_steps}
    return steps.get(config.attack, config.attack_steps)


def asking_floor(config: Config, pool: Pool, machine: Machine) -> Work:
    """Return the loading of T networks and their passes over the pool, as large as it is seen.

    With an attack there are 2 T passes, and one a step of the attack.
    """
    size = min(config.at_a_time, len(pool.samples))
    images = ResizedImages(pool.samples[:size], config.size, config.cache_mb, "floor")
    pixels = as_seen(images.batch(range(size)), machine, enlarged(images.size, config.ask_scale))
    steps_of = gradient_passes(config)
    rows = 1 if config.attack == "none" else 2

    def work() -> None:
        models = round_networks(config, machine)
        left = len(pool.samples)
        while left > 0:
            part = pixels[:left]
            network_passes(models, part, rows)
            attack_passes(models[-1], part, steps_of)
            left -= size

    return work


def round_networks(config: Config, machine: Machine) -> list[nn.Module]:
    """Return the snapshots of the first round, frozen."""
    files = list_snapshots(RunFolder(config.run_folder).snapshots("points", 0))
    return [load_model(path, machine)[0].requires_grad_(False) for path in files]


def asking(config: Config, pool: Pool, machine: Machine, clock: Clock, turns: int) -> list[Row]:
    """Time a round of questions: with superpixels there, without, and by part."""
    run, count = RunFolder(config.run_folder), len(pool.samples)

    def ask() -> None:
        ask_second(pool, machine)

    floor = asking_floor(config, pool, machine)
    attacked = config.attack != "none"
    told = f"{(1 + attacked) * config.snapshots} passes"
    told += f" and {gradient_passes(config)} with a gradient" if attacked else ""
    forget = partial(forget_round, config)
    rows = [
        measure(clock, "asking", count, ask, floor, turns, told, 1.0, forget),
        measure(
            *(clock, "asking, superpixels to be made", count, ask, floor, 1, told, 0.0),
            between=lambda: (forget(), shutil.rmtree(run.superpixels, ignore_errors=True)),
            warm=False,  # by the row before; they take long
        ),
    ]
    forget()
    parts = Parts(clock)
    places = [
        (ATTACKS, config.attack, "attack"),
        (maps, "predict_snapshots", "predictions"),
        (maps, "neighbour_vote", "vote of neighbours"),
        (SuperpixelCache, "__call__", "superpixels read, beside"),
        (choosing, "choose_pixels", "choice among candidates, beside"),
    ]
    with parts.watching(*places):
        whole = clock.seconds(ask)
    inside = [Row(f"  {name}", count, spent) for name, spent in parts.seconds.items()]
    # Seconds of all threads hold what is done beside the network, those on the wall do not.
    spent = sum(row.seconds for row in inside if clock.cpu or not row.stage.endswith("beside"))
    return [*rows, *inside, Row("  all else (loading, images, oracle)", count, whole - spent)]


def whole_epoch(trainer: Trainer) -> None:
    """Train an epoch anew, whatever was trained before."""
    trainer.sums = EpochSums()
    trainer.train_epoch(time.monotonic())


def training(
    config: Config, machine: Machine, clock: Clock, turns: int, arm: str, trainer: Trainer
) -> list[Row]:
    """Time an epoch of a training, beside its steps on a batch that lies on the device."""
    count = len(trainer.sampler) * config.batch_size
    if trainer.teacher:
        trainer.teacher.look(0, machine)
    batch = next(iter(trainer.loader))
    on_device = ("images", "labels", "pseudo")
    batch = batch._replace(
        **{
            name: getattr(batch, name).to(machine.device)
            for name in on_device
            if getattr(batch, name) is not None
        }
    )

    def steps() -> None:
        trainer.model.train()
        for _ in range(len(trainer.sampler)):
            trainer.step(batch)

    def batches() -> None:
        for _ in trainer.loader:
            pass

    told, name = "steps on one batch", f"training, {arm}"
    epochs = config.epochs if arm == "points" else 0.0
    return [
        measure(clock, name, count, lambda: whole_epoch(trainer), steps, turns, told, epochs),
        measure(clock, "  batches alone, augmented", count, batches, None, turns),
    ]


def teaching(
    config: Config, machine: Machine, clock: Clock, turns: int, trainer: Trainer
) -> list[Row]:
    """Time a look of self-training, and its parts; floor: the networks' passes."""
    teacher = trainer.teacher
    if teacher is None:
        return []
    count = len(teacher.images)
    size = min(config.at_a_time, count)
    pixels = as_seen(teacher.images.batch(range(size)), machine, teacher.how.side)

    def look() -> None:
        teacher.seen = []
        teacher.look(0, machine)

    def passes() -> None:
        models = round_networks(config, machine)
        with machine.autocast():
            for start in range(0, count, size):
                network_passes(models, pixels[: count - start], 2)

    told = f"{2 * config.snapshots} passes at {pixels.shape[-1]} pixels"
    rows = [
        measure(clock, "self-training's look", count, look, passes, turns, told, config.snapshots)
    ]
    parts = Parts(clock)
    beside = {"by_colours": "colours, beside", "cut": "cut, beside"}
    with parts.watching(
        (self_training, "agree", "agree"),
        *((self_training, key, name) for key, name in beside.items()),
    ):
        whole = clock.seconds(look)
    inside = [Row(f"  {name}", count, spent) for name, spent in parts.seconds.items()]
    spent_beside = sum(parts.seconds.get(name, 0.0) for name in beside.values())
    left = whole - parts.seconds.get("agree", 0.0) - clock.cpu * spent_beside
    return [*rows, *inside, Row("  all else (maps)", count, left)]


def reading(config: Config, pool: Pool, clock: Clock, turns: int) -> list[Row]:
    """Time the decoding of images and masks into memory; floor: reading the files alone."""
    samples, size = pool.samples, config.size

    def caches() -> None:
        ResizedImages(samples, size, 10**6, "bench")
        ResizedMasks(samples, size, 10**6, "bench")

    def reads() -> None:
        with ThreadPoolExecutor(core_count()) as threads:
            list(threads.map(lambda sample: read_image(sample.image), samples))
            list(threads.map(lambda sample: read_mask(sample.mask), samples))

    told = "files decoded"
    return [measure(clock, "reading images and masks", len(samples), caches, reads, turns, told)]


def validating(
    config: Config, machine: Machine, clock: Clock, turns: int, trainer: Trainer
) -> list[Row]:
    """Time the validation after an epoch; floor: passes."""
    validation = trainer.validation
    count = len(validation.images)
    pixels = machine.images(validation.images.batch(range(min(config.at_a_time, count))))

    def passes() -> None:
        with machine.autocast():
            for start in range(0, count, config.at_a_time):
                network_passes([trainer.model], pixels[: count - start], 1)

    def validate() -> None:
        validation.error(trainer.model, machine)

    told, times = "passes", config.epochs
    return [measure(clock, "validation", count, validate, passes, turns, told, times)]


def testing(config: Config, machine: Machine, clock: Clock, turns: int) -> list[Row]:
    """Time the making of maps of picture files, and their scoring; floors: passes, decoding."""
    run = RunFolder(config.run_folder)
    samples = list_set(config.data_root, "TE")
    folder, count = run.predictions / "bench", len(samples)
    segmenter = Segmenter(list_snapshots(run.snapshots("points", 0))[-1], machine)
    jobs = [(sample.image, folder / f"{at}.png") for at, sample in enumerate(samples)]
    first = [read_image(path) for path, _ in jobs[: config.batch_size]]
    pixels = segmenter._batch(first)

    def passes() -> None:
        with machine.autocast():
            for start in range(0, count, len(first)):
                network_passes([segmenter.model], pixels[: count - start], 1)

    def segment() -> None:
        segmenter.run(jobs, config.batch_size, "maps")

    rows = [
        measure(
            *(clock, "test", count, segment, passes, turns, "passes", 1.0),
            between=lambda: shutil.rmtree(folder, ignore_errors=True),
        )
    ]
    pairs = [
        Pair(sample.name, made, sample.mask)
        for sample, (_, made) in zip(samples, jobs, strict=True)
    ]
    prepare_process()

    def score() -> None:
        score_task((pairs, list(range(count))), "pysodmetrics", parts_of(METRICS))

    def decode() -> None:
        for pair in pairs:
            read_map(pair.saliency), read_true_mask(pair.mask)

    told = "files decoded"
    rows.append(measure(clock, "evaluation, one process", count, score, decode, turns, told, 1.0))
    return rows


def all_stages(
    config: Config, pool: Pool, machine: Machine, clock: Clock, turns: int
) -> Iterator[list[Row]]:
    """Time every stage of a round after the first, yielding its rows."""
    yield reading(config, pool, clock, turns)
    yield asking(config, pool, machine, clock, turns)
    trainer = Trainer(config, "points", 1)
    yield teaching(config, machine, clock, turns, trainer)
    yield training(config, machine, clock, turns, "points", trainer)
    yield validating(config, machine, clock, turns, trainer)
    yield training(config, machine, clock, turns, "dense", Trainer(config, "dense", 0))
    yield testing(config, machine, clock, turns)
