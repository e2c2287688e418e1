"""One process at a time: a lock file that the operating system lets go when its holder ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from utils.errors import disk_error


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise disk_error(error) or error from None
    try:
        _acquire(handle, path, what)
        yield handle
    finally:
        os.close(handle)


def _acquire(handle: int, path: Path, what: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process: {what}", flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        print(f"{path}: no locks there ({error.strerror}): start nothing else that writes there")
