"""Keep what each saliency map of a set left behind, so that none is scored twice.

The tally of one map (`utils.metrics.TALLY`, about 2 kB) goes to a log as soon as it is known, in
whatever order maps are scored. Every score and curve of the set is computed from the tallies in
order of name. So memory does not grow with the number of images but for their names, an interrupted
evaluation goes on where it was, and the result is the same bit for bit whatever the order was.

``<SET>.tally``: a line of JSON padded to 256 bytes (format, convention, what was measured), then
records of `RECORD` in any order. One that is damaged or cut off is left out when the log is
opened again. ``<SET>.index``: a line an image in order of name: its mark and,
as JSON, its name.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError, disk_error
from utils.files import atomic_path
from utils.metrics import CONVENTIONS, TALLY, SetScores

RECORD = np.dtype([("mark", "<u8"), ("tally", TALLY), ("resized", "<u4"), ("crc", "<u4")])
"""One map in the log: a hash of its name and files, what it left behind, whether its size differed
from its mask's, and a checksum of the bytes before."""

FORMAT = 1
HEADER_BYTES = 256
CHUNK = 256
"""Tallies that are added up at a time; sums come out the same only with the same chunks."""


def make_record(mark: int, tally: NDArray, resized: bool) -> NDArray:
    """Return the record of one map, RECORD of shape ()."""
    record = np.zeros((), RECORD)
    record["mark"], record["tally"], record["resized"] = mark, tally, resized
    record["crc"] = _checksum(record.tobytes())
    return record


@dataclass(frozen=True)
class Kept:
    """What is known of the maps of a set.

    Attributes:
        names: the images, in byte order.
        convention: name of the convention that S, wF and BIoU were measured in.
        records: the log (a memory map), in its own order.
        rows: for each name the row of its record, int [N].
    """

    names: Sequence[str]
    convention: str
    records: NDArray
    rows: NDArray[np.intp]

    @property
    def tallies(self) -> NDArray:
        """The tallies in order of name, all in memory: TALLY [N]."""
        return self.records["tally"][self.rows]

    @property
    def resized(self) -> int:
        """The number of maps that were of another size than their masks."""
        return int(np.count_nonzero(self.records["resized"][self.rows]))

    def chunks(self) -> Iterator[NDArray]:
        """Yield the tallies in order of name, `CHUNK` at a time: TALLY [n]."""
        for start in range(0, len(self.rows), CHUNK):
            yield self.records[self.rows[start : start + CHUNK]]["tally"]

    def scores(self, metrics: Sequence[str]) -> SetScores:
        """Add the set's scores up."""
        scores = SetScores(CONVENTIONS[self.convention], metrics)
        for chunk in self.chunks():
            scores.add(chunk)
        return scores


class TallyLog:
    """The log of one set, open for more records.

    Two processes that write the same log at a time write the same records twice, no worse.

    Attributes:
        parts: what is measured of each map beside its counts: what was asked for, or more where
            the log holds more already.
        marks: of the maps that the log held when it was opened, uint64 [M].
    """

    def __init__(
        self, path: Path, convention: str, parts: frozenset[str], wanted: NDArray[np.uint64]
    ) -> None:
        """Open a log, or begin it anew where it is of another convention or lacks a part.

        Args:
            path: the log.
            convention: a name of `CONVENTIONS`.
            parts: what is to be measured beside the counts, of `PARTS`.
            wanted: marks of all maps of the set; records of others are dropped.
        """
        self.path, self.parts = path, parts
        records = np.empty(0, RECORD)
        header = _header(path)
        serves = header and header["convention"] == convention and parts <= set(header["parts"])
        if serves:
            records, self.parts = _records(path), frozenset(header["parts"])
        sound = _sound(records) & np.isin(records["mark"], wanted)
        sound[sound] = _first_of_each(records["mark"][sound])
        self.marks = records["mark"][sound]
        if not (serves and sound.all() and _size(path) == HEADER_BYTES + records.nbytes):
            text = {"format": FORMAT, "convention": convention, "parts": sorted(self.parts)}
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                file.write(json.dumps(text).encode().ljust(HEADER_BYTES - 1) + b"\n")
                for row in np.flatnonzero(sound):
                    file.write(records[row].tobytes())

    def append(self, records: NDArray) -> None:
        """Write records, RECORD [n], behind the others.

        Raises:
            UserError: the disk is full or may not be written.
        """
        try:
            with open(self.path, "ab") as file:
                file.write(records.tobytes())
        except OSError as error:
            raise disk_error(error) or error from None

    def close(self, names: Iterable[str], marks: NDArray[np.uint64]) -> Kept:
        """Write down which images the set is made of, in order, and return what is known of them.

        Raises:
            UserError: one of them has no record.
        """
        lines = (
            f"{mark:016x} {json.dumps(name)}\n" for name, mark in zip(names, marks, strict=True)
        )
        index = _index(self.path)
        with atomic_path(index) as temporary, open(temporary, "w", encoding="ascii") as file:
            file.writelines(lines)
        return read_tallies(self.path)


def read_tallies(path: Path) -> Kept:
    """Read what a `TallyLog` kept.

    Raises:
        UserError: there is none, or records of its images are missing.
    """
    header = _header(path)
    if header is None:
        raise UserError(f"{path}: no scores are kept there: run evaluate.py first")
    marks, names = _read_index(path)
    records = _records(path)
    order = np.argsort(records["mark"], kind="stable")
    place = np.searchsorted(records["mark"], marks, sorter=order)
    rows = order[np.minimum(place, len(order) - 1)] if len(order) else order
    if not np.array_equal(records["mark"][rows], marks):
        raise UserError(f"{path}: the scores of some images are missing: run evaluate.py again")
    return Kept(names, header["convention"], records, rows)


def _checksum(record: bytes) -> int:
    return zlib.crc32(record[: -RECORD["crc"].itemsize])


def _sound(records: NDArray) -> NDArray[np.bool_]:
    right = (record["crc"] == _checksum(record.tobytes()) for record in records)
    return np.fromiter(right, bool, len(records))


def _first_of_each(values: NDArray) -> NDArray[np.bool_]:
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def _size(path: Path) -> int:
    return path.stat().st_size


def _header(path: Path) -> dict | None:
    """Return what the first line of a log says, None where there is none of this format."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(HEADER_BYTES))
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) and header.get("format") == FORMAT else None


def _records(path: Path) -> NDArray:
    """Return the whole records of a log, as a read-only memory map."""
    number = (_size(path) - HEADER_BYTES) // RECORD.itemsize
    if number <= 0:
        return np.empty(0, RECORD)
    return np.memmap(path, RECORD, "r", HEADER_BYTES, (number,))


def _index(path: Path) -> Path:
    return path.with_suffix(".index")


def _read_index(path: Path) -> tuple[NDArray[np.uint64], list[str]]:
    marks, names = [], []
    try:
        with open(_index(path), encoding="ascii") as file:
            for line in file:
                marks.append(int(line[:16], 16))
                names.append(json.loads(line[17:]))
    except (OSError, ValueError) as error:
        raise UserError(f"{_index(path)}: not readable ({error}): run evaluate.py again") from None
    return np.array(marks, np.uint64), names
