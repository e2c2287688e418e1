"""Cuts: along edges, by colours, and what stands whatever they say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_learning.cutting import BINS, CONTRAST, LEAST, SPREAD, SURE, WHOLE, by_colours, cut

SIZE = 32
BY = ["smoothing", "grabcut"]
NOTHING = np.zeros((2, SIZE, SIZE), np.uint8)


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return np.hypot(y, x) < radius


def picture_of_a_disc(rng: np.random.Generator) -> np.ndarray:
    colours = np.where(disc(9)[..., None], (200, 60, 40), (60, 90, 160))
    return np.clip(colours + rng.normal(0, 6, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("by", BY)
def test_a_vague_map_is_cut_along_the_pictures_edge(by: str) -> None:
    """Unsure of a broad ring, and wrong about most of it."""
    image = picture_of_a_disc(np.random.default_rng(0))
    prob = np.where(disc(4), 0.96, np.where(disc(13), 0.6, 0.04))
    found = cut(image, prob, NOTHING, by, seed=0)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 255}
    assert ((prob > 0.5) != disc(9)).sum() > 200
    assert ((found == 255) != disc(9)).sum() <= 8


def test_what_the_map_is_sure_of_stands() -> None:
    image = picture_of_a_disc(np.random.default_rng(1))
    prob = np.where(disc(13), 0.96, 0.04)
    assert np.array_equal(cut(image, prob, NOTHING, "grabcut", seed=0) == 255, disc(13))


def test_what_the_map_is_less_sure_of_does_not() -> None:
    image = picture_of_a_disc(np.random.default_rng(1))
    prob = np.where(disc(9), 0.96, np.where(disc(12), 1 - SURE - 0.01, 0.04))
    assert np.array_equal(cut(image, prob, NOTHING, "grabcut", seed=0) == 255, disc(9))
    prob = np.where(disc(6), 0.96, np.where(disc(9), SURE + 0.01, 0.04))
    assert np.array_equal(cut(image, prob, NOTHING, "grabcut", seed=0) == 255, disc(9))


@pytest.mark.parametrize("by", BY)
def test_the_majority_of_a_pixels_answers_counts(by: str) -> None:
    image = picture_of_a_disc(np.random.default_rng(2))
    labels = NOTHING.copy()
    labels[:, 1, 2], labels[:, 16, 16] = (1, 2), (2, 1)
    labels[:, 2, 2] = labels[:, 15, 15] = 1
    found = cut(image, np.where(disc(9), 0.96, 0.04), labels, by, seed=0)
    assert (found[1, 2], found[16, 16], found[2, 2], found[15, 15]) == (255, 0, 0, 255)


@pytest.mark.parametrize("by", BY)
def test_answers_stand_whatever_the_map_says(by: str) -> None:
    image = picture_of_a_disc(np.random.default_rng(2))
    labels = NOTHING.copy()
    labels[1, 1, 2] = labels[0, 16, 16] = 1
    for prob in (np.where(disc(9), 0.96, 0.04), np.zeros((SIZE, SIZE)), np.ones((SIZE, SIZE))):
        found = cut(image, prob, labels, by, seed=0)
        assert found[1, 2] == 255
        assert found[16, 16] == 0


@pytest.mark.parametrize("count", [0, 1, LEAST - 1])
def test_too_few_pixels_make_no_colour_model(count: int) -> None:
    image = np.random.default_rng(3).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    prob = np.full(SIZE * SIZE, 0.3)
    prob[:count] = 0.7
    for map_, few in ((prob, 255), (1 - prob, 0)):
        found = cut(image, map_.reshape(SIZE, SIZE), NOTHING, "grabcut", seed=0)
        assert (found.ravel()[:count] == few).all()
        assert (found.ravel()[count:] == 255 - few).all()


@pytest.mark.parametrize("side", [32, 35, 37])
@pytest.mark.parametrize("count", [LEAST - 1, LEAST])
def test_from_how_many_pixels_of_ground_on_a_map_is_cut(count: int, side: int) -> None:
    image = np.full((side, side, 3), 90, np.uint8)
    image[: side // 2] = 200
    prob = np.full((side, side), 0.7)
    prob[tuple(np.argwhere(image[..., 0] == 90)[:count].T)] = 0.3
    found = cut(image, prob, np.zeros((2, side, side)), "grabcut", seed=0) == 255
    assert np.array_equal(found, prob > 0.5) == (count < LEAST)


@pytest.mark.parametrize("count", [LEAST - 1, LEAST])
def test_from_how_many_pixels_on_a_map_is_cut(count: int) -> None:
    """Few of the object's, and no other pixel is sure: a cut must give more."""
    image = picture_of_a_disc(np.random.default_rng(7))
    prob = np.full((SIZE, SIZE), 0.3)
    prob[tuple(np.argwhere(disc(9))[100 : 100 + count].T)] = 0.7
    found = cut(image, prob, NOTHING, "grabcut", seed=0) == 255
    assert np.array_equal(found, prob > 0.5) == (count < LEAST)


