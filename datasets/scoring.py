"""Score map files against mask files, in many processes, each map once."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from time import perf_counter, sleep

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.maps import Pair, read_map, read_true_mask
from utils.errors import UserError
from utils.files import file_state
from utils.locks import locked
from utils.metrics import CONVENTIONS, Convention, tally
from utils.progress import track
from utils.tallies import RECORD, Kept, TallyLog, drop_others, make_record

TASK = 16
"""Maps that a process scores at a time."""
WINDOW = 256
"""Tasks that are dealt out before their results are kept: what bounds the memory they take."""
WORTH_SHARING = 100
"""Maps to score from which on starting other processes pays."""


def score_pair(pair: Pair, convention: Convention, parts: frozenset[str]) -> tuple[NDArray, bool]:
    """Score one map.

    A map of another size than its mask is resized to it, bilinearly, on its 8-bit values.

    Returns:
        What it leaves behind (TALLY of shape ()), and whether it was resized.

    Raises:
        UserError: one of the two files is missing, damaged, or no map or mask.
    """
    saliency, mask = read_map(pair.saliency), read_true_mask(pair.mask)
    resized = saliency.shape != mask.shape
    if resized:
        saliency = cv2.resize(saliency, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return tally(saliency, mask, convention, parts), resized


Task = tuple[list[Pair], list[int]]
"""Some maps, and their marks."""
Result = tuple[NDArray, list[str]]
"""Records of the maps of a task, and what was wrong with the others."""


def score_task(task: Task, convention: str, parts: frozenset[str]) -> Result:
    """Score some maps."""
    records, faults = [], []
    for pair, mark in zip(*task, strict=True):
        try:
            records.append(make_record(mark, *score_pair(pair, CONVENTIONS[convention], parts)))
        except UserError as error:
            faults.append(str(error))
    return np.array(records, RECORD), faults


def score_set(
    pairs: Sequence[Pair],
    log_path: Path,
    convention: str,
    parts: frozenset[str],
    pool: Executor | None,
    what: str,
) -> Kept:
    """Score the maps of one set that have not been scored yet.

    The result is the same, bit for bit, with any number of processes and after any interruption.
    While another process scores the same set this one waits, and then finds it done.

    Args:
        pairs: maps and masks, in byte order of name.
        log_path: where tallies are kept, see `utils.tallies.log_path`.
        convention: a name of `CONVENTIONS`.
        parts: what is measured beside the counts, see `parts_of`.
        pool: processes to share the work of large sets, see `make_pool`, or None.
        what: name of the progress bar.

    Raises:
        UserError: some maps or masks could not be read (the others are kept), the disk is full, or
            a process of the pool was killed.
    """
    with locked(log_path.with_suffix(".lock"), f"it scores {what}"):
        marks = np.fromiter(map(mark_of, pairs), np.uint64, len(pairs))
        log = TallyLog(log_path, convention, parts, marks)
        todo = np.flatnonzero(~np.isin(marks, log.marks))
        work = [(pairs[at], int(marks[at])) for at in todo]
        if faults := _score_and_keep(work, log, convention, pool, what):
            raise UserError(
                f"{len(faults)} of {len(pairs)} maps could not be scored (the others are kept); "
                f"the first: {min(faults)}"
            )
        kept = log.close((pair.name for pair in pairs), marks)
        drop_others(log_path, marks)
        return kept


def _score_and_keep(
    work: Sequence[tuple[Pair, int]],
    log: TallyLog,
    convention: str,
    pool: Executor | None,
    what: str,
) -> list[str]:
    """Score maps, given with their marks, into a log; return what was wrong with some."""
    if not work:
        return []
    faults: list[str] = []
    shared = pool if len(work) >= WORTH_SHARING else None
    begun = perf_counter()
    with track(None, what, len(work)) as bar:
        for records, told in run_tasks(shared, largest_first(work), convention, log.parts):
            log.append(records)
            faults += told
            bar.update(len(records) + len(told))
    print(f"{what}: {len(work)} images, {len(work) / (perf_counter() - begun):.0f} images/s")
    return faults


def make_pool(workers: int) -> ProcessPoolExecutor:
    """Return processes to score maps; they start when they are first needed."""
    # Spawned, not forked: OpenCV's threads do not survive a fork.
    return ProcessPoolExecutor(
        max(workers, 1), mp_context=get_context("spawn"), initializer=prepare_worker
    )


def prepare_worker() -> None:
    """Fit a process of the pool to its work: it ends when its parent does, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the parent to tell
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    prepare_process()


def _end_with(parent: int) -> None:
    """Wait until the parent is gone: a killed one cannot stop the pool."""
    while os.getppid() == parent:
        sleep(1)
    os._exit(1)


def prepare_process() -> None:
    """Fit a process to scoring many maps, one at a time."""
    cv2.setNumThreads(1)  # pictures are too small to share one among threads
    # The GNU C library keeps freed memory, for the next map, up to the largest block it has seen
    # freed; with its first limit, giving memory back and getting it anew takes a sixth of the time.
    # The block (16 MB, so up to 32 are kept) is never touched.
    np.empty(2**24, np.uint8)


def run_tasks(
    pool: Executor | None, tasks: Sequence[Task], convention: str, parts: frozenset[str]
) -> Iterator[Result]:
    """Yield what `score_task` makes of each task, as it comes, `WINDOW` of them under way at most.

    Raises:
        UserError: a process of the pool was killed.
    """
    if pool is None:
        prepare_process()
        for task in tasks:
            yield score_task(task, convention, parts)
        return
    try:
        yield from _run_shared(pool, tasks, convention, parts)
    except BrokenProcessPool:
        raise UserError(
            "a process that scores maps was killed, most likely for want of memory: run the same "
            "command again with fewer --workers (what was scored is kept)"
        ) from None


def _run_shared(
    pool: Executor, tasks: Iterable[Task], convention: str, parts: frozenset[str]
) -> Iterator[Result]:
    coming = (pool.submit(score_task, task, convention, parts) for task in tasks)
    under_way = set(islice(coming, WINDOW))
    try:
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            under_way |= set(islice(coming, len(done)))
            for future in done:
                yield future.result()
    finally:
        for future in under_way:
            future.cancel()


def largest_first(work: Sequence[tuple[Pair, int]]) -> list[Task]:
    """Deal maps into tasks, large files first, so that no process ends with a long one."""
    sizes = [os.path.getsize(pair.saliency) for pair, _ in work]
    order = np.argsort(sizes, kind="stable")[::-1].tolist()
    chunks = (order[at : at + TASK] for at in range(0, len(order), TASK))
    return [([work[at][0] for at in some], [work[at][1] for at in some]) for some in chunks]


def mark_of(pair: Pair) -> int:
    """Return a hash of an image's name, and of the state (`file_state`) of its two files."""
    digest = hashlib.blake2b(os.fsencode(pair.name), digest_size=8)
    for path in (pair.saliency, pair.mask):
        digest.update(f"\0{path.suffix}\0{file_state(path)}".encode())
    return int.from_bytes(digest.digest(), "little")
