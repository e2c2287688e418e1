"""What an epoch has come to so far: kept in a checkpoint, so that it can stop anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from utils.distributed import all_reduce_sum

IN_A_ROW = 10
"""Steps in a row that may be skipped."""

SHARE = 0.05
"""Share of an epoch's steps that may be skipped, one step at least."""


@dataclass
class EpochSums:
    """Batches done in an epoch, and the sums of their losses.

    Attributes:
        batches: how many are done, the skipped ones included.
        losses: the sum of each loss, of this process's share.
        skipped: batches whose step was not taken.
        in_a_row: steps skipped since one was last taken, in earlier epochs, too.
        seconds: that the epoch took before it was interrupted.
    """

    batches: int = 0
    losses: dict[str, Tensor] = field(default_factory=dict)
    skipped: int = 0
    in_a_row: int = 0
    seconds: float = 0.0

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count a batch."""
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value
        self.batches += 1
        self.in_a_row = 0

    def skip(self, length: int) -> bool:
        """Count a batch without a step; return whether so many are still no reason to stop."""
        self.batches += 1
        self.skipped += 1
        self.in_a_row += 1
        return self.in_a_row <= IN_A_ROW and self.skipped <= max(1, SHARE * length)

    def means(self) -> dict[str, float]:
        """Return the mean of each loss over the steps that were taken, of all processes.

        Where none was taken the loss is no number.
        """
        steps = max(self.batches - self.skipped, 1)
        found = {name: float(value) / steps for name, value in self._whole().items()}
        return found or {"loss": math.nan}

    def next_epoch(self) -> EpochSums:
        """Return what the next epoch begins with: steps skipped in a row may go on there."""
        return EpochSums(in_a_row=self.in_a_row)

    def _whole(self) -> dict[str, Tensor]:
        if not self.losses:
            return {}
        whole = all_reduce_sum(torch.stack(list(self.losses.values())))
        return dict(zip(self.losses, whole.unbind(), strict=True))

    def state(self) -> dict[str, Any]:
        """Return all of it as values for a checkpoint."""
        # As of one process: the whole sum is its own, and nothing is left to the others.
        losses = {name: value.cpu() for name, value in self._whole().items()}
        return {**vars(self), "losses": losses}

    @classmethod
    def of_state(cls, state: Mapping[str, Any], device: torch.device, main: bool) -> EpochSums:
        """Return what `state` told; the losses' sums go to the main process."""
        losses = {
            name: value.to(device) if main else torch.zeros_like(value, device=device)
            for name, value in state["losses"].items()
        }
        return cls(**{**state, "losses": losses})
