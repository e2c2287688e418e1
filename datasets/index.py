"""Find the images of a set.

Layout: ``<data_root>/images/<SET>/[<group>/]<name>.<extension>`` and
``<data_root>/gts/<SET>/[<group>/]<name>.png``. Only the ``images`` folder is looked at here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError, closest
from utils.run_folder import VALIDATION

IMAGES_FOLDER = "images"
MASKS_FOLDER = "gts"
_LEAST_IN_GROUP = 2  # to train on: a group of one image has nothing in common with itself
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Sample:
    """One image and where its mask would be.

    Attributes:
        name: path below ``images/<SET>/``, with ``/`` and the extension; the image's name in
            points files.
        image: the image file.
        mask: the mask file, which may not exist.
        set: the set's name.
        group: the folder inside the set, empty in a flat set.
    """

    name: str
    image: Path
    mask: Path
    set: str
    group: str


def list_set(data_root: str | os.PathLike[str], set_name: str) -> list[Sample]:
    """List the images of one set, in byte order of their names.

    Hidden files, ``__MACOSX`` and files without an image's extension are passed over. Masks are
    not looked at.

    Raises:
        UserError: as for `find_set`; or two images would share a mask.
    """
    samples = find_set(data_root, set_name)
    if shared := sharing_masks(samples):
        one, other = shared[0]
        more = f" (and so would {len(shared) - 1} more)" if len(shared) > 1 else ""
        raise UserError(
            f"{Path(data_root) / IMAGES_FOLDER / set_name}: {other.name} and {one.name} would "
            f"share the mask {one.mask.name}{more}: rename or remove one"
        )
    return samples


def find_set(data_root: str | os.PathLike[str], set_name: str) -> list[Sample]:
    """List the images of one set as `list_set` does, though two of them would share a mask.

    Raises:
        UserError: the root or the set is missing, or the set has no image.
    """
    root = Path(data_root)
    known = set_names(root)
    folder = root / IMAGES_FOLDER / set_name
    if set_name not in known:
        there = ", ".join(known) or "none"
        raise UserError(
            f"no set '{set_name}' in {root / IMAGES_FOLDER}{closest(set_name, known)} "
            f"(there: {there})"
        )
    samples = sorted(
        (_sample(root, set_name, name) for name in image_names(folder)),
        key=lambda sample: sample.name.encode(),
    )
    if not samples:
        raise UserError(
            f"{folder}: no images in it or in its group folders: put files ending in "
            f"{', '.join(sorted(EXTENSIONS))} there"
        )
    return samples


def sharing_masks(samples: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Return each image whose mask, and map, would be an earlier image's, with that one."""
    by_mask: dict[Path, Sample] = {}
    pairs = ((sample, by_mask.setdefault(sample.mask, sample)) for sample in samples)
    return [(sample, other) for sample, other in pairs if other is not sample]


def list_sets(data_root: str | os.PathLike[str], set_names_joined: str) -> list[Sample]:
    """List the images of several sets, their names joined by ``+``, one set after another.

    Raises:
        UserError: as for `list_set`; or two sets hold an image of the same name, which a points
            file could not tell apart.
    """
    samples: list[Sample] = []
    by_name: dict[str, Sample] = {}
    for set_name in split_set_names(set_names_joined):
        for sample in list_set(data_root, set_name):
            other = by_name.setdefault(sample.name, sample)
            if other is not sample:
                raise UserError(
                    f"image {sample.name} is in both sets {other.set} and {sample.set}: points "
                    "files name images without their set, so rename one or use one set"
                )
            samples.append(sample)
    return samples


def test_set_names(joined: str) -> list[str]:
    """Return the names of a trial's test sets, none of an empty text.

    Raises:
        UserError: as `split_set_names`; or one is named as the held-out split is.
    """
    names = split_set_names(joined) if joined else []
    if VALIDATION in names:
        raise UserError(f"--testsets: '{VALIDATION}' is the held-out split: rename that set")
    return names


def split_set_names(joined: str) -> list[str]:
    """Split ``"A+B"`` into ``["A", "B"]``.

    Raises:
        UserError: a name is empty, given twice, or no plain folder name.
    """
    names = joined.split("+")
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise UserError(f"bad set name '{name}' in '{joined}': join folder names by '+'")
    if len(set(names)) < len(names):
        raise UserError(f"a set is named twice in '{joined}': name each once")
    return names


