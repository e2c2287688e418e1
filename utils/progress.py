"""How far a loop has come: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")

SECONDS = 60.0
"""Seconds between two lines in a log; what takes less writes none."""

_LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed}, {remaining} to go"
_PLURALS = {"image": "images", "batch": "batches"}


class _Lines:
    """A stream that keeps what a bar draws over itself as lines of their own."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        """Write the bar as a line; what only wipes it out is left away."""
        if line := text.strip():
            self.stream.write(f"{line}\n")

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()


def track(
    work: Iterable[T] | None,
    what: str,
    total: int | None = None,
    *,
    unit: str = "image",
    done: int = 0,
    shown: bool = True,
) -> tqdm[T]:
    """Return a bar over the work, or without any one to `update`; it goes to standard error.

    A terminal sees it move, and it is gone in the end. In a file, where it would be drawn over
    itself ten times a second, it is a line a minute (`SECONDS`).

    Args:
        work: what is gone through; None: the caller updates the bar.
        what: what is done, in a few words.
        total: how many there are, unless the work has a length.
        unit: what is counted, "image" or "batch".
        done: how many were done before.
        shown: False: nothing is told.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        work,
        what,
        total,
        unit=unit if terminal else _PLURALS[unit],
        initial=done,
        leave=False,
        disable=not shown,
        file=sys.stderr if terminal else _Lines(sys.stderr),
        mininterval=0.1 if terminal else SECONDS,
        maxinterval=10 if terminal else SECONDS,
        delay=0 if terminal else SECONDS,
        bar_format=None if terminal else _LINE,
    )