def test_cuts_repeat_bit_for_bit() -> None:
    """Whatever the thread has drawn before; colours at random are clustered by chance alone."""
    rng = np.random.default_rng(4)
    found: list[list[np.ndarray]] = [[], []]
    for _ in range(12):
        image = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        prob = rng.uniform(SURE, 1 - SURE, (SIZE, SIZE))
        for drawn, cuts in enumerate(found):
            cv2.setRNGSeed(1 + drawn)
            cuts.append(cut(image, prob, NOTHING, "grabcut", seed=5))
    assert np.array_equal(*found)


def evened_out(image: np.ndarray, prob: np.ndarray) -> np.ndarray:
    """Least squares along each row, then each column; three times, with ties ever weaker."""
    found = prob.copy()
    for step in range(6):
        for line, colours in zip(found, image.astype(float), strict=True):
            ties = np.exp(-np.linalg.norm(np.diff(colours, axis=0), axis=1) / CONTRAST)
            both = np.diag(ties, 1) + np.diag(ties, -1)
            laplacian = np.diag(both.sum(axis=1)) - both
            strength = SPREAD / 4 ** (step // 2)
            line[:] = np.linalg.solve(np.eye(len(line)) + strength * laplacian, line)
        found, image = found.T, image.transpose(1, 0, 2)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_maps_are_smoothed_as_published(seed: int) -> None:
    """The fast global smoother, of a picture that is not square."""
    rng = np.random.default_rng(seed)
    image = picture_of_a_disc(rng)[:24]
    prob = rng.uniform(0, 1, (24, SIZE)) * np.where(disc(9)[:24], 1.02, 0.98)
    even = evened_out(image, prob)
    clear = np.abs(even - 0.5) > 1e-5
    found = cut(image, prob, NOTHING[:, :24], "smoothing", seed=0)
    assert np.array_equal(found[clear] == 255, even[clear] > 0.5)
    assert clear.mean() > 0.99
    assert 0.1 < (found == 255).mean() < 0.9
    assert ((even > 0.5) != (prob > 0.5)).mean() > 0.1


@given(st.integers(0, 10**6), st.sampled_from([None, 0.0, 1.0]), st.integers(2, 9))
def test_any_map_can_be_smoothed(seed: int, flat: float | None, size: int) -> None:
    """A hair above 1 as resizing leaves it, of one shade, and of four pixels."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, rng.choice([1, 3, 256]), (size, size, 3), dtype=np.uint8)
    prob = rng.uniform(0, 1, (size, size)) if flat is None else np.full((size, size), flat)
    labels = rng.integers(0, 2, (2, size, size))
    found = cut(image, prob * (1 + 2e-7), labels, "smoothing", seed=0)
    assert (found.shape, found.dtype) == (prob.shape, np.uint8)
    assert (found[labels[0] > labels[1]] == 0).all()
    assert (found[labels[1] > labels[0]] == 255).all()
    rest = found[labels[0] == labels[1]]
    assert np.isin(rest, [0, 255]).all() if flat is None else (rest == 255 * flat).all()


def by_the_book(image: np.ndarray, prob: np.ndarray) -> np.ndarray:
    """The logit that colours add, where no two colours in the picture are alike but equal ones."""
    sides = np.stack([prob, 1 - prob])
    found = np.zeros(prob.shape)
    for at in np.ndindex(prob.shape):
        same = (image == image[at]).all(axis=-1)
        same[at] = False
        others = sides.sum(axis=(1, 2)) - sides[(slice(None), *at)]
        share = sides[:, same].sum(axis=1) / others
        whole = same.sum() / (prob.size - 1)
        mixed = (1 - WHOLE) * share + WHOLE * whole
        found[at] = np.log(mixed[0] / mixed[1]) if same.any() else 0
    return found


def test_colours_speak_by_bayes_rule() -> None:
    """Six colours, far apart; one of them of a single pixel."""
    rng = np.random.default_rng(5)
    palette = np.array([[20, 20, 20], [220] * 3, [220, 20, 20], [20, 220, 20], [20, 20, 220]])
    image = palette[rng.integers(0, 5, (16, 16))].astype(np.uint8)
    image[3, 4] = 120
    prob = rng.uniform(0.02, 0.97, (16, 16))
    prob[image[..., 0] == 220] **= 0.5
    found = by_colours(image, prob)
    moved = np.log(found / (1 - found)) - np.log(prob / (1 - prob))
    said = by_the_book(image, prob)
    np.testing.assert_allclose(moved, said, atol=1e-6)
    assert said[3, 4] == 0
    assert np.ptp(said) > 0.5


def test_the_most_that_a_colour_says() -> None:
    """Half of a picture is surely object, and of a colour of its own: log(1.9 / .1)."""
    image = np.full((64, 64, 3), 60, np.uint8)
    image[:32] = 200
    prob = np.where(np.arange(64)[:, None] < 32, 1.0, 0.0) * np.ones((1, 64))
    prob[0, 0] = 0.5
    found = by_colours(image, prob)[0, 0]
    assert np.log(found / (1 - found)) == pytest.approx(np.log(19), abs=2e-3)


def test_a_colour_makes_a_sure_pixel_unsure() -> None:
    image = np.full((64, 64, 3), 60, np.uint8)
    image[:20] = 200
    prob = np.where(np.arange(64)[:, None] < 20, 0.98, 0.02) * np.ones((1, 64))
    prob[40, 40] = 0.999
    assert by_colours(image, prob)[40, 40] < 1 - SURE


def test_a_pixel_takes_the_side_of_its_colour() -> None:
    """A part of the object that the map is blind to, and a neighbour it takes for object."""
    image = picture_of_a_disc(np.random.default_rng(5))
    prob = np.where(disc(9), 0.9, 0.1)
    prob[14:18, 14:18], prob[:3, :3] = 0.4, 0.6
    found = by_colours(image, prob) > 0.5
    assert np.array_equal(found, disc(9))


@pytest.mark.parametrize("bins", [0, 1, 4])
def test_colours_alike_are_taken_for_the_same(bins: int) -> None:
    """Shades of one bin, or of the next one, but not of those far off."""
    width = 256 // BINS
    image = np.full((SIZE, SIZE, 3), 20 * width, np.uint8)
    image[:8] = 8 * width
    prob = np.full((SIZE, SIZE), 0.1)
    prob[:8] = 0.9
    image[20, 5] = (8 + bins) * width + (width - 1) * (bins < 2)
    found = by_colours(image, prob)[20, 5]
    assert found > 0.3 if bins < 2 else found == pytest.approx(0.1)


@pytest.mark.parametrize(("bins", "weight"), [(1, 0.36), (2, 0.017)])
def test_how_much_colours_alike_count(bins: int, weight: float) -> None:
    """Of a normal curve with a deviation of seven tenths of a bin, beside those of the same bin."""
    image = np.full((64, 64, 3), 100, np.uint8)
    image[:32, :, 0] += bins * 256 // BINS
    prob = np.where(np.arange(64)[:, None] < 32, 1.0, 0.0) * np.ones((1, 64))
    prob[40, 40] = 0.5
    found = by_colours(image, prob)[40, 40]
    whole = WHOLE * (1 + weight) / 2
    shares = [(1 - WHOLE) * share + whole for share in (weight, 1)]
    assert found == pytest.approx(shares[0] / sum(shares), rel=0.02)


@pytest.mark.parametrize("size", [4, 8, 32, 128])
@pytest.mark.parametrize("shade", [0, 77, 255])
def test_a_picture_of_one_colour_says_nothing(size: int, shade: int) -> None:
    """Whatever its size, and that of the object."""
    image = np.full((size, size, 3), shade, np.uint8)
    prob = np.full((size, size), 0.2)
    prob[0, 0] = 0.9
    np.testing.assert_allclose(by_colours(image, prob), prob, atol=1e-6)


def test_what_no_other_pixel_has_says_nothing() -> None:
    """All colours at random: a pixel is no evidence for itself."""
    image = np.random.default_rng(6).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    image[..., 1] = 8 * (np.arange(SIZE * SIZE) % 32).reshape(SIZE, SIZE)
    prob = np.where(disc(4), 0.7, 0.05)
    found = by_colours(image, prob)
    assert np.abs(found - prob).mean() < 0.1


@given(st.integers(0, 10**6), st.sampled_from([None, 0.0, 1.0]), st.integers(1, 9))
def test_by_colours_any_map_stays_a_map(seed: int, flat: float | None, size: int) -> None:
    """Also without object or ground, a hair above 1 as resizing leaves it, and of one pixel."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, rng.choice([1, 3, 256]), (size, size, 3), dtype=np.uint8)
    prob = rng.uniform(0, 1, (size, size)) if flat is None else np.full((size, size), flat)
    found = by_colours(image, prob.astype(np.float32) * np.float32(1 + 2e-7))
    assert found.shape == prob.shape
    assert ((found > 0) & (found < 1)).all()
    if flat is not None:
        assert (found < 0.011).all() if flat == 0 else (found > 0.989).all()
