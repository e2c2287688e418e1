"""Work in the background: order, overlap, and what happens when some of it fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from utils import background
from utils.background import in_background


@pytest.mark.parametrize("ahead", [0, 1, 3, 100])
def test_results_come_in_order_with_their_items(ahead: int) -> None:
    items = [(n, -n) for n in range(20)]
    found = list(in_background(lambda a, b: (a, b), iter(items), ahead))
    assert found == [(item, item) for item in items]


def test_items_are_made_while_the_work_on_those_before_goes_on() -> None:
    made_second = threading.Event()

    def items() -> Iterator[tuple[int]]:
        yield (0,)
        made_second.set()
        yield (1,)

    # The work on the first item waits for the second one to be made; in turns it never were.
    found = in_background(lambda n: made_second.wait(20), items(), ahead=1)
    assert [result for _, result in found] == [True, True]


def test_no_more_items_than_asked_for_are_made_ahead() -> None:
    made = []
    work = in_background(lambda n: n, ((made.append(n) or n,) for n in range(10)), ahead=2)
    next(work)
    assert made == [0, 1, 2]
    work.close()


def test_a_failure_is_raised_and_the_rest_dropped() -> None:
    made = []

    def work(n: int) -> int:
        if n == 3:
            raise ValueError("three")
        return n

    def items() -> Iterator[tuple[int]]:
        for n in range(100):
            made.append(n)
            yield (n,)

    found = in_background(work, items(), ahead=4)
    assert [next(found)[1] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(found)
    assert len(made) == 8
    assert next(found, None) is None


@pytest.mark.parametrize(("threads", "expected"), [(None, 5), (2, 2)])
def test_as_many_threads_work_as_there_are_cores_or_are_wanted(
    monkeypatch: pytest.MonkeyPatch, threads: int | None, expected: int
) -> None:
    monkeypatch.setattr(background, "core_count", lambda: 5)
    all_at_work = threading.Barrier(expected)  # fewer would wait for ever
    seen: set[int] = set()

    def work(_: int) -> None:
        seen.add(threading.get_ident())
        all_at_work.wait(60)

    items = [(number,) for number in range(4 * expected)]
    assert [item for item, _ in in_background(work, items, len(items), threads)] == items
    assert len(seen) == expected