def set_names(data_root: str | os.PathLike[str]) -> list[str]:
    """Return the names of the sets under ``images/``, sorted.

    Raises:
        UserError: the root or its ``images`` folder is missing or unreadable.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: set --data_root to the folder with images/")
    folder = root / IMAGES_FOLDER
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder: --data_root must hold {IMAGES_FOLDER}/<SET>/ and "
            f"{MASKS_FOLDER}/<SET>/"
        )
    return sorted(entry.name for entry in entries_of(folder) if entry.is_dir())


def split_train_validation(
    samples: Sequence[Sample], fraction: float, seed: int, grouped: bool = False
) -> tuple[list[Sample], list[Sample]]:
    """Set some images aside for validation, by a hash of the seed and the image's name.

    Whether an image is set aside depends on no other image, but for two rules: of two images or
    more at least one goes to each side; and with ``grouped`` a co-salient group keeps two images to
    train on, where it has them, so that many small groups leave a smaller share to validate on. The
    order of ``samples`` is kept.

    Args:
        samples: images to split.
        fraction: share to set aside, 0 <= fraction < 1; 0 sets none aside.
        seed: another seed, another split.
        grouped: whether the training looks at groups.

    Returns:
        ``(train, validation)``.

    Raises:
        UserError: the fraction is outside its range.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"validation fraction {fraction}: must be at least 0 and below 1")
    if fraction == 0 or len(samples) < 2:
        return list(samples), []
    places = [_place(seed, sample.name) for sample in samples]
    threshold = min(max(fraction, min(places)), sorted(places)[-2])
    held_out = {index for index, place in enumerate(places) if place <= threshold}
    for members in _groups(samples).values() if grouped else ():
        held_out.difference_update(sorted(members, key=places.__getitem__)[-_LEAST_IN_GROUP:])
    held_out = held_out or {places.index(min(places))}
    train = [sample for index, sample in enumerate(samples) if index not in held_out]
    validation = [sample for index, sample in enumerate(samples) if index in held_out]
    return train, validation


def list_split(
    data_root: str | os.PathLike[str],
    set_names_joined: str,
    fraction: float,
    seed: int,
    grouped: bool,
) -> tuple[list[Sample], list[Sample]]:
    """List some sets and split them: ``(train, validation)``; errors as in `list_sets`."""
    samples = list_sets(data_root, set_names_joined)
    return split_train_validation(samples, fraction, seed, grouped)


def _groups(samples: Sequence[Sample]) -> dict[tuple[str, str], list[int]]:
    """Return the places of each co-salient group's images; images in no folder are in none."""
    members: dict[tuple[str, str], list[int]] = {}
    for index, sample in enumerate(samples):
        if sample.group:
            members.setdefault((sample.set, sample.group), []).append(index)
    return members


def _place(seed: int, name: str) -> float:
    """Return a number in [0, 1) that looks random and belongs to the seed and the name."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2.0**53


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over: hidden, or an archive's leftover."""
    return name.startswith(".") or name == "__MACOSX"


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, without hidden entries and archive leftovers."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}): check it") from None


def image_names(folder: Path, extensions: Collection[str] = EXTENSIONS) -> list[str]:
    """Return the names, relative to ``folder``, of the image files in it and in its subfolders.

    Hidden files and files without one of the extensions are left out; the order is the disk's.

    Raises:
        UserError: a folder cannot be listed.
    """
    names = []
    for entry in entries_of(folder):
        if entry.is_dir():
            names += [
                f"{entry.name}/{inner.name}"
                for inner in entries_of(folder / entry.name)
                if _is_file_of(extensions, inner)
            ]
        elif _is_file_of(extensions, entry):
            names.append(entry.name)
    return names


def _is_file_of(extensions: Collection[str], entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in extensions and entry.is_file()


def _sample(root: Path, set_name: str, name: str) -> Sample:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{root / IMAGES_FOLDER / set_name}: the file name {name!r} is not UTF-8: rename it"
        ) from None
    group = name.rpartition("/")[0]
    return Sample(
        name=name,
        image=root / IMAGES_FOLDER / set_name / name,
        mask=(root / MASKS_FOLDER / set_name / name).with_suffix(".png"),
        set=set_name,
        group=group,
    )
