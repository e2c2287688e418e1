"""A network as it learns: its optimiser, its losses, and one step on a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from active_learning.self_training import Teacher
from config import Config
from datasets.training import Batch
from losses import Supervision, total_loss
from losses.groups import adversarial_discriminator
from losses.objective import Objective
from losses.supervision import pseudo_labels
from models import SaliencyNet
from models.adversary import Adversary
from models.synced_norm import synchronise_norms
from utils import distributed
from utils.device import Machine

LEAST_SCALE = 1.0
"""Scale of the loss in half precision that cannot be why its gradients overflow."""


def make_optimizer(model: SaliencyNet, config: Config) -> torch.optim.Optimizer:
    """Return the config's optimiser over the network's parameter groups."""
    groups = model.parameter_groups(config.lr, config.backbone_lr, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups)


def make_objective(config: Config, last: Mapping[str, float]) -> Objective:
    """Return all the losses, those on the final map being ``last``."""
    return Objective(
        last=last,
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


class NotFinite(Exception):
    """A step's loss or gradient is no number; the weights are as they were before the step.

    So are batch norm's statistics with ``--on_nan skip``, which goes on from there; else they have
    seen the batch.
    """


class Learner:
    """What takes the steps of a training; where its batches come from, others know.

    Args:
        config: the trial's settings.
        arm: what supervises, a name of `utils.run_folder.ARMS`.
        machine: where to compute, and how precisely.

    Attributes:
        model: the network that takes the steps; `take` gives it.
        average: its weights and buffers averaged over the last steps; None: they are not.
        parallel: the same as one of several processes; None in a single one.
        teacher: makes the pseudo labels that batches carry; None: there are none.
        class_weights: (1, 2, 1, 1), of background and foreground labels.
    """

    def __init__(self, config: Config, arm: str, machine: Machine) -> None:
        self.config, self.arm, self.machine = config, arm, machine
        own = config.losses_dense if arm == "dense" else config.losses_points
        self.on_labels = make_objective(config, own)
        self.on_pseudo = make_objective(config, config.losses_pseudo)
        self.teacher: Teacher | None = None
        self.weigh(1.0, 1.0)

    def weigh(self, background: float, foreground: float) -> None:
        """Set the weights of the two classes."""
        weights = torch.tensor([background, foreground], device=self.machine.device)
        self.class_weights = weights.view(1, 2, 1, 1)

    @property
    def kept(self) -> SaliencyNet:
        """The network that is validated and saved: the average where there is one."""
        return self.average.module if self.average else self.model

    def take(self, model: SaliencyNet, memory: float = 0) -> None:
        """Move a network to the device, and make all that it learns by.

        Args:
            model: the network.
            memory: steps over which its weights are averaged, exponentially: a step counts
                1 / memory (Tarvainen and Valpola, NeurIPS 2017); up to 1: they are not.
        """
        config, device = self.config, self.machine.device
        self.model = model.to(device, memory_format=self.machine.memory_format)
        self.average = None
        if memory > 1:
            mean = get_ema_multi_avg_fn(1 - 1 / memory)
            self.average = AveragedModel(self.model, multi_avg_fn=mean, use_buffers=True)
        if config.freeze_backbone:
            self.model.freeze_encoder()
        self.adversary = (
            Adversary(adversarial_discriminator, config.lr, device) if config.adversarial else None
        )
        self.parallel = None
        if distributed.world() > 1:
            self.parallel = distributed.parallel(synchronise_norms(self.model))
        self.optimizer = make_optimizer(self.model, config)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        half = self.machine.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=half)

    def set_rates(self, factor: float) -> None:
        """Set the learning rates to this share of their peaks."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def learning_state(self) -> dict[str, Any]:
        """Return what, with the weights of `kept`, the next steps depend on."""
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        if self.adversary:
            state["adversary"] = {
                "network": self.adversary.network.state_dict(),
                "optimizer": self.adversary.optimizer.state_dict(),
            }
        if self.average:
            state["stepping"] = self.model.state_dict()
            state["averaged"] = int(self.average.n_averaged)
        return state

    def load_learning_state(self, state: dict[str, Any]) -> None:
        """Go on from a `learning_state`, with a network taken that has the weights of `kept`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where another machine, without half precision, began
            self.scaler.load_state_dict(state["scaler"])
        if self.adversary:
            self.adversary.network.load_state_dict(state["adversary"]["network"])
            self.adversary.optimizer.load_state_dict(state["adversary"]["optimizer"])
        if self.average:
            self.model.load_state_dict(state["stepping"])
            self.average.n_averaged.fill_(int(state["averaged"]))

    def step(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Take one optimiser step; return the total loss and its parts, detached.

        Of several processes each gives its own images, and gets its own share of the losses.

        Raises:
            NotFinite: the loss or its gradient is no number; see there.
        """
        parts = batch.parts(self.config.accumulate)
        whole = batch if len(parts) > 1 else None
        kept = self._statistics()
        self.optimizer.zero_grad(set_to_none=True)
        total, values, seen = torch.zeros((), device=self.machine.device), {}, []
        for part in parts:
            last = part is parts[-1]
            with self.parallel.no_sync() if self.parallel and not last else nullcontext():
                loss, found, logits, labels = self._losses(part, whole)
                # Gradients are averaged over processes, losses are shares of a sum.
                self.scaler.scale(loss * distributed.world() if self.parallel else loss).backward()
            total = total + loss.detach()
            values = {name: values.get(name, 0.0) + value for name, value in found.items()}
            seen.append((logits.detach(), labels))
        self.scaler.unscale_(self.optimizer)
        clip = self.config.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        good_loss, good_norm = torch.stack([total.isfinite(), norm.isfinite()]).tolist()
        # In half precision an overflow belongs to the scaler's search, while it has far to go.
        searching = self.scaler.is_enabled() and self.scaler.get_scale() > LEAST_SCALE
        if distributed.any_of(not (good_loss and (good_norm or searching))):
            for buffer, value in kept:
                buffer.copy_(value)
            self.scaler.update()  # or it refuses the next step's gradients
            raise NotFinite(f"the loss is {float(total):g}, its gradient's norm {float(norm):g}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average and good_norm:  # or the scaler has left the step out
            self.average.update_parameters(self.model)
        if self.adversary:
            logits, labels = (torch.cat(tensors) for tensors in zip(*seen, strict=True))
            values["discriminator"] = self.adversary.learn(logits, labels)
        return total, values

    def _statistics(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the network's buffers with copies, where a step may have to be undone."""
        if self.config.on_nan != "skip":
            return []
        return [(buffer, buffer.clone()) for buffer in self.model.buffers()]

    def _losses(
        self, batch: Batch, whole: Batch | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Return the loss of (a part of) a batch, its parts, the logits and the labels.

        Args:
            batch: what is looked at.
            whole: all that this process looks at in the step; None: that is the batch.
        """
        device, network = self.machine.device, self.parallel or self.model
        images, groups = self.machine.images(batch.images), batch.groups
        place = {} if batch.place is None else {"place": batch.place}
        taught = self.teacher is not None and bool(self.teacher.seen)
        alone = taught and self.config.pseudo_alone and self.teacher.knows_all
        objective = self.on_pseudo if alone else self.on_labels
        with self.machine.autocast():
            found = network(images, groups, **place)
            small_logits = None
            if objective.last.get("consistency"):
                size = max(32, round(images.shape[-1] * self.config.small_scale))
                small = functional.interpolate(images, size=(size, size), mode="bilinear")
                small_logits = network(small, groups, **place).logits
        labels = self._weighted(batch)
        every = None if whole is None else self._weighted(whole)
        judged = self.adversary.judge(found.logits, labels) if self.adversary else None
        told = Supervision(labels, images, small_logits, every)
        guessed = self._guessed(told, batch, whole) if taught else told
        classes = batch.classes.to(device, non_blocking=True)
        total, parts = objective(found, guessed if alone else told, groups, classes, judged)
        if alone:
            parts = {f"pseudo/{n}" if n in objective.last else n: v for n, v in parts.items()}
        elif taught:
            more, values = total_loss(found.logits, guessed, self.on_pseudo.last)
            total = total + more
            parts |= {f"pseudo/{name}": value for name, value in values.items()}
        return total, parts, found.logits, labels

    def _guessed(self, told: Supervision, batch: Batch, whole: Batch | None) -> Supervision:
        """Return what is known of (a part of) a batch, and where nothing is the teacher's guess."""
        every = None if whole is None else self._pseudo(whole, told.whole)
        return told._replace(labels=self._pseudo(batch, told.labels), whole=every)

    def _pseudo(self, batch: Batch, labels: torch.Tensor) -> torch.Tensor:
        """Return the labels on the device, and where there are none the teacher's."""
        device = self.machine.device
        trusted = self.teacher.trusted[batch.indices]
        trusted = trusted.to(device, non_blocking=True)
        return pseudo_labels(batch.pseudo.to(device, non_blocking=True), labels, trusted)

    def _weighted(self, batch: Batch) -> torch.Tensor:
        """Return the labels on the device, weighted by class."""
        return batch.labels.to(self.machine.device, non_blocking=True).float() * self.class_weights
