"""Pseudo labels: answers come before what is guessed."""

from __future__ import annotations

import torch

from losses.supervision import pseudo_labels


def test_pseudo_labels_by_hand() -> None:
    """Of two images alike, the first one's guess is trusted, the other's grey."""
    guess = torch.tensor([[[51, 128], [255, 204]]] * 2, dtype=torch.uint8)
    labels = torch.tensor([[[[0.0, 0.0], [2.0, 1.5]], [[0.0, 0.0], [0.0, 4.5]]]] * 2)
    found = pseudo_labels(guess, labels, torch.tensor([True, False]))
    sharp = [[[1.0, 0.0], [1.0, 0.25]], [[0.0, 1.0], [0.0, 0.75]]]
    grey = [[[0.8, 127 / 255], [1.0, 0.25]], [[0.2, 128 / 255], [0.0, 0.75]]]
    torch.testing.assert_close(found, torch.tensor([sharp, grey]))


def test_masks_leave_nothing_to_guess() -> None:
    mask = (torch.rand(2, 1, 8, 8) > 0.5).float()
    labels = torch.cat([1 - mask, mask], 1)
    guess = (255 * torch.rand(2, 8, 8)).byte()
    assert torch.equal(pseudo_labels(guess, labels, torch.tensor([True, False])), labels)
