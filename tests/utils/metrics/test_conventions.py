"""The conventions: what maps become, and eval-co-sod's scores against a slow version in Torch."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.metrics.conventions import CONVENTIONS
from utils.metrics.summary import SetScores, each_image
from utils.metrics.thresholds import curves

HERE = Path(__file__).parent
plain = SimpleNamespace(**runpy.run_path(str(HERE / "plain.py")))
golden = SimpleNamespace(**runpy.run_path(str(HERE.parents[1] / "golden" / "pairs.py")))
EVAL_CO_SOD = CONVENTIONS["eval-co-sod"]
COUNTED = ("maxF", "meanF", "maxE", "meanE", "MAE", "AP", "AUC")
FUSED = torch.backends.cpu.get_cpu_capability() != "DEFAULT"
"""Without fused multiply-add, Torch puts some of its thresholds a last bit beside ours."""
needs_fused = pytest.mark.skipif(not FUSED, reason="Torch rounds twice on this processor")


# eval-co-sod, a threshold after the other, in single precision.


def single(image):
    """Return an image as a float32 tensor in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).to(torch.float32).div(255)


def slow_curves(pred, mask):
    """Return precision, recall, F, FPR and E at 255 thresholds, from 0 upward."""
    saliency, truth = single(pred), torch.from_numpy(mask).to(torch.float32)
    lowest, highest = saliency.min(), saliency.max()
    saliency = (saliency - lowest) / (highest - lowest + 1e-20)
    rows = []
    for threshold in torch.linspace(0, 1 - 1e-10, 255):
        found = (saliency >= threshold).to(torch.float32)
        hits = (found * truth).sum()
        precision, recall = hits / (found.sum() + 1e-20), hits / (truth.sum() + 1e-20)
        f = 1.3 * precision * recall / (0.3 * precision + recall)
        false = (found * (1 - truth)).sum()
        fpr = false / (false + ((1 - found) * (1 - truth)).sum() + 1e-20)
        a, b = found - found.mean(), truth - truth.mean()
        aligned = 2 * a * b / (a * a + b * b + 1e-20)
        e = ((aligned + 1) ** 2 / 4).sum() / (truth.numel() - 1 + 1e-20)
        rows.append([precision, recall, 0.0 if f != f else f, fpr, e])
    names = ("precision", "recall", "f", "fpr", "e")
    return dict(zip(names, torch.tensor(rows).T.numpy(), strict=True))


def slow_set(pairs):
    """Return the scores of a set, and its averaged curves from threshold 0 upward."""
    each = [slow_curves(pred, mask) for pred, mask in pairs]
    mean = {name: np.mean([c[name] for c in each], axis=0, dtype=np.float64) for name in each[0]}
    errors = [
        (single(pred) - torch.from_numpy(mask).to(torch.float32)).abs().mean().item()
        for pred, mask in pairs
    ]
    reached = np.concatenate([[0], mean["recall"], [1]])
    precision = np.concatenate([[0], mean["precision"], [0]])
    order = np.argsort(reached, kind="stable")
    reached, precision = reached[order], precision[order]
    for index in range(len(reached) - 1, 0, -1):
        precision[index - 1] = max(precision[index], precision[index - 1])
    steps = np.flatnonzero(np.diff(reached))
    falling = slice(None, None, -1)  # so that equal rates keep the curve's order when sorted
    order = np.argsort(mean["fpr"][falling], kind="stable")
    fpr, tpr = mean["fpr"][falling][order], mean["recall"][falling][order]
    return mean, {
        "maxF": mean["f"].max(),
        "meanF": mean["f"].mean(),
        "maxE": mean["e"].max(),
        "meanE": mean["e"].mean(),
        "MAE": np.mean(errors),
        "AP": np.sum(np.diff(reached)[steps] * precision[steps + 1]),
        "AUC": torch.trapz(torch.from_numpy(tpr), torch.from_numpy(fpr)).item(),
    }


def awkward_pairs():
    """Return maps whose levels lie on thresholds, constant maps, and masks of one class."""
    rng = np.random.default_rng(7)
    mask = rng.random((9, 31)) < 0.4
    ranges = [(0, 255), (0, 127), (60, 187), (100, 227), (3, 257 - 3), (20, 22), (5, 6), (0, 2)]
    made = [(rng.integers(low, high + 1, mask.shape), mask) for low, high in ranges]
    made += [(np.full(mask.shape, value), mask) for value in (0, 1, 128, 255)]
    soft = rng.integers(0, 128, mask.shape)
    for one_class in (np.zeros_like(mask), np.ones_like(mask)):
        made += [(soft, one_class), (np.zeros(mask.shape), one_class)]
    made += [(np.where(mask, 255, 0), mask), (np.where(mask, 0, 255), mask)]
    return [(pred.astype(np.uint8), truth) for pred, truth in made]


def assert_equal_to_slow(pred, mask):
    found = curves(plain.tally_of(pred, mask)["counts"], EVAL_CO_SOD)
    for name, slow in slow_curves(pred, mask).items():
        ours = getattr(found, name)[0, ::-1]
        np.testing.assert_allclose(ours, slow, rtol=0, atol=1e-6, err_msg=name)


@needs_fused
@pytest.mark.parametrize("index", range(len(awkward_pairs())))
def test_eval_co_sod_curves_of_awkward_pairs(index):
    assert_equal_to_slow(*awkward_pairs()[index])


@needs_fused
@settings(max_examples=40, deadline=None)
@given(plain.pairs().filter(lambda pair: pair[0].size > 1))
def test_eval_co_sod_curves(pair):
    assert_equal_to_slow(*pair)


