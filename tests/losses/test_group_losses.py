from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from losses import Supervision
from losses.groups import (
    adversarial_discriminator,
    adversarial_generator,
    classification,
    contrast,
    triplet,
)


def dense(mask: torch.Tensor) -> Supervision:
    return Supervision(torch.cat((1 - mask, mask), 1), torch.zeros(len(mask), 3, *mask.shape[2:]))


def points(*answers: tuple[int, int, int]) -> Supervision:
    """Return supervision from (row, column, label) answers on an 8 x 8 image."""
    labels = torch.zeros(1, 2, 8, 8)
    for row, column, label in answers:
        labels[0, label, row, column] += 1
    return Supervision(labels, torch.zeros(1, 3, 8, 8))


def focal(logit: float, label: int) -> float:
    right = 1 / (1 + math.exp(-logit if label else logit))
    return -((1 - right) ** 2) * math.log(right)


def reference_triplet(pooled: torch.Tensor, groups: tuple[int, ...], margin: float) -> float:
    """Return the loss by loops over triplets, in plain numbers."""
    starts = [sum(groups[:index]) for index in range(len(groups))]
    rows = pooled.tolist()
    total = 0.0
    for index, size in enumerate(groups):
        following = (index + 1) % len(groups)
        costs = []
        for k in range(size // 2):
            anchor = rows[starts[index] + k]
            positive = rows[starts[index] + size - size // 2 + k]
            negative = rows[starts[following] + k % groups[following]]
            near, far = math.dist(anchor, positive), math.dist(anchor, negative)
            costs.append(max(0.0, near - far + margin))
        if costs and len(groups) > 1:
            total += sum(costs) / len(costs)
    return total


# Contrast


def test_contrast_of_a_mask_is_the_mean_focal_loss_of_both_predictions() -> None:
    torch.manual_seed(0)
    mask = (torch.rand(3, 1, 5, 6) > 0.6).float()
    own, cross = 2 * torch.randn(3, 1, 5, 6), 2 * torch.randn(3, 1, 5, 6)
    answers = [
        *zip(own.flatten().tolist(), mask.flatten().tolist(), strict=True),
        *((logit, 0) for logit in cross.flatten().tolist()),
    ]
    expected = sum(focal(logit, int(label)) for logit, label in answers) / len(answers)
    assert contrast(own, cross, dense(mask)).item() == pytest.approx(expected, rel=1e-5)


def test_contrast_averages_own_over_answers_and_cross_over_pixels() -> None:
    own, cross = torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), -2.0)
    own[0, 0, 2, 5], own[0, 0, 0, 0], cross[0, 0, 7, 7] = 1.5, -0.5, 3.0
    supervision = points((2, 5, 1), (2, 5, 1), (2, 5, 0), (0, 0, 0))
    own_part = (2 * focal(1.5, 1) + focal(1.5, 0) + focal(-0.5, 0)) / 4
    cross_part = (63 * focal(-2, 0) + focal(3, 0)) / 64
    found = contrast(own, cross, supervision).item()
    assert found == pytest.approx((own_part + cross_part) / 2, rel=1e-5)


def test_contrast_learns_own_at_labels_and_cross_everywhere() -> None:
    own = torch.zeros(1, 1, 8, 8, requires_grad=True)
    cross = torch.zeros(1, 1, 8, 8, requires_grad=True)
    loss = contrast(own, cross, points((3, 4, 1), (7, 7, 0)))
    own_gradient, cross_gradient = torch.autograd.grad(loss, (own, cross))
    assert own_gradient.nonzero().tolist() == [[0, 0, 3, 4], [0, 0, 7, 7]]
    assert own_gradient[0, 0, 3, 4] < 0 < own_gradient[0, 0, 7, 7]
    assert (cross_gradient > 0).all()
    # d/dx of p^2 softplus(x) at x = 0 is 2 p^2 (1 - p) ln 2 + p^3 = (2 ln 2 + 1) / 8.
    expected = (2 * math.log(2) + 1) / 8 / 2 / 64
    torch.testing.assert_close(cross_gradient, torch.full_like(cross, expected))


def test_contrast_without_labels_still_learns_the_cross_part() -> None:
    own = torch.full((1, 1, 8, 8), 3.0, requires_grad=True)
    cross = torch.full((1, 1, 8, 8), 3.0, requires_grad=True)
    loss = contrast(own, cross, points())
    own_gradient, cross_gradient = torch.autograd.grad(loss, (own, cross))
    assert loss.item() == pytest.approx(focal(3, 0) / 2, rel=1e-5)
    assert own_gradient.count_nonzero() == 0
    assert (cross_gradient > 0).all()


def test_contrast_resizes_to_the_labels() -> None:
    own, cross = torch.randn(1, 1, 2, 3), torch.randn(1, 1, 4, 2)
    supervision = points((0, 0, 1), (7, 3, 0), (4, 4, 1))
    large = [F.interpolate(x, size=(8, 8), mode="bilinear") for x in (own, cross)]
    found = contrast(own, cross, supervision)
    torch.testing.assert_close(found, contrast(*large, supervision))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_contrast_of_extreme_logits_is_finite(size: float) -> None:
    own = torch.full((1, 1, 8, 8), size, requires_grad=True)
    cross = torch.full((1, 1, 8, 8), -size, requires_grad=True)
    loss = contrast(own, cross, points((0, 0, 1), (1, 1, 0)))
    # Of the two answers one is wrong by 1e4; the cross part is all wrong or all right.
    assert loss.item() == pytest.approx((1e4 / 2 + max(-size, 0)) / 2)
    for gradient in torch.autograd.grad(loss, (own, cross)):
        assert gradient.isfinite().all()


