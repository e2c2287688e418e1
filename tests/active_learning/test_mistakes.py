"""A simulated person errs as often as the settings say, and always in the same places."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt
from scipy.stats import binom

from active_learning.mistakes import REACH, Mistakes, error_rates
from active_learning.oracle import MaskOracle
from datasets.index import Sample

SIZE = 120


@pytest.fixture
def disc():
    y, x = np.mgrid[:SIZE, :SIZE]
    return (x - 50) ** 2 + (y - 60) ** 2 < 35**2


def every(truth):
    y, x = np.indices(truth.shape).reshape(2, -1)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def shares(said, truth, where):
    """How many answers there are at some pixels, how many of them wrong, how many missing."""
    flat = [s for s, w in zip(said, where.ravel(), strict=True) if w]
    true = truth[where].tolist()
    wrong = sum(s is not None and s != t for s, t in zip(flat, true, strict=True))
    return len(flat), wrong, flat.count(None)


def likely(count, total, rate):
    return binom.ppf(1e-5, total, rate) <= count <= binom.ppf(1 - 1e-5, total, rate)


def test_as_many_errors_and_skips_as_set(disc):
    said = Mistakes(3, errors=0.2, skips=0.1).say("a.png", disc, every(disc))
    for where in (disc, ~disc):
        total, wrong, missing = shares(said, disc, where)
        assert likely(missing, total, 0.1)
        assert likely(wrong, total, 0.9 * 0.2)


def test_near_borders_there_are_more_errors(disc):
    reach = REACH * SIZE
    inside, outside = distance_transform_edt(disc), distance_transform_edt(~disc)
    distance = np.where(disc, inside, outside) - 0.5
    rates = error_rates(disc, 0.1, 0.6)
    assert rates.dtype == np.float32
    expected = 0.1 + 0.6 * np.maximum(0, 1 - distance / reach)
    np.testing.assert_allclose(rates, expected, atol=1e-5)
    assert (rates[distance >= reach] == np.float32(0.1)).all()
    assert 0.6 < rates.max() <= 0.7
    said = Mistakes(3, errors=0.1, border=0.6).say("a.png", disc, every(disc))
    for near in (True, False):
        where = (distance < reach) == near
        total, wrong, missing = shares(said, disc, where)
        assert missing == 0
        spread = 5 * np.sqrt((rates[where] * (1 - rates[where])).sum())
        assert abs(wrong - rates[where].sum()) < spread
        assert near == (wrong / total > 0.2)


@pytest.mark.parametrize("value", [False, True])
def test_without_a_border_the_rate_is_even(value):
    assert (error_rates(np.full((5, 7), value), 0.25, 0.5) == 0.25).all()


def test_small_images_have_borders_too():
    rates = error_rates(np.eye(2, dtype=bool), 0.0, 0.5)
    assert (rates == 0.25).all()  # half a pixel from it, of a reach of one


def test_the_same_pixel_gets_the_same_answer(disc):
    careless = Mistakes(1, 0.3, 0.3, 0.2)
    pixels = every(disc)[::17]
    whole = careless.say("a.png", disc, pixels)
    assert careless.say("a.png", disc, pixels[::-1]) == whole[::-1]
    assert [careless.say("a.png", disc, [pixel])[0] for pixel in pixels[:50]] == whole[:50]
    assert careless.say("b.png", disc, pixels) != whole
    assert Mistakes(2, 0.3, 0.3, 0.2).say("a.png", disc, pixels) != whole
    # What is left out does not depend on the errors.
    skips = Mistakes(1, 0.0, 0.0, 0.2).say("a.png", disc, pixels)
    assert [s is None for s in skips] == [s is None for s in whole]


def test_no_mistakes_is_the_mask(disc):
    assert not Mistakes(1)
    assert Mistakes(1).say("a.png", disc, every(disc)) == disc.ravel().tolist()
    assert all(Mistakes(1, *[0.1 * (i == k) for i in range(3)]) for k in range(3))


def test_the_oracle_leaves_out_what_cannot_be_told(tmp_path, disc):
    sample = Sample("a.png", tmp_path / "a.png", tmp_path / "mask.png", "TR", "")
    Image.new("RGB", (SIZE, SIZE)).save(sample.image)
    Image.fromarray(disc.astype(np.uint8) * 255).save(sample.mask)
    careless = Mistakes(1, errors=0.3, skips=0.4)
    pixels = np.array(every(disc)[::97])
    oracle = MaskOracle(tmp_path / "ledger.csv", careless)
    found = oracle.ask(sample, pixels, 2)
    said = careless.say("a.png", disc, pixels.tolist())
    pairs = zip(pixels.tolist(), said, strict=True)
    told = [(x, y, int(s)) for (x, y), s in pairs if s is not None]
    assert 0 < len(told) < len(pixels)
    assert [(p.x, p.y, p.label) for p in found] == told
    oracle.save()
    again = MaskOracle(tmp_path / "ledger.csv", careless)
    assert again.ask(sample, pixels, 2) == found
    assert list(again.ledger.values()) == found
