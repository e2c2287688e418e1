"""How many processes may compute at a time."""

from __future__ import annotations

import os


def core_count() -> int:
    """Return the number of cores that this process may use, by the scheduler's mask if known."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
