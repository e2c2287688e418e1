"""What sets of answers cost, and how right their labels are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.images import image_size, read_mask
from datasets.index import Sample
from datasets.points import answers_of, read_rounds
from datasets.superpixels import UNLABELLED, SuperpixelCache, spread
from utils.background import in_background
from utils.cores import core_count
from utils.files import read_object, state_if_there, write_json
from utils.progress import track


def label_budgets(
    train: Sequence[Sample],
    answers: Sequence[Sequence[Path]],
    regions: SuperpixelCache,
    label_mode: str,
) -> list[dict[str, Any]]:
    """Count the labels of some trainings, all in one pass over the images.

    Only here are masks compared with the labels that a training used; the result goes nowhere but
    into the table.

    Args:
        train: the training images.
        answers: of each training the points files of the rounds that it was trained on.
        regions: the superpixels over which answers are, or would be, spread.
        label_mode: ``pixel``, ``region`` or ``region_mask``.

    Returns:
        Of each training ``points`` (answers an image, the mean), ``labelled_percent`` (of the
        training pixels), ``label_mode``, and where masks are at hand ``region_error`` (percent of
        the labels that would be wrong if each answer were spread over its superpixel).
    """
    rounds = read_rounds(dict.fromkeys(chain.from_iterable(answers)), train)
    found = [answers_of({path: rounds[path] for path in files}, train) for files in answers]

    def count(sample: Sample, *points: NDArray[np.int64]) -> NDArray[np.int64]:
        return _count(sample, points, regions, label_mode)

    total = np.zeros((len(answers), 4), np.int64)
    work = in_background(count, zip(train, *found, strict=True), 4 * core_count())
    for _, counts in track(work, "label budget", len(train)):
        total += counts
    budgets: list[dict[str, Any]] = []
    for own, (pixels, labelled, known, wrong) in zip(found, total.tolist(), strict=True):
        budget = {
            "points": round(sum(map(len, own)) / len(train), 4),
            "labelled_percent": round(100 * labelled / pixels, 4),
            "label_mode": label_mode,
        }
        if known:
            budget["region_error"] = round(100 * wrong / known, 4)
        budgets.append(budget)
    return budgets


def _count(
    sample: Sample, points: Sequence[NDArray[np.int64]], regions: SuperpixelCache, label_mode: str
) -> NDArray[np.int64]:
    """Count the labels of one image.

    Args:
        sample: the image.
        points: of each training (K, 3) of x, y, label.
        regions: as for `label_budgets`, whose ``label_mode`` follows.

    Returns:
        Of each training (T, 4) all pixels, those labelled, and, where there is a mask, those that
        answers would be spread over and those of them that would be wrong.
    """
    masked = sample.mask.exists()
    if label_mode == "pixel" and not masked:
        width, height = image_size(sample.image)
        return np.array([(width * height, len(own), 0, 0) for own in points], np.int64)
    region = regions(sample)
    mask = read_mask(sample.mask) if masked else None
    rows = []
    for own in points:
        label_map = spread(own, region)
        known = label_map != UNLABELLED
        number = np.count_nonzero(known)
        if label_mode == "region_mask":
            labelled = np.count_nonzero(np.isin(region, region[own[:, 1], own[:, 0]]))
        else:
            labelled = number if label_mode == "region" else len(own)
        compared = wrong = 0
        if mask is not None:
            compared, wrong = number, np.count_nonzero(known & ((label_map == 255) != mask))
        rows.append((known.size, labelled, compared, wrong))
    return np.array(rows, np.int64)


def stored_budgets(
    answers: Mapping[Path, Sequence[Path]],
    train: Sequence[Sample],
    regions: SuperpixelCache,
    label_mode: str,
) -> dict[Path, dict[str, Any]]:
    """Return `label_budgets`, counted again only where answers, pictures or masks have changed.

    Args:
        answers: of each training its points files, by the JSON file that holds what was counted of
            it last.
        train, regions, label_mode: as for `label_budgets`.
    """
    pictures = [_state(path) for sample in train for path in (sample.image, sample.mask)]
    found: dict[Path, dict[str, Any]] = {}
    lacking: dict[Path, str] = {}
    for path, files in answers.items():
        text = "\0".join((label_mode, str(regions.count), *map(_state, files), *pictures))
        made_of = hashlib.blake2b(os.fsencode(text), digest_size=8).hexdigest()
        found[path] = read_object(path) if path.exists() else {}
        if found[path].get("made_of") != made_of:
            lacking[path] = made_of
    if lacking:
        counted = label_budgets(train, [answers[path] for path in lacking], regions, label_mode)
        for (path, made_of), budget in zip(lacking.items(), counted, strict=True):
            found[path] = budget | {"made_of": made_of}
            write_json(path, found[path])
    return {
        path: {name: value for name, value in stored.items() if name != "made_of"}
        for path, stored in found.items()
    }


def _state(file: Path) -> str:
    return f"{file} {state_if_there(file)}"
