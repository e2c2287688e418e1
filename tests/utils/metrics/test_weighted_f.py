"""Weighted F against PySODMetrics' numbers and against SciPy's search for nearest pixels."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.ndimage import convolve, distance_transform_edt

from utils.metrics import weighted_f as module
from utils.metrics.conventions import CONVENTIONS
from utils.metrics.tally import tally

HERE = Path(__file__).parent
plain = SimpleNamespace(**runpy.run_path(str(HERE / "plain.py")))
golden = SimpleNamespace(**runpy.run_path(str(HERE.parents[1] / "golden" / "pairs.py")))
PAIRS, GOLDEN = golden.golden_pairs(), golden.read_golden()
LEVELS = np.arange(256) / 255


def weighted_f(pred, mask):
    """Return the project's weighted F of a map as it is."""
    return module.weighted_f(pred, mask, LEVELS)


def slow_weighted_f(saliency, mask):
    """Return weighted F as the paper has it: full kernels, a search over the whole image."""
    if not mask.any():
        return 0.0
    distance, nearest = distance_transform_edt(~mask, return_indices=True)
    error = np.abs(saliency - mask)
    spread = np.where(mask, error, error[tuple(nearest)])
    at = np.arange(-3, 4)
    kernel = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 5**2))
    smooth = convolve(spread, kernel / kernel.sum(), mode="constant")
    error = np.where(mask & (smooth < error), smooth, error)
    weighted = error * np.where(mask, 1, 2 - np.exp(np.log(0.5) / 5 * distance))
    recall = 1 - weighted[mask].mean()
    true = mask.sum() - weighted[mask].sum()
    precision = true / (true + weighted[~mask].sum() + np.spacing(1))
    return 2 * recall * precision / (recall + precision + np.spacing(1))


def made_masks(seed, number, largest=70):
    """Yield masks of many kinds: sparse and dense noise, blobs, thin ones, outlines, lines."""
    rng = np.random.default_rng(seed)
    for index in range(number):
        height, width = rng.integers(1, largest, 2)
        if index % 7 == 0:
            height, width = rng.permutation([1 + index % 4, int(width)])
        kind = index % 4
        if kind == 0:
            mask = rng.random((height, width)) < rng.choice([0.003, 0.02, 0.1, 0.5, 0.9, 0.995])
        elif kind == 1:
            percent = int(rng.choice([20, 60, 90, 97]))
            mask = golden.blobs(index, height, width, percent, int(rng.integers(1, 5))) > 0
        elif kind == 2:
            y, x = np.mgrid[:height, :width]
            mask = (y * rng.integers(-3, 4) + x * rng.integers(-3, 4)) % rng.integers(5, 19) == 0
        else:
            y, x = np.mgrid[:height, :width] - rng.integers(0, largest, 2)[:, None, None]
            mask = np.abs(np.hypot(y, x) - rng.integers(3, largest)) < rng.choice([1, 3, 8])
        yield mask


@pytest.mark.parametrize("name", PAIRS)
def test_equal_to_pysodmetrics(name):
    pred, mask = PAIRS[name]
    found = tally(pred, mask, CONVENTIONS["pysodmetrics"], {"wF"})["wF"]
    assert found == pytest.approx(GOLDEN["images"][name]["wf"], rel=0, abs=2e-9)


def test_nearest_pixels_are_those_scipy_chooses():
    # Random grey values tell pixels apart: one wrong choice in hundreds shows.
    seen = 0
    for index, mask in enumerate(made_masks(1, 240)):
        pred = golden.noise(index, *mask.shape)
        if not mask.any():
            continue
        distance, nearest = distance_transform_edt(~mask, return_indices=True)
        near = distance < 4.25
        found = module._spread(pred, mask, distance.astype(np.float32))
        np.testing.assert_array_equal(found[near], pred[tuple(nearest)][near])
        seen += np.count_nonzero(near & ~mask)
    assert seen > 20_000


def test_a_near_pixel_can_be_at_any_of_the_places():
    # Every place is reached: a lone pixel of the object in the middle of nothing.
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    pred = np.where(mask, 77, 0).astype(np.uint8)
    distance = distance_transform_edt(~mask)
    found = module._spread(pred, mask, distance.astype(np.float32))
    np.testing.assert_array_equal(found == 77, distance**2 <= 18)


def test_equal_to_the_slow_one():
    for index, mask in enumerate(made_masks(2, 200)):
        pred = golden.noise(1000 + index, *mask.shape)
        pred = pred if index % 3 else pred // 64 * 64
        expected = slow_weighted_f(pred / 255, mask)
        assert weighted_f(pred, mask) == pytest.approx(expected, rel=0, abs=1e-12), index


@settings(max_examples=100, deadline=None)
@given(plain.pairs())
def test_equal_to_the_slow_one_on_small_images(pair):
    pred, mask = pair
    expected = slow_weighted_f(plain.stretched(pred), mask)
    found = tally(pred, mask, CONVENTIONS["pysodmetrics"], {"wF"})["wF"]
    assert found == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("shape", [(3, 700), (700, 3), (1, 600)])
def test_far_from_the_object(shape):
    # Beyond 266 pixels the weight is 2 to the last bit: the table ends there.
    mask = np.zeros(shape, bool)
    mask[0, 0] = True
    pred = golden.noise(5, *shape)
    assert weighted_f(pred, mask) == pytest.approx(slow_weighted_f(pred / 255, mask), abs=1e-14)


@pytest.mark.parametrize("pixels", [1, 500, 4000])
def test_strips_change_nothing(monkeypatch, pixels):
    pred, mask = PAIRS["larger"]
    whole = weighted_f(pred, mask > 128)
    monkeypatch.setattr(module, "_STRIP", pixels)
    assert weighted_f(pred, mask > 128) == pytest.approx(whole, rel=0, abs=1e-14)


def test_the_same_bit_for_bit_each_time():
    # OpenCV's exact distances are not, in their last bits.
    for name in ("disc", "blobs, small", "larger"):
        pred, mask = PAIRS[name]
        assert len({weighted_f(pred, mask > 128) for _ in range(30)}) == 1


def test_the_inputs_are_left_as_they_were():
    pred, mask = PAIRS["blob, fair"]
    before = pred.copy()
    weighted_f(pred, mask > 128)
    np.testing.assert_array_equal(pred, before)


def test_known_answers():
    mask = np.zeros((40, 40), bool)
    mask[10:20, 10:20] = True
    sure = mask.astype(np.uint8) * 255
    assert weighted_f(sure, mask) == pytest.approx(1, abs=1e-14)
    assert weighted_f(255 - sure, mask) == pytest.approx(0, abs=1e-14)
    assert weighted_f(sure, np.zeros_like(mask)) == 0
    # One sure false alarm 5 pixels away weighs 2 - 1/2: precision is 100 / 101.5.
    sure[15, 24] = 255
    assert weighted_f(sure, mask) == pytest.approx(2 * 100 / 101.5 / (1 + 100 / 101.5), abs=1e-14)
