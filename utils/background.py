"""Work of many threads beside that of one: what a loop yields is finished while it goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from utils.cores import core_count

Result = TypeVar("Result")


def in_background(
    work: Callable[..., Result],
    items: Iterable[tuple[Any, ...]],
    ahead: int,
    threads: int | None = None,
) -> Iterator[tuple[tuple[Any, ...], Result]]:
    """Yield each item and ``work(*item)``, in order, while the next items are being made.

    Items are made by the thread that asks for results, the work on them is done by as many others
    as there are cores, or by ``threads``. So a network need not wait for what is done with its
    maps, one by one.

    Args:
        work: must not depend on the order of the items; what it raises is raised here, and work
            that has not begun is dropped.
        items: a generator, whose own work is what there is to overlap with.
        ahead: most items made before the result of the first of them is waited for.
        threads: how many do the work; None: as many as there are cores.
    """
    pool = ThreadPoolExecutor(threads or core_count())
    coming: deque[tuple[tuple[Any, ...], Future[Result]]] = deque()
    try:
        for item in items:
            coming.append((item, pool.submit(work, *item)))
            if len(coming) > ahead:
                ready, future = coming.popleft()
                yield ready, future.result()
        while coming:
            ready, future = coming.popleft()
            yield ready, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
