"""When what is trained: after which rounds, and the learning rate along a training.

That falls in one cosine wave, or in several, each of which ends in a snapshot (Loshchilov & Hutter,
"SGDR", ICLR 2017; Huang et al., "Snapshot Ensembles", ICLR 2017). The first snapshot comes late, so
that it is of a trained network, as in fast geometric ensembling (Garipov et al., NeurIPS 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

WARM_UP = 0.03


def trained_rounds(rounds: int, every: int, retrain: int = 0) -> list[int]:
    """Return the rounds after which a network is trained.

    Args:
        rounds: how many ask; of these the first, every n-th after it, and the last train.
        every: that n.
        retrain: how many follow that ask nothing; all of them train.
    """
    return sorted({*range(0, rounds, every), *range(rounds - 1, rounds + retrain)})


def snapshot_epochs(epochs: int, snapshots: int, first_cycle: float) -> list[int]:
    """Return the epochs (1-based, increasing, the last one is ``epochs``) that end in a snapshot.

    The first comes after the share ``first_cycle`` of the epochs, as far as the ``snapshots - 1``
    others, which are as far apart from each other, are left an epoch each.
    """
    if snapshots == 1:
        return [epochs]
    first = min(max(1, round(epochs * first_cycle)), epochs - snapshots + 1)
    rest = epochs - first
    return [first + rest * index // (snapshots - 1) for index in range(snapshots)]


def cyclic_cosine(step: int, steps: int, ends: Sequence[int]) -> float:
    """Return the factor of the learning rate at an optimiser step.

    Args:
        step: 0 for the first step.
        steps: steps of the whole training; its first 3 percent warm up linearly.
        ends: the steps at which cycles end, increasing; the last is ``steps``. That one alone: the
            rate never rises again.

    Returns:
        A factor in [0, 1]: it falls from 1 to 0 within each cycle, as half a cosine wave. Later
        cycles, being short, restart at one half.
    """
    start, top = 0, 1.0
    for end in ends:
        if step < end:
            fall = 0.5 * (1 + math.cos(math.pi * (step - start) / (end - start)))
            warm = min(1.0, (step + 1) / max(1.0, WARM_UP * steps))
            return top * fall * warm
        start, top = end, 0.5
    return 0.0
