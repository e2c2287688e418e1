"""Train one saliency network: on dense masks, or on the points of rounds 0..r.

``python train.py --trial T --arm dense`` or ``--arm points --round 3``. The training's files lie
in ``runs/<trial>/dense`` or ``runs/<trial>/round_03``. Stopped by SIGTERM or SIGUSR1, the same
command goes on with the next batch; interrupted otherwise, after the last whole epoch; finished, it
does nothing. By ``torchrun --nproc_per_node N train.py ...`` N processes share each batch. With
``--ensemble deep`` a round of points that will be asked about trains further members from other
seeds, in ``round_03/members``.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from active_learning import looked
from active_learning.learner import Learner, NotFinite
from active_learning.self_training import Taught, Teacher, look_size
from active_learning.validation import Estimate, Latest, Validation
from config import Config
from datasets.augment import Augmentation
from datasets.cache import ResizedImages, ResizedMasks
from datasets.checked import require_checked
from datasets.groups import images_apart, list_groups
from datasets.images import native_sizes
from datasets.index import Sample
from datasets.points import read_answers
from datasets.round_labels import class_weights, read_point_labels
from datasets.training import (
    Batch,
    Labels,
    MaskLabels,
    PointLabels,
    TrainingSet,
    loader_faults,
    make_loader,
)
from models import SaliencyNet, WeightReport, build_model
from models.stored import parts_of
from utils import distributed, settings
from utils.checkpoints import load_checkpoint, load_weights_into, save_checkpoint
from utils.device import choose_machine, make_deterministic, worker_count
from utils.epoch_sums import EpochSums
from utils.errors import UserError
from utils.files import write_json
from utils.locks import held
from utils.logs import TrainingLog
from utils.progress import track
from utils.run_folder import ARMS, RunFolder, list_snapshots, snapshot_name
from utils.schedule import cyclic_cosine, snapshot_epochs
from utils.seeding import random_state, restore_random_state, seed_everything, seed_for
from utils.stages import run_stage
from utils.stopping import Stopped, finishing, stop_requested
from utils.training_needs import memory_to_train, require_images, require_shares

FEW = 10
"""Validation images below which the user is told that the choice of a checkpoint is half chance."""


def make_validation(
    config: Config, run: RunFolder, arm: str, samples: Sequence[Sample]
) -> Validation:
    """Return the validation on held-out images: by masks for the dense arm, else by points."""
    images = ResizedImages(samples, config.size, config.cache_mb, "validation")
    if arm == "dense":
        masks = ResizedMasks(samples, config.size, config.cache_mb, "validation")
        labels: Labels = MaskLabels(masks)
    else:
        sizes = native_sizes(samples)
        answers = read_answers([run.validation_points], samples, run.ledger, sizes)
        labels = PointLabels(answers, sizes, config.size)
    pieces = images_apart(samples, config.grouped, config.at_a_time)
    return Validation(images, labels, pieces, config.at_a_time)


class Trainer(Learner):
    """One training: what it learns from, epoch by epoch, and where it stands.

    A trial's later trainings draw initial weights, order of batches and augmentation of their own
    (``reseed``): what one got wrong by chance the one that it teaches need not.

    Member 0 is the training of the round itself. Further members of a deep ensemble differ from it
    in initial weights, order of batches and augmentation. Of them ``last`` is kept, whose weights
    are asked, and the snapshots, which teach the member's next training; ``best`` is not.
    """

    def __init__(self, config: Config, arm: str, round_index: int, member: int = 0) -> None:
        self.run, self.round, self.member = RunFolder(config.run_folder), round_index, member
        # Whether it knows answers that the training before does not.
        self.knows_more = arm != "dense" and round_index < config.rounds
        # A cycle ends in a snapshot that teaches the rest of this training, or is asked.
        taught = bool(config.losses_pseudo)
        asked = arm == "points" and round_index < config.rounds - 1
        self.in_cycles = self.knows_more and (taught or asked)
        self.folder = self.run.training(arm, round_index, member)
        if config.deterministic:
            make_deterministic()
        require_images(config)
        super().__init__(config, arm, choose_machine(config.device, config.precision))
        seed = training_seed(config, round_index, member)
        self.seed = seed
        seed_everything(seed)
        train, held_out = settings.training_images(config)
        self.image_names = image_names(train, held_out)
        if len(train) < 2 or not held_out:
            raise UserError(
                f"{config.trainset}: {len(train) + len(held_out)} images: at least 3 are needed, "
                "2 to train on and 1 to validate"
            )
        if len(held_out) < FEW:
            print(f"note: only {len(held_out)} images validate, and choose the checkpoint")
        self.images = ResizedImages(train, config.size, config.cache_mb, "training")
        with distributed.main_first():
            labels = self._labels(train, config.size)
        augmentation = Augmentation(
            config.flip, config.crop, config.rotate, config.colour, config.pepper
        )
        if config.losses_pseudo and arm != "dense":
            self.teacher = self._make_teacher(labels)
        groups = list_groups(train) if config.grouped else None
        flat = torch.zeros(len(train), dtype=torch.int64)
        self.image_classes = torch.from_numpy(groups.classes) if groups else flat
        self.classes = len(groups.names) if groups else 0
        self.loader, self.sampler = make_loader(
            TrainingSet(
                self.images, labels, augmentation, seed, self.teacher and self.teacher.maps
            ),
            config.batch_size,
            seed,
            worker_count(config.workers, self.machine),
            pin_memory=self.machine.device.type == "cuda",
            groups=groups,
        )
        require_shares(config, self.sampler.plan.smallest)
        if config.match_classes:
            self.weigh(*class_weights(self.run, arm, round_index))
        self.validation = make_validation(config, self.run, arm, held_out)
        self.snapshot_epochs = snapshot_epochs(config.epochs, config.snapshots, config.first_cycle)
        self.epoch, self.rows, self.sums = 0, [], EpochSums()
        self.best, self.latest = math.inf, Latest(config.keep_within)
        self._build()

    def _labels(
        self, samples: Sequence[Sample], size: int, known: PointLabels | None = None
    ) -> Labels:
        """Return the labels on a size x size grid; ``known``: the points on another one."""
        config = self.config
        if self.arm == "dense":
            return MaskLabels(ResizedMasks(samples, size, config.cache_mb, "training"))
        mode, regions = config.label_mode, config.superpixels
        return read_point_labels(
            self.run, self.arm, self.round, samples, size, mode, regions, known
        )

    def _make_teacher(self, labels: PointLabels) -> Teacher:
        config, run = self.config, self.run
        before = config.trained_before(self.round)
        earlier = None if before is None else run.snapshots(self.arm, before, self.member)
        if earlier and 0 < len(list_snapshots(earlier)) < config.snapshots:
            last = run.checkpoint(self.arm, before, "last", self.member)
            raise UserError(
                f"{earlier}: fewer than {config.snapshots} snapshots: delete {last} and "
                f"{run.trained(self.arm, before)}, and train that round again"
            )
        own = self.snapshots if self.knows_more else None
        count = config.at_a_time
        images, samples = self.images, self.images.samples
        size = look_size(labels.sizes, config)
        if size != images.size:
            # Read from disk whenever they are looked at: memory is for what every epoch reads.
            images = ResizedImages(samples, size, 0, "")
            labels = self._labels(samples, size, labels)
        pieces = images_apart(samples, config.grouped, count)
        return Teacher(images, labels, pieces, count, own, earlier, Taught.of(config))

    def _build(self) -> None:
        """Make network and optimiser, from the last whole epoch where there is one."""
        config = self.config
        last = self.last
        state = load_checkpoint(last, ("model", "config", "training")) if last.exists() else None
        if state is not None:
            settings.require_same(config, state["config"], last)
        # A member goes on from itself: members that all began alike would hardly differ.
        before = config.trained_before(self.round)
        warm = config.warm_start and self.arm != "dense" and before is not None and state is None
        source = "none" if state is not None or warm else config.backbone_weights
        model, report = self.new_network(source)
        if report.missing:
            print(f"backbone weights: not in the file: {', '.join(report.missing)}")
        if state is None and distributed.is_main():
            # Of a training that is begun anew none may stay: it may have had other settings.
            shutil.rmtree(self.snapshots, True)
        if state is not None:
            load_weights_into(model, state, last)
        elif warm:
            earlier = self.run.checkpoint(self.arm, before, "last", self.member)
            load_weights_into(model, load_checkpoint(earlier), earlier)
        self.take(model, config.average * config.epochs * len(self.sampler))
        if state is not None:
            try:
                self._restore(state["training"])
            except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as e:
                reason = " ".join(str(e).split())[:200]
                raise UserError(
                    f"{last}: what it says of the training is damaged ({reason}): delete it to "
                    "train anew"
                ) from None
            self._check_snapshots()

    def _check_snapshots(self) -> None:
        """Raise `UserError` where a snapshot of an earlier epoch has gone: it would not teach."""
        for epoch in self.snapshot_epochs:
            path = self.snapshots / snapshot_name(epoch)
            if epoch <= self.epoch and not path.exists():
                raise UserError(f"{path}: the snapshot has gone: delete {self.last} to train anew")

    def new_network(self, source: str) -> tuple[SaliencyNet, WeightReport]:
        """Build the network, its backbone with the weights of ``source`` (`models.load_weights`).

        Benchmarks train the networks of others by giving them here.
        """
        parts = parts_of(settings.to_dict(self.config), self.classes)
        return build_model(self.config.backbone, self.config.width, source, parts)

    def _restore(self, state: dict[str, Any]) -> None:
        if state.get("images", self.image_names) != self.image_names:
            raise UserError(
                f"{self.last}: the pictures of {self.config.trainset} are not those that it was "
                "trained on: put them back, or delete it to train anew"
            )
        self.load_learning_state(state)
        self.epoch, self.best = int(state["epoch"]), float(state["best"])
        self.latest.lowest = Estimate(*map(float, state.get("lowest", [self.best])))
        self.rows = [dict(row) for row in state["rows"]]
        restore_random_state(state["random"])
        if "sums" in state:
            main = distributed.is_main()
            self.sums = EpochSums.of_state(state["sums"], self.machine.device, main)
        within = f", batch {self.sums.batches} of the next" if self.sums.batches else ""
        print(f"{self.folder}: going on after epoch {self.epoch} of {self.config.epochs}{within}")

    def fit(self) -> dict[str, Any]:
        """Train to the last epoch, saving after each; return the summary.

        Raises:
            Stopped: a signal has come; all that was done is saved.
            UserError: no epoch's validation error is a number.
        """
        main = distributed.is_main()
        with TrainingLog(self.folder, self.rows) if main else contextlib.nullcontext() as log:
            while self.epoch < self.config.epochs:
                began = time.monotonic() - self.sums.seconds
                self._look()
                with finishing(), self._memory():
                    row = self.train_epoch(began)
                    error = self.validation.error(self.kept, self.machine)
                    if error is None:
                        self._pause(began)
                    self.epoch += 1
                    row |= {"val_MAE": error.mean, "seconds": time.monotonic() - began}
                    if log:
                        log.add({"epoch": self.epoch, **row})
                        self._tell(row)
                    self.save(error)
                    if distributed.any_of(stop_requested()):
                        raise Stopped
        if main:
            looked.forget(self.folder)
        if not self.best < math.inf:
            raise UserError(
                f"{self.folder}: after no epoch were the maps of the held-out images finite, so "
                "none can be chosen: set --precision fp32, or lower --lr, in a new trial"
            )
        return summary_of(self.arm, self.round, self.best, self.rows)

    @property
    def last(self) -> Path:
        """The checkpoint that this training goes on from."""
        return self.run.checkpoint(self.arm, self.round, "last", self.member)

    @property
    def snapshots(self) -> Path:
        """The folder of this training's snapshots."""
        return self.run.snapshots(self.arm, self.round, self.member)

    @property
    def _name(self) -> str:
        """What is trained, as the trial's folder has it."""
        return str(self.folder.relative_to(self.run.root))

    def _tell(self, row: Mapping[str, float]) -> None:
        """Print what an epoch came to."""
        print(
            f"{self._name}, epoch {self.epoch} of {self.config.epochs}: loss {row['loss']:.4g}, "
            f"held-out error {row['val_MAE']:.4f}, {row['seconds']:.1f} s",
            flush=True,
        )

    def _look(self) -> None:
        """Have the teacher look at the images, before an epoch."""
        if self.teacher:
            # Building its networks draws numbers, and they are built at other times after a stop.
            with torch.random.fork_rng(devices=[]), self._memory():
                self.teacher.look(self.epoch, self.machine, self.folder)

    def train_epoch(self, began: float) -> dict[str, float]:
        """Train the rest of an epoch; return the mean of the total loss and of each of its parts.

        Args:
            began: when the epoch began, by the monotonic clock.

        Raises:
            Stopped: a signal has come; the epoch goes on with the next batch.
        """
        self.model.train()
        self.sampler.epoch, self.sampler.start = self.epoch, self.sums.batches
        length = len(self.sampler)
        bar = track(
            self.loader,
            f"{self._name} epoch {self.epoch + 1}/{self.config.epochs}",
            unit="batch",
            done=self.sums.batches,
            shown=distributed.is_main(),
        )
        whole_batches = list(self.sampler.to_come())
        for keys, batch in zip(whole_batches, bar, strict=True):
            self._set_rates(self.epoch * length + self.sums.batches)
            try:
                total, parts = self.step(self._placed(batch, keys))
                self.sums.add({"loss": total, **parts})
            except NotFinite as error:
                self._tell_not_finite(error, keys)
            if distributed.any_of(stop_requested()):
                self._pause(began)
        more = {"skipped": float(self.sums.skipped)} if self.config.on_nan == "skip" else {}
        return self.sums.means() | more

    def _pause(self, began: float) -> NoReturn:
        """Save an epoch that is not over, and raise `Stopped`."""
        self.sums.seconds = time.monotonic() - began
        self._save_last(self._weights(None))
        raise Stopped

    def _placed(self, batch: Batch, keys: Sequence[tuple[int, int]]) -> Batch:
        """Tell a batch of one of several processes its place in the whole one."""
        if distributed.world() == 1:
            return batch
        if not distributed.is_main():
            # What is drawn in a step (of which layers are skipped) is drawn by each for itself.
            step = self.epoch, self.sums.batches
            torch.manual_seed(seed_for(self.seed, "process", distributed.rank(), *step))
        classes = self.image_classes[[index for _, index in keys]]
        return batch._replace(place=distributed.rows(len(keys)), all_classes=classes)

    def _memory(self) -> contextlib.AbstractContextManager:
        return memory_to_train(self.config)

    def _tell_not_finite(self, error: NotFinite, keys: Sequence[tuple[int, int]]) -> None:
        """Count a step that was skipped, or raise `UserError` where that is not wanted."""
        samples = self.images.samples
        names = ", ".join(samples[index].name for _, index in keys)
        kept = f"{self.last}, after epoch {self.epoch}" if self.last.exists() else "none yet"
        at = f"epoch {self.epoch + 1}, batch {self.sums.batches + 1} ({names})"
        remedy = "lower --lr (or set --precision fp32) in a new trial"
        if self.config.on_nan == "stop":
            raise UserError(
                f"{self.folder}: {error} in {at}: {remedy}, or leave such steps out by --on_nan "
                f"skip; the last good checkpoint: {kept}"
            ) from None
        if not self.sums.skip(len(self.sampler)):
            raise UserError(
                f"{self.folder}: {error} in {at}, the {self.sums.skipped}. step skipped in this "
                f"epoch, the {self.sums.in_a_row}. in a row: {remedy}; the last good checkpoint: "
                f"{kept}"
            ) from None

    def _set_rates(self, step: int) -> None:
        """Set the learning rates of an optimiser step, counted from the training's first."""
        length, epochs = len(self.sampler), self.config.epochs
        ends = self.snapshot_epochs if self.in_cycles else [epochs]
        self.set_rates(cyclic_cosine(step, epochs * length, [epoch * length for epoch in ends]))

    def save(self, error: Estimate) -> None:
        """Save the whole state as ``last``; ``best`` and the snapshot where they are due.

        ``best`` is of the epoch that `Latest` keeps, and so is its error, `self.best`.
        """
        weights = self._weights(error.mean)
        if self.epoch in self.snapshot_epochs:
            self._write(self.snapshots / snapshot_name(self.epoch), weights)
        if self.latest.takes(error):
            self.best = error.mean
            if self.member == 0:
                self._write(self.run.checkpoint(self.arm, self.round, "best"), weights)
        self.sums = self.sums.next_epoch()
        # Last of all: an epoch counts as done when this file holds it.
        self._save_last(weights)

    def _weights(self, error: float | None) -> dict[str, Any]:
        """Return what every checkpoint holds; the validation error is unknown within an epoch."""
        weights = {"model": self.kept.state_dict(), "config": settings.to_dict(self.config)}
        weights |= {"arm": self.arm, "round": self.round, "epoch": self.epoch, "val_MAE": error}
        return weights | {"classes": self.classes}

    def _save_last(self, weights: dict[str, Any]) -> None:
        """Save all that a training goes on from; the processes leave together."""
        training = {
            **self.learning_state(),
            "epoch": self.epoch,
            "best": self.best,
            "lowest": list(self.latest.lowest),
            "rows": self.rows,
            "random": random_state(),
            "sums": self.sums.state(),
            "images": self.image_names,
        }
        self._write(self.last, weights | {"training": training})
        distributed.barrier()

    @staticmethod
    def _write(path: Path, state: dict[str, Any]) -> None:
        if distributed.is_main():
            save_checkpoint(path, state)


