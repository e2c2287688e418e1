"""The log of what maps left behind: nothing is lost, nothing damaged is believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import UserError
from utils.metrics import TALLY
from utils.metrics.summary import CHUNK
from utils.tallies import (
    HEADER_BYTES,
    RECORD,
    TallyLog,
    log_path,
    logs_in,
    make_record,
    read_tallies,
)

PARTS = frozenset({"S", "wF"})


def made_up(number: int) -> np.ndarray:
    """Return the tally of a map, told apart by its number."""
    tally = np.zeros((), TALLY)
    tally["counts"][:] = np.random.default_rng(number).integers(1, 50, (2, 256))
    tally["S"] = tally["wF"] = tally["BIoU"] = 1 / (number + 2)
    return tally


def records_of(marks: list[int]) -> np.ndarray:
    return np.array([make_record(mark, made_up(mark), mark % 2 == 1) for mark in marks], RECORD)


def opened(path: Path, marks: list[int], parts: frozenset[str] = PARTS) -> TallyLog:
    return TallyLog(path, "pysodmetrics", parts, np.array(marks, np.uint64))


def names_of(marks: list[int]) -> list[str]:
    return [f"{mark} \n ä.png" for mark in marks]


def closed(log: TallyLog, marks: list[int]):
    return log.close(names_of(marks), np.array(marks, np.uint64))


def test_tallies_come_back_in_order_of_name(tmp_path: Path) -> None:
    log = opened(tmp_path / "a" / "S.tally", [7, 3, 9])
    log.append(records_of([9, 7]))
    log.append(records_of([3]))
    closed(log, [7, 3, 9])
    kept = read_tallies(tmp_path / "a" / "S.tally")
    assert kept.names == names_of([7, 3, 9])
    assert kept.convention == "pysodmetrics"
    assert kept.resized == 3
    for found, mark in zip(kept.tallies, [7, 3, 9], strict=True):
        assert found == made_up(mark)


def test_the_order_of_the_log_does_not_show_in_the_scores(tmp_path: Path) -> None:
    marks = list(range(1, 2 * CHUNK + 9))
    results = []
    for seed in range(3):
        log = opened(tmp_path / f"{seed}.tally", marks)
        order = np.random.default_rng(seed).permutation(marks)
        for some in np.array_split(order, 7):
            log.append(records_of(some.tolist()))
        scores = closed(log, marks).scores(("maxF", "S", "MAE", "AP"))
        results.append((scores.result(), {k: v.tobytes() for k, v in scores.curves().items()}))
        assert scores.images == len(marks)
    assert results[0] == results[1] == results[2]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3 * RECORD.itemsize + HEADER_BYTES))
def test_a_log_cut_anywhere_keeps_its_whole_records(
    tmp_path_factory: pytest.TempPathFactory, size: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "S.tally"
    opened(path, [1, 2, 3]).append(records_of([1, 2, 3]))
    path.write_bytes(path.read_bytes()[:size])
    log = opened(path, [1, 2, 3])
    whole = max(size - HEADER_BYTES, 0) // RECORD.itemsize
    assert log.marks.tolist() == [1, 2, 3][:whole]
    log.append(records_of([1, 2, 3][whole:]))
    assert [found["S"] for found in closed(log, [3, 2, 1]).tallies] == [1 / 5, 1 / 4, 1 / 3]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3 * RECORD.itemsize - 1), st.integers(0, 7))
def test_a_flipped_bit_costs_its_record(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("bit") / "S.tally"
    opened(path, [1, 2, 3]).append(records_of([1, 2, 3]))
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + at] ^= 1 << bit
    path.write_bytes(data)
    bad = at // RECORD.itemsize + 1
    assert opened(path, [1, 2, 3]).marks.tolist() == [m for m in (1, 2, 3) if m != bad]


def test_a_damaged_first_line_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "S.tally"
    opened(path, [1]).append(records_of([1]))
    for text in (b"", b"{", b"\xff" * 600, b"[]" + b" " * 600, b'{"format": 0}' + b" " * 600):
        path.write_bytes(text)
        assert opened(path, [1]).marks.tolist() == []
        assert path.stat().st_size == HEADER_BYTES


def test_what_is_no_longer_wanted_and_what_is_there_twice_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "S.tally"
    opened(path, [1, 2, 3]).append(records_of([1, 2, 2, 3, 1]))
    assert sorted(opened(path, [2, 3, 4]).marks) == [2, 3]
    assert path.stat().st_size == HEADER_BYTES + 2 * RECORD.itemsize


def test_another_convention_begins_anew_also_with_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "S.tally"
    for before in ([], [1]):
        opened(path, [1]).append(records_of(before))
        other = TallyLog(path, "raw", PARTS, np.array([1], np.uint64))
        assert other.marks.tolist() == []
        other.append(records_of([1]))
        assert closed(other, [1]).convention == "raw"


def without(tally: np.ndarray, *parts: str) -> np.ndarray:
    for part in parts:
        tally[part] = np.nan
    return tally


def test_a_record_serves_where_it_has_the_parts_that_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "S.tally"
    log = opened(path, [1, 2, 3], frozenset())
    assert log.parts == frozenset()
    log.append(np.array([make_record(m, without(made_up(m), "wF", "BIoU"), False) for m in (1, 2)]))
    assert opened(path, [1, 2, 3], frozenset({"S"})).marks.tolist() == [1, 2]
    assert opened(path, [1, 2, 3], frozenset()).marks.tolist() == [1, 2]
    more = opened(path, [1, 2, 3], frozenset({"wF"}))
    assert more.marks.tolist() == []
    assert more.parts == {"S", "wF"}  # what is scored again loses nothing
    more.append(np.array([make_record(1, without(made_up(1), "BIoU"), False)]))
    assert path.stat().st_size == HEADER_BYTES + 3 * RECORD.itemsize
    both = opened(path, [1, 2, 3], frozenset({"S", "wF"}))
    assert both.marks.tolist() == [1]
    assert path.stat().st_size == HEADER_BYTES + 2 * RECORD.itemsize
    only = opened(path, [1, 2, 3], frozenset({"S"}))
    assert sorted(only.marks) == [1, 2]
    assert np.isnan(closed(only, [1, 2]).tallies["wF"]).tolist() == [False, True]


def test_the_last_record_of_a_mark_holds(tmp_path: Path) -> None:
    path = tmp_path / "S.tally"
    log = opened(path, [1, 2])
    log.append(np.array([make_record(m, without(made_up(m), "wF"), False) for m in (1, 2)]))
    log.append(records_of([2, 1]))
    assert closed(log, [1, 2]).tallies["wF"].tolist() == [1 / 3, 1 / 4]
    assert opened(path, [1, 2]).marks.tolist() == [2, 1]
    assert read_tallies(path).tallies["wF"].tolist() == [1 / 3, 1 / 4]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2 * RECORD.itemsize - 1), st.integers(0, 7))
def test_scores_are_never_made_of_a_damaged_record(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("crc") / "S.tally"
    log = opened(path, [1, 2, 3])
    log.append(records_of([1, 2, 3]))
    closed(log, [2, 1])
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + at] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"(are damaged|are missing): run evaluate.py again"):
        read_tallies(path)
    data[HEADER_BYTES + at] ^= 1 << bit
    data[-9] ^= 1  # of an image that is not in the set
    path.write_bytes(data)
    assert len(read_tallies(path).tallies) == 2


def test_logs_are_found_by_set_and_convention(tmp_path: Path) -> None:
    for name in ("X.v2", "X"):
        for convention in ("raw", "eval-co-sod", "unknown"):
            log_path(tmp_path, name, convention).touch()
            log_path(tmp_path, name, convention).with_suffix(".index").touch()
    log_path(tmp_path, "X", "pysodmetrics").touch()  # not whole yet
    for stray in (".raw.tally", "X.tally", "Y.raw.index"):
        (tmp_path / stray).touch()
    assert logs_in(tmp_path) == {name: ["eval-co-sod", "raw"] for name in ("X", "X.v2")}


def test_missing_records_are_told(tmp_path: Path) -> None:
    log = opened(tmp_path / "S.tally", [1, 2])
    with pytest.raises(UserError, match="some images are missing: run evaluate"):
        closed(log, [1, 2])
    log.append(records_of([1]))
    with pytest.raises(UserError, match="some images are missing: run evaluate"):
        closed(log, [1, 2])
    with pytest.raises(UserError, match=r"T\.tally: no scores are kept there"):
        read_tallies(tmp_path / "T.tally")
    opened(tmp_path / "T.tally", [1])
    with pytest.raises(UserError, match=r"T\.index: not readable"):
        read_tallies(tmp_path / "T.tally")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    log = opened(tmp_path / "S.tally", [1])
    log.path = Path("/dev/full")
    with pytest.raises(UserError, match="the disk is full"):
        log.append(records_of([1]))
