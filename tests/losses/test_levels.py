from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from losses import Supervision, level_loss, total_loss
from losses.levels import at_label_size
from utils.errors import UserError

WEIGHTS = {"bce": 2.0, "iou": 0.5, "coherence": 0.3}


def make_case(size: tuple[int, int] = (12, 16)) -> Supervision:
    generator = torch.Generator().manual_seed(3)
    labels = (torch.rand(2, 2, *size, generator=generator) > 0.9).float()
    return Supervision(labels, torch.rand(2, 3, *size, generator=generator))


def test_one_whole_level_is_the_total_loss() -> None:
    supervision = make_case()
    logits = torch.randn(2, 1, 12, 16)
    assert level_loss([logits], supervision, WEIGHTS) == total_loss(logits, supervision, WEIGHTS)


def test_levels_are_resized_and_averaged() -> None:
    supervision = make_case()
    shapes = ((2, 3), (6, 8), (12, 16))
    levels = [torch.randn(2, 1, *shape, requires_grad=True) for shape in shapes]
    total, values = level_loss(levels, supervision, WEIGHTS)
    large = [F.interpolate(x, size=(12, 16), mode="bilinear", align_corners=False) for x in levels]
    expected = [total_loss(x, supervision, WEIGHTS) for x in large]
    torch.testing.assert_close(total, sum(x for x, _ in expected) / 3)
    assert list(values) == list(WEIGHTS)
    for name, value in values.items():
        torch.testing.assert_close(value, sum(parts[name] for _, parts in expected) / 3)
        assert not value.requires_grad
    for gradient in torch.autograd.grad(total, levels):
        assert gradient.isfinite().all()
        assert gradient.count_nonzero() > 0


def test_a_point_teaches_the_coarse_cells_around_it() -> None:
    labels = torch.zeros(1, 2, 8, 8)
    labels[0, 1, 0, 0] = 1
    level = torch.zeros(1, 1, 2, 2, requires_grad=True)
    total, _ = level_loss([level], Supervision(labels, torch.zeros(1, 3, 8, 8)), {"bce": 1.0})
    (gradient,) = torch.autograd.grad(total, level)
    # The corner pixel lies beyond the centre of the corner cell, which alone decides it.
    torch.testing.assert_close(gradient, torch.tensor([[[[-0.5, 0.0], [0.0, 0.0]]]]))


def test_half_precision_levels_are_resized_in_float32() -> None:
    supervision = make_case()
    level = torch.randn(2, 1, 3, 4).bfloat16()
    found = at_label_size(level, supervision)
    assert found.dtype == torch.float32
    assert torch.equal(found, at_label_size(level.float(), supervision))


def test_faults_are_told_as_by_the_total() -> None:
    with pytest.raises(UserError, match="unknown loss"):
        level_loss([torch.zeros(2, 1, 12, 16)], make_case(), {"nonsense": 1.0})
    with pytest.raises(UserError, match="no loss to train with"):
        level_loss([torch.zeros(2, 1, 12, 16)], make_case(), {})
