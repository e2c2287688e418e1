"""Pixels and points go the same way: a point moves where its pixel moves."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from datasets.augment import (
    NONE,
    Augmentation,
    change_colours,
    move,
    random_map,
    resize,
    resize_map,
    warp,
)

seeds = st.integers(0, 2**32)


def rng_of(seed=0):
    return np.random.default_rng(seed)


def blob(width, height, x, y, sx, sy):
    """A bright spot, float32 (height, width), around pixel (x, y)."""
    columns = np.exp(-0.5 * ((np.arange(width) - x) / sx) ** 2)
    rows = np.exp(-0.5 * ((np.arange(height) - y) / sy) ** 2)
    return (rows[:, None] * columns).astype(np.float32)


def centroid(pixels):
    y, x = np.indices(pixels.shape)
    return np.array([(x * pixels).sum(), (y * pixels).sum()]) / pixels.sum()


@given(
    st.integers(64, 110),
    st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8)),
    st.booleans(),
    st.floats(0.6, 1.0),
    st.floats(0, 40),
    seeds,
)
def test_a_point_moves_where_its_pixel_moves(size, place, flip, crop, rotate, seed):
    x, y = (int(share * size) for share in place)
    affine = random_map(Augmentation(float(flip), crop, rotate), size, rng_of(seed))
    (moved,) = move(np.array([[x, y]]), affine)
    # The whole spot must stay in view.
    assume((moved > 12).all() and (moved < size - 13).all())
    found = warp(blob(size, size, x, y, 1.7, 1.7), affine)
    near = np.abs(np.indices(found.shape)[::-1] - moved[:, None, None]).max(axis=0) < 12
    assert np.allclose(centroid(found * near), moved, atol=0.06)


@given(st.integers(32, 90), st.booleans(), st.floats(0.6, 1.0), st.floats(0, 40), seeds)
def test_label_maps_take_the_nearest_pixel(size, flip, crop, rotate, seed):
    affine = random_map(Augmentation(float(flip), crop, rotate), size, rng_of(seed))
    pixels = rng_of(seed).integers(0, 256, (size, size), np.uint8)
    found = warp(pixels, affine, nearest=True)
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).reshape(-1, 2)
    source = move(grid, np.linalg.inv(affine)).reshape(size, size, 2)
    x, y = np.floor(source + 0.5).astype(int).transpose(2, 0, 1)
    # OpenCV counts in 1024ths of a pixel: where a border of two pixels is near, either is right.
    clear = (np.abs(source - np.floor(source) - 0.5) > 4e-3).all(axis=2)
    clear &= (np.minimum(x, y) >= 0) & (np.maximum(x, y) < size)
    assert clear.mean() > 0.3
    assert np.array_equal(found[clear], pixels[y[clear], x[clear]])


@given(
    st.integers(20, 300),
    st.integers(20, 300),
    st.integers(32, 128),
    st.tuples(st.floats(0.4, 0.6), st.floats(0.4, 0.6)),
)
def test_a_point_is_resized_with_its_pixel(width, height, size, place):
    x, y = int(place[0] * width), int(place[1] * height)
    # Wide enough to be seen in either picture, narrow enough to be whole in both.
    sx, sy = max(1.5, width / size), max(1.5, height / size)
    assume(min(width / sx, height / sy) > 16)
    found = resize(blob(width, height, x, y, sx, sy), size)
    assert found.shape == (size, size)
    (moved,) = move(np.array([[x, y]]), resize_map(width, height, size))
    assert np.allclose(centroid(found), moved, atol=0.12)


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("size", [32, 33, 96])
def test_a_flip_is_exactly_w_1_x(size, nearest):
    flip = random_map(Augmentation(flip=1.0), size, rng_of())
    x = np.arange(size)
    points = np.stack([x, x[::-1]], axis=1)
    moved = move(points, flip)
    assert np.allclose(moved[:, 0], size - 1 - x, rtol=0, atol=1e-9)
    assert np.allclose(moved[:, 1], points[:, 1], rtol=0, atol=1e-9)
    pixels = rng_of(1).integers(0, 256, (size, size, 3), np.uint8)
    assert np.array_equal(warp(pixels, flip, nearest), pixels[:, ::-1])


@pytest.mark.parametrize(("width", "height"), [(40, 60), (200, 150), (64, 64), (96, 70)])
def test_resize_map_follows_the_pixel_centres_of_opencv(width, height):
    # On a ramp, interpolation gives the coordinate under the centre, and so do means of areas, as
    # far as pixels are small against the cell (half a pixel's fault would be 0.25 and more).
    size = 64
    x = np.tile(np.arange(width, dtype=np.float32), (height, 1))
    y = np.tile(np.arange(height, dtype=np.float32)[:, None], (1, width))
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).reshape(-1, 2)
    source = move(grid, np.linalg.inv(resize_map(width, height, size))).reshape(size, size, 2)
    inner = slice(2, -2)
    for ramp, expected in ((x, source[..., 0]), (y, source[..., 1])):
        found = cv2.resize(ramp, (size, size), interpolation=cv2.INTER_LINEAR)
        assert np.allclose(found[inner, inner], expected[inner, inner], atol=2e-3)
        assert np.allclose(resize(ramp, size)[inner, inner], expected[inner, inner], atol=0.1)


def test_resize_by_known_answers():
    x, y = move(np.array([[0, 0], [3, 1]]), resize_map(4, 2, 8)).T
    assert x.tolist() == [0.5, 6.5]
    assert y.tolist() == [1.5, 5.5]
    assert np.array_equal(resize_map(7, 7, 7), np.eye(3))


def test_shrinking_takes_means_of_areas():
    # A line one pixel wide keeps its weight, wherever it lies.
    for column in range(80):
        pixels = np.zeros((80, 80), np.float32)
        pixels[:, column] = 1
        assert resize(pixels, 20).mean() == pytest.approx(1 / 80, rel=1e-5)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 300), (300, 1), (2, 3), (999, 40)])
def test_resize_of_odd_shapes(width, height):
    pixels = rng_of().integers(0, 256, (height, width, 3), np.uint8)
    found = resize(pixels, 32)
    assert found.shape == (32, 32, 3)
    assert found.dtype == np.uint8
    assert found.min() >= pixels.min()
    assert found.max() <= pixels.max()


@given(seeds, st.integers(16, 400))
def test_without_augmentation_the_map_is_the_identity(seed, size):
    affine = random_map(NONE, size, rng_of(seed))
    assert np.allclose(affine, np.eye(3), rtol=0, atol=1e-9)
    pixels = rng_of(seed).integers(0, 256, (size, size), np.uint8)
    assert np.array_equal(warp(pixels, affine), pixels)
    assert warp(pixels, np.eye(3)) is pixels


@given(seeds, st.floats(0.3, 1.0))
def test_a_crop_lies_inside_the_image(seed, crop):
    size = 64
    affine = random_map(Augmentation(crop=crop), size, rng_of(seed))
    edges = np.array([[-0.5, -0.5], [size - 0.5, size - 0.5]])
    (left, top), (right, bottom) = move(edges, np.linalg.inv(affine))
    assert left >= -0.5 - 1e-9
    assert top >= -0.5 - 1e-9
    assert right <= size - 0.5 + 1e-9
    assert bottom <= size - 0.5 + 1e-9
    side = (right - left) / size
    assert crop - 1e-9 <= side <= 1 + 1e-9
    assert bottom - top == pytest.approx(right - left)


def test_crops_reach_every_edge_and_size():
    size, spans = 64, []
    for seed in range(300):
        affine = random_map(Augmentation(crop=0.5), size, rng_of(seed))
        edges = np.array([[-0.5, -0.5], [size - 0.5, size - 0.5]])
        spans.append(move(edges, np.linalg.inv(affine)).ravel() + 0.5)
    low, high = np.min(spans, axis=0), np.max(spans, axis=0)
    sides = np.array(spans)[:, 2] - np.array(spans)[:, 0]
    assert (low[:2] < 2).all()
    assert (high[2:] > size - 2).all()
    assert sides.min() < 0.52 * size
    assert sides.max() > 0.98 * size
    assert (high[:2] > 0.3 * size).all()


@given(seeds, st.floats(0, 90))
def test_a_rotation_turns_about_the_centre(seed, degrees):
    size = 50
    affine = random_map(Augmentation(rotate=degrees), size, rng_of(seed))
    centre = np.array([[(size - 1) / 2] * 2])
    assert np.allclose(move(centre, affine), centre)
    turn = affine[:2, :2]
    assert np.allclose(turn @ turn.T, np.eye(2))
    assert np.linalg.det(turn) == pytest.approx(1)
    assert abs(np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))) <= degrees + 1e-6


def test_flips_and_rotations_come_as_often_as_asked():
    maps = [random_map(Augmentation(0.25, 1.0, 20.0), 64, rng_of(seed)) for seed in range(800)]
    flipped = np.array([np.linalg.det(affine[:2, :2]) < 0 for affine in maps])
    assert 0.19 < flipped.mean() < 0.31
    turns = [affine for affine, mirrored in zip(maps, flipped, strict=True) if not mirrored]
    angles = np.degrees([np.arctan2(affine[1, 0], affine[0, 0]) for affine in turns])
    assert angles.min() < -18
    assert angles.max() > 18
    assert abs(angles.mean()) < 2.5


def test_outside_is_mirrored():
    pixels = np.tile(np.arange(32, dtype=np.uint8), (32, 1))
    shift = np.array([[1.0, 0, 3], [0, 1, 0], [0, 0, 1]])
    assert warp(pixels, shift)[5].tolist() == [2, 1, 0, *range(29)]


@pytest.fixture
def picture():
    return rng_of().integers(60, 180, (40, 50, 3), np.uint8)


def test_no_change_of_colours(picture):
    assert np.array_equal(change_colours(picture, NONE, rng_of()), picture)


def test_colours_change_within_bounds(picture):
    before, means = picture.copy(), []
    for seed in range(60):
        found = change_colours(picture, Augmentation(colour=0.2), rng_of(seed))
        assert found.dtype == np.uint8
        assert found.shape == picture.shape
        means.append(found.mean() / picture.mean())
    assert np.array_equal(picture, before), "the picture itself was changed"
    assert 0.78 < min(means) < 0.85
    assert 1.15 < max(means) < 1.22


def test_grey_pictures_stay_grey_and_flat_ones_flat():
    ramp = np.repeat(np.arange(40, 200, dtype=np.uint8)[None, :, None], 3, axis=2)
    flat = np.full((8, 8, 3), 100, np.uint8)
    for seed in range(10):
        found = change_colours(ramp, Augmentation(colour=0.3), rng_of(seed))
        assert np.ptp(found, axis=2).max() == 0
        assert np.ptp(change_colours(flat, Augmentation(colour=0.3), rng_of(seed))) == 0


def test_contrast_and_saturation_change_too(picture):
    spreads, colours = [], []
    for seed in range(40):
        found = change_colours(picture, Augmentation(colour=0.3), rng_of(seed)).astype(float)
        grey = found @ [0.299, 0.587, 0.114]
        spreads.append(grey.std())
        colours.append((found - grey[..., None]).std() / grey.std())
    assert max(spreads) > 1.3 * min(spreads)
    assert max(colours) > 1.3 * min(colours)


def test_colours_do_not_wrap_around():
    picture = np.zeros((20, 20, 3), np.uint8)
    picture[:10] = 255
    for seed in range(20):
        found = change_colours(picture, Augmentation(colour=0.5), rng_of(seed))
        assert found[:10].min() > 127 > found[10:].max()


def test_pepper_turns_its_share_black_or_white():
    picture, before = np.full((200, 200, 3), 90, np.uint8), 90
    found = change_colours(picture, Augmentation(pepper=0.05), rng_of())
    assert (picture == before).all(), "the picture itself was changed"
    hit = (found != 90).any(axis=2)
    assert 0.04 < hit.mean() < 0.06
    assert set(np.unique(found[hit])) == {0, 255}
    assert np.ptp(found[hit], axis=1).max() == 0
    assert 0.4 < (found[hit][:, 0] == 255).mean() < 0.6


def test_a_side_that_shrinks_is_averaged_where_the_other_grows() -> None:
    """One column of eight is bright: its share is left, where samples between would miss it."""
    stripes = np.tile(np.uint8([0, 0, 0, 0, 0, 0, 0, 200]), (20, 64))
    found = resize(stripes, 64)
    assert np.array_equal(found, np.full((64, 64), 25))
    assert np.array_equal(resize(stripes.T, 64), np.full((64, 64), 25))
    ramp = np.repeat(np.arange(0, 200, 10, dtype=np.uint8)[:, None], 256, axis=1)
    assert np.array_equal(resize(ramp, 64), cv2.resize(ramp[:, :64], (64, 64)))