def test_contrast_is_computed_in_float32() -> None:
    own, cross = torch.randn(1, 1, 4, 4).bfloat16(), torch.randn(1, 1, 4, 4).bfloat16()
    supervision = points((0, 0, 1), (1, 1, 0))
    with torch.autocast("cpu", torch.bfloat16):
        found = contrast(own, cross, supervision)
    assert found.dtype == torch.float32
    assert found == contrast(own.float(), cross.float(), supervision)


# Triplets


def test_known_triplets() -> None:
    # Group A: anchor at 0, positive at 3. Group B: anchor at 4, positive at 4.5.
    pooled = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [0.0, 4.5]])
    assert triplet(pooled, (2, 2), margin=0.1).item() == pytest.approx(0, abs=1e-5)
    # A: 3 - 4 + 2 = 1. B: 0.5 - 4 + 2 < 0.
    assert triplet(pooled, (2, 2), margin=2.0).item() == pytest.approx(1, abs=1e-5)
    # A: 3 - 4 + 5 = 4. B: 0.5 - 4 + 5 = 1.5.
    assert triplet(pooled, (2, 2), margin=5.0).item() == pytest.approx(5.5, abs=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    groups=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    seed=st.integers(0, 2**31),
    margin=st.floats(0.01, 3),
)
def test_triplets_are_those_of_the_loops(groups: list[int], seed: int, margin: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(sum(groups), 5, generator=generator, dtype=torch.float64)
    found = triplet(pooled, groups, margin).item()
    assert found == pytest.approx(reference_triplet(pooled, tuple(groups), margin), abs=1e-4)


def test_groups_without_positives_or_negatives_add_nothing() -> None:
    pooled = torch.randn(4, 6, requires_grad=True)
    for groups in ((4,), (1, 1, 1, 1)):
        loss = triplet(pooled, groups, margin=9.0)
        (gradient,) = torch.autograd.grad(loss, pooled)
        assert loss == 0
        assert gradient.count_nonzero() == 0
    # The lone image is the negative of the three others, and no anchor; the middle one rests.
    (gradient,) = torch.autograd.grad(triplet(pooled, (3, 1), margin=9.0), pooled)
    assert gradient.abs().sum(dim=1).gt(0).tolist() == [True, False, True, True]


def test_equal_features_have_a_finite_gradient() -> None:
    for value in (0.0, 1e4):
        pooled = torch.full((6, 4), value, requires_grad=True)
        loss = triplet(pooled, (4, 2))
        (gradient,) = torch.autograd.grad(loss, pooled)
        assert loss.item() == pytest.approx(0.2, abs=1e-6)
        assert gradient.isfinite().all()


def test_triplets_pull_positives_and_push_negatives() -> None:
    torch.manual_seed(0)
    pooled = torch.randn(8, 3).requires_grad_()
    for _ in range(300):
        loss = triplet(pooled, (4, 4), margin=2.0)
        (gradient,) = torch.autograd.grad(loss, pooled)
        pooled = (pooled - 0.1 * gradient).detach().requires_grad_()
    assert triplet(pooled, (4, 4), margin=2.0) < 0.05
    half = pooled[:4].detach(), pooled[4:].detach()
    assert (half[0][:2] - half[0][2:]).norm(dim=1).max() < (half[0][:2] - half[1][:2]).norm(
        dim=1
    ).min()


def test_triplets_are_computed_in_float32() -> None:
    pooled = torch.randn(6, 8).half()
    found = triplet(pooled, (2, 4), margin=4.0)
    assert found.dtype == torch.float32
    assert found == triplet(pooled.float(), (2, 4), margin=4.0)


# Classes and adversary


def test_classification_of_known_logits() -> None:
    logits = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)], [0.0, 0.0]])
    expected = (-math.log(0.75) - math.log(0.25) + math.log(2)) / 3
    found = classification(logits, torch.tensor([0, 0, 1]))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    rough = classification(torch.full((2, 4), -1e4).bfloat16(), torch.tensor([1, 3]))
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(math.log(4))


def test_adversaries_are_cross_entropies() -> None:
    torch.manual_seed(0)
    real, fake = 3 * torch.randn(5, 1), 3 * torch.randn(3, 1)
    bce = F.binary_cross_entropy_with_logits
    told = (bce(real, torch.ones(5, 1)) + bce(fake, torch.zeros(3, 1))) / 2
    torch.testing.assert_close(adversarial_discriminator(real, fake), told)
    torch.testing.assert_close(adversarial_generator(fake), bce(fake, torch.ones(3, 1)))


def test_adversaries_of_extreme_logits() -> None:
    sure = torch.full((2, 1), -1e4, requires_grad=True)
    loss = adversarial_generator(sure)
    (gradient,) = torch.autograd.grad(loss, sure)
    assert loss == 1e4
    torch.testing.assert_close(gradient, torch.full((2, 1), -0.5))  # it teaches while it fails
    assert adversarial_discriminator(-sure, sure) == 0
    assert adversarial_discriminator(sure, -sure) == 1e4
    rough = torch.zeros(2, 1).bfloat16()
    for loss in (adversarial_generator(rough), adversarial_discriminator(rough, rough)):
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(math.log(2))
