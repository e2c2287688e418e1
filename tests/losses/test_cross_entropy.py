from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from losses import Supervision
from losses.cross_entropy import balanced_bce, bce

IMAGE = torch.zeros(1, 3, 8, 8)


def points(*answers: tuple[int, int, int]) -> Supervision:
    """Return supervision from (row, column, label) answers on an 8 x 8 image."""
    labels = torch.zeros(1, 2, 8, 8)
    for row, column, label in answers:
        labels[0, label, row, column] += 1
    return Supervision(labels, IMAGE)


@pytest.mark.parametrize("loss", [bce, balanced_bce])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_zero_logits_give_ln_2_for_any_number_of_points(loss, count: int) -> None:
    supervision = points(*((i, i, i % 2) for i in range(count)))
    assert loss(torch.zeros(1, 1, 8, 8), supervision).item() == pytest.approx(math.log(2))


def test_dense_mask_is_torchs_own() -> None:
    torch.manual_seed(0)
    logits, mask = 5 * torch.randn(3, 1, 9, 7), torch.rand(3, 1, 9, 7)
    found = bce(logits, Supervision(torch.cat((1 - mask, mask), 1), torch.zeros(3, 3, 9, 7)))
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(logits, mask))


def test_every_answer_weighs_the_same() -> None:
    logits = torch.zeros(1, 1, 8, 8)
    logits[0, 0, 2, 5] = 1.5
    # Two say foreground and one background at one pixel, one says background elsewhere.
    supervision = points((2, 5, 1), (2, 5, 1), (2, 5, 0), (0, 0, 0))
    right, wrong = math.log1p(math.exp(-1.5)), math.log1p(math.exp(1.5))
    expected = (2 * right + wrong + math.log(2)) / 4
    assert bce(logits, supervision).item() == pytest.approx(expected, rel=1e-6)


def test_answers_are_averaged_over_the_batch_not_over_images() -> None:
    labels = torch.zeros(2, 2, 8, 8)
    labels[0, 0, 0, :3] = 1
    labels[1, 0, 0, 0] = 1
    logits = torch.zeros(2, 1, 8, 8)
    logits[1] = 4.0
    expected = (3 * math.log(2) + math.log1p(math.exp(4))) / 4
    found = bce(logits, Supervision(labels, torch.zeros(2, 3, 8, 8)))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_extreme_logits_cost_their_size() -> None:
    supervision = points((0, 0, 1))
    assert bce(torch.full((1, 1, 8, 8), -1e4), supervision) == 1e4
    assert bce(torch.full((1, 1, 8, 8), 1e4), supervision) == 0


def test_balanced_classes_weigh_one_half_each() -> None:
    logits = torch.zeros(1, 1, 8, 8)
    logits[0, 0, 0] = 2.0
    supervision = points((0, 0, 1), *((row, 3, 0) for row in range(1, 8)))
    expected = (math.log1p(math.exp(-2)) + math.log(2)) / 2
    assert balanced_bce(logits, supervision).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_balanced_with_one_class_is_its_mean(label: int) -> None:
    logits = torch.linspace(-2, 3, 64).view(1, 1, 8, 8)
    supervision = points((1, 1, label), (6, 2, label), (4, 4, label))
    torch.testing.assert_close(balanced_bce(logits, supervision), bce(logits, supervision))
