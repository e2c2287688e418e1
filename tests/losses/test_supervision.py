"""Pseudo labels: answers come before what a network sees."""

from __future__ import annotations

import torch

from losses.supervision import pseudo_labels


def test_pseudo_labels_by_hand() -> None:
    maps = torch.tensor([[[0, 51], [255, 255]]], dtype=torch.uint8)
    labels = torch.tensor([[[[0.0, 0.0], [2.0, 1.5]], [[0.0, 0.0], [0.0, 4.5]]]])
    found = pseudo_labels(maps, labels)
    expected = torch.tensor([[[[1.0, 0.8], [1.0, 0.25]], [[0.0, 0.2], [0.0, 0.75]]]])
    torch.testing.assert_close(found, expected)


def test_masks_leave_nothing_to_guess() -> None:
    mask = (torch.rand(2, 1, 8, 8) > 0.5).float()
    labels = torch.cat([1 - mask, mask], 1)
    maps = torch.randint(0, 256, (2, 8, 8)).byte()
    assert torch.equal(pseudo_labels(maps, labels), labels)
