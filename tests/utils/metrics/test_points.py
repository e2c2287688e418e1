"""Scores at labelled points."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings

from utils.errors import UserError
from utils.metrics.conventions import CONVENTIONS
from utils.metrics.points import point_scores, point_tally
from utils.metrics.summary import each_image
from utils.metrics.tally import PARTS

plain = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("plain.py"))))


def scores_at(values, labels):
    return point_scores(point_tally(values, labels)["counts"].astype(np.int64))


def test_points_known_answer():
    values = np.array([255, 102, 51, 0], np.uint8)
    labels = np.array([1, 0, 1, 0])
    found = scores_at(values, labels)
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
@given(plain.pairs())
def test_all_pixels_as_points_give_the_image_scores(pair):
    pred, mask = pair
    pred = np.pad(pred, 1, constant_values=255)
    pred[0, 0] = 0  # spans 0 to 255: stretching changes nothing
    mask = np.pad(mask, 1)
    found = scores_at(pred.ravel(), mask.ravel().astype(np.int64))
    assert tuple(found) == ("maxF", "meanF", "adpF", "MAE")
    tally = plain.tally_of(pred, mask)
    dense = each_image(tally, CONVENTIONS["pysodmetrics"], tuple(found))
    assert found == pytest.approx({name: dense[name][0] for name in found}, abs=1e-12)


@pytest.mark.parametrize("value", [0, 60, 255])
def test_points_of_one_class_are_finite(value):
    values = np.full(5, value, np.uint8)
    background = scores_at(values, np.zeros(5, np.uint8))
    assert background == pytest.approx({"maxF": 0, "meanF": 0, "adpF": 0, "MAE": value / 255})
    foreground = scores_at(values, np.ones(5, np.uint8))
    assert foreground["maxF"] == pytest.approx(1)
    assert foreground["meanF"] == pytest.approx((value + 1) / 256)
    assert foreground["MAE"] == pytest.approx(1 - value / 255)


def test_point_faults_are_told():
    values = np.array([3, 4], np.uint8)
    with pytest.raises(UserError, match="label 2 is neither"):
        scores_at(values, np.array([0, 2]))
    with pytest.raises(UserError, match="one value a point"):
        scores_at(values, np.array([0, 1, 1]))
    with pytest.raises(UserError, match="no labelled point"):
        scores_at(values[:0], np.array([], int))
    with pytest.raises(TypeError, match="float64"):
        scores_at(values / 255, np.array([0, 1]))


def test_points_of_several_maps_are_pooled():
    rng = np.random.default_rng(0)
    values, labels = rng.integers(0, 256, (3, 40), np.uint8), rng.integers(0, 2, (3, 40))
    tallies = [point_tally(*pair) for pair in zip(values, labels, strict=True)]
    pooled = sum(tally["counts"].astype(np.int64) for tally in tallies)
    assert point_scores(pooled) == scores_at(values.ravel(), labels.ravel())
    assert all(np.isnan(tally[part]) for tally in tallies for part in PARTS)
