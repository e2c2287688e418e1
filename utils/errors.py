"""Errors a user can mend, told in one line, and the exit codes of the scripts."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable

from utils.stopping import EXIT_STOPPED, Stopped

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_DISK_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
    errno.EACCES: "no permission: change the owner or the permissions, or choose another folder",
    errno.EPERM: "no permission: change the owner or the permissions, or choose another folder",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away",
    errno.EEXIST: "a file stands where a folder is needed: move it away",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EFBIG: "the file would be larger than this system lets files be: raise the limit",
    errno.EISDIR: "a folder stands where a file is needed: move it away",
    errno.ENOTEMPTY: "a folder stands where a file is needed: move it away",
    errno.ELOOP: "its links lead round in a circle: remove them",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.ENOENT: "it has gone since it was first looked at: put it back and run the same command "
    "again",
}


class UserError(Exception):
    """A fault the user can mend; its text is one line: what is wrong, where, and what to do."""


def closest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of ``known``, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def disk_error(error: OSError) -> UserError | None:
    """Return the `UserError` for a fault of the disk the user can mend, None for others."""
    remedy = _DISK_REMEDIES.get(error.errno or 0)
    if remedy is None:
        return None
    return UserError(f"{error.filename or 'writing a file'}: {remedy}")


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's ``main`` and leave with its exit code.

    A `UserError`, a full disk or a missing permission becomes one line on standard error and
    exit code 2; an interrupt becomes exit code 130; output that nobody reads any more (``| head``)
    ends the script. Anything else is a defect of ours and keeps its traceback. ``GCO_DEBUG=1``
    shows the traceback of user errors too.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:
        # What is still held back has nowhere to go: without this it would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("stopped: the reader of the output has gone", file=sys.stderr)
        sys.exit(EXIT_BROKEN_PIPE)
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Stopped:
        print("stopped by a signal: run the same command again to go on", file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    except (UserError, OSError) as error:
        told = error if isinstance(error, UserError) else disk_error(error)
        if told is None or os.environ.get("GCO_DEBUG") == "1":
            raise
        print(f"error: {_one_line(told)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


def _one_line(error: UserError) -> str:
    """Return an error's text; of one raised in a loader process, without the traceback above it."""
    last = str(error).strip().rsplit("\n", 1)[-1]
    return last.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
