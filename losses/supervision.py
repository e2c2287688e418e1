"""What a loss learns from: answers at pixels, the image, and the map of its small copy."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Supervision(NamedTuple):
    """All that is known of a batch of images besides its predicted logits (B, 1, H, W).

    Attributes:
        labels: (B, 2, H, W), float weights >= 0. Channel 1 is how many, or how surely, foreground
            answers stand at a pixel, channel 0 the same for background. A dense mask m is
            (1 - m, m); ten points are ten ones in all; answers that contradict each other at one
            pixel count on both sides; an unlabelled pixel holds zeros.
        image: (B, 3, H, W), float RGB in [0, 1].
        small_logits: (B, 1, h, w), the logits predicted for a shrunk copy of the image, or None.
    """

    labels: Tensor
    image: Tensor
    small_logits: Tensor | None = None


def pseudo_labels(foreground: Tensor, labels: Tensor) -> Tensor:
    """Return labels everywhere: what was answered, and elsewhere what is guessed.

    Args:
        foreground: bool (B, H, W), the guess.
        labels: (B, 2, H, W), see `Supervision`.

    Returns:
        (B, 2, H, W) of the labels' dtype, with the sum one at each pixel.
    """
    guess = torch.stack([~foreground, foreground], 1).to(labels.dtype)
    answers = labels.sum(1, keepdim=True)
    told = labels / answers.where(answers > 0, answers.new_ones(()))
    return told.where(answers > 0, guess)


def full_precision(x: Tensor) -> Tensor:
    """Return half-precision tensors as float32 and others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def split_labels(logits: Tensor, supervision: Supervision) -> tuple[Tensor, Tensor]:
    """Return the background and the foreground weights, each (B, 1, H, W) of the logits' dtype."""
    background, foreground = supervision.labels.to(logits.dtype).split(1, dim=1)
    return background, foreground


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return ``sum(weights * values) / sum(weights)``: zero, with zero gradient, for no weight."""
    total = weights.sum()
    return (weights * values).sum() / torch.where(total > 0, total, 1.0)
