"""A text file that only grows, line by line, and keeps every line it has taken.

A machine that goes down while a line is written leaves a part of it, without a newline at its end.
Such a part was never taken: readers pass it over, and the next writer cuts it off. But an editor,
too, may have left the last line without its newline: what is a whole line all the same, as whoever
knows the lines tells, is one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError, disk_error

_LONGEST = 2**16
"""Bytes, more than a line of ours has."""


class State(NamedTuple):
    """Of a file: its number, its size, when it was written and when changed in any way, in ns.

    All are zero if it is not there. A tool that sets the time of writing back changes the last one.
    """

    number: int
    size: int
    written: int
    changed: int


IsWhole = Callable[[str], bool]
"""Tells whether a text is a whole line that lacks its newline, and not the beginning of one."""


def never(text: str) -> bool:
    """Take no line for whole without its newline."""
    return False


def append_line(
    path: Path, header: str, line: str, is_whole: IsWhole = never
) -> tuple[State, State]:
    """Put a line at the end of a file, and return when the disk holds it.

    Of several processes and threads that append at a time, one waits for the other.

    Args:
        path: the file; made, with its folder and ``header``, if it is not there or empty.
        header: the first line, with its newline.
        line: the line, with its newline; or several, of which a kill may leave the first ones.
        is_whole: of what stands behind the last newline.

    Returns:
        The file just before, with what may have been cut off, and just after.

    Raises:
        UserError: the disk is full, read-only, or may not be written; nothing was appended then.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            before = _state(os.fstat(handle))
            end, newline = _cut_part(handle, path, is_whole)
            try:
                _write(handle, (newline + line if end else header + line).encode())
                os.fsync(handle)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle, end)
                raise
            if not end:
                _sync_folder(path.parent)
            return before, _state(os.fstat(handle))
        finally:
            os.close(handle)
    except OSError as error:
        raise disk_error(error) or error from error


def read_if_changed(path: Path, before: State | None) -> tuple[State, bytes]:
    """Return which file there is and of when, and, if that is not as before, what it holds.

    The state is older than the bytes: of what is written in between the next look tells.
    """
    try:
        state = _state(path.stat())
        return state, b"" if state == before else path.read_bytes()
    except FileNotFoundError:
        return State(0, 0, 0, 0), b""


def _state(of: os.stat_result) -> State:
    return State(of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns)


def whole_lines(
    path: Path, found: bytes, start: int = 0, is_whole: IsWhole = never
) -> tuple[list[str], int]:
    """Return the whole lines that begin at byte ``start`` or later.

    Args:
        path: the file, for messages.
        found: what it holds.
        start: 0, or where an earlier reading ended.
        is_whole: of what stands behind the last newline.

    Returns:
        The lines, without their newlines, and the byte after the last of them, at which to go on
        when the file has grown.

    Raises:
        UserError: a line is not UTF-8.
    """
    if start and found[start - 1 : start] != b"\n":  # the last line read lacked its newline
        start += found.startswith(b"\r", start)
        start += found.startswith(b"\n", start)
    end = max(start, found.rfind(b"\n") + 1)
    try:
        lines = found[start:end].decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, byte {start + error.start}: not UTF-8: mend or delete the line"
        ) from None
    if last := _whole_line(found[end:], is_whole):
        return [*lines, last], len(found)
    return lines, end


def _whole_line(rest: bytes, is_whole: IsWhole) -> str:
    """Return what stands behind the last newline if it is whole, else nothing."""
    text = rest.decode(errors="ignore")
    return text if text.encode() == rest and rest and is_whole(text) else ""


def _cut_part(handle: int, path: Path, is_whole: IsWhole) -> tuple[int, str]:
    """Cut off what follows the last newline, unless it is whole.

    Returns:
        The size that is left, and the newline that it lacks.
    """
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) == b"\n":
        return size, ""
    tail = os.pread(handle, _LONGEST, max(0, size - _LONGEST))
    end = size - len(tail) + tail.rfind(b"\n") + 1
    if b"\n" not in tail and size > _LONGEST:
        raise UserError(f"{path}: its end holds no line: move the file away")
    if end < size:
        if _whole_line(tail[end - size :], is_whole):
            return size, "\n"
        os.ftruncate(handle, end)
    return end, ""


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _sync_folder(folder: Path) -> None:
    """Put a new file's name on the disk, too, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
