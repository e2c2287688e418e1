"""Where does an attack of a given strength point? A table over eps, for a trained round of a trial.

``python benchmarks/attack_strength.py --trial T --round 0 --images 50``

For each strength, over training images of the trial: the mean uncertainty, the share of wrong
pixels among the most uncertain 5 percent, and the area under the curve of finding wrong pixels by
their uncertainty. Masks are opened to say which pixels are wrong; no training sees the result.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from active_learning.maps import pool_maps
from config import PRESETS
from datasets.cache import ResizedImages, ResizedMasks
from models.stored import load_model
from utils import settings
from utils.device import choose_machine
from utils.errors import run_script
from utils.run_folder import RunFolder, list_snapshots
from utils.tables import text_table

ASTE = PRESETS["aste"]
STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
TOP = 0.05


def area_under_curve(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Probability that a positive pixel scores above another one (ties by position)."""
    rank = np.empty(len(scores))
    rank[np.argsort(scores, kind="stable")] = np.arange(len(scores))
    ones = int(positive.sum())
    zeros = len(scores) - ones
    if not ones or not zeros:
        return float("nan")
    return float((rank[positive].sum() - ones * (ones - 1) / 2) / (ones * zeros))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; see the module's text."""

    def extend(parser: Any) -> None:
        parser.add_argument("--round", type=int, default=0, help="round whose snapshots are used")
        parser.add_argument("--images", type=int, default=50, help="training images to look at")

    config, args = settings.parse(argv, __doc__, extend)
    machine = choose_machine(config.device, config.precision)
    run = RunFolder(config.run_folder)
    samples = settings.training_images(config)[0]
    samples = samples[:: max(1, len(samples) // args.images)][: args.images]
    images = ResizedImages(samples, config.size, config.cache_mb, "training")
    masks = ResizedMasks(samples, config.size, config.cache_mb, "training")
    paths = list_snapshots(run.snapshots("points", args.round))
    snapshots = [load_model(path, machine)[0] for path in paths]
    ways: list[tuple[str, dict[str, Any]]] = [
        (f"adversarial_shift, eps {eps:g}/255", {**ASTE, "attack_eps": eps, "attack_step": eps / 4})
        for eps in STRENGTHS
    ]
    alone = {**ASTE, "attack": "none"}
    ways += [(name, {**alone, "acquisition": name}) for name in ("entropy", "bald")]
    lines = []
    for name, changes in ways:
        way = dataclasses.replace(config, **changes)
        found = []
        for index, maps in pool_maps(images, snapshots, way, machine, "strength"):
            wrong = ((maps.clean.cpu().numpy() > 0.5) != (masks[index] >= 128)).ravel()
            scores = maps.scores.cpu().numpy().ravel()
            top = np.argsort(-scores, kind="stable")[: int(TOP * scores.size)]
            found.append((scores.mean(), wrong[top].mean(), area_under_curve(scores, wrong)))
        lines.append([name, *(f"{value:.3f}" for value in np.nanmean(found, axis=0))])
    print(text_table(["uncertainty", "mean", "wrong in top 5 %", "AUC"], lines))
    return 0


if __name__ == "__main__":
    run_script(main)
