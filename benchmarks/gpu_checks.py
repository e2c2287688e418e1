"""Are the numbers of a GPU those of a CPU? In single and half precision, compiled, and resumed.

    python benchmarks/gpu_checks.py [--backbone NAME] [--size 128] [--device cuda] [--out F]

One small batch of made-up images, the same initial weights everywhere. Nothing here fails: the
differences are printed, to be judged by whoever reads them.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.network import DatalessTrainer, Variant
from config import Config
from utils.cli import Parser
from utils.device import Machine, choose_machine
from utils.errors import run_script
from utils.files import write_json
from utils.seeding import seed_everything
from utils.tables import text_table

STEPS = 6
"""Steps of the trainings that are compared."""


def trainer_on(config: Config, machine: Machine) -> DatalessTrainer:
    """Return a trainer whose initial weights are the same on every machine.

    Its batch norms know the made-up images: with those of a network that has seen none the deep
    layers of an untrained encoder say next to nothing, and no fault of theirs would be seen.
    """
    seed_everything(0)
    trainer = DatalessTrainer(Variant("check", config, "none", machine))
    norms = [m for m in trainer.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    trainer.model.eval()
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad(), trainer.machine.autocast():
        trainer.model(trainer.images)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return trainer


@torch.no_grad()
def maps_of(trainer: DatalessTrainer) -> torch.Tensor:
    """Return the maps of the made-up images, on the CPU."""
    trainer.model.eval()
    with trainer.machine.autocast():
        return trainer.model(trainer.images).logits.float().sigmoid().cpu()


def losses_of(trainer: DatalessTrainer, steps: int) -> list[float]:
    """Train some steps; return the loss before each."""
    trainer.model.train()
    return [float(trainer.step(trainer.batch)[0]) for _ in range(steps)]


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest absolute difference."""
    return float((one - other).abs().max())


def state_of(trainer: DatalessTrainer) -> dict[str, Any]:
    """Return copies of the weights and of the optimiser's state."""
    return copy.deepcopy(
        {"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    )


def resumed(config: Config, machine: Machine) -> float:
    """Return how far weights are apart that were trained in one go, and with a new start."""
    whole, parted = trainer_on(config, machine), trainer_on(config, machine)
    losses_of(whole, STEPS)
    losses_of(parted, STEPS // 2)
    state, fresh = state_of(parted), trainer_on(config, machine)
    fresh.model.load_state_dict(state["model"])
    fresh.optimizer.load_state_dict(state["optimizer"])
    losses_of(fresh, STEPS - STEPS // 2)
    pairs = zip(whole.model.parameters(), fresh.model.parameters(), strict=True)
    return max(largest(a.detach(), b.detach()) for a, b in pairs)


def compiled(config: Config, machine: Machine) -> float:
    """Return how far the maps of a compiled network are from those of the plain one."""
    seed_everything(0)
    made = DatalessTrainer(Variant("check", config, "none", machine, compiled=True))
    plain = trainer_on(config, machine)
    for mine, theirs in zip(made.model.buffers(), plain.model.buffers(), strict=True):
        mine.copy_(theirs)
    return largest(maps_of(made), maps_of(plain))


def check_all(config: Config, machine: Machine) -> Iterator[dict[str, Any]]:
    """Yield every check's name, number and text."""
    cpu = Machine(torch.device("cpu"), torch.float32)
    single = replace(machine, dtype=torch.float32)
    half = replace(machine, dtype=torch.bfloat16)

    def noted(check: str, value: float, told: str) -> dict[str, Any]:
        return {"check": check, "value": value, "told": f"{value:.2e} {told}"}

    reference = maps_of(trainer_on(config, cpu))
    first = losses_of(trainer_on(config, cpu), STEPS)
    cudnn = torch.backends.cudnn
    for name, tf32 in (("fp32", False), ("fp32 as it is run (TF32)", cudnn.allow_tf32)):
        told = f"{name}, {machine.device.type} and cpu"
        with cudnn.flags(enabled=True, allow_tf32=tf32):
            maps = maps_of(trainer_on(config, single))
            losses = losses_of(trainer_on(config, single), STEPS)
        yield noted(f"maps, {told}", largest(maps, reference), "at most, of 1")
        apart = max(abs(a - b) / abs(b) for a, b in zip(losses, first, strict=True))
        yield noted(f"losses of {STEPS} steps, {told}", apart, "at most, relative")
    apart = largest(maps_of(trainer_on(config, half)), reference)
    yield noted("maps, bf16 and fp32", apart, "of 1")
    losses = losses_of(trainer_on(config, half), STEPS)
    apart = abs(losses[-1] - first[-1]) / abs(first[-1])
    yield noted(f"loss after {STEPS} steps, bf16 and fp32", apart, "relative")
    yield noted("weights, trained in one go and resumed", resumed(config, single), "at most")
    if machine.device.type == "cuda":
        yield noted("maps, compiled and not", compiled(config, single), "at most, of 1")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the differences; see the module's text."""
    parser = Parser(description=__doc__)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    args = parser.parse(argv)
    machine = choose_machine(args.device, "fp32")
    config = Config(
        backbone=args.backbone,
        backbone_weights="none",
        size=args.size,
        width=args.width,
        batch_size=4,
    )
    found = []
    for one in check_all(config, machine):
        found.append(one)
        if args.out:  # as soon as it is known: whoever has no more time has these
            write_json(args.out, {"device": str(machine.device), "checks": found})
    print(text_table(["check", "difference"], [[one["check"], one["told"]] for one in found]))
    return 0


if __name__ == "__main__":
    run_script(main)
