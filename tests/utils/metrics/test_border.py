"""Boundary IoU against a plain loop over pixels."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.metrics.border import boundary_iou
from utils.metrics.conventions import CONVENTIONS
from utils.metrics.tally import tally

HERE = Path(__file__).parent
plain = SimpleNamespace(**runpy.run_path(str(HERE / "plain.py")))
golden = SimpleNamespace(**runpy.run_path(str(HERE.parents[1] / "golden" / "pairs.py")))
PAIRS = golden.golden_pairs()


def slow_boundary(binary):
    """Return the object's pixels that see the outside within the distance, one by one."""
    height, width = binary.shape
    distance = max(1, round(0.02 * math.sqrt(height**2 + width**2)))
    padded = np.pad(binary, distance)
    size = 2 * distance + 1
    return {
        (y, x)
        for y in range(height)
        for x in range(width)
        if binary[y, x] and not padded[y : y + size, x : x + size].all()
    }


def slow_boundary_iou(found, mask):
    one, other = slow_boundary(found), slow_boundary(mask)
    return len(one & other) / len(one | other) if one | other else 1.0


@settings(max_examples=60, deadline=None)
@given(plain.pairs())
def test_equal_to_the_loop_on_small_images(pair):
    pred, mask = pair
    assert boundary_iou(pred >= 128, mask) == pytest.approx(slow_boundary_iou(pred >= 128, mask))


@pytest.mark.parametrize(("height", "width"), [(61, 80), (150, 120), (1, 180), (33, 240)])
def test_equal_to_the_loop_with_wider_boundaries(height, width):
    # From 1 to 5 pixels wide; objects touch the image's border.
    mask = golden.blobs(3, height, width, 40, 5) > 0
    found = golden.blobs(4, height, width, 55, 6) > 0
    expected = slow_boundary_iou(found, mask)
    assert boundary_iou(found, mask) == pytest.approx(expected, abs=1e-15)
    assert 0 < expected < 1


def test_known_answers():
    # 100 x 100: the diagonal is 141.4, the boundary 3 pixels wide.
    mask = np.zeros((100, 100), bool)
    mask[20:60, 20:60] = True
    empty, full = np.zeros_like(mask), np.ones_like(mask)
    assert boundary_iou(mask, mask) == 1
    assert boundary_iou(empty, empty) == 1
    assert boundary_iou(empty, mask) == boundary_iou(mask, empty) == 0
    moved = np.roll(mask, 3, axis=1)
    ring = 40**2 - 34**2
    shared = 2 * 3 * 37  # rows above and below; the sides have left each other
    assert boundary_iou(moved, mask) == pytest.approx(shared / (2 * ring - shared))
    # The full image has its boundary at the image's border.
    assert boundary_iou(full, np.pad(full[3:-3, 3:-3], 3)) == 0
    assert boundary_iou(full, full) == 1


def test_width_of_the_boundary():
    # The diagonal is 1000, the boundary 20 pixels wide; a hole has one, too: 41 x 41 around it.
    full = np.ones((600, 800), bool)
    mask = full.copy()
    mask[300, 400] = False
    ring = 600 * 800 - 560 * 760
    assert boundary_iou(full, mask) == pytest.approx(ring / (ring + 41 * 41 - 1), abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(plain.pairs(), st.sampled_from(["pysodmetrics", "raw"]))
def test_of_a_map_at_one_half(pair, name):
    pred, mask = pair
    found = plain.found_at(pred, CONVENTIONS[name].stretch, "half")
    score = tally(pred, mask, CONVENTIONS[name], {"BIoU"})["BIoU"]
    assert score == pytest.approx(slow_boundary_iou(found, mask))


def test_a_map_with_a_range_that_reaches_no_half():
    pred = np.full((9, 9), 100, np.uint8)
    mask = np.zeros((9, 9), bool)
    for name in CONVENTIONS:
        assert tally(pred, mask, CONVENTIONS[name], {"BIoU"})["BIoU"] == 1
        assert tally(pred, ~mask, CONVENTIONS[name], {"BIoU"})["BIoU"] == 0
    # Constant 200: found everywhere, but for eval-co-sod, which makes a constant map 0.
    pred[:] = 200
    found = {name: tally(pred, ~mask, CONVENTIONS[name], {"BIoU"})["BIoU"] for name in CONVENTIONS}
    assert found == {"pysodmetrics": 1, "raw": 1, "eval-co-sod": 0}
