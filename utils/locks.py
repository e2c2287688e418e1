"""One process at a time: lock files that the operating system lets go when their holder ends.

A killed process, or a machine that went down, holds nothing: the files stay, and mean nothing by
themselves. On a file system without locks (some network ones) that is told, and work goes on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from utils.errors import UserError, disk_error

_kept: set[int] = set()
"""Descriptors of this process's locks (`held`), which processes forked from it must close."""


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[int]:
    """Hold a lock while the block runs; while another process holds it, say so once and wait.

    Args:
        path: the lock file, which is made if need be and stays. Its content means nothing.
        what: what the other process does, for the line that is printed.

    Yields:
        The lock's file descriptor. A child process that it is handed to (``pass_fds``) holds the
        lock too, until it ends.

    Raises:
        UserError: the file cannot be made.
    """
    handle = _open(path)
    try:
        if not _acquire(handle, path):
            print(f"waiting for another process: {what}", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold a lock while the block runs; while another process holds it, refuse.

    Processes that are forked from this one (those that prepare batches) do not hold it: they may
    outlive a killed parent by seconds. Of the processes that torchrun starts the first alone takes
    the lock, for all.

    Args:
        path: the lock file, which is made if need be and stays. It tells who holds it, or held it.
        what: what is locked, for the message.

    Raises:
        UserError: another process holds it (tells which, where, since when), or the file cannot be
            made.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    handle = _open(path)
    try:
        if not _acquire(handle, path):
            raise UserError(
                f"{what} is in use by {_holder(handle)}: wait until it has ended, or end it; "
                "nothing was changed"
            )
        _sign(handle)
        _forget_when_forked(handle)
        yield
    finally:
        _kept.discard(handle)
        os.close(handle)


def in_use(path: Path) -> bool:
    """Tell whether a process holds a lock; looking makes no file."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks there
        return False
    finally:
        os.close(handle)
    return False


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise disk_error(error) or error from None


def _acquire(handle: int, path: Path) -> bool:
    """Take a lock if it is free; tell whether it was, or there are no locks on its file system."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        print(f"{path}: no locks there ({error.strerror}): start nothing else that writes there")
    return True


def _sign(handle: int) -> None:
    """Write down who holds a lock. A full disk takes nothing from it but the name."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def _holder(handle: int) -> str:
    """Tell who holds a lock, as far as its file says."""
    try:
        said = json.loads(os.pread(handle, 4096, 0))
        return f"process {said['pid']} on {said['host']} since {said['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _forget_when_forked(handle: int) -> None:
    _hook()
    _kept.add(handle)


@functools.cache
def _hook() -> None:
    os.register_at_fork(after_in_child=_close_kept)


def _close_kept() -> None:
    for handle in _kept:
        with contextlib.suppress(OSError):
            os.close(handle)
    _kept.clear()