def training_seed(config: Config, round_index: int, member: int) -> int:
    """Return the seed of a training, below 2^32; a trial's first one and the twin have its own.

    The others are drawn by hashing: seed + 1 would be that of the next trial. With ``reseed`` they
    go by how many trainings came before, whatever rounds went by without one (``train_every``).
    """
    before = sum(trained < round_index for trained in config.trained_rounds)
    key = ["member", member] if member else []
    key += ["round", before] if before and config.reseed else []
    return seed_for(config.seed, *key) % 2**32 if key else config.seed


def member_count(config: Config, arm: str, round_index: int) -> int:
    """Return how many networks a training makes.

    A deep ensemble is trained only where it will be asked: no questions follow the last round that
    has any, and the other arms ask nobody.
    """
    asked = arm == "points" and any(config.schedule[round_index + 1 :])
    return config.snapshots if config.ensemble == "deep" and asked else 1


def image_names(train: Sequence[Sample], held_out: Sequence[Sample]) -> str:
    """Return a hash of the names of the images that a training learns from, and validates on."""
    names = "\n".join([*(s.name for s in train), "", *(s.name for s in held_out)])
    return hashlib.sha256(names.encode()).hexdigest()


def summary_of(
    arm: str, round_index: int, best: float, rows: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Return what a training has come to, by the rows of its log."""
    summary = {"arm": arm, "round": round_index, "epochs": len(rows), "best_val_MAE": best}
    return summary | {"seconds": round(sum(row["seconds"] for row in rows), 1)}


def finished(config: Config, arm: str, round_index: int, member: int) -> dict[str, Any] | None:
    """Return the summary of a member that has its last epoch, without building it.

    None: it has epochs to come, or something is amiss, which `Trainer` tells.

    Raises:
        UserError: its last checkpoint is damaged, or of other settings.
    """
    run = RunFolder(config.run_folder)
    last = run.checkpoint(arm, round_index, "last", member)
    if not last.exists():
        return None
    state = load_checkpoint(last, ("model", "config", "training"))
    settings.require_same(config, state["config"], last)
    training, snapshots = state["training"], run.snapshots(arm, round_index, member)
    ends = snapshot_epochs(config.epochs, config.snapshots, config.first_cycle)
    try:
        whole = (
            training["epoch"] == config.epochs
            and training["best"] < math.inf
            and training["images"] == image_names(*settings.training_images(config))
            and all((snapshots / snapshot_name(epoch)).exists() for epoch in ends)
        )
        return summary_of(arm, round_index, training["best"], training["rows"]) if whole else None
    except (KeyError, TypeError):
        return None


def train_member(config: Config, arm: str, round_index: int, member: int) -> dict[str, Any]:
    """Train a member, unless that is done; return its summary, and keep nothing else of it."""
    summary = finished(config, arm, round_index, member) if config.ensemble == "deep" else None
    if summary is not None:
        if distributed.is_main():  # as `Trainer.fit` does last, if it was not stopped
            looked.forget(RunFolder(config.run_folder).training(arm, round_index, member))
        return summary
    with memory_to_train(config):
        trainer = Trainer(config, arm, round_index, member)
    return trainer.fit()


def train_members(config: Config, arm: str, round_index: int) -> dict[str, Any]:
    """Train the network of a round, then its further members; write the round's summary, return it.

    A member that has its last epoch is left as it is. All have the same schedule of the learning
    rate, so that a deep ensemble differs from snapshots in its members alone, not in the network
    that is tested.
    """
    members = range(member_count(config, arm, round_index))
    summaries = [train_member(config, arm, round_index, member) for member in members]
    seconds = round(sum(summary["seconds"] for summary in summaries), 1)
    summary = summaries[0] | {"members": len(members), "seconds": seconds}
    if distributed.is_main():
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
    settings.check_round(config, args.round)
    if args.arm != "dense" and args.round not in config.trained_rounds:
        print(f"round {args.round}: not trained (--train_every {config.train_every})")
        return 0
    if args.arm == "random" and args.round == 0:
        args.arm = "points"  # which share it, and whose further members it may have to train
    if args.arm == "dense":
        args.round = 0  # it knows no rounds
    run = RunFolder(config.run_folder)
    done: Path = run.trained(args.arm, args.round)
    best = run.checkpoint(args.arm, args.round, "best")
    if done.exists() and best.exists():
        print(f"{done.parent}: trained already")
        return 0
    with held(run.arm_lock(args.arm, args.round), f"{run.root}, arm {args.arm},"), loader_faults():
        if distributed.is_main():
            if done.exists():
                print(f"{best}: has gone: training anew")
                best.with_name("last.pth").unlink(missing_ok=True)
                done.unlink()
            masks = args.arm == "dense"
            require_checked(run.root, config.data_root, config.trainset, masks=masks)
            settings.save(config)
        distributed.barrier()
        summary = train_members(config, args.arm, args.round)
    print(f"{done.parent}: trained, best validation error {summary['best_val_MAE']:.4f}")
    return 0


if __name__ == "__main__":
    run_stage(main)
