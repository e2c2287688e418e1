"""What a training learns from, once there are pseudo labels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import active_learning.__main__ as asking
import train
from datasets.training import Batch
from losses.objective import Objective
from losses.supervision import Supervision
from tests.small_trials import flag


def test_points_have_losses_of_their_own_but_in_a_last_training(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the teacher alone labels, every pixel once, in all losses."""
    found: dict[tuple[int, int], set[frozenset]] = {}
    everywhere: dict[tuple[int, int], set[bool]] = {}

    def watched_step(self: train.Trainer, batch: Batch) -> tuple:
        nonlocal at
        at = self.round, self.epoch
        total, parts = step(self, batch)
        weights = {f"pseudo/{name}": w for name, w in self.config.losses_pseudo.items()}
        weights |= self.config.losses_points | {"others/mse": 1.0}
        expected = sum(weights[name] * float(value) for name, value in parts.items())
        assert float(total) == pytest.approx(expected, rel=1e-5)
        found.setdefault(at, set()).add(frozenset(parts))
        return total, parts

    def watched_losses(self: Objective, outputs: object, supervision: Supervision, *more) -> tuple:
        covered = bool((supervision.labels.sum(1) == 1).all())
        everywhere.setdefault(at, set()).add(covered)
        return call(self, outputs, supervision, *more)

    at, step, call = (0, 0), train.Trainer.step, Objective.__call__
    monkeypatch.setattr(train.Trainer, "step", watched_step)
    monkeypatch.setattr(Objective, "__call__", watched_losses)
    flags = [*tiny, "--losses_points", "bce=2", "--losses_pseudo", "bce=3+iou=0.5"]
    flags = flag([*flags, "--losses_others", "mse=1"], "retrain", 1)
    for index in range(3):
        asking.main(flag(flags, "round", index))
        train.main(flag(flags, "round", index))
    points, taught, others = {"bce"}, {"pseudo/bce", "pseudo/iou"}, {"others/mse"}
    expected = {(0, 0): points, (0, 1): points | taught, (1, 0): points | taught}
    expected |= {(1, 1): points | taught, (2, 0): taught, (2, 1): taught}
    assert found == {key: {frozenset(names | others)} for key, names in expected.items()}
    assert everywhere == {key: {names == taught} for key, names in expected.items()}


def test_each_image_is_trusted_for_itself() -> None:
    """By its place in the set, not in the batch."""
    teacher = SimpleNamespace(trusted=torch.tensor([False, True, False, True, True]))
    learner = SimpleNamespace(machine=SimpleNamespace(device="cpu"), teacher=teacher)
    order = torch.tensor([3, 0, 2])
    nothing, grey = torch.zeros(3, 2, 4, 4), torch.full((3, 4, 4), 153, dtype=torch.uint8)
    batch = Batch(torch.empty(0), nothing, order, order, pseudo=grey)
    found = train.Learner._guessed(learner, batch, nothing)
    assert found[:, 1].amax((1, 2)).tolist() == pytest.approx([1, 0.6, 0.6])
    assert found[:, 1].amin((1, 2)).tolist() == pytest.approx([1, 0.6, 0.6])
