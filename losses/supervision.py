"""What a loss learns from: answers at pixels, the image, and the map of its small copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from utils.distributed import all_reduce_sum, world


class Supervision(NamedTuple):
    """All that is known of a batch of images besides its predicted logits (B, 1, H, W).

    The images may be a part of the batch that a step learns from: of what this process holds, or
    of what several processes hold (`utils.distributed`). A loss is then the part's share of the
    batch's, so that the shares sum to it; its denominators are counted over the whole batch.

    Attributes:
        labels: (B, 2, H, W), float weights >= 0. Channel 1 is how many, or how surely, foreground
            answers stand at a pixel, channel 0 the same for background. A dense mask m is
            (1 - m, m); ten points are ten ones in all; answers that contradict each other at one
            pixel count on both sides; an unlabelled pixel holds zeros.
        image: (B, 3, H, W), float RGB in [0, 1].
        small_logits: (B, 1, h, w), the logits predicted for a shrunk copy of the image, or None.
        whole: (B', 2, H, W), labels of all images of the step that this process holds; None: they
            are these.
    """

    labels: Tensor
    image: Tensor
    small_logits: Tensor | None = None
    whole: Tensor | None = None

    def total(self, count: Callable[[Tensor], Tensor], own: Tensor) -> Tensor:
        """Return what ``count`` makes of all labels of the step; of these alone it is ``own``."""
        return all_reduce_sum(own if self.whole is None else count(self.whole).to(own.dtype))

    @property
    def share(self) -> Tensor | float:
        """How much of the step's images these are, in (0, 1]."""
        if self.whole is None and world() == 1:
            return 1.0
        count = self.labels.new_tensor(float(len(self.labels)))
        held = count if self.whole is None else self.labels.new_tensor(float(len(self.whole)))
        return count / all_reduce_sum(held)

    def relabelled(self, change: Callable[[Tensor], Tensor]) -> Supervision:
        """Return the same with other labels, image by image."""
        whole = None if self.whole is None else change(self.whole)
        return self._replace(labels=change(self.labels), whole=whole)


def pseudo_labels(guess: Tensor, labels: Tensor, trusted: Tensor) -> Tensor:
    """Return labels everywhere: what was answered, and elsewhere what is guessed.

    Args:
        guess: uint8 (B, H, W), a saliency map, 255 for foreground.
        labels: (B, 2, H, W), see `Supervision`.
        trusted: bool (B,), in which images the guess is taken at one half; elsewhere a pixel is a
            little of both, as its grey level says.

    Returns:
        (B, 2, H, W) of the labels' dtype, with the sum one at each pixel.
    """
    sharp, grey = (guess >= 128).to(labels.dtype), guess.to(labels.dtype) / 255
    foreground = sharp.where(trusted.view(-1, 1, 1), grey)
    guessed = torch.stack([1 - foreground, foreground], 1)
    answers = labels.sum(1, keepdim=True)
    told = labels / answers.where(answers > 0, answers.new_ones(()))
    return told.where(answers > 0, guessed)


def full_precision(x: Tensor) -> Tensor:
    """Return half-precision tensors as float32 and others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def split_labels(logits: Tensor, supervision: Supervision) -> tuple[Tensor, Tensor]:
    """Return the background and the foreground weights, each (B, 1, H, W) of the logits' dtype."""
    background, foreground = supervision.labels.to(logits.dtype).split(1, dim=1)
    return background, foreground


def weighted_mean(values: Tensor, weights: Tensor, total: Tensor | None = None) -> Tensor:
    """Return ``sum(weights * values) / total``: zero, with zero gradient, for no weight.

    The total is that of the weights, unless it is given since there are more of them elsewhere.
    """
    total = weights.sum() if total is None else total
    return (weights * values).sum() / torch.where(total > 0, total, 1.0)
