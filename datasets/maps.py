"""Saliency maps as files: read those of any method, and pair them with their masks.

Masks are read here as the tools read them that published scores come from: an 8-bit one is
foreground where it is above 128. `datasets.images.read_mask`, which training and the oracle use,
counts 128 too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.images import half_of, read_grey
from datasets.index import EXTENSIONS, image_names
from utils.errors import UserError
from utils.metrics.tally import foreground

ARRAY_EXTENSION = ".npy"
MAP_EXTENSIONS = (".png", ".npy", *sorted(EXTENSIONS - {".png"}))


@dataclass(frozen=True, slots=True)
class Pair:
    """A map and the mask it is scored against.

    Attributes:
        name: the mask's path below its set, with ``/``; the image's name in per-image tables.
    """

    name: str
    saliency: Path
    mask: Path


@dataclass
class Pairing:
    """What was found when maps were looked for: pairs in byte order of name, and the rest."""

    pairs: list[Pair] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)


def read_map(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a saliency map of any depth as 256 grey levels, uint8 (H, W).

    Pictures (colours become their luminance) and ``.npy`` arrays of two dimensions are read. White
    is 255, 65535, ... of integers by their depth, True of Booleans and 1.0 of floats; deeper
    values are rounded to the nearest of the 256 levels.

    Raises:
        UserError: the file is missing or damaged, is no map, is a float map that holds NaN or
            leaves the range 0 to 1, or an integer map with negative values or with those of a
            lesser depth.
    """
    path = Path(path)
    if path.suffix.lower() == ARRAY_EXTENSION:
        values, full = _read_array(path)
    else:
        values, full = read_grey(path)
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "f":
        _check_range(values, path)
    else:
        _check_depth(values, full, path)
    return np.rint(values.astype(np.float64) * (255 / full)).astype(np.uint8)


def read_true_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Read the mask that a map is scored against.

    Returns:
        bool (H, W): where an 8-bit mask is above 128, a deeper or float one at least half of white.

    Raises:
        UserError: the file is missing or damaged, or its values are not those of its depth, such
            as 0 and 1.
    """
    values, full = read_grey(path)
    if values.dtype.kind in "iu" and values.max() == 1:
        raise UserError(
            f"{path}: its values are 0 and 1, which are both black: save the object as {full:.0f}"
        )
    if values.dtype == np.uint8:
        return foreground(values)
    if values.dtype.kind in "iu":
        _check_depth(values, full, Path(path))
    return values >= half_of(full)


def _check_depth(values: np.ndarray, full: float, path: Path) -> None:
    """Refuse integers that are no grey values of their own depth, deeper than 8 bits."""
    low, high = int(values.min()), int(values.max())
    if low < 0:
        raise UserError(f"{path}: values from {low} to {high}: save 0 for black, or 8-bit values")
    for lesser, bits in ((255, 8), (65535, 16)):
        if 1 < high <= lesser < full:
            raise UserError(
                f"{path}: the largest value is {high}, and white is {full:.0f} in this file: "
                f"it seems to hold {bits}-bit values: save it with {bits} bits"
            )


def _read_array(path: Path) -> tuple[np.ndarray, float]:
    """Return the values of an ``.npy`` file and the value of white."""
    try:
        # Mapped: a header that speaks of more values than there are would take memory for them.
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such map: make it first") from None
    except Exception as error:
        # A damaged header makes the reader raise nearly anything (tokenize.TokenError, ...).
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: not readable as an array ({reason}): make it again") from None
    if not isinstance(values, np.ndarray):
        raise UserError(f"{path}: an archive of arrays (.npz): save one array with numpy.save")
    shape = " x ".join(map(str, values.shape))
    if values.ndim != 2 or values.size == 0:
        raise UserError(f"{path}: {shape or 'one value'}: a map has two dimensions, height x width")
    if values.dtype.kind == "u":
        return values, float(np.iinfo(values.dtype).max)
    if values.dtype.kind in "bf":
        return values, 1.0
    raise UserError(f"{path}: {values.dtype}: save bool, unsigned integers, or floats of 0 to 1")


def _check_range(values: np.ndarray, path: Path) -> None:
    """Refuse NaN, and floats that are no saliency of 0 to 1."""
    bad = ~np.isfinite(values)
    if bad.any():
        y, x = np.argwhere(bad)[0]
        raise UserError(
            f"{path}: {values[y, x]} at x {x}, y {y} ({bad.sum()} of {values.size} values are not "
            "finite): mend what made the map"
        )
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise UserError(
            f"{path}: float values from {low:g} to {high:g}: saliency must lie in 0 to 1: "
            "scale the map, or save 8-bit values"
        )


def pair_up(masks: Iterable[tuple[str, Path]], folder: Path) -> Pairing:
    """Look for the map of every mask in a folder, by its path without extension.

    Args:
        masks: name (path below the set, with ``/``) and file of every mask.
        folder: the folder of the set's maps.

    Raises:
        UserError: two maps would stand for one mask, or a name is not UTF-8.
    """
    by_stem = _by_stem(_map_names(folder), "maps", folder)
    found = Pairing()
    for name, mask in sorted(masks, key=lambda item: os.fsencode(item[0])):
        saliency = by_stem.pop(os.path.splitext(name)[0], None)
        if saliency is None:
            found.missing.append(name)
        else:
            found.pairs.append(Pair(name, folder / saliency, mask))
    found.extra = sorted(by_stem.values())
    return found


def _by_stem(names: Iterable[str], what: str, folder: Path) -> dict[str, str]:
    """Return names by what stands before their extensions, each of which there must be once."""
    by_stem: dict[str, str] = {}
    for name in names:
        other = by_stem.setdefault(os.path.splitext(name)[0], name)
        if other != name:
            first, second = sorted((other, name))
            raise UserError(f"{folder}: {first} and {second} are {what} of one image: remove one")
    return by_stem


def list_masks(folder: Path) -> list[tuple[str, Path]]:
    """Return name and file of every mask of a set, flat or grouped.

    Raises:
        UserError: the folder is missing or holds no mask, two masks are of one image, or a
            name is not UTF-8.
    """
    names = image_names(folder) if folder.is_dir() else []
    check_utf8(names, folder)
    if not names:
        raise UserError(f"{folder}: no masks there: check --gt_root and --testsets")
    _by_stem(names, "masks", folder)
    return [(name, folder / name) for name in names]


def _map_names(folder: Path) -> list[str]:
    """Return the names of the maps below a folder, none where it is missing."""
    if not folder.is_dir():
        return []
    names = image_names(folder, frozenset(MAP_EXTENSIONS))
    check_utf8(names, folder)
    return names


def check_utf8(names: Iterable[str], folder: Path) -> None:
    """Raise `UserError` for the first name that cannot be written into a table."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f"{folder}: the name {name!r} is not UTF-8: rename it") from None
