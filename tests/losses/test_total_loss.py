from __future__ import annotations

import math

import pytest
import torch

from losses import LOSSES, Supervision, total_loss
from utils.errors import UserError


def make_case() -> tuple[torch.Tensor, Supervision]:
    torch.manual_seed(0)
    mask = (torch.rand(2, 1, 16, 16) > 0.5).float()
    supervision = Supervision(
        torch.cat((1 - mask, mask), 1), torch.rand(2, 3, 16, 16), torch.randn(2, 1, 8, 8)
    )
    return torch.randn(2, 1, 16, 16, requires_grad=True), supervision


def test_total_is_the_weighted_sum_of_what_is_reported() -> None:
    logits, supervision = make_case()
    weights = {name: 0.5 + index for index, name in enumerate(LOSSES)}
    total, values = total_loss(logits, supervision, weights)
    assert list(values) == list(LOSSES)
    for name, value in values.items():
        assert value == LOSSES[name](logits, supervision)
        assert not value.requires_grad
        assert value.shape == ()
    torch.testing.assert_close(total, sum(weights[name] * values[name] for name in values))
    (gradient,) = torch.autograd.grad(total, logits)
    parts = [
        weight * torch.autograd.grad(LOSSES[name](logits, supervision), logits)[0]
        for name, weight in weights.items()
    ]
    torch.testing.assert_close(gradient, sum(parts))


def test_weight_zero_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(logits: torch.Tensor, supervision: Supervision) -> torch.Tensor:
        raise AssertionError

    monkeypatch.setitem(LOSSES, "ssim", fail)
    logits, supervision = make_case()
    _, values = total_loss(logits, supervision, {"ssim": 0.0, "bce": 2.0})
    assert list(values) == ["bce"]


def test_faulty_weights_are_told() -> None:
    logits, supervision = make_case()
    with pytest.raises(UserError, match=r"unknown loss 'coherance'; did you mean 'coherence'\?"):
        total_loss(logits, supervision, {"bce": 1.0, "coherance": 0.3})
    with pytest.raises(UserError, match="unknown loss"):
        total_loss(logits, supervision, {"bce": 1.0, "nonsense": 0.0})
    for weights in ({}, {"bce": 0.0}):
        with pytest.raises(UserError, match="no loss to train with"):
            total_loss(logits, supervision, weights)
    for weight in (-1.0, math.nan):
        with pytest.raises(UserError, match="loss weight bce="):
            total_loss(logits, supervision, {"bce": weight})
