"""The scores against PySODMetrics' numbers and against slow, plain versions of themselves."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from utils.errors import UserError
from utils.metrics import METRICS, THRESHOLDS, SaliencyScores, image_scores, point_scores

GOLDEN_FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((GOLDEN_FOLDER / "metrics.json").read_text(encoding="utf-8"))
PAIRS_MODULE = runpy.run_path(str(GOLDEN_FOLDER / "pairs.py"))
PAIRS = PAIRS_MODULE["golden_pairs"]()
SCORES = ("mae", "adp_f", "wf", "s", "adp_e", "f_curve", "e_curve", "precision", "recall")


def unpacked(value):
    """Return a golden number, or a curve from its runs of [value, how often]."""
    if isinstance(value, list):
        numbers, lengths = zip(*value, strict=True)
        return np.repeat(numbers, lengths)
    return value


@pytest.mark.parametrize("name", PAIRS)
def test_equal_to_pysodmetrics(name):
    pred, mask = PAIRS[name]
    golden = GOLDEN["images"][name]
    assert PAIRS_MODULE["digest"](pred, mask) == golden["pair"], "the inputs have changed"
    found = image_scores(pred, mask)._asdict()
    assert tuple(found) == SCORES
    for score in SCORES:
        theirs = unpacked(golden[score])
        if theirs is None:
            assert (score, name) in {
                ("s", "one pixel, last row"),
                ("s", "one row"),
                ("s", "one column"),
            }
        elif name == "one by one" and score == "e_curve":
            assert theirs.max() > 1e15  # PySODMetrics divides by the spacing of 1
        else:
            np.testing.assert_allclose(found[score], theirs, rtol=0, atol=1e-6, err_msg=score)


def test_every_pair_has_its_golden_scores():
    assert set(GOLDEN["images"]) == set(PAIRS)
    assert len(GOLDEN["set"]["names"]) >= 40


def test_set_equal_to_pysodmetrics_classes():
    golden = {score: unpacked(GOLDEN["set"][score]) for score in SCORES}
    scores = SaliencyScores()
    for name in GOLDEN["set"]["names"]:
        scores.update(*PAIRS[name])
    assert scores.images == len(GOLDEN["set"]["names"])
    for score, found in scores.mean()._asdict().items():
        np.testing.assert_allclose(found, golden[score], rtol=0, atol=1e-6, err_msg=score)
    expected = {
        "maxF": golden["f_curve"].max(),
        "meanF": golden["f_curve"].mean(),
        "adpF": golden["adp_f"],
        "wF": golden["wf"],
        "S": golden["s"],
        "maxE": golden["e_curve"].max(),
        "meanE": golden["e_curve"].mean(),
        "adpE": golden["adp_e"],
        "MAE": golden["mae"],
    }
    found = scores.result()
    assert tuple(found) == METRICS == tuple(expected)
    assert all(type(value) is float for value in found.values())
    assert found == pytest.approx(expected, rel=0, abs=1e-6)


def test_max_is_of_the_averaged_curve():
    # Perfect at high thresholds only, and perfect at low thresholds only: no threshold suits both.
    mask = np.array([[0, 0, 255, 255]], np.uint8)
    scores = SaliencyScores()
    scores.update(np.array([[0, 200, 255, 255]], np.uint8), mask)
    scores.update(np.array([[0, 0, 20, 255]], np.uint8), mask)
    low_first, high_second = 1.3 * 0.5 / (0.3 * 2 / 3 + 1) / 0.75, 1.3 * 0.5 / (0.3 + 0.5)
    expected = max(1 + high_second, low_first + 1) / 2
    assert scores.result()["maxF"] == pytest.approx(expected)
    assert expected < 1


@pytest.mark.parametrize("name", ["one row", "one column", "one pixel, last row"])
def test_structure_finite_where_a_quadrant_is_empty(name):
    pred, mask = PAIRS[name]
    assert image_scores(pred, mask).s == pytest.approx(slow_structure(pred, mask > 128))
    assert image_scores(mask, mask).s == pytest.approx(1)


def test_image_of_one_pixel_is_finite():
    found = image_scores(np.array([[200]], np.uint8), np.array([[True]]))
    assert found.s == pytest.approx(200 / 255)
    np.testing.assert_array_equal(found.e_curve, THRESHOLDS <= 200)


# The slow, plain versions.


def stretched(pred):
    """Return the map in [0, 1] as PySODMetrics stretches it."""
    saliency = pred / 255
    if saliency.max() != saliency.min():
        saliency = (saliency - saliency.min()) / (saliency.max() - saliency.min())
    return saliency


def slow_f(binary, mask):
    """Return precision, recall and F of a binary map."""
    hits = np.sum(binary & mask)
    if hits == 0:
        return 0.0, 0.0, 0.0
    precision, recall = hits / binary.sum(), hits / mask.sum()
    return precision, recall, 1.3 * precision * recall / (0.3 * precision + recall)


def slow_e(binary, mask):
    """Return the E-measure of a binary map, pixel by pixel."""
    if not mask.any():
        enhanced = ~binary
    elif mask.all():
        enhanced = binary
    else:
        a, b = binary - binary.mean(), mask - mask.mean()
        enhanced = (2 * a * b / (a**2 + b**2) + 1) ** 2 / 4
    return enhanced.sum() / max(mask.size - 1, 1)


def slow_likeness(part, truth):
    """Return the structural similarity of one quadrant, pixel by pixel."""
    x, y, freedom = part.mean(), truth.mean(), part.size - 1 + np.spacing(1)
    above = 4 * x * y * np.sum((part - x) * (truth - y)) / freedom
    spread = (np.sum((part - x) ** 2) + np.sum((truth - y) ** 2)) / freedom
    below = (x**2 + y**2) * spread
    return above / (below + np.spacing(1)) if above != 0 else float(below == 0)


def slow_structure(pred, mask):
    """Return the S-measure, pixel by pixel; empty quadrants weigh nothing."""
    saliency, share = stretched(pred), mask.mean()
    if share in (0, 1):
        return saliency.mean() if share else 1 - saliency.mean()
    total = 0.0
    for values, weight in ((saliency[mask], share), (1 - saliency[~mask], 1 - share)):
        spread = values.std(ddof=1) if values.size > 1 else 0
        total += weight * 2 * values.mean() / (values.mean() ** 2 + 1 + spread)
    row, column = (int(np.round(at.mean())) + 1 for at in np.nonzero(mask))
    for rows in (slice(0, row), slice(row, None)):
        for columns in (slice(0, column), slice(column, None)):
            part, truth = saliency[rows, columns], mask[rows, columns]
            if part.size:
                total += part.size / mask.size * slow_likeness(part, truth)
    return max(0.0, total / 2)


@st.composite
def pairs(draw):
    """Draw a map, of few grey values or many, and a Boolean mask of the same size."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    values = draw(st.lists(st.integers(0, 255), min_size=1, max_size=9, unique=True))
    elements = draw(st.sampled_from([st.integers(0, 255), st.sampled_from(values)]))
    fill = st.nothing()
    return (
        draw(arrays(np.uint8, shape, elements=elements, fill=fill)),
        draw(arrays(np.bool_, shape, fill=fill)),
    )


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_equal_to_one_threshold_at_a_time(pair):
    pred, mask = pair
    saliency = stretched(pred)
    steps = np.floor(saliency * 255)
    found = image_scores(pred, mask)
    slow = np.array([slow_f(steps >= t, mask) for t in range(255, -1, -1)])
    np.testing.assert_allclose(found.precision, slow[:, 0], atol=1e-12)
    np.testing.assert_allclose(found.recall, slow[:, 1], atol=1e-12)
    np.testing.assert_allclose(found.f_curve, slow[:, 2], atol=1e-12)
    slow_curve = [slow_e(steps >= t, mask) for t in range(255, -1, -1)]
    np.testing.assert_allclose(found.e_curve, slow_curve, atol=1e-12)
    adaptive = saliency >= min(2 * saliency.mean(), 1)
    assert found.adp_f == pytest.approx(slow_f(adaptive, mask)[2], abs=1e-12)
    assert found.adp_e == pytest.approx(slow_e(adaptive, mask), abs=1e-12)
    assert found.mae == pytest.approx(np.abs(saliency - mask).mean(), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(pairs())
def test_structure_equal_to_pixel_by_pixel(pair):
    pred, mask = pair
    assert image_scores(pred, mask).s == pytest.approx(slow_structure(pred, mask), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_scores_are_finite_and_in_range(pair):
    pred, mask = pair
    found = image_scores(pred, mask)
    most = mask.size / max(mask.size - 1, 1)  # what dividing E by pixels - 1 allows
    for score, value in found._asdict().items():
        limit = most if score in ("adp_e", "e_curve") else 1
        assert np.all(np.asarray(value) >= 0), score
        assert np.all(np.asarray(value) <= limit + 1e-9), score


@settings(max_examples=50, deadline=None)
@given(pairs())
def test_perfect_map(pair):
    _, mask = pair
    mask = np.pad(mask, 1)
    mask[1, 1] = True
    found = image_scores(mask.astype(np.uint8) * 255, mask)
    assert (found.mae, found.adp_f, found.wf) == pytest.approx((0, 1, 1))
    assert (found.s, found.f_curve.max()) == pytest.approx((1, 1))


# Masks and faults.


def test_mask_forms():
    pred, mask = PAIRS["disc"]
    found = image_scores(pred, mask)
    grey = np.where(mask > 0, 129, 128).astype(np.uint8)
    for form in (mask, mask > 0, grey, np.asfortranarray(mask)):
        for one, other in zip(found, image_scores(pred, form), strict=True):
            np.testing.assert_array_equal(one, other)


def test_scores_are_the_same_bit_for_bit_each_time():
    # OpenCV's exact distances are not, in their last bits.
    for name in ("disc", "blobs, small", "larger"):
        assert len({image_scores(*PAIRS[name]).wf for _ in range(30)}) == 1


def test_strided_inputs_and_no_change_to_them():
    pred, mask = (np.repeat(image, 2, axis=1) for image in PAIRS["blob, fair"])
    before = pred.copy(), mask.copy()
    found = image_scores(pred[:, ::2], mask[:, ::2])
    np.testing.assert_allclose(found.wf, GOLDEN["images"]["blob, fair"]["wf"], atol=1e-6)
    np.testing.assert_array_equal(before, (pred, mask))


def test_faults_are_told():
    pred, mask = np.zeros((4, 6), np.uint8), np.zeros((6, 4), bool)
    with pytest.raises(UserError, match="map is 4 x 6 but its mask is 6 x 4"):
        image_scores(pred, mask)
    with pytest.raises(UserError, match="non-empty grey images"):
        image_scores(pred[:0], pred[:0])
    with pytest.raises(UserError, match="4 x 6 x 3"):
        image_scores(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(UserError, match="0 and 1"):
        image_scores(pred, np.eye(4, 6, dtype=np.uint8))
    with pytest.raises(TypeError, match="float64"):
        image_scores(pred / 255, mask.T)
    with pytest.raises(TypeError, match="int64"):
        image_scores(pred, mask.T.astype(np.int64))


def test_no_image_is_told():
    scores = SaliencyScores()
    assert scores.images == 0
    with pytest.raises(UserError, match="no saliency map was scored"):
        scores.result()


# Points.


def test_points_known_answer():
    values = np.array([255, 102, 51, 0], np.uint8)
    labels = np.array([1, 0, 1, 0])
    found = point_scores(values, labels)
    # F from threshold 0 (all found), 1..51 (3 found), 52..102 (2 found), 103..255 (1 found).
    at = [1.3 * p * r / (0.3 * p + r) for p, r in ((0.5, 1), (2 / 3, 1), (0.5, 0.5), (1, 0.5))]
    assert found == pytest.approx(
        {
            "maxF": max(at),
            "meanF": (at[0] + 51 * at[1] + 51 * at[2] + 153 * at[3]) / 256,
            "adpF": at[3],  # twice the mean is 204
            "MAE": (0 + 102 + 204 + 0) / 255 / 4,
        }
    )


@settings(max_examples=50, deadline=None)
@given(pairs())
def test_all_pixels_as_points_give_the_image_scores(pair):
    pred, mask = pair
    pred = np.pad(pred, 1, constant_values=255)
    pred[0, 0] = 0  # spans 0 to 255: stretching changes nothing
    mask = np.pad(mask, 1)
    scores = SaliencyScores()
    scores.update(pred, mask)
    dense = scores.result()
    found = point_scores(pred.ravel(), mask.ravel().astype(np.int64))
    assert found == pytest.approx({name: dense[name] for name in found}, abs=1e-12)


@pytest.mark.parametrize("value", [0, 60, 255])
def test_points_of_one_class_are_finite(value):
    values = np.full(5, value, np.uint8)
    background = point_scores(values, np.zeros(5, np.uint8))
    assert background == pytest.approx({"maxF": 0, "meanF": 0, "adpF": 0, "MAE": value / 255})
    foreground = point_scores(values, np.ones(5, np.uint8))
    assert foreground["maxF"] == pytest.approx(1)
    assert foreground["meanF"] == pytest.approx((value + 1) / 256)
    assert foreground["MAE"] == pytest.approx(1 - value / 255)


def test_point_faults_are_told():
    values = np.array([3, 4], np.uint8)
    with pytest.raises(UserError, match="label 2 is neither"):
        point_scores(values, np.array([0, 2]))
    with pytest.raises(UserError, match="one value a point"):
        point_scores(values, np.array([0, 1, 1]))
    with pytest.raises(UserError, match="no labelled point"):
        point_scores(values[:0], np.array([], int))
    with pytest.raises(TypeError, match="float64"):
        point_scores(values / 255, np.array([0, 1]))
