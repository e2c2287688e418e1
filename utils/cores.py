"""How many processes or threads may compute at a time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

OWN_LIMIT = "GCO_CORES"
"""Variable of the environment that limits the cores, as `utils.local_trials` does for each trial.
"""

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""What a container is granted: microseconds of computing in a period of so many, or "max"."""


def core_count() -> int:
    """Return the number of cores that this process is to use, at least 1.

    Those of the system's mask, but no more than Slurm gives to a task, a container's quota grants,
    or `OWN_LIMIT` says; of these the share of one of torchrun's processes on this machine. What is
    computed never depends on it.
    """
    if hasattr(os, "sched_getaffinity"):
        there = len(os.sched_getaffinity(0))
    else:
        there = os.cpu_count() or 1
    granted = (_number("SLURM_CPUS_PER_TASK"), _number(OWN_LIMIT), _granted())
    least = min(limit for limit in (there, *granted) if limit)
    return max(1, least // (_number("LOCAL_WORLD_SIZE") or 1))


def _number(variable: str) -> int | None:
    """Return what a variable of the environment says, None where that is no number."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else None


def _granted() -> int | None:
    """Return the cores of the container's quota, rounded up; None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        time, period = map(int, QUOTA.read_text().split())
        return -(-time // max(1, period))
    return None
