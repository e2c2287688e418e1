"""What a look has made of the images so far: it goes on where it was interrupted.

To look at a large set takes hours, and a cluster may grant less at a time. Each process adds the
pseudo labels it has made to a file of its own, a record each; what the others had made is read,
too. The files stay until the training has ended, for whoever goes on with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.distributed import rank
from utils.files import append_bytes

MARK_BYTES = 8
"""Bytes of the checksum before each record."""


class Looked:
    """The pseudo labels of a look, on disk.

    Args:
        folder: of the training.
        made_of: at most 64 bytes, tells all that they depend on; what was made of something else
            is no use.
        size: the maps' side.
    """

    def __init__(self, folder: Path, made_of: bytes, size: int) -> None:
        self.folder, self.made_of = folder, made_of
        self.path = folder / f"looked_{rank()}.maps"
        self.record = np.dtype([("index", "<u4"), ("trusted", "?"), ("map", "u1", (size, size))])
        self._begun = False

    def found(self) -> Iterator[tuple[int, bool, NDArray[np.uint8]]]:
        """Yield what earlier attempts have made: an image's place, whether it is trusted, its map.

        An image may come twice, with the same map.
        """
        for path in _files(self.folder):
            for row in self._read(path):
                yield int(row["index"]), bool(row["trusted"]), row["map"]

    def add(self, index: int, trusted: bool, made: NDArray[np.uint8]) -> None:
        """Keep the label of an image.

        Raises:
            UserError: the disk is full, or may not be written.
        """
        if not self._begun:
            self._begin()
        row = np.array((index, trusted, made), self.record).tobytes()
        append_bytes(self.path, self._mark(row) + row)

    def _begin(self) -> None:
        """Cut off what a kill has left of a record, and all that is of another look."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            sound = sum(1 for _ in self._read(self.path))
            os.truncate(self.path, sound * (MARK_BYTES + self.record.itemsize))
        self._begun = True

    def _read(self, path: Path) -> Iterator[NDArray]:
        """Yield a file's records up to the first that is damaged, or of another look."""
        with contextlib.suppress(OSError), open(path, "rb") as file:  # gone, maybe
            while mark := file.read(MARK_BYTES):
                row = file.read(self.record.itemsize)
                if mark != self._mark(row):
                    return
                yield np.frombuffer(row, self.record)[0]

    def _mark(self, row: bytes) -> bytes:
        """Return the checksum of a record, another one for every look."""
        return hashlib.blake2b(row, key=self.made_of, digest_size=MARK_BYTES).digest()


def forget(folder: Path) -> None:
    """Delete what the looks of a training have left."""
    for path in _files(folder):
        with contextlib.suppress(OSError):
            path.unlink()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("looked_*.maps"))
