"""The error on the held-out images, by which a training's best checkpoint is chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from datasets.cache import ResizedImages
from datasets.training import Labels
from models import SaliencyNet
from models.mean_maps import mean_maps
from utils.device import Machine
from utils.distributed import all_reduce_sum, any_of, shard
from utils.stopping import stop_requested


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
        self.images, self.pieces, self.batch_size = images, pieces, batch_size
        self.labels = [torch.from_numpy(labels.at(i, np.eye(3))) for i in range(len(images))]

    @torch.no_grad()
    def error(self, model: SaliencyNet, machine: Machine) -> float | None:
        """Return the mean absolute error over all labelled pixels, in [0, 1].

        None: a signal has come, and a launcher may not wait until many images are looked at.
        """
        model.eval()
        # Of each batch, in the place of its first image, so that the order of sums is fixed.
        sums = torch.zeros(len(self.images), 2, dtype=torch.float64)
        found = mean_maps([model], self.images, shard(self.pieces), self.batch_size, machine)
        for batch in found:
            if stop_requested():
                break
            prob, labels = batch.maps, torch.stack([self.labels[at] for at in batch.indices])
            background, foreground = labels.to(machine.device).float().unbind(1)
            wrong = float((background * prob + foreground * (1 - prob)).double().sum())
            sums[batch.indices[0]] = torch.tensor([wrong, float(labels.double().sum())])
        if any_of(stop_requested()):
            return None
        wrong = count = 0.0
        for of_batch, labelled in all_reduce_sum(sums).tolist():
            wrong, count = wrong + of_batch, count + labelled
        return wrong / max(count, 1.0)
