"""What can be wrong with the group folders of a set."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from datasets.faults import ERROR, WARNING, Fault
from datasets.index import IMAGES_FOLDER, MASKS_FOLDER, Sample, image_names


def check_groups(set_name: str, samples: Sequence[Sample]) -> list[Fault]:
    """Return a warning for images beside the group folders, and for each group of one image."""
    counts = Counter(sample.group for sample in samples)
    loose = counts.pop("", 0)
    faults = []
    if loose and counts:
        first = next(sample.name for sample in samples if not sample.group)
        problem = f"lies beside the group folders ({loose} such images)"
        remedy = "put each into its class's folder, or it cannot be trained on or mapped in a group"
        faults.append(Fault(WARNING, f"{IMAGES_FOLDER}/{set_name}/{first}", problem, remedy))
    for group, count in counts.items():
        if count == 1:
            file = f"{IMAGES_FOLDER}/{set_name}/{group}"
            problem = "a group of one image, which shares its object with no other"
            faults.append(Fault(WARNING, file, problem, "add images, or remove the group"))
    return faults


def check_mask_folders(
    masks_folder: Path, set_name: str, samples: Sequence[Sample]
) -> tuple[list[Fault], set[str]]:
    """Compare the group folders of a set's images and masks.

    Returns:
        An error for each group whose masks have no folder, and a warning for each file below
        ``masks_folder`` that is no image's mask (but for folders that an error proposes to
        rename); and the groups without a folder.

    Raises:
        UserError: a folder cannot be listed.
    """
    counts = Counter(sample.group for sample in samples if sample.group)
    missing = {group for group in counts if not os.path.isdir(masks_folder / group)}
    names = sorted(image_names(masks_folder))
    spare = sorted({name.rpartition("/")[0] for name in names} - {"", *counts})
    faults, proposed = [], set()
    for group in sorted(missing):
        file = f"{MASKS_FOLDER}/{set_name}/{group}"
        problem, remedy = f"no such folder for the masks of {counts[group]} images", "add it"
        likely = _closest_folder(group, spare)
        if likely:
            proposed.add(likely)
            remedy = f"if {MASKS_FOLDER}/{set_name}/{likely} is meant, give both the same name"
        faults.append(Fault(ERROR, file, problem, remedy))
    others = [name for name in names if name.rpartition("/")[0] not in proposed]
    return faults + _stray_masks(masks_folder, set_name, samples, others), missing


def _stray_masks(
    masks_folder: Path, set_name: str, samples: Sequence[Sample], names: Sequence[str]
) -> list[Fault]:
    """Return a warning for every file of ``names``, below ``masks_folder``, that is no mask."""
    wanted = {sample.mask for sample in samples}
    faults = []
    for name in names:
        file = f"{MASKS_FOLDER}/{set_name}/{name}"
        if not name.endswith(".png"):
            faults.append(Fault(WARNING, file, "not named .png, so not read", "save it as PNG"))
        elif masks_folder / name not in wanted:
            faults.append(Fault(WARNING, file, "no image has this mask", "add it, or remove this"))
    return faults


def _closest_folder(group: str, folders: Collection[str]) -> str | None:
    """Return the folder whose name is most like ``group``, whatever the case."""
    known = {folder.casefold(): folder for folder in folders}
    matches = difflib.get_close_matches(group.casefold(), known, n=1, cutoff=0.6)
    return known[matches[0]] if matches else None
