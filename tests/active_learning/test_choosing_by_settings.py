"""An image's next pixels follow the settings: cells or superpixels, their share, and the rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from active_learning.choosing import choose_by
from active_learning.maps import Maps
from active_learning.selection import CELLS, Grid, to_cells, to_grid
from config import Config
from tests.active_learning.test_selection import as_set, blocks

SIZE, WIDTH, HEIGHT = 96, 100, 40


def looked(seed=0):
    draw = np.random.default_rng(seed)
    made = draw.random((SIZE, SIZE)), draw.random((5, 16, 16)), draw.random((3, CELLS, CELLS))
    scores, features, colours = (torch.from_numpy(array.astype(np.float32)) for array in made)
    return Maps(scores, None, scores, features, colours)


def choice_of(count=4, points=((0, 0, 1), (70, 30, 0)), region_side=5, **changes):
    config = Config(**{"size": SIZE, "candidates_percent": 50.0, **changes})
    known = np.array(points, np.int64).reshape(-1, 3)
    regions = blocks(WIDTH, HEIGHT, region_side)
    return choose_by(config, looked(), regions, known, count, np.random.default_rng(0)), regions


def test_cells_are_chosen_among_by_their_mean_uncertainty():
    choice, _ = choice_of(diversity="top_k", candidates_max=10**9)
    grid = Grid(WIDTH, HEIGHT, CELLS)
    means = to_cells(looked().scores, grid)
    cells = grid.cells(choice.candidates)
    assert as_set(choice.candidates) == as_set(grid.pixels(*cells))  # the middles of cells
    assert 0.45 * means.size < len(choice.candidates) <= 0.5 * means.size
    assert (np.diff(means[cells]) <= 0).all()
    assert means[cells].min() >= np.median(means) - 0.05
    assert choice.worth == pytest.approx(means[cells].mean())
    fewer, _ = choice_of(diversity="top_k", candidates_percent=5.0)
    assert as_set(fewer.candidates) < as_set(choice.candidates)


def test_superpixels_are_chosen_among_by_their_most_uncertain_pixel():
    choice, regions = choice_of(diversity="top_k", candidates="superpixels")
    grid = Grid(WIDTH, HEIGHT, SIZE)
    scores = to_grid(looked().scores, grid)
    x, y = choice.candidates.T
    assert len(set(regions[y, x].tolist())) == len(choice.candidates)
    fresh = ~np.isin(regions, regions[[0, 30], [0, 70]])
    rows, columns = (axis.ravel() for axis in np.indices(grid.shape))
    across, down = grid.pixels(rows, columns).T
    best = scores.ravel()[fresh[down, across]].max()
    assert scores[grid.cells(choice.pixels[:1])][0] == best


@pytest.mark.parametrize("label_mode", ["pixel", "region", "region_mask"])
def test_no_superpixel_is_asked_twice_where_an_answer_labels_it(label_mode):
    choice, regions = choice_of(8, region_side=15, diversity="top_k", label_mode=label_mode)
    x, y = choice.candidates.T
    apart = len(set(regions[y, x].tolist())) == len(choice.candidates)
    assert apart == (label_mode != "pixel")
    x, y = choice.pixels.T
    assert (len(set(regions[y, x].tolist())) == 8) or label_mode == "pixel"


def test_the_default_asks_where_an_answer_tells_most():
    ours, _ = choice_of()
    by_name, _ = choice_of(candidates="cells", diversity="variance_reduction")
    assert (ours.pixels == by_name.pixels).all()
    others = [choice_of(diversity=rule)[0] for rule in ("top_k", "facility_location")]
    assert all(as_set(other.pixels) != as_set(ours.pixels) for other in others)
    assert not as_set(ours.pixels) & {(0, 0), (70, 30)}
