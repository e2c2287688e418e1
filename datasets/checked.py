"""Check a training set once: what has been found sound is noted, and not decoded again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from datasets.check import require_usable
from datasets.index import list_sets
from utils.files import read_object, write_json


def require_checked(run_folder: Path, data_root: str, trainset: str, masks: bool) -> None:
    """Raise unless the training sets are sound; a check of the same files is not repeated.

    Args:
        run_folder: keeps the note, ``data_checked.json``.
        data_root: folder with ``images/`` and ``gts/``.
        trainset: set names joined by ``+``.
        masks: check the masks too; otherwise they are not looked at.

    Raises:
        UserError: see `datasets.check.require_usable`.
    """
    note = run_folder / "data_checked.json"
    known = read_object(note) if note.exists() else {}
    kinds = {"images": False, "masks": True} if masks else {"images": False}
    states = {kind: _state(data_root, trainset, with_masks) for kind, with_masks in kinds.items()}
    if any(known.get(kind) != state for kind, state in states.items()):
        require_usable(data_root, trainset, "", train_masks=masks, test_masks=False)
        write_json(note, {**known, **states})


def _state(data_root: str, trainset: str, masks: bool) -> str:
    """Return a hash of the names, sizes and times of a set's files."""
    digest = hashlib.blake2b(digest_size=12)
    for sample in list_sets(data_root, trainset):
        for path in (sample.image, sample.mask)[: 1 + masks]:
            stat = path.stat() if path.exists() else None
            size = (stat.st_size, stat.st_mtime_ns) if stat else None
            digest.update(f"{path}\0{size}\n".encode())
    return digest.hexdigest()
