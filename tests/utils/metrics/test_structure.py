"""S-measure against PySODMetrics' numbers and against a slow version, pixel by pixel."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings

from utils.metrics.conventions import CONVENTIONS
from utils.metrics.structure import quadrants
from utils.metrics.tally import tally

HERE = Path(__file__).parent
plain = SimpleNamespace(**runpy.run_path(str(HERE / "plain.py")))
golden = SimpleNamespace(**runpy.run_path(str(HERE.parents[1] / "golden" / "pairs.py")))
PAIRS, GOLDEN = golden.golden_pairs(), golden.read_golden()
NO_NUMBER = {"one pixel, last row", "one row", "one column"}
"""Pairs with an empty quadrant, which PySODMetrics makes NaN."""


def structure(pred, mask, convention="pysodmetrics"):
    """Return the project's S-measure."""
    return float(tally(pred, mask, CONVENTIONS[convention], {"S"})["S"])


def eval_co_sod_map(pred):
    """Return the map as eval-co-sod stretches it, in single precision."""
    saliency = pred.astype(np.float32) / np.float32(255)
    low, high = saliency.min(), saliency.max()
    return ((saliency - low) / (high - low + np.float32(1e-20))).astype(np.float64)


def slow_likeness(part, truth, epsilon):
    """Return the structural similarity of one quadrant, pixel by pixel."""
    x, y, freedom = part.mean(), truth.mean(), part.size - 1 + epsilon
    if part.size == 1:
        freedom = 1.0  # all deviations are 0
    above = 4 * x * y * np.sum((part - x) * (truth - y)) / freedom
    spread = (np.sum((part - x) ** 2) + np.sum((truth - y) ** 2)) / freedom
    below = (x**2 + y**2) * spread
    return above / (below + epsilon) if above != 0 else float(below == 0)


def slow_structure(saliency, mask, offset=1, epsilon=2.0**-52):
    """Return the S-measure, pixel by pixel; empty quadrants weigh nothing."""
    share = mask.mean()
    if share in (0, 1):
        return saliency.mean() if share else 1 - saliency.mean()
    total = 0.0
    for values, weight in ((saliency[mask], share), (1 - saliency[~mask], 1 - share)):
        spread = values.std(ddof=1) if values.size > 1 else 0
        total += weight * 2 * values.mean() / (values.mean() ** 2 + 1 + spread)
    row, column = (int(np.round(at.mean())) + offset for at in np.nonzero(mask))
    for rows in (slice(0, row), slice(row, None)):
        for columns in (slice(0, column), slice(column, None)):
            part, truth = saliency[rows, columns], mask[rows, columns]
            if part.size:
                total += part.size / mask.size * slow_likeness(part, truth, epsilon)
    return max(0.0, total / 2)


@pytest.mark.parametrize("name", PAIRS)
def test_equal_to_pysodmetrics(name):
    pred, mask = PAIRS[name]
    theirs = GOLDEN["images"][name]["s"]
    if theirs is None:
        assert name in NO_NUMBER
        theirs = slow_structure(plain.stretched(pred), mask > 128)
        assert np.isfinite(theirs)
    assert structure(pred, mask) == pytest.approx(theirs, rel=0, abs=2e-9)


@settings(max_examples=200, deadline=None)
@given(plain.pairs())
def test_equal_to_pixel_by_pixel(pair):
    pred, mask = pair
    expected = slow_structure(plain.stretched(pred), mask)
    assert structure(pred, mask) == pytest.approx(expected, rel=0, abs=1e-9)
    assert structure(pred, mask, "raw") == pytest.approx(
        slow_structure(pred / 255, mask), rel=0, abs=1e-9
    )


@settings(max_examples=200, deadline=None)
@given(plain.pairs())
def test_equal_to_eval_co_sod(pair):
    pred, mask = pair
    expected = slow_structure(eval_co_sod_map(pred), mask, offset=0, epsilon=1e-20)
    assert structure(pred, mask, "eval-co-sod") == pytest.approx(expected, rel=0, abs=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_equal_to_eval_co_sod_on_larger_images(name):
    pred, mask = PAIRS[name]
    expected = slow_structure(eval_co_sod_map(pred), mask > 128, offset=0, epsilon=1e-20)
    assert structure(pred, mask, "eval-co-sod") == pytest.approx(expected, rel=0, abs=1e-6)


def test_constant_quadrants_of_every_size():
    # Where a quadrant is constant and without a border, the last bit of its mean decides.
    for height in range(3, 40, 4):
        for width in range(3, 60, 7):
            pred = np.full((height, width), 77, np.uint8)
            pred[0, 0], pred[-1, -1] = 0, 255
            mask = np.zeros((height, width), bool)
            mask[0, 0] = mask[1, 1] = True
            expected = slow_structure(plain.stretched(pred), mask)
            assert structure(pred, mask) == pytest.approx(expected, rel=0, abs=1e-12)


def test_what_is_added_to_divisors():
    # Two pixels in a million: the divisors are as small as what PySODMetrics adds to them.
    mask = np.zeros((1000, 1000), bool)
    mask[100, 100] = mask[900, 900] = True
    pred = mask.astype(np.uint8) * 255
    theirs = slow_structure(pred / 255, mask)
    assert structure(pred, mask) == pytest.approx(theirs, rel=0, abs=1e-9)
    assert theirs < 0.9
    assert structure(pred, mask, "eval-co-sod") == pytest.approx(1, abs=1e-4)


def test_quadrants_about_the_centroid():
    mask = np.zeros((6, 9), bool)
    mask[1, 2] = mask[2, 2] = True  # mean row 1.5, rounded to even: 2
    shapes = [mask[region].shape for region in quadrants(mask, 1)]
    assert shapes == [(3, 3), (3, 6), (3, 3), (3, 6)]
    shapes = [mask[region].shape for region in quadrants(mask, 0)]
    assert shapes == [(2, 2), (2, 7), (4, 2), (4, 7)]
    assert mask[quadrants(np.zeros_like(mask), 1)[0]].shape == (6, 9)


@pytest.mark.parametrize("name", sorted(NO_NUMBER))
def test_a_perfect_map_is_1_where_a_quadrant_is_empty(name):
    mask = PAIRS[name][1]
    for convention in CONVENTIONS:
        assert structure(mask, mask, convention) == pytest.approx(1)


def test_image_of_one_pixel():
    assert structure(np.array([[200]], np.uint8), np.array([[True]])) == pytest.approx(200 / 255)


@settings(max_examples=60, deadline=None)
@given(plain.pairs())
def test_finite_and_in_range(pair):
    for convention in CONVENTIONS:
        assert 0 <= structure(*pair, convention) <= 1 + 1e-9
