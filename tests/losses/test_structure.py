from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from losses import Supervision
from losses.structure import CONSISTENCY_WINDOW, SSIM_WINDOW, consistency, ssim, ssim_map


def gaussian() -> np.ndarray:
    places = np.arange(11) - 5
    weights = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    return weights / weights.sum()


def slow_ssim(a: np.ndarray, b: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Wang et al. 2004, equation 13, window by window, with centred moments."""
    side = len(window)
    out = np.zeros((a.shape[0] - side + 1, a.shape[1] - side + 1))
    for y, x in np.ndindex(*out.shape):
        one, two = a[y : y + side, x : x + side], b[y : y + side, x : x + side]
        m1, m2 = (window * one).sum(), (window * two).sum()
        v1, v2 = (window * (one - m1) ** 2).sum(), (window * (two - m2) ** 2).sum()
        cov = (window * (one - m1) * (two - m2)).sum()
        c1, c2 = 0.01**2, 0.03**2
        out[y, x] = (2 * m1 * m2 + c1) * (2 * cov + c2) / ((m1**2 + m2**2 + c1) * (v1 + v2 + c2))
    return out


@pytest.mark.parametrize(
    ("window", "full"), [(SSIM_WINDOW, gaussian()), (CONSISTENCY_WINDOW, np.full((3, 3), 1 / 9))]
)
def test_ssim_map_equals_the_plain_loop(window: tuple[float, ...], full: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((15, 13)), (rng.random((15, 13)) > 0.5).astype(float)
    found = ssim_map(torch.tensor(a)[None, None], torch.tensor(b)[None, None], window)
    np.testing.assert_allclose(found[0, 0].numpy(), slow_ssim(a, b, full), atol=1e-12)
    single = ssim_map(*(torch.tensor(x)[None, None].float() for x in (a, b)), window)
    np.testing.assert_allclose(single[0, 0].numpy(), slow_ssim(a, b, full), atol=1e-4)


def test_constant_maps_have_the_likeness_of_their_means() -> None:
    # Without variance only the first factor is left.
    found = ssim_map(torch.full((1, 1, 11, 11), 0.2), torch.full((1, 1, 11, 11), 0.6), SSIM_WINDOW)
    assert found.item() == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), abs=1e-4)


def test_ssim_counts_only_fully_labelled_windows() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(1, 1, 20, 30), (torch.rand(1, 1, 20, 30) > 0.5).float()
    labels = torch.cat((1 - mask, mask), 1)
    image = torch.zeros(1, 3, 20, 30)
    labels[..., 14:] = 0  # windows of columns 0..10 to 3..13 are whole
    found = ssim(logits, Supervision(labels, image))
    expected = 1 - ssim_map(logits.sigmoid()[..., :14], mask[..., :14], SSIM_WINDOW).mean()
    torch.testing.assert_close(found, expected)
    labels[..., 10, 7] = 0  # this pixel lies in every one of them with rows 0..10 to 9..19
    assert ssim(logits, Supervision(labels, image)) == 0


def test_ssim_makes_up_no_label_from_points() -> None:
    labels = torch.zeros(1, 2, 32, 32)
    labels[0, 1, 5, 5], labels[0, 0, 20, 20] = 1, 1
    logits = torch.randn(1, 1, 32, 32, requires_grad=True)
    loss = ssim(logits, Supervision(labels, torch.zeros(1, 3, 32, 32)))
    loss.backward()
    assert loss == 0
    assert logits.grad.count_nonzero() == 0


def test_consistency_of_known_constant_maps() -> None:
    a, b = 0.25, 0.75
    logits = torch.full((1, 1, 16, 16), math.log(a / (1 - a)))
    small = torch.full((1, 1, 8, 8), math.log(b / (1 - b)))
    likeness = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    supervision = Supervision(torch.zeros(1, 2, 16, 16), torch.zeros(1, 3, 16, 16), small)
    expected = 0.85 * (1 - likeness) / 2 + 0.15 * (b - a)
    assert consistency(logits, supervision).item() == pytest.approx(expected, abs=1e-4)
    only_l1 = consistency(logits, supervision, alpha=0.0)
    assert only_l1.item() == pytest.approx(b - a, abs=1e-6)


def test_consistent_maps_cost_nothing() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 16, 20)
    labels, image = torch.zeros(2, 2, 16, 20), torch.zeros(2, 3, 16, 20)
    small = F.avg_pool2d(logits.sigmoid(), 2).logit()
    assert consistency(logits, Supervision(labels, image, small)).item() == pytest.approx(
        0, abs=1e-5
    )
    assert consistency(logits, Supervision(labels, image, -small)) > 0.01


def test_consistency_teaches_both_maps() -> None:
    logits = torch.randn(1, 1, 16, 16, requires_grad=True)
    small = torch.randn(1, 1, 8, 8, requires_grad=True)
    labels, image = torch.zeros(1, 2, 16, 16), torch.zeros(1, 3, 16, 16)
    consistency(logits, Supervision(labels, image, small)).backward()
    assert logits.grad.count_nonzero() == logits.numel()
    assert small.grad.count_nonzero() == small.numel()


def test_without_a_small_map_consistency_is_zero() -> None:
    logits = torch.randn(1, 1, 16, 16, requires_grad=True)
    loss = consistency(logits, Supervision(torch.zeros(1, 2, 16, 16), torch.zeros(1, 3, 16, 16)))
    loss.backward()
    assert loss == 0
    assert logits.grad.count_nonzero() == 0
