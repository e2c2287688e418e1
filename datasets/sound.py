"""A trial's note of what was found sound in its training sets, so that none is decoded twice."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from datasets.index import list_sets
from utils.files import read_object, write_json


class SoundNote:
    """What ``data_checked.json`` in a trial's folder says of the training sets."""

    def __init__(
        self, run_folder: Path, data_root: str | os.PathLike[str], trainset: str, masks: bool
    ) -> None:
        """Look at the files as they are, before they are checked.

        Args:
            run_folder: keeps the note.
            data_root: folder with ``images/`` and ``gts/``.
            trainset: set names joined by ``+``.
            masks: the note is of the masks, too.

        Raises:
            UserError: a set cannot be listed, or the note is damaged.
        """
        self.path = run_folder / "data_checked.json"
        self.known = read_object(self.path) if self.path.exists() else {}
        kinds = {"images": False, "masks": True} if masks else {"images": False}
        self.states = {kind: _state(data_root, trainset, both) for kind, both in kinds.items()}

    @property
    def holds(self) -> bool:
        """Whether these very files were found sound before."""
        return all(self.known.get(kind) == state for kind, state in self.states.items())

    def write(self) -> None:
        """Note that they are sound."""
        write_json(self.path, {**self.known, **self.states})


def _state(data_root: str | os.PathLike[str], trainset: str, masks: bool) -> str:
    """Return a hash of the names, sizes and times of a set's files."""
    digest = hashlib.blake2b(digest_size=12)
    for sample in list_sets(data_root, trainset):
        for path in (sample.image, sample.mask)[: 1 + masks]:
            stat = path.stat() if path.exists() else None
            size = (stat.st_size, stat.st_mtime_ns) if stat else None
            digest.update(f"{path}\0{size}\n".encode())
    return digest.hexdigest()
