"""Check a training set once: what has been found sound is noted, and not decoded again."""

from __future__ import annotations

from pathlib import Path

from datasets.check import require_usable
from datasets.sound import SoundNote


def require_checked(run_folder: Path, data_root: str, trainset: str, masks: bool) -> None:
    """Raise unless the training sets are sound; a check of the same files is not repeated.

    Args:
        run_folder: keeps the note, as `SoundNote`; ``datasets.check --run_folder`` leaves it, too.
        data_root: folder with ``images/`` and ``gts/``.
        trainset: set names joined by ``+``.
        masks: check the masks too; otherwise they are not looked at.

    Raises:
        UserError: see `datasets.check.require_usable`.
    """
    note = SoundNote(run_folder, data_root, trainset, masks)
    if not note.holds:
        require_usable(data_root, trainset, "", train_masks=masks, test_masks=False)
        note.write()
