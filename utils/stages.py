"""A stage of the pipeline: a script that stops on a signal and may run as several processes."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from utils.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError, run_script
from utils.stopping import EXIT_STOPPED, Stopped, listen


def run_stage(main: Callable[[], int | None], together: bool = True) -> None:
    """Run a stage's ``main`` as `run_script` does, and leave with its exit code.

    On SIGTERM or SIGUSR1 the stage ends with `EXIT_STOPPED`, see `utils.stopping`. When one of
    several processes fails, all leave with its exit code, and it alone says why.

    Args:
        main: the work.
        together: whether several processes share it; if not, the first one does it alone.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and not together and os.environ["RANK"] != "0":
        return
    listen()
    if processes == 1 or not together:
        run_script(main)
        return
    try:
        run_script(lambda: _run_together(main))
    except SystemExit as end:
        if end.code:
            _leave(end.code)
        raise


def _leave(status: int) -> NoReturn:
    """End the process without taking the interpreter down.

    Threads of process groups that were not left orderly may hold tensors, and would abort the
    process (SIGABRT) when they let go of them meanwhile: pytorch/pytorch#179291. Leaving a group
    orderly could wait for processes that have gone.
    """
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _run_together(main: Callable[[], int | None]) -> int | None:
    # Imported here: a stage of one process may do without PyTorch.
    from utils import distributed

    try:
        distributed.setup()
        code = main()
        distributed.barrier()
    except BaseException as error:
        status = distributed.first_to_fail(_status(error))
        if status is None:
            raise
        sys.exit(status)
    distributed.teardown()
    return code


def _status(error: BaseException) -> int:
    if isinstance(error, Stopped):
        return EXIT_STOPPED
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    return EXIT_USER_ERROR if isinstance(error, (UserError, OSError)) else 1
