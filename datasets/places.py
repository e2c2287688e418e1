"""Where the maps, masks and scores of an evaluation lie, and which of them there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from datasets.index import list_set, split_set_names, test_set_names
from datasets.maps import Pair, check_utf8, list_masks, pair_up
from utils.errors import UserError, closest
from utils.locks import locked
from utils.run_folder import VALIDATION
from utils.tallies import log_path

RESULTS = ("tallies", "curves", "per_image", "worst")
"""Folders among the results of an evaluation."""


@dataclass(frozen=True)
class Place:
    """Where maps and masks lie, and where the scores go.

    Attributes:
        predictions: ``<predictions>/<checkpoint>/<SET>/``, or the maps themselves if `plain`.
        masks: ``<masks>/<SET>/``, or the masks themselves if `plain`.
        data_root: of a trial's own sets; None for maps from elsewhere.
    """

    predictions: Path
    masks: Path
    out: Path
    trial: str
    data_root: Path | None
    plain: bool = False

    def maps_of(self, checkpoint: str, set_name: str) -> Path:
        """Return the folder of the maps of a set."""
        return self.predictions if self.plain else self.predictions / checkpoint / set_name

    def masks_of(self, set_name: str) -> Path:
        """Return the folder of the masks of a set."""
        return self.masks if self.plain else self.masks / set_name

    def log_of(self, checkpoint: str, set_name: str, convention: str) -> Path:
        """Return where what is known of the maps of a set is kept."""
        return log_path(self.out / "tallies" / checkpoint, set_name, convention)

    def writing(self) -> AbstractContextManager[None]:
        """Return the lock under which results are written."""
        return locked(self.out / "tallies" / "evaluate.lock", f"it writes into {self.out}")

    def is_held_out(self, set_name: str) -> bool:
        """Tell whether a set is the trial's held-out split; maps from elsewhere have none."""
        return self.data_root is not None and set_name == VALIDATION


def find_pairs(
    place: Place, checkpoint: str, set_name: str, allow_missing: bool
) -> tuple[list[Pair], int, int]:
    """Return maps and masks of a set, in byte order of name.

    Also how many images were left out for want of a map or a mask, and how many maps belong to
    no image of the set.

    Of a trial, the images say what belongs to the set; of other maps, the masks do.

    Raises:
        UserError: maps or masks are missing (their number, the first names) that may not be.
    """
    folder, maps = place.masks_of(set_name), place.maps_of(checkpoint, set_name)
    if place.data_root is not None:
        listed = [sample.mask for sample in list_set(place.data_root, set_name)]
        masks = [(path.relative_to(folder).as_posix(), path) for path in listed]
    else:
        masks = list_masks(folder)
    paired = pair_up(masks, maps)
    if paired.extra:
        number = len(paired.extra)
        print(f"{maps}: {number} maps have no mask and are left out ({first(paired.extra)})")
    if paired.missing:
        tell_missing(maps, "maps", paired.missing, len(masks), allow_missing)
    pairs = [pair for pair in paired.pairs if pair.mask.exists()]
    if len(pairs) < len(paired.pairs):
        without = [pair.name for pair in paired.pairs if not pair.mask.exists()]
        tell_missing(folder, "masks", without, len(masks), allow_missing)
    return pairs, len(masks) - len(pairs), len(paired.extra)


def tell_missing(
    folder: Path, what: str, names: Sequence[str], of: int, allow_missing: bool
) -> None:
    """Say that maps or masks are missing, in an error where that is not allowed."""
    told = f"{folder}: {len(names)} of {of} {what} are missing ({first(names)})"
    if not allow_missing:
        remedy = "put them there, or score the others with --allow_missing"
        if what == "maps" and len(names) == of and any(_folders(folder)):
            remedy = "name the folder that holds them, or the sets in it by --testsets"
        raise UserError(f"{told}: {remedy}")
    print(f"{told}: the scores are of the others")


def first(names: Sequence[str]) -> str:
    """Return the first names of a list, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def sets_to_score(place: Place, testsets: str, validated: bool) -> list[str]:
    """Return the test sets that have masks, and the held-out split.

    Args:
        place: where masks lie.
        testsets: names joined by ``+``.
        validated: whether the trial has points of its held-out split.

    Raises:
        UserError: there is none, or one that is named is unknown. Of a trial, a set whose images
            are there without masks is passed over with a line.
    """
    if place.plain:
        return [place.masks.resolve().name]
    if place.data_root is None:
        sets = split_set_names(testsets) if testsets else []
        there = sorted(path.name for path in _folders(place.masks))
        for name in sets:
            if name not in there:
                told = f"{closest(name, there)} (there: {', '.join(there) or 'none'})"
                raise UserError(f"--testsets: no masks of '{name}' in {place.masks}{told}")
        return sets
    sets = test_set_names(testsets)
    for name in [name for name in sets if not place.masks_of(name).is_dir()]:
        list_set(place.data_root, name)
        print(f"{place.masks_of(name)}: no masks: the set is not scored")
        sets.remove(name)
    if validated:
        sets.append(VALIDATION)
    if not sets:
        raise UserError(f"--testsets {testsets}: none has masks in {place.masks}")
    return sets


def list_checkpoints(place: Place, sets: Sequence[str]) -> list[str]:
    """Return the checkpoints or methods that made maps: folders that hold one of the sets.

    Raises:
        UserError: there is none, or a name is not UTF-8.
    """
    if place.plain:
        maps = place.predictions.resolve()
        # MAPS/<method>/<SET> by MASKS/<SET>: the set's name would say nothing of the method.
        return [maps.parent.name if maps.name == place.masks.resolve().name else maps.name]
    ours = {place.out.resolve() / name for name in RESULTS}
    folders = [path for path in _folders(place.predictions) if path.resolve() not in ours]
    check_utf8([path.name for path in folders], place.predictions)
    having = [path.name for path in folders if any((path / name).is_dir() for name in sets)]
    if not having:
        wanted = ", ".join(sets)
        raise UserError(f"{place.predictions}: no maps of {wanted} (<method>/<SET>/) in it")
    others = [path.name for path in folders if path.name not in having]
    others = [
        name for name in others if (place.predictions / name).resolve() != place.out.resolve()
    ]
    if others:
        print(f"{place.predictions}: no maps of the sets, so left out: {first(others)}")
    return having


def _folders(folder: Path) -> Iterator[Path]:
    """Return the folders in a folder that are not hidden, sorted."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return (path for path in inside if path.is_dir() and not path.name.startswith("."))
