"""One step of a training: at which rates, on which views, and how its gradients are clipped."""

from __future__ import annotations

import pytest
import torch

import active_learning.__main__ as asking
import train
from tests.small_trials import NO_PSEUDO, config_of
from utils.schedule import cyclic_cosine


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_parameters_learn_at_the_rates_of_the_settings(tiny: list[str], kind: str) -> None:
    flags = [*tiny, "--optimizer", kind, "--lr", "0.02", "--backbone_lr", "0.3"]
    trainer = train.Trainer(config_of([*flags, "--weight_decay", "0.07"]), "dense", 0)
    optimizer, steps = trainer.optimizer, 2 * len(trainer.sampler)
    assert type(optimizer) is {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[kind]
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert list(groups) == ["encoder/weights", "encoder/scales", "rest/weights", "rest/scales"]
    for step in (0, 1, steps // 2, steps - 1):
        trainer._set_rates(step)
        factor = cyclic_cosine(step, steps, [steps])
        assert 0 < factor <= 1
        for name, group in groups.items():
            peak = 0.02 * (0.3 if name.startswith("encoder") else 1)
            assert group["lr"] == pytest.approx(peak * factor)
    assert [group["weight_decay"] for group in groups.values()] == [0.07, 0, 0.07, 0]
    if kind == "sgd":
        assert all(group["momentum"] == 0.9 and group["nesterov"] for group in groups.values())


def test_the_second_view_is_smaller(tiny: list[str]) -> None:
    flags = [*tiny, "--size", "96", "--losses_points", "bce=1+consistency=1", *NO_PSEUDO]
    asking.main(flags)
    sides = []
    trainer = train.Trainer(config_of([*flags, "--small_scale", "0.5"]), "points", 0)
    trainer.model.register_forward_hook(lambda _, given, __: sides.append(given[0].shape[2:]))
    trainer.step(next(iter(trainer.loader)))
    assert sides == [(96, 96), (48, 48)]


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_gradients_are_clipped_as_they_are_without_the_scale_of_the_loss(
    tiny: list[str], scale: float
) -> None:
    found = {}
    for clip in (0, 1e-3):
        trainer = train.Trainer(config_of([*tiny, "--clip", str(clip)]), "dense", 0)
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainer.step(next(iter(trainer.loader)))
        grads = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
        found[clip] = float(torch.cat(grads).norm())
    assert found[0] > 0.01
    assert found[1e-3] == pytest.approx(1e-3, rel=1e-3)
