"""Score map files against mask files, in many processes, each map once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, as_completed
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.images import read_mask
from datasets.maps import Pair, read_map
from utils.errors import UserError
from utils.metrics import CONVENTIONS, Convention, tally
from utils.tallies import RECORD, Kept, TallyLog, make_record

TASK = 16
"""Maps that a process scores at a time."""
WORTH_SHARING = 100
"""Maps to score from which on starting other processes pays."""


def score_pair(pair: Pair, convention: Convention, parts: frozenset[str]) -> tuple[NDArray, bool]:
    """Score one map.

    A map of another size than its mask is resized to it, bilinearly, on its 8-bit values.

    Returns:
        What it leaves behind (TALLY of shape ()), and whether it was resized.

    Raises:
        UserError: one of the two files is missing, damaged, or no map.
    """
    saliency, mask = read_map(pair.saliency), read_mask(pair.mask)
    resized = saliency.shape != mask.shape
    if resized:
        saliency = cv2.resize(saliency, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return tally(saliency, mask, convention, parts), resized


Task = tuple[list[Pair], list[int]]
"""Some maps, and their marks."""


def score_task(task: Task, convention: str, parts: frozenset[str]) -> tuple[NDArray, list[str]]:
    """Score some maps; return their records, and what was wrong with the others."""
    cv2.setNumThreads(1)  # pictures are too small to share one among threads
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

    Args:
        pairs: maps and masks, in byte order of name.
        log_path: where tallies are kept, see `utils.tallies`.
        convention: a name of `CONVENTIONS`.
        parts: what is measured beside the counts, see `parts_of`.
        pool: processes to share the work of large sets, or None.
        what: name of the progress bar.

    Raises:
        UserError: some maps or masks could not be read (the others are kept), or the disk is full.
    """
    marks = np.fromiter(map(mark_of, pairs), np.uint64, len(pairs))
    log = TallyLog(log_path, convention, parts, marks)
    todo = np.flatnonzero(~np.isin(marks, log.marks))
    faults: list[str] = []
    tasks = largest_first([(pairs[at], int(marks[at])) for at in todo])
    shared = pool if len(todo) >= WORTH_SHARING else None
    begun = perf_counter()
    with tqdm(total=len(todo), desc=what, unit="image", disable=not tasks, leave=False) as bar:
        for records, told in run_tasks(shared, tasks, convention, log.parts):
            log.append(records)
            faults += told
            bar.update(len(records) + len(told))
    if tasks:
        print(f"{what}: {len(todo)} images, {len(todo) / (perf_counter() - begun):.0f} images/s")
    if faults:
        raise UserError(
            f"{len(faults)} of {len(pairs)} maps could not be scored (the others are kept); "
            f"the first: {min(faults)}"
        )
    return log.close((pair.name for pair in pairs), marks)


def run_tasks(
    pool: Executor | None, tasks: Sequence[Task], convention: str, parts: frozenset[str]
) -> Iterator[tuple[NDArray, list[str]]]:
    """Yield what `score_task` makes of each task, as it comes."""
    if pool is None:
        for task in tasks:
            yield score_task(task, convention, parts)
        return
    coming = [pool.submit(score_task, task, convention, parts) for task in tasks]
    try:
        for future in as_completed(coming):
            yield future.result()
    finally:
        for future in coming:
            future.cancel()


def largest_first(work: Sequence[tuple[Pair, int]]) -> list[Task]:
    """Deal maps into tasks, large files first, so that no process ends with a long one."""
    sizes = [os.path.getsize(pair.saliency) for pair, _ in work]
    order = np.argsort(sizes, kind="stable")[::-1].tolist()
    chunks = (order[at : at + TASK] for at in range(0, len(order), TASK))
    return [([work[at][0] for at in some], [work[at][1] for at in some]) for some in chunks]


def mark_of(pair: Pair) -> int:
    """Return a hash of an image's name, and of the names, sizes and times of its two files."""
    digest = hashlib.blake2b(os.fsencode(pair.name), digest_size=8)
    for path in (pair.saliency, pair.mask):
        stat = os.stat(path)
        digest.update(f"\0{path.suffix}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
    return int.from_bytes(digest.digest(), "little")
