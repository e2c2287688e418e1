"""What a set of answers cost, and how right its labels are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.images import read_mask
from datasets.index import Sample
from datasets.points import read_answers
from datasets.scoring import file_state
from datasets.superpixels import UNLABELLED, SuperpixelCache, spread
from utils.files import read_object, write_json
from utils.progress import track


def label_budget(
    train: Sequence[Sample], answers: Sequence[Path], regions: SuperpixelCache, label_mode: str
) -> dict[str, Any]:
    """Count the labels of a training.

    Only here are masks compared with the labels that a training used; the result goes nowhere but
    into the table.

    Args:
        train: the training images.
        answers: points files of the rounds that were trained on.
        regions: the superpixels over which answers are, or would be, spread.
        label_mode: ``pixel``, ``region`` or ``region_mask``.

    Returns:
        ``points`` (answers an image, the mean), ``labelled_percent`` (of the training pixels),
        ``label_mode``, and where masks are at hand ``region_error`` (percent of the labels that
        would be wrong if each answer were spread over its superpixel).
    """
    found = read_answers(answers, train)
    pixels = labelled = spread_labels = wrong = 0
    work = zip(train, found, strict=True)
    for sample, points in track(work, "label budget", len(train)):
        region = regions(sample)
        label_map = spread(points, region)
        known = label_map != UNLABELLED
        pixels += known.size
        asked = int(np.isin(region, region[points[:, 1], points[:, 0]]).sum())
        counts = {"pixel": len(points), "region": int(known.sum()), "region_mask": asked}
        labelled += counts[label_mode]
        if sample.mask.exists():
            spread_labels += int(known.sum())
            wrong += int(((label_map == 255) != read_mask(sample.mask))[known].sum())
    budget: dict[str, Any] = {
        "points": round(sum(map(len, found)) / len(train), 4),
        "labelled_percent": round(100 * labelled / pixels, 4),
        "label_mode": label_mode,
    }
    if spread_labels:
        budget["region_error"] = round(100 * wrong / spread_labels, 4)
    return budget


def stored_budget(
    path: Path,
    train: Sequence[Sample],
    answers: Sequence[Path],
    regions: SuperpixelCache,
    label_mode: str,
) -> dict[str, Any]:
    """Return `label_budget`, counted again only when answers, pictures or masks have changed.

    Args:
        path: a JSON file that holds what was counted last.
        train, answers, regions, label_mode: as for `label_budget`.
    """
    files = [*answers, *(path for sample in train for path in (sample.image, sample.mask))]
    states = (f"{file} {file_state(file) if file.exists() else '-'}" for file in files)
    text = "\0".join((label_mode, str(regions.count), *states))
    made_of = hashlib.blake2b(os.fsencode(text), digest_size=8).hexdigest()
    stored = read_object(path) if path.exists() else {}
    if stored.get("made_of") != made_of:
        stored = label_budget(train, answers, regions, label_mode) | {"made_of": made_of}
        write_json(path, stored)
    return {name: value for name, value in stored.items() if name != "made_of"}
