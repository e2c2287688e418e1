"""Faults put into a running stage: it is killed, or its disk is full, at a chosen change of a file.

Python tells of each file that is opened, renamed or removed before that happens (audit hooks), so
that all writes of a stage can be counted without any of them knowing.
"""

from __future__ import annotations

import builtins
import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = (
    "before a write",
    "in the middle of a write",
    "after it, before the file is put in place",
    "after the file is put in place",
    "in the middle of an append",
    "before a folder, link or lock is made, or a file removed",
)
"""When a stage is disturbed."""
_OPEN, _HALF, _RENAME, _DONE, _APPEND, _OTHER = KINDS
WRITING = (_OPEN, _HALF, _APPEND, _OTHER)
"""The kinds that take space on a disk."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate")


def kill() -> None:
    """End this process as a power cut would: nothing is flushed, nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def terminate() -> None:
    """Ask this process to end, as a cluster does; a stage that saves first returns from here."""
    os.kill(os.getpid(), signal.SIGTERM)


def fill_disk() -> None:
    """Fail as a write to a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a file")


def refuse() -> None:
    """Fail as a write to a read-only file system does."""
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), "a file")


@dataclass
class Injection:
    """What happens to a stage when it changes files below a folder.

    Attributes:
        root: the folder.
        at: the change that is disturbed, counted from 0; None: none.
        act: what happens there.
        lasts: whether every later change is disturbed too, as by a disk that stays full.
        halves: whether a file that is disturbed in the middle is left at half of its length.
        seen: the kind of each change so far.
    """

    root: Path
    at: int | None = None
    act: Callable[[], None] = kill
    lasts: bool = False
    halves: bool = True
    seen: list[str] = field(default_factory=list)
    _opened: set[str] = field(default_factory=set)

    def install(self) -> None:
        """Watch this process to its end. There is no way back: it has to be a forked one."""
        self._fsync, self._replace, self._open = os.fsync, os.replace, builtins.open
        os.fsync, os.replace, builtins.open = self.fsync, self.replace, self.open
        sys.addaudithook(self._audit)

    def tell(self, kind: str, file: Any = None) -> None:
        """Count a change; disturb it if it is its turn. In the middle of it: half stays behind."""
        number = len(self.seen)
        self.seen.append(kind)
        if self.at is None or number < self.at or (number > self.at and not self.lasts):
            return
        if kind == _HALF and self.halves:
            with self._open(file, "r+b") as half:
                half.truncate(os.fstat(half.fileno()).st_size // 2)
        self.act()

    def _inside(self, path: Any) -> str | None:
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        text = os.fspath(path)
        text = os.fsdecode(text) if isinstance(text, bytes) else text
        return text if text.startswith(f"{self.root}/") else None

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            name = self._inside(args[0])
            if name and isinstance(args[2], int) and args[2] & _WRITES:
                if name.endswith(".lock"):
                    self.tell(_OTHER)
                elif name not in self._opened and not args[2] & os.O_APPEND:
                    self._opened.add(name)
                    self.tell(_OPEN)
        elif event in _CHANGES and self._inside(args[0] if event != "os.symlink" else args[1]):
            self.tell(_OTHER)

    def fsync(self, handle: int) -> None:
        """Stand in for ``os.fsync``."""
        name = self._inside(os.readlink(f"/proc/self/fd/{handle}"))
        # A file that a new link points at is flushed with it, but it is not being written.
        if name in self._opened:
            self.tell(_HALF, name)
        self._fsync(handle)

    def replace(self, source: Any, target: Any) -> None:
        """Stand in for ``os.replace``."""
        name = self._inside(source)
        if name:
            self._opened.discard(name)
            self.tell(_RENAME)
        self._replace(source, target)
        if name:
            self.tell(_DONE)

    def open(self, file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        """Stand in for ``open``."""
        opened = self._open(file, mode, *args, **more)
        return _Appended(opened, self) if "a" in mode and self._inside(file) else opened


class _Appended:
    """A file open for appending, whose writes may end in the middle."""

    def __init__(self, file: Any, injection: Injection) -> None:
        self.file, self.injection = file, injection

    def write(self, content: Any) -> int:
        half = len(content) // 2
        written = self.file.write(content[:half])
        self.file.flush()
        self.injection.tell(_APPEND)
        return written + self.file.write(content[half:])

    def __enter__(self) -> _Appended:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
