"""Cuts: along edges, by colours, and what stands whatever they say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_learning.cutting import BINS, COLOURS, LEAST, MOST, SURE, by_colours, cut

SIZE = 32
NOTHING = np.zeros((2, SIZE, SIZE), np.uint8)


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return np.hypot(y, x) < radius


def picture_of_a_disc(rng: np.random.Generator) -> np.ndarray:
    colours = np.where(disc(9)[..., None], (200, 60, 40), (60, 90, 160))
    return np.clip(colours + rng.normal(0, 6, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


def test_a_vague_map_is_cut_along_the_pictures_edge() -> None:
    """Unsure of a broad ring, and wrong about most of it."""
    image = picture_of_a_disc(np.random.default_rng(0))
    prob = np.where(disc(4), 0.96, np.where(disc(13), 0.6, 0.04))
    found = cut(image, prob, NOTHING, seed=0)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 255}
    assert ((prob > 0.5) != disc(9)).sum() > 200
    assert ((found == 255) != disc(9)).sum() <= 8


def test_what_the_map_is_sure_of_stands() -> None:
    image = picture_of_a_disc(np.random.default_rng(1))
    prob = np.where(disc(13), 0.96, 0.04)
    assert np.array_equal(cut(image, prob, NOTHING, seed=0) == 255, disc(13))


def test_answers_stand_whatever_the_map_says() -> None:
    image = picture_of_a_disc(np.random.default_rng(2))
    labels = NOTHING.copy()
    labels[1, 1, 2] = labels[0, 16, 16] = 1
    for prob in (np.where(disc(9), 0.96, 0.04), np.zeros((SIZE, SIZE)), np.ones((SIZE, SIZE))):
        found = cut(image, prob, labels, seed=0)
        assert found[1, 2] == 255
        assert found[16, 16] == 0


@pytest.mark.parametrize("count", [0, 1, LEAST - 1])
def test_too_few_pixels_make_no_colour_model(count: int) -> None:
    image = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    prob = np.full(SIZE * SIZE, 0.3)
    prob[:count] = 0.7
    for map_, few in ((prob, 255), (1 - prob, 0)):
        found = cut(image, map_.reshape(SIZE, SIZE), NOTHING, seed=0)
        assert (found.ravel()[:count] == few).all()
        assert (found.ravel()[count:] == 255 - few).all()


def test_cuts_repeat_bit_for_bit() -> None:
    """Whatever the thread has drawn before; colours at random are clustered by chance alone."""
    rng = np.random.default_rng(4)
    found: list[list[np.ndarray]] = [[], []]
    for _ in range(12):
        image = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        prob = rng.uniform(SURE, 1 - SURE, (SIZE, SIZE))
        for drawn, cuts in enumerate(found):
            cv2.setRNGSeed(1 + drawn)
            cuts.append(cut(image, prob, NOTHING, seed=5))
    assert np.array_equal(*found)


def test_a_colour_says_how_much_more_of_the_object_has_it() -> None:
    """Two flat colours far apart: their shares of object and ground are known."""
    image = np.full((256, 256, 3), 60, np.uint8)
    image[:, 128:] = 200
    left = np.arange(256) < 128
    prob = np.tile(np.where(left, 0.6, 0.2), (256, 1))
    found = by_colours(image, prob)
    says = {True: np.log((0.6 / 0.8) / (0.4 / 1.2)), False: np.log((0.2 / 0.8) / (0.8 / 1.2))}
    for side, value in ((True, 0.6), (False, 0.2)):
        logit = np.log(value / (1 - value)) + COLOURS * says[side]
        np.testing.assert_allclose(found[:, left == side], 1 / (1 + np.exp(-logit)), atol=1e-3)


def test_a_pixel_takes_the_side_of_its_colour() -> None:
    """A part of the object that the map is blind to, and a neighbour it takes for object."""
    image = picture_of_a_disc(np.random.default_rng(5))
    prob = np.where(disc(9), 0.9, 0.1)
    prob[14:18, 14:18], prob[:3, :3] = 0.4, 0.6
    found = by_colours(image, prob) > 0.5
    assert np.array_equal(found, disc(9))


def test_a_colour_alike_is_taken_for_the_same() -> None:
    """Shades of one bin, and of the next one by its edge, are counted together."""
    width = 256 // BINS
    image = np.full((SIZE, SIZE, 3), 4 * width, np.uint8)
    prob = np.full((SIZE, SIZE), 0.1)
    prob[:8] = 0.9
    image[8:] = 20 * width
    image[8, 0], image[8, 1], image[8, 2] = 4 * width - 1, 5 * width - 1, 12 * width
    found = by_colours(image, prob)
    assert found[8, :2].min() > 0.4
    assert found[8, 2] < found[8, :2].min() / 2


@given(st.integers(0, 10**6), st.sampled_from([None, 0.0, 1.0]), st.booleans())
def test_by_colours_any_map_stays_a_map(seed: int, flat: float | None, one: bool) -> None:
    """Also without object or ground, and of one colour; no colour says more than it may."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 1 if one else 256, (8, 8, 3), dtype=np.uint8)
    prob = rng.uniform(0, 1, (8, 8)) if flat is None else np.full((8, 8), flat)
    found = by_colours(image, prob)
    assert found.shape == prob.shape
    assert ((found > 0) & (found < 1)).all()
    known = np.clip(prob, 0.01, 0.99)
    moved = np.log(found / (1 - found)) - np.log(known / (1 - known))
    assert np.abs(moved).max() <= COLOURS * MOST + 1e-6
    if one:
        np.testing.assert_allclose(moved, moved[0, 0], atol=1e-9)
