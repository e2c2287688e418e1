"""The error on the held-out images, and the epoch of a training that is kept by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from datasets.cache import ResizedImages
from datasets.training import Labels
from models import SaliencyNet
from models.mean_maps import mean_maps
from utils.device import Machine
from utils.distributed import all_reduce_sum, any_of, shard
from utils.stopping import stop_requested


class Estimate(NamedTuple):
    """What some images tell of the error on all.

    Attributes:
        mean: the mean absolute error over all labelled pixels, in [0, 1].
        deviation: its standard error, as far as images differ; 0 for a single one, and where an
            older version's checkpoint tells none.
    """

    mean: float
    deviation: float = 0.0


class Latest:
    """Tells, epoch by epoch, which is the latest whose error is not clearly above the lowest.

    By default not by more than a standard error of that one: held-out images are few, and those of
    points know some hundred pixels, so that the very lowest error falls on one epoch or another by
    chance, while the weights of the last epochs are the better ones: the learning rate has fallen.
    (The rule of Breiman et al., Classification and Regression Trees, 1984, section 3.4.3.) Images
    differ by much more than epochs do, so in most trainings the last epoch is kept; one that has
    gone astray by then is not.

    Args:
        within: standard errors of the lowest that an epoch may lie above it; with 0 the epoch of
            the lowest is kept.

    Attributes:
        lowest: the estimate of lowest mean so far.
    """

    def __init__(self, within: float) -> None:
        self.within, self.lowest = within, Estimate(math.inf)

    def takes(self, error: Estimate) -> bool:
        """Return whether the epoch of this error, the next one, is to be kept; NaN never is."""
        if error.mean < self.lowest.mean:
            self.lowest = error
        return error.mean <= self.lowest.mean + self.within * self.lowest.deviation


class Validation:
    """The held-out images, known by points or by masks: the mean absolute error of their maps.

    Random points are a fair sample of the pixels, so the error at them estimates the error on
    the masks without bias. In a training with groups each group is looked at by itself. Several
    processes share the work, and find the same number as one would.

    Args:
        images: the held-out images.
        labels: what is known of them.
        pieces: places of the images that are looked at together.
        batch_size: most images looked at at a time.
    """

    def __init__(
        self,
        images: ResizedImages,
        labels: Labels,
        pieces: Sequence[Sequence[int]],
        batch_size: int,
    ) -> None:
        self.images, self.labels = images, labels
        self.pieces, self.batch_size = pieces, batch_size

    @torch.no_grad()
    def error(self, model: SaliencyNet, machine: Machine) -> Estimate | None:
        """Return the error over all labelled pixels.

        None: a signal has come, and a launcher may not wait until many images are looked at.
        """
        model.eval()
        # Of each image, so that the order of sums is fixed.
        sums = torch.zeros(len(self.images), 2, dtype=torch.float64)
        looks = mean_maps([model], self.images, shard(self.pieces), self.batch_size, machine)
        for batch in looks:
            if stop_requested():
                break
            # Not kept from epoch to epoch: those of many images would fill the memory.
            found = np.stack([self.labels.at(index, np.eye(3)) for index in batch.indices])
            prob, labels = batch.maps, torch.from_numpy(found)
            background, foreground = labels.to(machine.device).float().unbind(1)
            wrong = (background * prob + foreground * (1 - prob)).double().sum((1, 2))
            sums[batch.indices, 0] = wrong.cpu()
            sums[batch.indices, 1] = labels.double().sum((1, 2, 3))
        if any_of(stop_requested()):
            return None
        wrong, labelled = all_reduce_sum(sums).unbind(1)
        count, images = max(float(labelled.sum()), 1.0), len(self.images)
        mean = float(wrong.sum()) / count
        # Of a ratio of two sums over images (Cochran, Sampling Techniques, 1977, section 2.11).
        squares = float((wrong - mean * labelled).square().sum()) * images / max(images - 1, 1)
        return Estimate(mean, math.sqrt(squares) / count)
