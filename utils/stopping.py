"""Stopping on a signal: what is at hand is finished and saved, and the same command goes on.

A cluster tells a job by SIGTERM or SIGUSR1 that it will be killed. Where nothing would be lost the
stage ends at once; in a block that holds more than the disk does (`finishing`) it ends at the next
`leave_if_asked` within.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

EXIT_STOPPED = 75
"""EX_TEMPFAIL: nothing is wrong, run me again."""

EXIT_WAITING = 3
"""Questions are open and nobody waits for the answers: run me again when they are there."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

PATIENCE = 1.0
"""Seconds in which another signal is the same one, come again by way of a launcher."""


class Stopped(BaseException):
    """The stage was asked to stop; no `Exception`, so that no handler takes it for a fault."""


class _State:
    asked: float | None = None
    finishing = 0


def listen() -> None:
    """Take the signals from now on."""
    for number in SIGNALS:
        signal.signal(number, _take)


def ignore(*_: object) -> None:
    """Leave the signals, sent to all processes of a group, to the parent (in a child)."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _take(number: int, frame: FrameType | None) -> None:
    if _State.asked is not None and time.monotonic() - _State.asked > PATIENCE:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    first, _State.asked = _State.asked is None, _State.asked or time.monotonic()
    if first and not _State.finishing:
        raise Stopped


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """Only note a signal within the block; `leave_if_asked` or its end then raises `Stopped`."""
    _State.finishing += 1
    try:
        yield
    finally:
        _State.finishing -= 1
    if not _State.finishing:
        leave_if_asked()


def stop_requested() -> bool:
    """Whether a signal has come."""
    return _State.asked is not None


def leave_if_asked() -> None:
    """Raise `Stopped` if a signal has come."""
    if stop_requested():
        raise Stopped
