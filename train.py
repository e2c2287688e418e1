"""Train one saliency network: on dense masks, or on the points of rounds 0..r.

``python train.py --trial T --arm dense`` or ``--arm points --round 3``. The training's files lie
in ``runs/<trial>/dense`` or ``runs/<trial>/round_03``. Interrupted, the same command goes on after
the last whole epoch; finished, it does nothing. With ``--ensemble deep`` a round of points that
will be asked about trains further members from other seeds, in ``round_03/members``.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

import config as settings
from active_learning.self_training import Taught, Teacher
from config import Config
from datasets.augment import Augmentation
from datasets.cache import ResizedImages, ResizedMasks, native_sizes
from datasets.checked import require_checked
from datasets.groups import images_together, list_groups
from datasets.index import Sample
from datasets.points import read_answers
from datasets.round_labels import class_weights, read_point_labels
from datasets.training import Batch, Labels, MaskLabels, PointLabels, TrainingSet, make_loader
from losses import Supervision, total_loss
from losses.groups import adversarial_discriminator
from losses.objective import Objective
from losses.supervision import pseudo_labels
from models import SaliencyNet, WeightReport, build_model
from models.adversary import Adversary
from models.mean_maps import mean_maps
from models.stored import parts_of
from utils.checkpoints import load_checkpoint, load_weights_into, save_checkpoint
from utils.device import Machine, choose_machine, worker_count
from utils.errors import UserError, run_script
from utils.files import write_json
from utils.logs import TrainingLog
from utils.run_folder import ARMS, RunFolder, snapshot_name
from utils.schedule import cyclic_cosine, snapshot_epochs
from utils.seeding import random_state, restore_random_state, seed_everything, seed_for

FEW = 10
"""Validation images below which the user is told that the choice of a checkpoint is half chance."""


class Validation:
    """The held-out images, known by points or by masks: the mean absolute error of their maps.

    Random points are a fair sample of the pixels, so the error at them estimates the error on
    the masks without bias. In a training with groups each group is looked at by itself.
    """

    def __init__(self, config: Config, run: RunFolder, arm: str, samples: Sequence[Sample]) -> None:
        self.images = ResizedImages(samples, config.size, config.cache_mb, "validation")
        self.batch_size = config.batch_size
        self.groups = images_together(samples, config.grouped)
        if arm == "dense":
            masks = ResizedMasks(samples, config.size, config.cache_mb, "validation")
            labels: Labels = MaskLabels(masks)
        else:
            of_image = read_answers([run.validation_points], samples)
            labels = PointLabels(of_image, native_sizes(samples), config.size)
        self.labels = [torch.from_numpy(labels.at(i, np.eye(3))) for i in range(len(samples))]

    @torch.no_grad()
    def error(self, model: SaliencyNet, machine: Machine) -> float:
        """Return the mean absolute error over all labelled pixels, in [0, 1]."""
        model.eval()
        wrong = count = 0.0
        maps = mean_maps([model], self.images, self.groups, self.batch_size, machine)
        for indices, prob, _ in maps:
            labels = torch.stack([self.labels[index] for index in indices]).to(machine.device)
            background, foreground = labels.float().unbind(1)
            wrong += float((background * prob + foreground * (1 - prob)).double().sum())
            count += float(labels.double().sum())
        return wrong / max(count, 1.0)


def make_optimizer(model: SaliencyNet, config: Config) -> torch.optim.Optimizer:
    """Return the config's optimiser over the network's parameter groups."""
    groups = model.parameter_groups(config.lr, config.backbone_lr, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups)


def make_objective(config: Config, arm: str) -> Objective:
    """Return the losses of an arm."""
    return Objective(
        last=config.losses_dense if arm == "dense" else config.losses_points,
        others=config.losses_others,
        contrast=config.contrast,
        classify=config.classify,
        classify_masked=config.classify_masked,
        triplet=config.triplet,
        triplet_of=config.triplet_of,
        triplet_margin=config.triplet_margin,
        adversarial=config.adversarial,
        smooth=config.label_smoothing,
    )


class Trainer:
    """One training: its network, its optimiser, and where it stands.

    Member 0 is the training of the round itself. Further members of a deep ensemble differ from it
    in initial weights, order of batches and augmentation; only their last weights are kept.
    """

    def __init__(self, config: Config, arm: str, round_index: int, member: int = 0) -> None:
        self.config, self.arm, self.round, self.member = config, arm, round_index, member
        self.run = RunFolder(config.run_folder)
        self.folder = self.run.training(arm, round_index, member)
        self.machine = choose_machine(config.device, config.precision)
        self.objective = make_objective(config, arm)
        seed = member_seed(config.seed, member)
        seed_everything(seed)
        train, held_out = settings.training_images(config)
        if len(train) < 2 or not held_out:
            raise UserError(
                f"{config.trainset}: {len(train) + len(held_out)} images: at least 3 are needed, "
                "2 to train on and 1 to validate"
            )
        if len(held_out) < FEW:
            print(f"note: only {len(held_out)} images validate, and choose the checkpoint")
        images = ResizedImages(train, config.size, config.cache_mb, "training")
        labels = self._labels(train)
        augmentation = Augmentation(
            config.flip, config.crop, config.rotate, config.colour, config.pepper
        )
        self.teacher = None
        if config.losses_pseudo and arm != "dense":
            own = self.run.snapshots(arm, round_index, member)
            before = (arm, round_index - 1, member)
            earlier = self.run.snapshots(*before) if round_index else None
            together = images_together(train, config.grouped)
            how = Taught(
                config.snapshots, config.pseudo_scale, config.pseudo_agree, config.pseudo_cut
            )
            self.teacher = Teacher(images, labels, together, config.batch_size, own, earlier, how)
        groups = list_groups(train) if config.grouped else None
        self.classes = len(groups.names) if groups else 0
        self.loader, self.sampler = make_loader(
            TrainingSet(images, labels, augmentation, seed, self.teacher and self.teacher.maps),
            config.batch_size,
            seed,
            worker_count(config.workers, self.machine),
            pin_memory=self.machine.device.type == "cuda",
            groups=groups,
        )
        weights = class_weights(self.run, arm, round_index) if config.match_classes else (1.0, 1.0)
        self.class_weights = torch.tensor(weights, device=self.machine.device).view(1, 2, 1, 1)
        self.validation = Validation(config, self.run, arm, held_out)
        self.snapshot_epochs = snapshot_epochs(config.epochs, config.snapshots, config.first_cycle)
        self.epoch, self.best, self.rows = 0, math.inf, []
        self._build()

    def _labels(self, samples: Sequence[Sample]) -> Labels:
        config = self.config
        if self.arm == "dense":
            return MaskLabels(ResizedMasks(samples, config.size, config.cache_mb, "training"))
        mode, regions = config.label_mode, config.superpixels
        return read_point_labels(
            self.run, self.arm, self.round, samples, config.size, mode, regions
        )

    def _build(self) -> None:
        """Make network and optimiser, from the last whole epoch where there is one."""
        config, device = self.config, self.machine.device
        last = self.run.checkpoint(self.arm, self.round, "last", self.member)
        state = load_checkpoint(last, ("model", "config", "training")) if last.exists() else None
        if state is not None:
            settings.require_same(config, state["config"], last)
        # A member goes on from itself: members that all began alike would hardly differ.
        before = (self.arm, self.round - 1, "last", self.member)
        earlier = self.run.checkpoint(*before) if self.round else None
        warm = config.warm_start and self.arm != "dense" and earlier is not None and state is None
        source = "none" if state is not None or warm else config.backbone_weights
        model, report = self.new_network(source)
        if report.missing:
            print(f"backbone weights: not in the file: {', '.join(report.missing)}")
        if state is None:
            # Of a training that is begun anew none may stay: it may have had other settings.
            shutil.rmtree(self.run.snapshots(self.arm, self.round, self.member), True)
        if state is not None:
            load_weights_into(model, state, last)
        elif warm:
            load_weights_into(model, load_checkpoint(earlier), earlier)
        self.model = model.to(device, memory_format=self.machine.memory_format)
        if config.freeze_backbone:
            self.model.freeze_encoder()
        self.adversary = (
            Adversary(adversarial_discriminator, config.lr, device) if config.adversarial else None
        )
        self.optimizer = make_optimizer(self.model, config)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        half = self.machine.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.machine.device.type, enabled=half)
        if state is not None:
            self._restore(state["training"])

    def new_network(self, source: str) -> tuple[SaliencyNet, WeightReport]:
        """Build the network, its backbone with the weights of ``source`` (`models.load_weights`).

        Benchmarks train the networks of others by giving them here.
        """
        parts = parts_of(settings.to_dict(self.config), self.classes)
        return build_model(self.config.backbone, self.config.width, source, parts)

    def _restore(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.adversary:
            self.adversary.network.load_state_dict(state["adversary"]["network"])
            self.adversary.optimizer.load_state_dict(state["adversary"]["optimizer"])
        self.epoch, self.best, self.rows = state["epoch"], state["best"], state["rows"]
        restore_random_state(state["random"])
        print(f"{self.folder}: going on after epoch {self.epoch} of {self.config.epochs}")

    def fit(self) -> dict[str, Any]:
        """Train to the last epoch, saving after each; return the summary."""
        started = time.monotonic()
        with TrainingLog(self.folder, self.rows) as log:
            while self.epoch < self.config.epochs:
                began = time.monotonic()
                row = self.train_epoch()
                self.epoch += 1
                error = self.validation.error(self.model, self.machine)
                row |= {"val_MAE": error, "seconds": time.monotonic() - began}
                log.add({"epoch": self.epoch, **row})
                self.save(error)
        summary = {"arm": self.arm, "round": self.round, "epochs": self.epoch}
        return summary | {
            "best_val_MAE": self.best,
            "seconds": round(time.monotonic() - started, 1),
        }

    def train_epoch(self) -> dict[str, float]:
        """Train one epoch; return the mean of the total loss and of each of its parts."""
        if self.teacher:
            self.teacher.look(self.epoch, self.machine)
        self.model.train()
        self.sampler.epoch = self.epoch
        sums: dict[str, torch.Tensor] = {}
        bar = tqdm(
            self.loader,
            f"{self.folder.relative_to(self.run.root)} epoch {self.epoch + 1}/{self.config.epochs}",
            unit="batch",
            leave=False,
        )
        for index, batch in enumerate(bar):
            self._set_rates(self.epoch * len(self.sampler) + index)
            total, parts = self.step(batch)
            for name, value in {"loss": total, **parts}.items():
                sums[name] = sums.get(name, 0.0) + value
        means = {name: float(value) / len(self.sampler) for name, value in sums.items()}
        if not math.isfinite(means["loss"]):
            raise UserError(
                f"{self.folder}: the loss is {means['loss']} in epoch {self.epoch + 1}: lower --lr "
                "(or set --precision fp32) in a new trial; the epochs before are kept"
            )
        return means

    def _set_rates(self, step: int) -> None:
        """Set the learning rates of an optimiser step, counted from the training's first."""
        length = len(self.sampler)
        ends = [epoch * length for epoch in self.snapshot_epochs]
        factor = cyclic_cosine(step, self.config.epochs * length, ends)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def step(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Take one optimiser step; return the total loss and its parts, detached."""
        images, groups = self.machine.images(batch.images), batch.groups
        with self.machine.autocast():
            found = self.model(images, groups)
            small_logits = None
            if self.objective.last.get("consistency"):
                size = max(32, round(images.shape[-1] * self.config.small_scale))
                small = functional.interpolate(images, size=(size, size), mode="bilinear")
                small_logits = self.model(small, groups).logits
        device = self.machine.device
        labels = batch.labels.to(device, non_blocking=True).float() * self.class_weights
        judged = self.adversary.judge(found.logits, labels) if self.adversary else None
        supervision = Supervision(labels, images, small_logits)
        total, parts = self.objective(
            found, supervision, groups, batch.classes.to(device, non_blocking=True), judged
        )
        if self.teacher and self.teacher.seen:
            guessed = pseudo_labels(batch.pseudo.to(device, non_blocking=True), labels)
            taught = supervision._replace(labels=guessed)
            more, values = total_loss(found.logits, taught, self.config.losses_pseudo)
            total = total + more
            parts |= {f"pseudo/{name}": value for name, value in values.items()}
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        if self.config.clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.adversary:
            parts["discriminator"] = self.adversary.learn(found.logits, labels)
        return total.detach(), parts

    def save(self, error: float) -> None:
        """Save the whole state as ``last``; ``best`` and the snapshot where they are due."""
        weights = {"model": self.model.state_dict(), "config": settings.to_dict(self.config)}
        weights |= {"arm": self.arm, "round": self.round, "epoch": self.epoch, "val_MAE": error}
        weights["classes"] = self.classes
        if self.epoch in self.snapshot_epochs:
            folder = self.run.snapshots(self.arm, self.round, self.member)
            save_checkpoint(folder / snapshot_name(self.epoch), weights)
        if error < self.best:
            self.best = error
            if self.member == 0:
                save_checkpoint(self.run.checkpoint(self.arm, self.round, "best"), weights)
        training = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
            "rows": self.rows,
            "random": random_state(),
        }
        if self.adversary:
            training["adversary"] = {
                "network": self.adversary.network.state_dict(),
                "optimizer": self.adversary.optimizer.state_dict(),
            }
        # Last of all: an epoch counts as done when this file holds it.
        last = self.run.checkpoint(self.arm, self.round, "last", self.member)
        save_checkpoint(last, weights | {"training": training})


def member_seed(seed: int, member: int) -> int:
    """Return the seed of a member's training, below 2^32; member 0 keeps the trial's own.

    The others are drawn by hashing: seed + 1 would be that of the next trial.
    """
    return seed if member == 0 else seed_for(seed, "member", member) % 2**32


def member_count(config: Config, arm: str, round_index: int) -> int:
    """Return how many networks a training makes.

    A deep ensemble is trained only where it will be asked: no questions follow the last round, and
    the other arms ask nobody.
    """
    asked = arm == "points" and round_index < config.rounds - 1
    return config.snapshots if config.ensemble == "deep" and asked else 1


def train_members(config: Config, arm: str, round_index: int) -> dict[str, Any]:
    """Train the network of a round, then its further members; write the round's summary, return it.

    A member that has its last epoch is left as it is. All have the same schedule of the learning
    rate, so that a deep ensemble differs from snapshots in its members alone, not in the network
    that is tested.
    """
    members = range(member_count(config, arm, round_index))
    summaries = [Trainer(config, arm, round_index, member).fit() for member in members]
    seconds = round(sum(summary["seconds"] for summary in summaries), 1)
    summary = summaries[0] | {"members": len(members), "seconds": seconds}
    write_json(RunFolder(config.run_folder).trained(arm, round_index), summary)
    return summary


def main(argv: Sequence[str] | None = None) -> int:
    """Train what the command line asks for; see the module's text."""

    def extend(parser: Any) -> None:
        parser.add_argument(
            "--arm", choices=ARMS, default="points", help="what supervises (default: points)"
        )
        parser.add_argument(
            "--round", type=int, default=0, help="train on rounds 0..round (default: 0)"
        )

    config, args = settings.parse(argv, __doc__, extend)
    settings.check_names(config)
    if not 0 <= args.round < config.rounds:
        raise UserError(f"--round {args.round}: the trial's rounds are 0 to {config.rounds - 1}")
    run = RunFolder(config.run_folder)
    done: Path = run.trained(args.arm, args.round)
    if done.exists():
        print(f"{done.parent}: trained already")
        return 0
    require_checked(run.root, config.data_root, config.trainset, masks=args.arm == "dense")
    settings.save(config)
    summary = train_members(config, args.arm, args.round)
    print(f"{done.parent}: trained, best validation error {summary['best_val_MAE']:.4f}")
    return 0


if __name__ == "__main__":
    run_script(main)
