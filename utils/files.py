"""Files that exist whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.errors import UserError, disk_error


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it to ``path`` when the block succeeds.

    The parent folder is made. The content is flushed to the disk before the rename, so a crash
    leaves the old file or the new one, never a part. When the block fails, nothing is left behind.
    The block must make the file anew. Of processes that write the same file at a time, one waits
    for the other.

    Raises:
        UserError: the disk is full, read-only, or may not be written; or ``path`` names no file.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise UserError(f"{path}: a folder where a file should be: name the file")
    # One name for one file: what a killed process leaves is overwritten by the next.
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    with _faults_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _make_alone(temporary)
        try:
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        finally:
            os.close(handle)


@contextlib.contextmanager
def _faults_told(path: Path) -> Iterator[None]:
    """Turn what a user can mend on the disk into a `UserError` that names the file."""
    try:
        yield
    except OSError as error:
        told = disk_error(error)
        if told is None:
            raise
        raise UserError(f"cannot write {path}: {str(told).split(': ', 1)[-1]}") from error


def _make_alone(temporary: Path) -> int:
    """Make a temporary file; return a descriptor that holds it against others that make it too."""
    if temporary.is_symlink():  # left by a killed process; the file it points at is none of ours
        temporary.unlink()
    while True:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            return handle
        # Whoever held it may have renamed it since: the name stands for another file, or none.
        if temporary.exists() and os.path.samestat(os.fstat(handle), temporary.stat()):
            return handle
        os.close(handle)


def file_state(path: Path) -> str:
    """Return what changes whenever a file does, without reading it: size, times, number on disk.

    Size and time of change alone may stay: maps of one shape have one size in some formats, and
    programs that copy files set the time to the original's.
    """
    stat = os.stat(path)
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def state_if_there(path: Path) -> str:
    """Return `file_state`, or "-" where there is no file."""
    return file_state(path) if path.exists() else "-"


def append_bytes(path: Path, data: bytes) -> None:
    """Add to a file's end; a kill may leave a part of it.

    Raises:
        UserError: the disk is full, or the file may not be written.
    """
    with _faults_told(path), open(path, "ab") as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8 under ``path``, whole or not at all.

    Raises:
        UserError: it holds what is not UTF-8, such as a file's name of older times.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        part = ascii(text[max(0, error.start - 40) : error.end + 10])
        raise UserError(f"{path}: not UTF-8, in {part}: rename what is called so") from None
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON under ``path``, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing, unreadable, or no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}): mend or delete it") from None


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: as for `read_json`, or it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object: mend or delete it")
    return value


def read_up_to(path: str | os.PathLike[str], most: int) -> bytes:
    """Return the content of a file of at most ``most`` bytes.

    Raises:
        UserError: the file is missing, larger, a folder, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder where a file should be: name the file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check it") from None
    except ValueError:
        raise UserError(f"{str(path)!r}: no file's name: check the path") from None
    if len(data) > most:
        raise UserError(f"{path}: larger than {most // 2**20} MiB: split it")
    return data
