"""The next pixels of one image, chosen as a trial's settings say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from active_learning.diversity import DIVERSITY
from active_learning.maps import Maps
from active_learning.selection import (
    CELLS,
    Candidates,
    Choice,
    Grid,
    choose_pixels,
    to_cells,
    to_grid,
)
from config import Config
from utils.registry import look_up


def choose_by(
    config: Config,
    maps: Maps,
    regions: NDArray[np.int32],
    points: NDArray[np.int64],
    count: int,
    rng: np.random.Generator,
    untold: NDArray[np.int64] | None = None,
) -> Choice:
    """Choose the next pixels of one image; see `choose_pixels`.

    Of a superpixel no two candidates are taken where an answer labels all of it.

    Args:
        config: the trial's settings.
        maps: what the snapshots say of the image.
        regions: int32 (H, W) superpixels of the image.
        points: int64 (K, 3) of x, y, label: what is known of the image.
        count: pixels wanted.
        rng: the image's own generator.
        untold: int64 (U, 2) of x, y: pixels that were asked and that nobody could tell.
    """
    height, width = regions.shape
    by_cells = config.candidates == "cells"
    grid = Grid(width, height, CELLS if by_cells else config.size)
    return choose_pixels(
        scores=(to_cells if by_cells else to_grid)(maps.scores, grid),
        features=maps.features,
        colours=maps.colours,
        regions=regions,
        points=points,
        count=count,
        candidates=Candidates(
            percent=config.candidates_percent,
            most=config.candidates_max,
            thinned=not by_cells or config.label_mode != "pixel",
        ),
        rule=look_up(DIVERSITY, config.diversity, "diversity rule"),
        rng=rng,
        untold=untold,
    )
