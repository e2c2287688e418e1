from __future__ import annotations

import pytest
import torch

from losses import Supervision
from losses.region import iou


def dense(mask: torch.Tensor) -> Supervision:
    return Supervision(torch.cat((1 - mask, mask), 1), torch.zeros(len(mask), 3, *mask.shape[2:]))


def test_known_overlap() -> None:
    # Saliency one on two of four foreground pixels and on two background ones: I = 2, U = 6.
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 0, :] = 1
    logits = torch.full((1, 1, 4, 4), -1e4)
    logits[..., 0:2, 0:2] = 1e4
    assert iou(logits, dense(mask)).item() == pytest.approx(1 - 2 / 6)


def test_dense_mask_is_soft_iou_averaged_over_images() -> None:
    torch.manual_seed(0)
    logits, mask = torch.randn(3, 1, 6, 5), (torch.rand(3, 1, 6, 5) > 0.6).float()
    expected = []
    for p, m in zip(logits.sigmoid(), mask, strict=True):
        intersection = (p * m).sum()
        expected.append(1 - intersection / (p.sum() + m.sum() - intersection))
    torch.testing.assert_close(iou(logits, dense(mask)), torch.stack(expected).mean())


def test_unlabelled_pixels_and_images_count_nothing() -> None:
    labels = torch.zeros(3, 2, 4, 4)
    labels[0, 1, 0, 0], labels[0, 0, 3, 3] = 1, 1
    labels[1, 0, 2, 2] = 1  # background only: no overlap to speak of
    found = iou(torch.zeros(3, 1, 4, 4), Supervision(labels, torch.zeros(3, 3, 4, 4)))
    assert found.item() == pytest.approx(1 - 0.5 / 1.5)
