"""The labels that a trial's rounds of questions have left, as a training reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.images import native_sizes
from datasets.index import Sample
from datasets.points import read_answers, read_points
from datasets.superpixels import SuperpixelCache, read_label_map, spread
from datasets.training import PointLabels
from utils.background import in_background
from utils.cores import core_count
from utils.progress import track
from utils.run_folder import RunFolder


def read_point_labels(
    run: RunFolder,
    arm: str,
    last_round: int,
    samples: Sequence[Sample],
    size: int,
    mode: str,
    superpixels: int,
    known: PointLabels | None = None,
) -> PointLabels:
    """Return the points of rounds 0..last_round, on a size x size grid.

    Args:
        run: the trial's folder.
        arm: ``points`` or ``random``.
        last_round: the newest round that counts.
        samples: the training images.
        size: side of the grid.
        mode: what an answer labels: ``pixel``, ``region`` (its superpixel) or ``region_mask`` (the
            mask inside its superpixel, a leak).
        superpixels: an image, about; for regions.
        known: the same points on another grid, so that answers and images are not read again.

    Raises:
        UserError: a file of points or labels is missing, damaged, or does not fit the images.
    """
    if known is None:
        sizes = native_sizes(samples)
        of_image = read_answers(run.answers(arm, last_round + 1), samples, run.ledger, sizes)
    else:
        of_image, sizes = known.points, known.sizes
    if mode == "pixel":
        return PointLabels(of_image, sizes, size)
    regions = SuperpixelCache(run.superpixels, superpixels)
    folder = run.region_labels(arm, last_round)

    def label_map(sample: Sample, found: np.ndarray, own: tuple[int, int]) -> np.ndarray:
        if mode == "region":
            return spread(found, regions(sample))
        return read_label_map(folder / f"{sample.name}.png", own[::-1])

    # At their own size all of them would fill the memory: a few at a time are there.
    work = in_background(label_map, zip(samples, of_image, sizes, strict=True), core_count())
    maps = (made for _, made in track(work, "spreading labels", len(samples)))
    return PointLabels(of_image, sizes, size, maps)


def class_weights(run: RunFolder, arm: str, last_round: int) -> tuple[float, float]:
    """Return the weights of background and foreground answers.

    Asked pixels hold more foreground than pictures do, and a network trained on them as they are
    sees objects everywhere. So the two classes are weighted to the shares they have in the first
    round, whose pixels are a fair sample (random, or a grid): a correction of the label shift
    (Saerens et al. 2002), known from points alone. Masks and random points need none; points on
    objects (``first_points`` object) are of one round, and stay as they are.
    """
    if arm != "points" or last_round == 0:
        return 1.0, 1.0
    rounds = [[p.label for p in read_points(path)] for path in run.answers(arm, last_round + 1)]
    labels = [label for answers in rounds for label in answers]
    if not rounds[0]:  # nobody could tell a single pixel of it
        return 1.0, 1.0
    true, asked = sum(rounds[0]) / len(rounds[0]), sum(labels) / len(labels)
    if min(true, asked) == 0 or max(true, asked) == 1:
        return 1.0, 1.0
    return (1 - true) / (1 - asked), true / asked
