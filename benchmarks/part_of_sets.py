"""Make a data root of parts of others' sets: every n-th image by name, linked, not copied.

    python benchmarks/part_of_sets.py --data_root D --out P \
        REAL-600=REAL-TR:600 DEV=REAL-TR:200 SED1=SED1:60

``NEW=SET:COUNT`` takes COUNT images of a flat set, evenly spaced among its names;
``NEW=SET/horse_,pascal_:COUNT`` among those whose names begin so. What an earlier part has taken
of a set, later ones do not take, so that a part to train on and a part to look at while a method is
made share no image. The same words make the same parts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.index import IMAGES_FOLDER, MASKS_FOLDER, Sample, list_set, split_set_names
from utils.errors import UserError, run_script


@dataclass(frozen=True)
class Part:
    """A set to be made.

    Attributes:
        name: of the new set.
        source: the set that it is a part of.
        prefixes: beginnings of the names that are looked at; empty: of all.
        count: images wanted.
    """

    name: str
    source: str
    prefixes: tuple[str, ...]
    count: int


def parse_part(text: str) -> Part:
    """Read ``NEW=SET[/prefix,prefix]:COUNT``.

    Raises:
        UserError: the text is something else.
    """
    name, equals, rest = text.partition("=")
    where, colon, count = rest.rpartition(":")
    source, slash, prefixes = where.partition("/")
    well = equals and colon and source and count.isdecimal() and int(count) > 0
    if not well or (slash and not all(prefixes.split(","))):
        raise UserError(f"{text}: give NEW=SET:COUNT or NEW=SET/prefix,prefix:COUNT")
    if len(split_set_names(name)) > 1:
        raise UserError(f"{text}: '+' joins sets, so that no set can be named so")
    return Part(name, source, tuple(prefixes.split(",")) if slash else (), int(count))


def take(samples: Sequence[Sample], part: Part, taken: set[str]) -> list[Sample]:
    """Return the images of a part: of those not taken, evenly spaced, the first one included.

    Raises:
        UserError: there are fewer than wanted, or the set has groups.
    """
    if any(sample.group for sample in samples):
        raise UserError(f"{part.source}: has groups; parts are made of flat sets")
    named = (s for s in samples if not part.prefixes or s.name.startswith(part.prefixes))
    left = [sample for sample in named if sample.name not in taken]
    if len(left) < part.count:
        have = f"{part.source} has {len(left)} left"
        raise UserError(f"{part.name}: {part.count} images wanted, {have}")
    return [left[place * len(left) // part.count] for place in range(part.count)]


def link_to(source: Path, target: Path) -> None:
    """Link a file, by its absolute path, unless it is linked already.

    Raises:
        UserError: another file is in the place.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() and os.readlink(target) == str(source.resolve()):
        return
    try:
        target.symlink_to(source.resolve())
    except FileExistsError:
        raise UserError(f"{target}: is there, and something else: name another --out") from None


def _require_no_other(folder: Path, chosen: Sequence[Sample]) -> None:
    """Raise `UserError` if a set's folder holds more than the images chosen: of another call."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if others := sorted(there - {sample.name for sample in chosen}):
        raise UserError(
            f"{folder}: holds {others[0]}, which is not of this part: delete the folder, or name "
            "another --out"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Link the parts; see the module's text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_root", required=True, help="folder with images/ and gts/")
    parser.add_argument("--out", type=Path, required=True, help="data root to make")
    parser.add_argument("parts", nargs="+", metavar="NEW=SET:COUNT")
    args = parser.parse_args(argv)
    taken: dict[str, set[str]] = {}
    found: list[tuple[Part, list[Sample]]] = []
    for part in map(parse_part, args.parts):
        mine = taken.setdefault(part.source, set())
        chosen = take(list_set(args.data_root, part.source), part, mine)
        mine |= {sample.name for sample in chosen}
        found.append((part, chosen))
    names = [part.name for part, _ in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{twice[0]}: is to be made twice: give each part a name of its own")
    for part, chosen in found:
        _require_no_other(args.out / IMAGES_FOLDER / part.name, chosen)
    for part, chosen in found:
        for sample in chosen:
            link_to(sample.image, args.out / IMAGES_FOLDER / part.name / sample.name)
            if sample.mask.exists():
                mask = args.out / MASKS_FOLDER / part.name / sample.mask.name
                link_to(sample.mask, mask)
        print(f"{part.name}: {len(chosen)} images of {part.source}")
    return 0


if __name__ == "__main__":
    run_script(main)
