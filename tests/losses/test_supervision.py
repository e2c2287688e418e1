"""Pseudo labels: answers come before what is guessed."""

from __future__ import annotations

import torch

from losses.supervision import pseudo_labels


def test_pseudo_labels_by_hand() -> None:
    guess = torch.tensor([[[False, True], [True, True]]])
    labels = torch.tensor([[[[0.0, 0.0], [2.0, 1.5]], [[0.0, 0.0], [0.0, 4.5]]]])
    found = pseudo_labels(guess, labels, torch.tensor([True]))
    expected = torch.tensor([[[[1.0, 0.0], [1.0, 0.25]], [[0.0, 1.0], [0.0, 0.75]]]])
    torch.testing.assert_close(found, expected)


def test_masks_leave_nothing_to_guess() -> None:
    mask = (torch.rand(2, 1, 8, 8) > 0.5).float()
    labels = torch.cat([1 - mask, mask], 1)
    guess = torch.rand(2, 8, 8) > 0.5
    for trusted in (True, False):
        assert torch.equal(pseudo_labels(guess, labels, torch.tensor([trusted] * 2)), labels)


def test_without_trust_answers_stand_alone() -> None:
    guess = torch.tensor([[[False, True]], [[False, True]]])
    labels = torch.tensor([[[[0.0, 0.0]], [[3.0, 0.0]]], [[[0.0, 0.0]], [[3.0, 0.0]]]])
    found = pseudo_labels(guess, labels, torch.tensor([False, True]))
    assert found.tolist() == [[[[0.0, 0.0]], [[1.0, 0.0]]], [[[0.0, 0.0]], [[1.0, 1.0]]]]
