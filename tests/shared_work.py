"""What each of several processes does in test_distributed.py: ``shared_work.py OUT TASK FLAGS``.

It is told its place by the environment, as by torchrun. The first process writes what came out to
the file OUT, as JSON.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import active_learning.__main__ as asking
import test as testing
import train
from active_learning.learner import make_optimizer
from utils import distributed, settings
from utils.device import Machine
from utils.errors import UserError
from utils.stages import run_stage

GROUPED = (
    "--grouped --relation gam --contrast 1 --classify 1 --classify_masked 1 --triplet 1 "
    "--triplet_of both --triplet_margin 50 --adversarial 1 --losses_others iou=1 "
    "--label_smoothing --trainset SAMPLE-CO-TR --batch_size 6"
)
CASES = {
    "dense": ("dense", "--losses_dense bce=1+balanced_bce=1+iou=1+ssim=1+mse=1 --batch_size 5"),
    "points": ("points", "--losses_points bce=1+iou=1+coherence=1+consistency=1+reg=1"),
    "taught": ("points", "--losses_others iou=1 --accumulate 2 --batch_size 9"),
    "parts": ("dense", "--accumulate 2 --batch_size 9"),
    "grouped": ("dense", GROUPED),
}
"""Arm and further flags of each training; the batches cannot be halved."""


class Precise(Machine):
    """A machine that computes in double precision: single steps of small nets are chaotic."""

    def autocast(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.double() / 255


def take_steps(arm: str, flags: list[str]) -> dict[str, list[float]]:
    """Return losses and gradients of the first steps of a training, and its validation error."""
    trainer = train.Trainer(settings.parse(flags, "")[0], arm, 0)
    trainer.machine = Precise(trainer.machine.device, torch.float64)
    trainer.model.double()
    if trainer.average:  # of one step there is none
        trainer.average.double()
    trainer.parallel = distributed.parallel(trainer.model) if distributed.world() > 1 else None
    trainer.optimizer = make_optimizer(trainer.model, trainer.config)
    if trainer.adversary:
        learn = trainer.adversary.learn  # in single precision: it is small enough
        trainer.adversary.learn = lambda logits, labels: learn(logits, labels.float())
    weighted = trainer._weighted
    trainer._weighted = lambda batch: weighted(batch).double()
    trainer.model.train()
    if trainer.config.accumulate > 1:  # batch norm would see other parts
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    if trainer.teacher:  # as if snapshots had been seen: some maps are cut, the others grey
        trainer.teacher.seen = ["none"]
        if trainer.config.trial == "taught":
            trainer.teacher.own = None
        random, maps = torch.Generator().manual_seed(1), trainer.teacher.maps
        maps.copy_(torch.randint(256, maps.shape, generator=random, dtype=torch.uint8))
        trainer.teacher.trusted = torch.arange(len(maps)) % 3 == 0
    steps = []
    coming = zip(trainer.sampler.to_come(), trainer.loader, strict=True)
    for keys, batch in islice(coming, 2):
        total, parts = trainer.step(trainer._placed(batch, keys))
        losses = [float(distributed.all_reduce_sum(value)) for value in (total, *parts.values())]
        gradients = [float(p.grad.norm()) for p in trainer.model.parameters()]
        kept = (*trainer.model.buffers(), *trainer.kept.state_dict().values())
        buffers = [float(tensor.double().sum()) for tensor in kept]
        steps.append({"losses": losses, "gradients": gradients, "buffers": buffers})
    return {"steps": steps, "names": list(parts)}


def steps(flags: list[str]) -> dict[str, object]:
    """Take some steps of every case."""
    found = {}
    for name, (arm, more) in CASES.items():
        case = [*flags, *more.split(), "--trial", name]
        if arm == "points":
            asking.main(case)
        distributed.barrier()
        found[name] = take_steps(arm, case)
    return found


def stages(flags: list[str]) -> dict[str, object]:
    """Ask, train and test; say what the teacher and the validation found before."""
    asking.main([*flags, "--round", "1"])
    trainer = train.Trainer(settings.parse(flags, "")[0], "points", 1)
    trainer.teacher.look(0, trainer.machine)
    labels = (trainer.teacher.maps, trainer.teacher.trusted)
    maps = hashlib.sha256(b"".join(part.numpy().tobytes() for part in labels)).hexdigest()
    error = list(trainer.validation.error(trainer.kept, trainer.machine))
    testing.main(flags)
    train.main([*flags, "--round", "1"])
    return {"teacher": maps, "error": error}


def all_of_it(flags: list[str]) -> dict[str, object]:
    """Do `steps`, then `stages`."""
    return {**steps([*flags, "--epochs", "1", "--snapshots", "1"]), "stages": stages(flags)}


class Told:
    """Tells on standard error that it is let go of."""

    def __del__(self) -> None:
        os.write(2, b"the interpreter was taken down")


def failing(flags: list[str]) -> dict[str, object]:
    """Fail in the last process, while the others wait for it."""
    distributed.kept_to_the_end = Told()
    atexit.register(os.write, 2, b"at exit\n")
    if distributed.rank() == distributed.world() - 1:
        raise UserError("the last process has failed: mend it")
    distributed.barrier()
    return {}


TASKS: dict[str, Callable[[list[str]], dict[str, object]]] = {
    "all_of_it": all_of_it,
    "failing": failing,
}


def main() -> int:
    torch.set_num_threads(1)
    out, task, *flags = sys.argv[1:]
    found = TASKS[task](flags)
    if distributed.is_main():
        Path(out).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    run_stage(main)
