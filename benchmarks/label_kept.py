"""What is kept of a finished trial: four small files, that its result is read from.

They are text of some 20 kB and hold no folder's name, where the command line named none: fit for a
repository. Put back into ``<out>/seed_<s>/<trial>/`` on another machine, they are a finished trial.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError
from utils.files import read_json, write_json
from utils.results import image_scores
from utils.run_folder import RunFolder
from utils.tallies import log_path, read_tallies

CONVENTION = "pysodmetrics"

TESTED = ("S", "MAE")
"""Metrics that arms are compared by: those that are means over the images."""

IMAGES = "images.json"
"""The scores of each image, in a trial's folder."""

KEPT = ("config.json", "bench.json", "scores.csv", IMAGES)

_DIGITS = 6

OfImages = Mapping[str, NDArray[np.float64]]
"""Metric -> the scores of a set's images, (N,), in order of name."""


def keep_images(run: RunFolder, checkpoints: Sequence[Path], sets: Sequence[str]) -> None:
    """Write the scores of each image, by checkpoint and set, from the tallies of a trial.

    Raises:
        UserError: the maps of a set have not been scored.
    """
    found: dict[str, dict[str, dict[str, list]]] = {}
    for name in map(run.checkpoint_name, checkpoints):
        for set_name in sets:
            kept = read_tallies(log_path(run.root / "tallies" / name, set_name, CONVENTION))
            scores = image_scores(kept, TESTED)
            rounded = {metric: np.round(of, _DIGITS).tolist() for metric, of in scores.items()}
            found.setdefault(name, {})[set_name] = {"images": list(kept.names), **rounded}
    write_json(run.root / IMAGES, found)


def read_images(path: Path, checkpoint: str, set_name: str) -> tuple[list[str], OfImages]:
    """Return the names of a set's images, and their scores by metric.

    Raises:
        UserError: the file is missing or damaged, or lacks them.
    """
    try:
        found = read_json(path)[checkpoint][set_name]
        scores = {metric: np.asarray(found[metric], np.float64) for metric in TESTED}
        names = [str(name) for name in found["images"]]
        if any(of.shape != (len(names),) for of in scores.values()):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path}: lacks the scores of each image of {checkpoint} on {set_name}: delete its "
            "folder and run the arm again"
        ) from None
    return names, scores


def pack(trial: Path, target: Path) -> None:
    """Copy what is kept of a finished trial into a folder."""
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(trial / name, target / name)
