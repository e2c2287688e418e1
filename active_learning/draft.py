"""What is chosen of a round so far, image by image: choosing goes on where it was interrupted.

To look at a large pool takes hours, and a cluster may grant less at a time. Each process adds the
images it has done to a file of its own, a line each; what the others had done is read, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from active_learning.selection import Choice
from config import FREE, Config
from utils.checkpoints import fingerprint
from utils.distributed import rank
from utils.files import append_bytes
from utils.settings import to_dict


class Chosen(NamedTuple):
    """What is kept of the choice in one image; see `active_learning.selection.Choice`."""

    pixels: NDArray[np.int64]
    reserve: NDArray[np.int64]
    worth: float


class Draft:
    """The choices of a round that is not whole yet.

    Args:
        folder: of the round.
        made_of: tells all that the choices depend on; what was made of something else is no use.
        names: of the pool's images.

    Attributes:
        found: by place in the pool, what earlier attempts have chosen.
    """

    def __init__(self, folder: Path, made_of: str, names: Sequence[str]) -> None:
        self.path, self.names = folder / f"choosing_{rank()}.jsonl", names
        self.places = {name: place for place, name in enumerate(names)}
        self.head = _line({"made_of": made_of, "images": zlib.crc32(os.fsencode("\0".join(names)))})
        self.found: dict[int, Chosen] = {}
        for path in _files(folder):
            self.found |= self._read(path)[0]
        self._begun = False

    def add(self, place: int, choice: Choice) -> None:
        """Keep the choice in an image.

        Raises:
            UserError: the disk is full, or may not be written.
        """
        if not self._begun:
            self._begin()
        row = {"image": self.names[place], "pixels": choice.pixels.tolist()}
        row |= {"reserve": choice.reserve.tolist(), "worth": float(choice.worth)}
        append_bytes(self.path, _line(row))

    def _begin(self) -> None:
        """Cut off what a kill has left of a line, or begin the file anew."""
        sound = self._read(self.path)[1]
        if sound:
            os.truncate(self.path, sound)
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(self.head)
        self._begun = True

    def _read(self, path: Path) -> tuple[dict[int, Chosen], int]:
        """Return a file's choices and its length, both up to the first line that is damaged."""
        found: dict[int, Chosen] = {}
        try:
            head, *lines = path.read_bytes().splitlines(keepends=True)
        except (OSError, ValueError):  # gone, or empty
            return found, 0
        if head != self.head:
            return found, 0
        sound = len(head)
        for line in lines:
            text = line[9:-1]
            if line != _checked(text):
                break
            row = json.loads(text)
            chosen = Chosen(_pixels(row["pixels"]), _pixels(row["reserve"]), row["worth"])
            found[self.places[row["image"]]] = chosen
            sound += len(line)
        return found, sound


def made_of(config: Config, networks: Sequence[Path], pixels: Sequence[NDArray[np.int64]]) -> str:
    """Return a hash of all that a round's choices depend on.

    Args:
        config: the trial's settings; those that may change while it runs do not count.
        networks: checkpoints of the ensemble.
        pixels: of each image what is known, or was asked in vain.
    """
    digest = hashlib.blake2b(digest_size=12)
    fixed = {name: value for name, value in to_dict(config).items() if name not in FREE}
    digest.update(json.dumps(fixed, sort_keys=True).encode())
    for path in networks:
        digest.update(f"{path.name} {fingerprint(path)}\n".encode())
    for array in pixels:
        digest.update(f"{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def forget(folder: Path) -> None:
    """Delete the draft of a round that is whole."""
    for path in _files(folder):
        with contextlib.suppress(OSError):
            path.unlink()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("choosing_*.jsonl"))


def _line(row: dict[str, Any]) -> bytes:
    return _checked(json.dumps(row).encode())


def _checked(text: bytes) -> bytes:
    """Return a line of a checksum and a text: a digit that differs would be another pixel."""
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _pixels(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(-1, 2)
