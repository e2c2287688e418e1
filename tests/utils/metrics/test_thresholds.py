"""The curves against PySODMetrics' numbers and against one threshold at a time."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.metrics.conventions import CONVENTIONS
from utils.metrics.thresholds import (
    Curves,
    area_under_roc,
    at_thresholds,
    average_precision,
    curves,
    grey_spans,
    mean_errors,
)

HERE = Path(__file__).parent
plain = SimpleNamespace(**runpy.run_path(str(HERE / "plain.py")))
golden = SimpleNamespace(**runpy.run_path(str(HERE.parents[1] / "golden" / "pairs.py")))
PAIRS, GOLDEN = golden.golden_pairs(), golden.read_golden()
PYSODMETRICS = CONVENTIONS["pysodmetrics"]

CURVES = {
    "precision": "precision",
    "recall": "recall",
    "f": "f_curve",
    "e": "e_curve",
    "iou": "iou_curve",
    "dice": "dice_curve",
    "ber": "ber_curve",
}
HALF_TIES = {"half tie", "disc, all but 0", "one pixel", "one pixel, last row"}
"""Pairs with pixels at one half exactly, which PySODMetrics leaves out (> 0.5) and we find."""


def counts_of(pair):
    return plain.tally_of(*pair)["counts"]


@pytest.mark.parametrize("name", PAIRS)
def test_equal_to_pysodmetrics(name):
    pred, mask = PAIRS[name]
    theirs = GOLDEN["images"][name]
    assert golden.digest(pred, mask) == theirs["pair"], "the inputs have changed"
    counts = plain.tally_of(pred, mask)["counts"]
    found = at_thresholds(counts, PYSODMETRICS)
    for curve, key in CURVES.items():
        expected = golden.unpacked(theirs[key])
        if name == "one by one" and curve == "e":
            assert expected.max() > 1e15  # PySODMetrics divides by the spacing of 1
            expected = np.arange(255, -1, -1) <= 200
        ours = getattr(found, curve)[0, :-2]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-9, err_msg=curve)
    assert mean_errors(counts, PYSODMETRICS)[0] == pytest.approx(theirs["mae"], abs=2e-9)
    assert found.f[0, -2] == pytest.approx(theirs["adp_f"], abs=2e-9)
    if name != "one by one":
        assert found.e[0, -2] == pytest.approx(theirs["adp_e"], abs=2e-9)
    tied = any(2 * value == 1 for value in plain.fractions(pred, stretch=True))
    assert tied == (name in HALF_TIES)
    if not tied:
        for score in ("iou", "dice", "ber"):
            ours = getattr(found, score)[0, -1]
            assert ours == pytest.approx(theirs[score], abs=2e-9), score


@settings(max_examples=60, deadline=None)
@given(plain.pairs(), st.sampled_from(["pysodmetrics", "raw"]))
def test_equal_to_one_threshold_at_a_time(pair, name):
    pred, mask = pair
    stretch = name == "pysodmetrics"
    steps = np.floor(plain.stretched(pred) * 255) if stretch else pred
    binary = [steps >= t for t in range(255, -1, -1)]
    binary += [plain.found_at(pred, stretch, which) for which in ("adaptive", "half")]
    slow = [plain.binary_scores(b, mask) for b in binary]
    found = at_thresholds(plain.tally_of(pred, mask)["counts"], CONVENTIONS[name])
    for score in Curves._fields:
        expected = [scores[score] for scores in slow]
        np.testing.assert_allclose(getattr(found, score)[0], expected, atol=1e-12, err_msg=score)
    shown = plain.stretched(pred) if stretch else pred / 255
    error = np.abs(shown - mask).mean()
    assert mean_errors(counts_of(pair), CONVENTIONS[name])[0] == pytest.approx(error, abs=1e-12)


def test_thresholds_of_the_map_itself_are_compared_without_rounding():
    # One half is the level of the middle value, and twice the mean too: both must find it.
    wrong = 0
    for lowest, step in ((10, 30), (3, 7), (20, 51), (1, 99), (60, 45)):
        middle, highest = lowest + step, lowest + 2 * step
        pred = np.repeat(np.array([lowest, middle, highest], np.uint8), [5, 2, 1])[None]
        mask = pred > lowest
        found = at_thresholds(counts_of((pred, mask)), PYSODMETRICS)
        assert found.iou[0, -1] == 1
        assert found.f[0, -2] == pytest.approx(1)
        shown = plain.stretched(pred)
        wrong += np.any((shown >= 0.5) != mask) or np.any((shown >= 2 * shown.mean()) != mask)
    assert wrong, "floating point would do, and this test could not fail"


def test_images_do_not_mix():
    tallies = plain.random_tallies(40, seed=1)
    for convention in CONVENTIONS.values():
        together = at_thresholds(tallies["counts"], convention)
        for index in (0, 17, 39):
            alone = at_thresholds(tallies["counts"][index : index + 1], convention)
            for one, other in zip(together, alone, strict=True):
                np.testing.assert_array_equal(one[index], other[0])
        errors = mean_errors(tallies["counts"], convention)
        assert errors[17] == mean_errors(tallies["counts"][17:18], convention)[0]


def test_shapes_and_order():
    tallies = plain.random_tallies(5, seed=2)
    for convention in CONVENTIONS.values():
        found = curves(tallies["counts"], convention)
        for values in found:
            assert values.shape == (5, convention.thresholds)
            assert values.dtype == np.float64
        assert np.all(np.diff(found.recall) >= 0)
        assert np.all(np.diff(found.fpr) >= 0)
        assert np.all(found.recall[:, -1] == 1)
        empty = curves(tallies["counts"][:0], convention)
        assert empty.e.shape == (0, convention.thresholds)
        assert mean_errors(tallies["counts"][:0], convention).shape == (0,)


def test_large_images_do_not_overflow():
    counts = np.zeros((1, 2, 256), np.uint32)
    counts[0, 1, 255] = counts[0, 0, 255] = 3 * 10**9
    counts[0, 0, 0] = 10**9
    found = at_thresholds(counts, PYSODMETRICS)
    assert found.precision[0, 0] == pytest.approx(0.5)
    assert found.fpr[0, 0] == found.fpr[0, -2] == pytest.approx(0.75)
    assert mean_errors(counts, PYSODMETRICS)[0] == pytest.approx(3 / 7)


def test_grey_spans():
    counts = np.zeros((3, 2, 256), np.uint32)
    counts[0, 0, 4] = counts[0, 1, 250] = counts[1, 1, 7] = counts[2, 0, 0] = counts[2, 0, 255] = 1
    lowest, highest = grey_spans(counts)
    assert lowest.tolist() == [4, 7, 0]
    assert highest.tolist() == [250, 7, 255]


# Areas.


def slow_average_precision(precision, recall):
    """Return the area in the manner of VOC 2010, step by step."""
    total, before = 0.0, 0.0
    for index, reached in enumerate(recall):
        best = max(precision[index:])
        total += (reached - before) * best
        before = reached
    return total


def slow_average_precision_with_ends(precision, recall):
    """Return the same with a point of precision 0 added at either end, as published code does."""
    points = sorted(
        zip([0, *recall, 1], [0, *precision, 0], strict=True), key=lambda point: point[0]
    )
    total = 0.0
    for index in range(1, len(points)):
        best = max(p for _, p in points[index:])
        total += (points[index][0] - points[index - 1][0]) * best
    return total


@settings(max_examples=60, deadline=None)
@given(plain.pairs())
def test_average_precision_equal_to_plain_loops(pair):
    found = curves(counts_of(pair), PYSODMETRICS)
    area = average_precision(found.precision, found.recall)[0]
    slow = slow_average_precision(found.precision[0], found.recall[0])
    assert area == pytest.approx(slow, abs=1e-12)
    slow = slow_average_precision_with_ends(found.precision[0], found.recall[0])
    assert area == pytest.approx(slow, abs=1e-12)


def test_average_precision_known_answer():
    # Found one after another: right, wrong, right, never the third of three.
    precision, recall = np.array([0, 1, 0.5, 2 / 3]), np.array([0, 1, 1, 2]) / 3
    assert average_precision(precision, recall) == pytest.approx((1 + 2 / 3) / 3)


@settings(max_examples=100, deadline=None)
@given(plain.pairs())
def test_area_under_roc_is_the_mann_whitney_statistic(pair):
    pred, mask = (np.pad(image, ((0, 1), (0, 2))) for image in pair)
    pred[-1, -1], pred[-1, -2] = 255, 0  # no stretching, which would merge grey values
    mask[-1, -1] = True  # and no mask empty or full
    inside, outside = pred[mask].astype(int), pred[~mask].astype(int)
    order = np.sign(inside[:, None] - outside[None])
    found = curves(counts_of((pred, mask)), PYSODMETRICS)
    area = area_under_roc(found.recall, found.fpr, close=True)[0]
    assert area == pytest.approx((order.mean() + 1) / 2, abs=1e-12)


def test_area_under_roc_ends():
    recall, fpr = np.array([[0.5, 0.8], [0, 0], [1, 1]]), np.array([[0.1, 0.4], [0, 1], [0, 0]])
    between = np.array([0.3 * 1.3 / 2, 0, 0])
    np.testing.assert_allclose(area_under_roc(recall, fpr, close=False), between)
    ends = np.array([0.1 * 0.5 / 2 + 0.6 * 1.8 / 2, 0, 1])
    np.testing.assert_allclose(area_under_roc(recall, fpr, close=True), between + ends)


@settings(max_examples=40, deadline=None)
@given(plain.pairs(), st.sampled_from(list(CONVENTIONS)))
def test_scores_are_finite_and_in_range(pair, name):
    most = pair[1].size / max(pair[1].size - 1, 1)  # what dividing E by pixels - 1 allows
    for score, values in at_thresholds(counts_of(pair), CONVENTIONS[name])._asdict().items():
        assert np.all(values >= 0), score
        assert np.all(values <= (most if score == "e" else 1) + 1e-12), score