@needs_fused
def test_eval_co_sod_every_span_of_grey_values():
    # Each span by the grey values themselves: on which side of each threshold does each fall?
    thresholds = torch.linspace(0, 1 - 1e-10, 255)
    for lowest, highest in [(0, high) for high in range(256)] + [(low, 255) for low in range(256)]:
        values = single(np.arange(lowest, highest + 1))
        values = (values - values[0]) / (values[-1] - values[0] + 1e-20)
        found = (values[None] >= thresholds[:, None]).numpy()
        ours = np.arange(lowest, highest + 1) >= EVAL_CO_SOD.first_found(lowest, highest)[:, None]
        np.testing.assert_array_equal(ours[::-1], found)


@needs_fused
def test_eval_co_sod_set():
    pairs = awkward_pairs()
    pairs += [
        (pred, mask > 128)
        for name, (pred, mask) in golden.golden_pairs().items()
        if name.startswith(("blob,", "disc", "stripes"))
    ]
    scores = SetScores(EVAL_CO_SOD, COUNTED)
    for pair in pairs:
        scores.add(plain.tally_of(*pair))
    averaged, slow = slow_set(pairs)
    assert scores.result() == pytest.approx(slow, rel=0, abs=1e-6)
    found = scores.curves()
    for name, curve in averaged.items():
        np.testing.assert_allclose(found[name][::-1], curve, rtol=0, atol=1e-6, err_msg=name)


@needs_fused
def test_thresholds_are_those_of_torch():
    ours = EVAL_CO_SOD.threshold_values()[::-1] / 255
    np.testing.assert_array_equal(ours.astype(np.float32), torch.linspace(0, 1 - 1e-10, 255))


def test_threshold_values():
    for name in ("pysodmetrics", "raw"):
        np.testing.assert_array_equal(CONVENTIONS[name].threshold_values(), np.arange(255, -1, -1))
    values = EVAL_CO_SOD.threshold_values()
    np.testing.assert_allclose(values, np.linspace(255, 0, 255), atol=1e-4)


# How they differ.


def test_mae_is_of_the_stretched_map_in_pysodmetrics_only():
    pair = np.array([[50, 100, 150, 150]], np.uint8), np.array([[False, False, True, True]])
    tally = plain.tally_of(*pair)
    as_it_is = (50 + 100 + 105 + 105) / 255 / 4
    expected = {"pysodmetrics": 0.5 / 4, "raw": as_it_is, "eval-co-sod": as_it_is}
    for name, convention in CONVENTIONS.items():
        found = each_image(tally, convention, ["MAE", "IoU"])
        assert found["MAE"][0] == pytest.approx(expected[name]), name
        # Half of the stretched map is 100; 128 of the map as it is.
        assert found["IoU"][0] == pytest.approx(1 if name == "raw" else 2 / 3)


def test_constant_map():
    mask = np.array([[True, False, False, False]])
    tally = plain.tally_of(np.full((1, 4), 200, np.uint8), mask)
    for name, convention in CONVENTIONS.items():
        recall = curves(tally["counts"], convention).recall[0]
        found_at = 0 if name == "eval-co-sod" else 200
        np.testing.assert_array_equal(recall, convention.threshold_values() <= found_at)
        iou = each_image(tally, convention, ["IoU"])["IoU"][0]
        assert iou == (0 if name == "eval-co-sod" else 0.25)


def test_masks_of_one_class():
    pred = np.array([[0, 100, 200, 255]], np.uint8)
    for mask in (np.zeros((1, 4), bool), np.ones((1, 4), bool)):
        tally = plain.tally_of(pred, mask)
        for name, convention in CONVENTIONS.items():
            e = curves(tally["counts"], convention).e[0]
            if name == "eval-co-sod":
                np.testing.assert_allclose(e, 4 / 4 / 3)
            else:
                found = (pred >= np.arange(255, -1, -1)[:, None]).sum(axis=1)
                np.testing.assert_allclose(e, (found if mask.all() else 4 - found) / 3)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 255), st.integers(0, 255), st.sampled_from(list(CONVENTIONS)))
def test_levels(one, other, name):
    lowest, highest = sorted((one, other))
    convention = CONVENTIONS[name]
    levels = convention.levels(lowest, highest)
    assert levels.shape == (256,)
    assert levels.dtype == np.float64
    assert np.all(np.diff(levels) >= 0)
    inside = np.arange(lowest, highest + 1)
    zero, one = convention.span(lowest, highest)
    # In single precision a narrow span leaves few digits.
    expected = (inside - zero) / (one - zero)
    np.testing.assert_allclose(levels[inside], expected, rtol=0, atol=3e-5 / (one - zero))
    assert levels.min() >= 0
    assert levels.max() <= 1
    half = convention.half(lowest, highest)
    exact = [value for value in inside if 2 * (value - zero) >= one - zero]
    assert [value for value in inside if value >= half] == exact
    first = convention.first_found(lowest, highest)
    assert first.shape == (convention.thresholds,)
    assert np.all(np.diff(first) <= 0)
    assert first[-1] <= lowest
    with pytest.raises(ValueError, match="read-only"):
        levels[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_levels_are_those_of_pysodmetrics_to_the_last_bit():
    for lowest, highest in [(0, 255), (3, 200), (57, 254), (10, 13), (99, 99)]:
        values = np.arange(lowest, highest + 1).astype(np.uint8)
        levels = CONVENTIONS["pysodmetrics"].levels(lowest, highest)[values]
        np.testing.assert_array_equal(levels, plain.stretched(values))


def test_names():
    assert list(CONVENTIONS) == ["pysodmetrics", "raw", "eval-co-sod"]
    assert all(convention.name == name for name, convention in CONVENTIONS.items())
