"""Pictures that lie where nobody looks, or in a format that is not read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from datasets.faults import WARNING, Fault
from datasets.index import EXTENSIONS, IMAGES_FOLDER, entries_of
from utils.errors import UserError

UNREAD = frozenset(
    (
        ".heic .heif .avif .gif .jfif .jpe .jp2 .jxl .psd .tga .svg"
        " .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf"
    ).split()
)
"""Endings of pictures, as phones, cameras and the web have them, that are not read here."""


def unread_pictures(root: Path, set_name: str) -> list[Fault]:
    """Return a warning for each way in which a set's pictures are passed over.

    Raises:
        UserError: a folder cannot be listed.
    """
    folder = root / IMAGES_FOLDER / set_name
    unread: list[str] = []
    deep: list[str] = []
    for entry in entries_of(folder):
        if not entry.is_dir():
            unread += [entry.name] * _ends_in(UNREAD, entry.name)
            continue
        for inner in entries_of(Path(entry.path)):
            name = f"{entry.name}/{inner.name}"
            if not inner.is_dir():
                unread += [name] * _ends_in(UNREAD, name)
            elif _holds_pictures(Path(inner.path)):
                deep.append(name)
    where = f"{IMAGES_FOLDER}/{set_name}"
    faults = []
    if unread:
        formats = ", ".join(sorted({os.path.splitext(name)[1] for name in unread}))
        problem = f"{_some(unread)} passed over, since {formats} is not read"
        faults.append(Fault(WARNING, where, problem, "save as JPEG or PNG what is to be used"))
    if deep:
        problem = f"the pictures in {_some(deep)} are passed over, two folders down"
        faults.append(
            Fault(WARNING, where, problem, f"move them up, into {where} or a folder in it")
        )
    return faults


def pictures_beside_sets(root: Path) -> list[Fault]:
    """Return a warning if pictures lie beside the folders of the sets."""
    found = [entry.name for entry in entries_of(root / IMAGES_FOLDER) if not entry.is_dir()]
    found = [name for name in found if _ends_in(EXTENSIONS | UNREAD, name)]
    if not found:
        return []
    problem = f"{_some(found)} passed over, in no set"
    return [Fault(WARNING, IMAGES_FOLDER, problem, f"move into a folder {IMAGES_FOLDER}/<SET>")]


def _holds_pictures(folder: Path) -> bool:
    """Whether pictures lie in a folder that is no part of the set, and may be anything."""
    try:
        return any(_ends_in(EXTENSIONS | UNREAD, entry.name) for entry in entries_of(folder))
    except UserError:
        return False


def _ends_in(extensions: frozenset[str], name: str) -> bool:
    return os.path.splitext(name)[1].lower() in extensions


def _some(names: Sequence[str]) -> str:
    """Name the first of some files, and say how many there are more."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return min(names) + more
