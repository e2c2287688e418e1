"""Flags, settings and files of the small trials of `conftest.tiny`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import active_learning.__main__ as asking
import train
from active_learning.query import Pool
from active_learning.rounds import answer_round, choose_round
from config import Config
from utils import settings
from utils.checkpoints import load_checkpoint
from utils.run_folder import RunFolder
from utils.tables import read_rows

NO_PSEUDO = ["--losses_pseudo", ""]


def flag(flags: list[str], name: str, value: object) -> list[str]:
    """Return the flags with one more, or another value."""
    return [*flags, f"--{name}", str(value)]


def config_of(flags: list[str]) -> Config:
    """Return the settings, whatever a stage is told beside them."""

    def extend(parser: settings.Parser) -> None:
        parser.add_argument("--arm")
        parser.add_argument("--round")

    return settings.parse(flags, "", extend)[0]


def run_of(flags: list[str]) -> RunFolder:
    return RunFolder(config_of(flags).run_folder)


def ask_round(config: Config, arm: str, round_index: int) -> Path:
    """Choose the pixels of a round and have them answered at once; return the points file."""
    pool = Pool(config)
    choose_round(pool, arm, round_index)
    return answer_round(pool, arm, round_index)


def run_rounds(flags: list[str]) -> RunFolder:
    """Ask and train all rounds of the points arm."""
    for index in range(config_of(flags).round_count):
        asking.main(flag(flags, "round", index))
        train.main(flag(flags, "round", index))
    return run_of(flags)


def stop_within_the_second_epoch(patch: pytest.MonkeyPatch, member: int = 0) -> None:
    """Have the next training of a member interrupted one batch into its second epoch."""
    step, count = train.Trainer.step, 0

    def stops(self: train.Trainer, *args: object) -> tuple:
        nonlocal count
        count += self.member == member
        if count == len(self.sampler) + 2:
            raise KeyboardInterrupt
        return step(self, *args)

    patch.setattr(train.Trainer, "step", stops)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path)["model"]


def assert_same_training(one: Path, other: Path) -> None:
    """Two training folders hold the same losses and the same weights, bit for bit."""
    for kind in ("last", "best"):
        first, second = (weights(folder / "checkpoints" / f"{kind}.pth") for folder in (one, other))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    logs = [read_rows(folder / "log.csv", ("epoch", "loss")) for folder in (one, other)]
    for row in [row for log in logs for row in log]:
        row.pop("seconds")
    assert logs[0] == logs[1]
    assert len(logs[0]) == 2
