"""The pictures beside the worst maps of a set."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from datasets.images import read_image
from datasets.index import EXTENSIONS, IMAGES_FOLDER
from datasets.maps import Pair, read_map, read_true_mask
from utils.errors import UserError
from utils.score_pictures import WorstRow, fit_cell


def read_worst(pair: Pair, masks: Path, scores: Mapping[str, float]) -> WorstRow:
    """Return a row of the sheet of the worst, its pictures shrunk as they are read.

    Args:
        pair: the map and its mask.
        masks: the folder of all masks, see `find_image`.
        scores: what to write below.

    Raises:
        UserError: map or mask cannot be read.
    """
    image = find_image(pair, masks)
    return WorstRow(
        name=pair.name,
        image=None if image is None else fit_cell(image),
        mask=fit_cell(read_true_mask(pair.mask)),
        saliency=fit_cell(read_map(pair.saliency)),
        scores=scores,
    )


def find_image(pair: Pair, masks: Path) -> np.ndarray | None:
    """Return the picture that a mask is of, from ``images/<SET>`` beside ``<masks' folder>/<SET>``.

    Args:
        pair: a map and its mask.
        masks: the folder of all sets' masks, in which the mask lies.

    Returns:
        uint8 (H, W, 3); None where the picture is not there, or damaged: it is but an illustration.
    """
    stem = masks.parent / IMAGES_FOLDER / pair.mask.relative_to(masks).with_suffix("")
    for path in sorted(stem.parent.glob(f"{glob.escape(stem.name)}.*")):
        if path.stem == stem.name and path.suffix.lower() in EXTENSIONS:
            try:
                return read_image(path)
            except UserError:
                return None
    return None
