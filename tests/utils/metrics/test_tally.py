"""What a map leaves behind: exact counts, the same bits for the same pixels, faults told."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings

from utils.errors import UserError
from utils.metrics.conventions import CONVENTIONS
from utils.metrics.tally import TALLY, tally

HERE = Path(__file__).parent
plain = SimpleNamespace(**runpy.run_path(str(HERE / "plain.py")))
golden = SimpleNamespace(**runpy.run_path(str(HERE.parents[1] / "golden" / "pairs.py")))
PAIRS, GOLDEN = golden.golden_pairs(), golden.read_golden()
PYSODMETRICS = CONVENTIONS["pysodmetrics"]
PARTS = ("S", "wF", "BIoU")


def test_record():
    found = tally(*PAIRS["disc"], PYSODMETRICS)
    assert found.shape == ()
    assert found.dtype == TALLY == plain.TALLY
    assert TALLY.itemsize == 2 * 256 * 4 + 3 * 8


@pytest.mark.parametrize("name", PAIRS)
def test_the_pairs_are_those_of_the_golden_scores(name):
    assert golden.digest(*PAIRS[name]) == GOLDEN["images"][name]["pair"]


@settings(max_examples=100, deadline=None)
@given(plain.pairs())
def test_counts_are_those_of_the_pixels(pair):
    pred, mask = pair
    expected = plain.tally_of(pred, mask)["counts"][0]
    for parts in ((), ("S",)):  # S counts quadrant by quadrant
        found = tally(pred, mask, PYSODMETRICS, frozenset(parts))["counts"]
        np.testing.assert_array_equal(found, expected)


def test_counts_are_exact_beyond_single_precision():
    # 4097 squared is odd and above 2 ** 24: no float32.
    pred = np.full((4097, 4097), 7, np.uint8)
    mask = np.zeros(pred.shape, bool)
    counts = tally(pred, mask, PYSODMETRICS, frozenset())["counts"]
    assert counts[0, 7] == counts.sum() == 4097**2


def test_a_part_not_asked_for_is_not_measured(monkeypatch):
    pred, mask = PAIRS["disc"]
    whole = tally(pred, mask, PYSODMETRICS)
    assert not any(np.isnan(whole[part]) for part in PARTS)
    for part in PARTS:
        one = tally(pred, mask, PYSODMETRICS, {part})
        assert one[part] == whole[part]
        assert all(np.isnan(one[other]) for other in PARTS if other != part)

    def never(*_):
        raise AssertionError

    for name in ("s_measure", "quadrants", "weighted_f", "boundary_iou"):
        monkeypatch.setattr(sys.modules[tally.__module__], name, never)
    none = tally(pred, mask, PYSODMETRICS, frozenset())
    assert all(np.isnan(none[part]) for part in PARTS)


@pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=CONVENTIONS)
def test_forms_of_the_same_pixels_give_the_same_bits(convention):
    for name in ("disc", "blob, fair", "one column", "larger"):
        pred, mask = PAIRS[name]
        expected = tally(pred, mask, convention).tobytes()
        grey = np.where(mask > 128, 129, 128).astype(np.uint8)
        wide, wide_mask = (np.repeat(image, 2, axis=1) for image in (pred, mask))
        before = wide.copy(), wide_mask.copy()
        forms = (
            (pred, mask > 128),
            (pred, grey),
            (np.asfortranarray(pred), np.asfortranarray(mask)),
            (wide[:, ::2], wide_mask[:, ::2]),
            (pred[::-1].copy()[::-1], (mask > 128)[:, ::-1].copy()[:, ::-1]),
        )
        for form in forms:
            assert tally(*form, convention).tobytes() == expected
        np.testing.assert_array_equal(before, (wide, wide_mask))


def test_read_only_inputs():
    pred, mask = (image.copy() for image in PAIRS["disc"])
    pred.setflags(write=False)
    mask.setflags(write=False)
    assert (
        tally(pred, mask, PYSODMETRICS).tobytes() == tally(*PAIRS["disc"], PYSODMETRICS).tobytes()
    )


def test_the_same_bit_for_bit_each_time():
    for name in ("disc", "blobs, small", "larger"):
        assert len({tally(*PAIRS[name], PYSODMETRICS).tobytes() for _ in range(20)}) == 1


@settings(max_examples=60, deadline=None)
@given(plain.pairs())
def test_parts_are_finite_and_in_range(pair):
    for convention in CONVENTIONS.values():
        found = tally(*pair, convention)
        for part in PARTS:
            assert 0 <= found[part] <= 1 + 1e-9


def test_faults_are_told():
    pred, mask = np.zeros((4, 6), np.uint8), np.zeros((6, 4), bool)
    with pytest.raises(UserError, match="map is 4 x 6 but its mask is 6 x 4"):
        tally(pred, mask, PYSODMETRICS)
    with pytest.raises(UserError, match="non-empty grey images"):
        tally(pred[:0], pred[:0], PYSODMETRICS)
    with pytest.raises(UserError, match="4 x 6 x 3"):
        tally(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6, 3), np.uint8), PYSODMETRICS)
    with pytest.raises(UserError, match="0 and 1"):
        tally(pred, np.eye(4, 6, dtype=np.uint8), PYSODMETRICS)
    with pytest.raises(TypeError, match="float64"):
        tally(pred / 255, mask.T, PYSODMETRICS)
    with pytest.raises(TypeError, match="int64"):
        tally(pred, mask.T.astype(np.int64), PYSODMETRICS)
