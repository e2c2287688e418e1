"""From uncertainty maps to pixels: the grid, the candidates, the choice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from active_learning.diversity import DIVERSITY
from active_learning.selection import (
    Candidates,
    Grid,
    choose_pixels,
    features_at,
    grid_pixels,
    random_pixels,
    to_cells,
    to_grid,
)
from utils.errors import UserError

sides = st.integers(1, 400)


@settings(deadline=None)
@given(sides, sides, sides)
@example(100, 100, 99)  # pixel 10 is under the centre of cell 10, and begins in cell 9
@example(3, 2, 400)
def test_cells_and_their_pixels_are_one_for_one(width, height, size):
    grid = Grid(width, height, size)
    assert grid.shape == (min(height, size), min(width, size))
    y, x = grid.lines()
    for line, side, count in ((y, height, grid.shape[0]), (x, width, grid.shape[1])):
        assert len(line) == count
        assert line[0] >= 0
        assert line[-1] < side
        assert (np.diff(line) > 0).all()
        # The centre of a cell lies within the pixel that stands for it.
        centre = (np.arange(count) + 0.5) * side / count
        assert (np.abs(line + 0.5 - centre) <= 0.5 + 1e-9).all()
    cells = max(grid.shape)
    rows, columns = np.arange(cells) % grid.shape[0], np.arange(cells) % grid.shape[1]
    pixels = grid.pixels(rows, columns)
    assert (pixels == np.stack([x[columns], y[rows]], axis=1)).all()
    found_rows, found_columns = grid.cells(pixels)
    assert (found_rows == rows).all()
    assert (found_columns == columns).all()


@settings(deadline=None)
@given(sides, sides, sides)
def test_every_pixel_lies_in_the_cell_over_its_centre(width, height, size):
    grid = Grid(width, height, size)
    every = np.arange(max(width, height))
    rows, columns = grid.cells(np.stack([every % width, every % height], axis=1))
    assert (rows == np.floor((every % height + 0.5) * grid.shape[0] / height + 1e-9)).all()
    assert (columns == np.floor((every % width + 0.5) * grid.shape[1] / width + 1e-9)).all()


def blocks(width, height, side):
    """Regions: squares of ``side`` pixels, numbered row by row."""
    y, x = np.mgrid[:height, :width] // side
    return (y * (-(-width // side)) + x).astype(np.int32)


def scene(width, height, size=16, region_side=4, labelled=0, seed=0):
    """Random scores, features, square regions and labelled points of an image."""
    rng = np.random.default_rng(seed)
    grid = Grid(width, height, size)
    flat = rng.permutation(width * height)[:labelled]
    points = np.stack([flat % width, flat // width, rng.integers(0, 2, len(flat))], axis=1)
    return {
        "scores": rng.random(grid.shape, np.float32),
        "features": torch.from_numpy(rng.random((5, 6, 6), np.float32)),
        "colours": torch.from_numpy(rng.random((3, 8, 8), np.float32)),
        "regions": blocks(width, height, region_side),
        "points": points.astype(np.int64),
    }


def choose(made, count, rule="top_k", percent=30.0, most=500, seed=7, thinned=True):
    taking = Candidates(percent, most, thinned)
    chosen = DIVERSITY[rule] if isinstance(rule, str) else rule
    rng = np.random.default_rng(seed)
    return choose_pixels(**made, count=count, candidates=taking, rule=chosen, rng=rng)


def as_set(pixels):
    return {(int(x), int(y)) for x, y in pixels[:, :2]}


def grid_of(made):
    height, width = made["regions"].shape
    return Grid(width, height, max(made["scores"].shape))


def score_at(made, pixels):
    """Scores of pixels that stand for cells."""
    return made["scores"][grid_of(made).cells(pixels)]


def assert_contract(made, count, choice):
    """What every choice must keep, whatever the rule."""
    height, width = made["regions"].shape
    pixels, known = choice.pixels, as_set(made["points"])
    assert pixels.dtype == np.int64
    assert pixels.shape == (min(count, width * height - len(known)), 2)
    assert len(as_set(pixels)) == len(pixels)
    assert not as_set(pixels) & known
    assert (pixels >= 0).all()
    assert (pixels < [width, height]).all()
    scores = score_at(made, choice.candidates)
    assert choice.worth == pytest.approx(float(np.mean(scores)) if len(scores) else 0.0)
    assert len(as_set(choice.candidates)) == len(choice.candidates)
    assert not as_set(choice.candidates) & known
    assert as_set(pixels[: len(choice.candidates)]) <= as_set(choice.candidates)


def test_what_nobody_could_tell_is_left_out_and_is_no_label():
    made, seen = scene(40, 30, labelled=3), {}

    def watching(scores, sites, labelled, count, rng):
        seen["labelled"] = labelled
        return DIVERSITY["top_k"](scores, sites, labelled, count, rng)

    untold = choose(made, 4).pixels[:2]
    pixels = choose(made | {"untold": untold}, 4, rule=watching).pixels
    assert not as_set(untold) & as_set(pixels)
    expected = (made["points"][:, 1::-1] + 0.5) / [30, 40]
    assert seen["labelled"].places == pytest.approx(expected)
    assert len(seen["labelled"].features) == len(seen["labelled"].colours) == 3


def constant(made):
    made["scores"][:] = 0.5


def zero_scores(made):
    made["scores"][:] = 0


def zero_features(made):
    made["features"][:] = 0


def one_region(made):
    made["regions"][:] = 0


def all_but_one(made):
    height, width = made["regions"].shape
    flat = np.delete(np.arange(width * height), width * height // 2)
    made["points"] = np.stack([flat % width, flat // width, flat % 2], axis=1)


def as_is(made):
    pass


SCENES = {
    "plain": (40, 25, as_is),
    "portrait, larger than the grid one way": (9, 50, as_is),
    "3 x 3": (3, 3, as_is),
    "1 x 1": (1, 1, as_is),
    "1 x 50": (1, 50, as_is),
    "50 x 1": (50, 1, as_is),
    "constant scores": (30, 20, constant),
    "zero scores": (30, 20, zero_scores),
    "zero features": (30, 20, zero_features),
    "one superpixel": (30, 20, one_region),
    "all labelled but one": (7, 6, all_but_one),
    "all labelled but one, coarse grid": (40, 30, all_but_one),
    "1 x 1, labelled": (1, 1, lambda made: made.update(points=np.array([[0, 0, 1]]))),
}


@pytest.mark.parametrize("rule", DIVERSITY)
@pytest.mark.parametrize("name", SCENES)
def test_contract(name, rule):
    width, height, change = SCENES[name]
    for labelled in (0, 3):
        made = scene(width, height, labelled=labelled)
        change(made)
        for count in (1, 4, 60, 2000):
            choice = choose(made, count, rule)
            assert_contract(made, count, choice)
            again = choose(made, count, rule)
            assert (choice.pixels == again.pixels).all()
            assert (choice.candidates == again.candidates).all()


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_contract_of_any_image(data):
    width, height = data.draw(st.integers(1, 24)), data.draw(st.integers(1, 24))
    made = scene(
        width,
        height,
        size=data.draw(st.integers(1, 30)),
        region_side=data.draw(st.sampled_from([1, 3, 8, 30])),
        labelled=data.draw(st.integers(0, width * height)),
        seed=data.draw(st.integers(0, 99)),
    )
    count = data.draw(st.integers(0, 40))
    rule = data.draw(st.sampled_from(sorted(DIVERSITY)))
    percent, most = data.draw(st.sampled_from([1.0, 30.0, 100.0])), data.draw(st.integers(1, 40))
    thinned = data.draw(st.booleans())
    assert_contract(made, count, choose(made, count, rule, percent, most, thinned=thinned))


def test_the_cell_of_a_labelled_pixel_is_left_out_whatever_the_sizes():
    made = scene(100, 100, size=99, region_side=100)
    made["points"] = np.array([[10, 10, 1]])
    made["scores"][10, 10] = 2.0  # the cell whose pixel is labelled
    assert (grid_of(made).pixels(np.array([10]), np.array([10])) == [10, 10]).all()
    assert_contract(made, 5, choose(made, 5))


def slow_candidates(made, percent, most, count):
    """The best cell of each superpixel, cell by cell, where enough superpixels are left."""
    grid, regions = grid_of(made), made["regions"]
    known = {int(regions[y, x]) for x, y, _ in made["points"]}
    holding = as_set(np.stack(grid.cells(made["points"][:, :2]), axis=1))
    ranked = []
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            ((x, y),) = grid.pixels(np.array([row]), np.array([column]))
            if int(regions[y, x]) not in known and (row, column) not in holding:
                ranked.append((-made["scores"][row, column], row, column, x, y))
    ranked.sort()
    share = int(np.ceil(len(ranked) * percent / 100))
    found, seen = [], set()
    for place, (*_, x, y) in enumerate(ranked):
        region = int(regions[y, x])
        if region in seen:
            continue
        if len(found) < count or (place < share and len(found) < most):
            found.append((int(x), int(y)))
        seen.add(region)
    return found


@pytest.mark.parametrize("rule", DIVERSITY)
@pytest.mark.parametrize(
    ("percent", "most", "count"),
    [(30, 500, 4), (2, 500, 4), (30, 6, 4), (100, 500, 10), (0.5, 1, 1), (30, 2, 8)],
)
def test_candidates_are_the_best_of_unlabelled_superpixels(rule, percent, most, count):
    for seed, (width, height) in enumerate([(40, 25), (14, 30), (20, 20)]):
        made = scene(width, height, labelled=5, seed=seed)
        choice = choose(made, count, rule, percent, most)
        expected = slow_candidates(made, percent, most, count)
        assert [tuple(pair) for pair in choice.candidates.tolist()] == expected
        x, y = choice.candidates.T
        regions = made["regions"]
        labelled = regions[made["points"][:, 1], made["points"][:, 0]]
        assert len(set(regions[y, x].tolist())) == len(choice.candidates) >= count
        assert not set(regions[y, x].tolist()) & set(labelled.tolist())
        assert_contract(made, count, choice)


def test_the_share_and_the_largest_number_of_candidates():
    made = scene(20, 20, size=20, region_side=1)
    for percent, most, expected in [(5, 500, 20), (5, 7, 7), (100, 500, 400), (0.1, 500, 3)]:
        choice = choose(made, 3, percent=percent, most=most)
        best = np.sort(made["scores"].ravel())[::-1][:expected]
        assert (score_at(made, choice.candidates) == best).all()


@pytest.mark.parametrize("rule", DIVERSITY)
def test_the_highest_score_is_a_candidate_also_when_superpixels_run_out(rule):
    for labelled, region_side, count in [(0, 4, 3), (6, 10, 5), (1, 100, 3)]:
        made = scene(30, 30, size=15, labelled=labelled, region_side=region_side)
        regions, grid = made["regions"], grid_of(made)
        rows, columns = (axis.ravel() for axis in np.indices(grid.shape))
        x, y = grid.pixels(rows, columns).T
        free = np.ones(grid.shape, bool)
        free[grid.cells(made["points"][:, :2])] = False
        known = regions[made["points"][:, 1], made["points"][:, 0]]
        fresh = free.ravel() & ~np.isin(regions[y, x], known)
        eligible = fresh if fresh.any() else free.ravel()
        candidates = choose(made, count, rule).candidates
        assert score_at(made, candidates).max() == made["scores"].ravel()[eligible].max()


def test_labelled_superpixels_are_used_only_for_what_is_lacking():
    made = scene(12, 12, size=12, region_side=6)  # four superpixels of 36 pixels
    made["points"] = np.array([[0, 0, 1], [11, 0, 0], [0, 11, 0]])
    made["scores"][:6, :6] += 5.0
    chosen = choose(made, 36).pixels
    assert (chosen >= 6).all()  # the only fresh superpixel holds enough
    chosen = choose(made, 40).pixels
    assert ((chosen >= 6).all(axis=1)).sum() == 36
    rest = chosen[~(chosen >= 6).all(axis=1)]
    assert (rest < 6).all()
    best = np.sort(np.delete(made["scores"][:6, :6].ravel(), 0))[::-1][:4]
    assert sorted(score_at(made, rest)) == sorted(best)


def test_the_rule_is_given_the_scores_and_features_of_the_candidates():
    made = scene(30, 20, labelled=4)
    seen = {}

    def spy(scores, sites, labelled, count, rng):
        seen.update(scores=scores, sites=sites, labelled=labelled, count=count)
        return np.array([2, 0, 1])

    choice = choose(made, 3, spy)
    assert (choice.pixels == choice.candidates[[2, 0, 1]]).all()
    assert seen["count"] == 3
    assert (seen["scores"] == score_at(made, choice.candidates)).all()
    for name, pixels in (("sites", choice.candidates), ("labelled", made["points"][:, :2])):
        assert (seen[name].features == features_at(made["features"], pixels, 30, 20)).all()
        assert (seen[name].colours == features_at(made["colours"], pixels, 30, 20)).all()
        x, y = pixels.T
        assert (seen[name].places == np.column_stack([(y + 0.5) / 20, (x + 0.5) / 30])).all()


def test_all_cells_of_the_uncertain_share_are_candidates_where_superpixels_do_not_matter():
    made = scene(30, 20, size=10, region_side=10, labelled=1)
    known = made["regions"][made["points"][:, 1], made["points"][:, 0]]
    for percent, most, count in [(100, 500, 3), (25, 500, 3), (100, 4, 3), (1, 1, 7)]:
        choice = choose(made, count, percent=percent, most=most, thinned=False)
        assert_contract(made, count, choice)
        grid = grid_of(made)
        cells = np.unravel_index(np.argsort(-made["scores"], axis=None), grid.shape)
        pixels = grid.pixels(*cells)
        fresh = pixels[~np.isin(made["regions"][pixels[:, 1], pixels[:, 0]], known)]
        share = max(count, min(most, int(np.ceil(len(fresh) * percent / 100))))
        assert (choice.candidates == fresh[:share]).all()


@pytest.mark.parametrize("rule", DIVERSITY)
@pytest.mark.parametrize("which", ["scores", "features"])
def test_values_that_are_not_finite_are_told(rule, which):
    made = scene(10, 10)
    made[which][:] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        choose(made, 3, rule)


def test_to_cells_takes_the_mean_of_each_cell():
    values = torch.arange(24.0).reshape(1, 24).repeat(24, 1)
    means = to_cells(values, Grid(240, 60, 8))
    assert means.shape == (8, 8)
    assert means.dtype == np.float32
    assert (means == 1 + 3 * np.arange(8)).all()
    assert to_cells(values, Grid(240, 2, 8)).shape == (2, 8)


@pytest.mark.parametrize(("width", "height"), [(30, 20), (7, 90), (3, 3), (1, 1)])
def test_features_at_reads_a_ramp_exactly(width, height):
    rows, columns = 6, 5
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    ramp = torch.stack([x / columns, y / rows])  # relative coordinates of the cells' centres
    rng = np.random.default_rng(0)
    pixels = np.stack([rng.integers(0, width, 20), rng.integers(0, height, 20)], axis=1)
    expected = (pixels + 0.5) / [width, height]
    margin = np.array([0.5 / columns, 0.5 / rows])  # beyond the outer centres values are held
    expected = np.clip(expected, margin, 1 - margin)
    read = features_at(ramp, pixels, width, height)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, expected, atol=1e-6)


def test_to_grid_reads_under_the_centres():
    size = 16
    x = ((torch.arange(size) + 0.5) / size).expand(size, size)
    for width, height in [(100, 7), (7, 100), (16, 16), (300, 200), (1, 1), (1, 50)]:
        grid = Grid(width, height, size)
        for ramp, count, axis in ((x, grid.shape[1], 1), (x.T, grid.shape[0], 0)):
            values = to_grid(ramp, grid)
            assert values.dtype == np.float32
            assert values.shape == grid.shape
            expected = (np.arange(count) + 0.5) / count
            expected = np.broadcast_to(expected[None] if axis else expected[:, None], grid.shape)
            np.testing.assert_allclose(values, expected, atol=1e-6)
    peak = torch.zeros(size, size)
    peak[3, 9] = 1
    assert (to_grid(peak, Grid(64, 64, size)) == peak.numpy()).all()


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_random_pixels(width, height, data):
    total = width * height
    flat = data.draw(st.sets(st.integers(0, total - 1), max_size=60))
    count = data.draw(st.integers(0, 60))
    seed = data.draw(st.integers(0, 9))
    taken = [(place % width, place // width) for place in flat]
    chosen, again = (
        random_pixels(width, height, taken, count, np.random.default_rng(seed)) for _ in range(2)
    )
    assert chosen.dtype == np.int64
    assert chosen.shape == (min(count, total - len(flat)), 2)
    assert len(as_set(chosen)) == len(chosen)
    assert not as_set(chosen) & set(taken)
    assert (chosen >= 0).all()
    assert (chosen < [width, height]).all()
    assert (chosen == again).all()


@pytest.mark.parametrize(("width", "height"), [(3, 2), (5, 8)])  # a draw of all, a draw again
def test_random_pixels_are_uniform(width, height):
    rng = np.random.default_rng(0)
    hits = np.zeros((height, width))
    draws = 200 * width * height
    for _ in range(draws):
        ((x, y),) = random_pixels(width, height, [(0, 1)], 1, rng)
        hits[y, x] += 1
    assert hits[1, 0] == 0
    mean = draws / (width * height - 1)
    free = np.delete(hits.ravel(), width)
    assert (np.abs(free - mean) < 5 * mean**0.5).all()


@pytest.mark.parametrize(
    ("width", "height", "count", "expected"),
    [
        (40, 20, 8, [(x, y) for y in (5, 15) for x in (5, 15, 25, 35)]),
        (20, 40, 8, [(x, y) for y in (5, 15, 25, 35) for x in (5, 15)]),
        (9, 9, 1, [(4, 4)]),
        (100, 1, 4, [(12, 0), (37, 0), (62, 0), (87, 0)]),
        # Ten in a square: rows of 3, 4 and 3, the middle one higher by a third.
        (
            120,
            120,
            10,
            [(x, 18) for x in (20, 60, 100)]
            + [(x, 60) for x in (15, 45, 75, 105)]
            + [(x, 102) for x in (20, 60, 100)],
        ),
        (2, 3, 99, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]),
    ],
)
def test_grid_pixels_known(width, height, count, expected):
    pixels = grid_pixels(width, height, count)
    assert pixels.dtype == np.int64
    assert [tuple(pair) for pair in pixels.tolist()] == expected


@settings(deadline=None, max_examples=400)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 80))
@example(3, 3, 8)
@example(1, 60, 59)
@example(2, 8, 13)  # rows of different height would share a row of pixels
def test_grid_pixels(width, height, count):
    pixels = grid_pixels(width, height, count)
    count = min(count, width * height)
    assert len(as_set(pixels)) == len(pixels) == count
    assert (pixels >= 0).all()
    assert (pixels < [width, height]).all()
    lines, in_a_row = np.unique(pixels[:, 1], return_counts=True)
    assert np.ptp(in_a_row) <= 1

    def longest(rows):
        """How far the longest cell is from a square, all cells having one area."""
        sizes = {count // rows, -(-count // rows)}
        ratios = [(width / size) / (height * size / count) for size in sizes]
        return max(max(ratio, 1 / ratio) for ratio in ratios)

    possible = [rows for rows in range(1, min(height, count) + 1) if -(-count // rows) <= width]
    assert longest(len(lines)) == pytest.approx(min(map(longest, possible)))


@settings(deadline=None)
@given(st.integers(200, 900), st.integers(200, 900), st.integers(1, 60))
def test_a_grid_is_a_fair_sample(width, height, count):
    """The mean place is the image's centre: cells stand for equal areas, however rows differ."""
    mean = grid_pixels(width, height, count).mean(axis=0) + 0.5
    assert (np.abs(mean - [width / 2, height / 2]) <= 0.5 + 1e-9).all()
