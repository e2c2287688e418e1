"""Keep what each saliency map of a set left behind, so that none is scored twice.

The tally of one map (`utils.metrics.TALLY`, about 2 kB) goes to a log as soon as it is known, in
whatever order maps are scored. Every score and curve of the set is computed from the tallies in
order of name. So memory does not grow with the number of images but for their names, an interrupted
evaluation goes on where it was, and the result is the same bit for bit whatever the order was.

``<SET>.<convention>.tally``: a line of JSON padded to 256 bytes (format, convention), then records
of `RECORD` in any order. Of several of one mark the last holds; it has at least the parts of those
before. One that is damaged or cut off is left out when the log is opened again, and refused when
scores are made of it. ``<SET>.<convention>.index``: a line an image in order of name: its mark and,
as JSON, its name. One process at a time writes a log (`datasets.scoring.score_set` sees to that).

Of a trial's held-out images, which are known at labelled points alone, ``validation.points.tally``
holds the counts at these (`datasets.trial_maps`); no score of whole maps is made of it.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError
from utils.files import append_bytes, atomic_path
from utils.locks import in_use
from utils.metrics import CONVENTIONS, PARTS, TALLY, SetScores
from utils.metrics.summary import CHUNK

RECORD = np.dtype([("mark", "<u8"), ("tally", TALLY), ("resized", "<u4"), ("crc", "<u4")])
"""One map in the log: a hash of its name and files, what it left behind, whether its size differed
from its mask's, and a checksum of the bytes before."""

FORMAT = 2
HEADER_BYTES = 256
SUFFIX = ".tally"


def log_path(folder: Path, set_name: str, convention: str) -> Path:
    """Return the log of a set, in the folder of a checkpoint."""
    return folder / f"{set_name}.{convention}{SUFFIX}"


def logs_in(folder: Path) -> dict[str, list[str]]:
    """Return the sets whose scores are whole in a folder, each with its conventions, by name."""
    found: dict[str, list[str]] = {}
    for name in sorted(path.name for path in folder.glob(f"*{SUFFIX}") if _index(path).exists()):
        set_name, _, convention = name.removesuffix(SUFFIX).rpartition(".")
        if set_name and convention in CONVENTIONS:
            found.setdefault(set_name, []).append(convention)
    return found


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

    Attributes:
        parts: what is to be measured of each map beside its counts: what was asked for, and what
            the log holds of other maps, so that nothing that was measured is ever lost.
        marks: of the maps that need not be scored: those whose records in the log, when it was
            opened, had the parts asked for, uint64 [M].
    """

    def __init__(
        self, path: Path, convention: str, parts: frozenset[str], wanted: NDArray[np.uint64]
    ) -> None:
        """Open a log, or begin it where there is none.

        Args:
            path: the log, see `log_path`.
            convention: a name of `CONVENTIONS`.
            parts: what is asked for beside the counts, of `PARTS`.
            wanted: marks of all maps of the set; records of others are dropped.
        """
        self.path = path
        records, header = np.empty(0, RECORD), _header(path)
        serves = header is not None and header["convention"] == convention
        if serves:
            records = _records(path)
        sound = _sound(records) & np.isin(records["mark"], wanted)
        sound[sound] = _last_of_each(records["mark"][sound])
        lacks = {part: np.isnan(records["tally"][part][sound]) for part in PARTS}
        self.parts = parts | {part for part in PARTS if not lacks[part].all()}
        complete = ~np.any([np.zeros(sound.sum(), bool), *(lacks[part] for part in parts)], axis=0)
        self.marks = records["mark"][sound][complete]
        if not (serves and sound.all() and _size(path) == HEADER_BYTES + records.nbytes):
            text = {"format": FORMAT, "convention": convention}
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                file.write(json.dumps(text).encode().ljust(HEADER_BYTES - 1) + b"\n")
                for row in np.flatnonzero(sound):
                    file.write(records[row].tobytes())

    def append(self, records: NDArray) -> None:
        """Write records, RECORD [n], behind the others.

        Raises:
            UserError: the disk is full or may not be written.
        """
        append_bytes(self.path, records.tobytes())

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


def drop_others(path: Path, marks: NDArray[np.uint64]) -> None:
    """Have other conventions' scores of a set not count whose maps or masks have changed since.

    The records stay: those of maps that are the same serve when that convention is scored again.

    Args:
        path: the log of the convention that the set was scored by just now.
        marks: of its maps, in order of name.
    """
    set_name, _, mine = path.name.removesuffix(SUFFIX).rpartition(".")
    for convention in logs_in(path.parent).get(set_name, []):
        other = log_path(path.parent, set_name, convention)
        if convention != mine and not in_use(other.with_suffix(".lock")):
            with contextlib.suppress(UserError):
                if np.array_equal(_read_index(other)[0], marks):
                    continue
            _index(other).unlink(missing_ok=True)


def read_tallies(path: Path) -> Kept:
    """Read what a `TallyLog` kept.

    Raises:
        UserError: there is none, or records of its images are missing or damaged.
    """
    header = _header(path)
    if header is None:
        raise UserError(f"{path}: no scores are kept there: run evaluate.py first")
    marks, names = _read_index(path)
    records = _records(path)
    order = np.argsort(records["mark"], kind="stable")
    place = np.searchsorted(records["mark"], marks, side="right", sorter=order) - 1
    rows = order[np.maximum(place, 0)] if len(order) else order
    if not np.array_equal(records["mark"][rows], marks):
        raise UserError(f"{path}: the scores of some images are missing: run evaluate.py again")
    if damaged := int(np.count_nonzero(~_sound(records, rows))):
        told = f"{damaged} of {len(rows)} scores are damaged"
        raise UserError(f"{path}: {told}: run evaluate.py again")
    return Kept(names, header["convention"], records, rows)


def _checksum(record: bytes) -> int:
    return zlib.crc32(record[: -RECORD["crc"].itemsize])


def _sound(records: NDArray, rows: NDArray[np.intp] | None = None) -> NDArray[np.bool_]:
    """Tell of each record, or of those in some rows, whether its checksum is right."""
    chosen = records if rows is None else (records[row] for row in rows)
    right = (record["crc"] == _checksum(record.tobytes()) for record in chosen)
    return np.fromiter(right, bool, len(records if rows is None else rows))


def _last_of_each(values: NDArray) -> NDArray[np.bool_]:
    last = np.zeros(len(values), bool)
    last[len(values) - 1 - np.unique(values[::-1], return_index=True)[1]] = True
    return last


def _size(path: Path) -> int:
    return path.stat().st_size


def _header(path: Path) -> dict | None:
    """Return what the first line of a log says, None where there is none of this format."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(HEADER_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(header, dict) and header.get("format") == FORMAT
    return header if ours and header.get("convention") in (*CONVENTIONS,) else None


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
        if not all(isinstance(name, str) for name in names):
            raise ValueError("a name is no text")
        return np.array(marks, np.uint64), names
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{_index(path)}: not readable ({error}): run evaluate.py again") from None
