from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from losses import Supervision
from losses.distance import mse, reg


def dense(mask: torch.Tensor) -> Supervision:
    return Supervision(torch.cat((1 - mask, mask), 1), torch.zeros(len(mask), 3, *mask.shape[2:]))


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_mse_of_a_binary_mask_is_torchs_own() -> None:
    torch.manual_seed(0)
    logits, mask = 3 * torch.randn(3, 1, 9, 7), (torch.rand(3, 1, 9, 7) > 0.6).float()
    torch.testing.assert_close(mse(logits, dense(mask)), F.mse_loss(logits.sigmoid(), mask))


def test_mse_of_a_soft_mask_differs_by_a_constant() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(2, 1, 5, 6, requires_grad=True), torch.rand(2, 1, 5, 6)
    found, expected = mse(logits, dense(mask)), F.mse_loss(logits.sigmoid(), mask)
    torch.testing.assert_close(found, expected + (mask * (1 - mask)).mean())
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_mse_gives_every_answer_the_same_weight() -> None:
    labels = torch.zeros(2, 2, 4, 4)
    labels[0, 1, 1, 2], labels[0, 0, 1, 2], labels[1, 0, 3, 3] = 2, 1, 1
    logits = torch.full((2, 1, 4, 4), logit(0.9))
    logits[0, 0, 1, 2], logits[1, 0, 3, 3] = logit(0.7), logit(0.4)
    expected = (2 * 0.3**2 + 0.7**2 + 0.4**2) / 4
    found = mse(logits, Supervision(labels, torch.zeros(2, 3, 4, 4)))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_confident_foreground_still_learns() -> None:
    # At x = 18, 1 - p is 1.5e-8, which one minus a float32 sigmoid would round to zero.
    logits = torch.full((1, 1, 2, 2), 18.0, requires_grad=True)
    supervision = dense(torch.ones(1, 1, 2, 2))
    assert mse(logits, supervision).item() == pytest.approx(math.exp(-36), rel=1e-4, abs=0)
    (gradient,) = torch.autograd.grad(reg(logits, supervision), logits)
    assert gradient.sum().item() == pytest.approx(-2 * math.exp(-18), rel=1e-4)


@pytest.mark.parametrize("p", [0.5, 0.2, 0.8, 0.999])
def test_reg_is_the_published_formula(p: float) -> None:
    supervision = Supervision(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3))
    found = reg(torch.full((1, 1, 3, 3), logit(p)), supervision)
    assert found.item() == pytest.approx(1 - (p**2 + (1 - p) ** 2), rel=1e-3)


def test_reg_pushes_away_from_one_half_at_every_pixel() -> None:
    logits = torch.tensor([[-1.0, 0.5], [2.0, -0.1]]).view(1, 1, 2, 2).requires_grad_()
    supervision = Supervision(torch.zeros(1, 2, 2, 2), torch.zeros(1, 3, 2, 2))
    (gradient,) = torch.autograd.grad(reg(logits, supervision), logits)
    assert torch.equal(gradient.sign(), -logits.detach().sign())
