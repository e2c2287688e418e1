"""Which pixels do maps get wrong: objects they miss, ground they call object, near outlines or not?

    python benchmarks/wrong_pixels.py --data_root D --testsets A+B --sources \\
        --maps runs/T/preds/dense-best runs/T/preds/round_02-best

Maps, as test.py leaves them, are compared with the masks at one half, both at ``--size`` pixels a
side. A line for each set, or with ``--sources`` for each source of its images (what their names
have before the first underscore), and for each folder of maps; in percent of all pixels. What is
near lies within three pixels of the mask's outline.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pseudo_labels import off_outline
from datasets.augment import resize
from datasets.cache import ResizedMasks
from datasets.index import Sample, list_set, split_set_names
from datasets.maps import read_map
from utils.cli import Parser
from utils.errors import UserError, run_script
from utils.run_folder import map_of
from utils.tables import text_table

NEAR = 3
"""Pixels from the mask's outline up to which a wrong pixel may be a matter of where it runs."""

COLUMNS = ("images", "maps", "missed", "near", "called", "near", "object")


def wrong(found: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return shares of all pixels: missed, missed near the outline, called, called near it, object.

    Args:
        found: (S, S), what is called object.
        mask: (S, S).
    """
    near = off_outline(mask) <= NEAR
    missed, called = mask & ~found, found & ~mask
    return np.array([part.mean() for part in (missed, missed & near, called, called & near, mask)])


def wrong_of(samples: Sequence[Sample], maps: Path, size: int) -> NDArray[np.float64]:
    """Return the mean of `wrong` over images.

    Raises:
        UserError: a mask or a map is missing or damaged.
    """
    masks = ResizedMasks(samples, size, 0, "")
    found = []
    for place, sample in enumerate(samples):
        seen = resize(read_map(maps / map_of(sample.name, sample.set)), size)
        found.append(wrong(seen >= 128, masks[place] >= 128))
    return np.mean(found, axis=0)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; see the module's text."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data_root", help="holds images/ and gts/")
    parser.add_argument("--testsets", default="", help="sets that are looked at, joined by +")
    parser.add_argument("--maps", nargs="+", type=Path, default=[], help="folders of maps")
    parser.add_argument("--size", type=int, default=128, help="side of maps and masks, in pixels")
    parser.add_argument("--sources", action="store_true", help="a line for each source of images")
    args = parser.parse(argv)
    if not (args.data_root and args.testsets and args.maps):
        raise UserError("give --data_root, --testsets and --maps")
    lines = []
    for name in split_set_names(args.testsets):
        by_source: dict[str, list[Sample]] = {}
        for sample in list_set(args.data_root, name):
            source = Path(sample.name).name.split("_")[0] if args.sources else ""
            by_source.setdefault(f"{name} {source}".strip(), []).append(sample)
        for source, samples in sorted(by_source.items()):
            for maps in args.maps:
                shares = [f"{100 * share:.2f}" for share in wrong_of(samples, maps, args.size)]
                lines.append([source, str(len(samples)), str(maps), *shares])
    print(text_table(("set", *COLUMNS), lines))
    return 0


if __name__ == "__main__":
    run_script(main)
