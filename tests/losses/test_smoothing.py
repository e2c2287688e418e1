from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losses import Supervision
from losses.cross_entropy import bce
from losses.smoothing import smooth_labels


def dense(mask: torch.Tensor) -> torch.Tensor:
    return torch.cat((1 - mask, mask), 1)


def test_a_mask_becomes_the_published_one() -> None:
    torch.manual_seed(0)
    mask = torch.rand(3, 1, 6, 5).round(decimals=1)
    found = smooth_labels(dense(mask), epsilon=0.2)
    torch.testing.assert_close(found[:, 1:], 0.8 * mask + 0.1)
    torch.testing.assert_close(found[:, :1], 0.8 * (1 - mask) + 0.1)


def test_images_are_told_apart() -> None:
    labels = torch.zeros(5, 2, 4, 4)
    labels[0, 0], labels[0, 1, 1] = 1, 1  # two answers to a pixel, of both classes
    labels[1] = labels[0]
    labels[1, :, 3, 3] = 0  # one pixel is unlabelled
    labels[2, 1, 0, 0], labels[2, 0, 3, 3] = 1, 1  # points
    labels[3, 0] = 1  # nothing but background
    labels[4, 1] = 1  # nothing but foreground
    found = smooth_labels(labels, epsilon=0.5)
    assert torch.equal(found[1:], labels[1:])
    assert found[0, :, 0, 0].tolist() == [0.75, 0.25]
    assert found[0, :, 1, 0].tolist() == [1.0, 1.0]


def test_cross_entropy_is_that_of_half_as_sure_labels() -> None:
    # With logits of +-x on the right side, smoothing adds epsilon / 2 times x in all.
    mask = (torch.rand(2, 1, 8, 8) > 0.5).float()
    logits, image = 6 * (2 * mask - 1), torch.zeros(2, 3, 8, 8)
    hard = bce(logits, Supervision(dense(mask), image))
    soft = bce(logits, Supervision(smooth_labels(dense(mask), 0.1), image))
    assert (soft - hard).item() == pytest.approx(0.05 * 6, rel=1e-5)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), epsilon=st.floats(0, 1), share=st.floats(0, 1))
def test_no_answer_is_made_or_lost(seed: int, epsilon: float, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.rand(3, 2, 3, 3, generator=generator)
    labels *= (torch.rand(3, 1, 3, 3, generator=generator) <= share).float()
    before = labels.clone()
    found = smooth_labels(labels, epsilon)
    assert torch.equal(labels, before)
    assert found.dtype == labels.dtype
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(dim=1), labels.sum(dim=1))
