"""Maps in agreement with answers: the formula, what answers reach, and that images stay apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from active_learning.agreement import (
    CERTAINTY,
    COLOUR,
    LIKENESS,
    NEARNESS,
    NOISE,
    agree,
    gathered,
)
from datasets.augment import resize

SIDE = 4
GREY = torch.full((1, 3, 2, 2), 0.5)


Case = tuple[Tensor, Tensor, Tensor, Tensor]
"""A map, features, a picture and answers: (1, ...) each."""


def random_case(seed: int, count: int, side: int = SIDE) -> Case:
    """Return a case with ``count`` answers, all at random."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(1, side, side, generator=generator)
    features = torch.rand(1, 5, side, side, generator=generator)
    pictures = torch.rand(1, 3, side, side, generator=generator)
    labels = torch.zeros(1, 2, side * side, dtype=torch.uint8)
    cells = torch.randperm(side * side, generator=generator)[:count]
    labels[0, torch.randint(0, 2, (count,), generator=generator), cells] = 1
    return maps, features, pictures, labels.view(1, 2, side, side)


def by_the_book(maps: Tensor, features: Tensor, pictures: Tensor, labels: Tensor) -> np.ndarray:
    """Rasmussen and Williams, eq. 2.38, cell after cell in double precision; the grids agree."""
    prior = maps[0].double().clamp(1e-3, 1 - 1e-3).logit().numpy().ravel()
    vectors = features[0].double().flatten(1).T.numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    colours = pictures[0].double().flatten(1).T.numpy()
    side = maps.shape[-1]

    def covariance(one: int, other: int) -> float:
        apart = np.subtract(divmod(one, side), divmod(other, side)) / side
        likeness = (1 - vectors[one] @ vectors[other]) / LIKENESS
        hue = (colours[one] - colours[other]) / COLOUR
        return math.exp(-likeness - (apart @ apart) / (2 * NEARNESS**2) - hue @ hue / 2)

    answers = labels[0].flatten(1).numpy().astype(int)
    asked = [cell for cell in range(side * side) if answers[0, cell] != answers[1, cell]]
    wanted = [CERTAINTY if answers[1, cell] > answers[0, cell] else -CERTAINTY for cell in asked]
    gaps = [want - prior[cell] for cell, want in zip(asked, wanted, strict=True)]
    short = [gap if gap * want > 0 else 0.0 for gap, want in zip(gaps, wanted, strict=True)]
    among = np.array([[covariance(a, b) for b in asked] for a in asked])
    weights = np.linalg.solve(among + NOISE * np.eye(len(asked)), short)
    reach = np.array([[covariance(a, cell) for cell in range(side * side)] for a in asked])
    return (1 / (1 + np.exp(-(prior + weights @ reach)))).reshape(side, side)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [1, 4, 16])
def test_it_is_gaussian_process_regression_of_what_the_map_falls_short(
    seed: int, count: int
) -> None:
    case = random_case(seed, count)
    case[0][0, 0] = 0.99
    np.testing.assert_allclose(agree(*case)[0].numpy(), by_the_book(*case), atol=2e-5)


@pytest.mark.parametrize("times", [2, 3])
def test_a_cell_has_the_mean_colour_of_its_pixels(times: int) -> None:
    maps, features, _, labels = random_case(9, 4)
    generator = torch.Generator().manual_seed(9)
    fine = torch.rand(1, 3, SIDE * times, SIDE * times, generator=generator)
    means = fine.unflatten(3, (SIDE, times)).unflatten(2, (SIDE, times)).mean((3, 5))
    found = agree(maps, features, fine, labels)[0].numpy()
    np.testing.assert_allclose(found, by_the_book(maps, features, means, labels), atol=2e-5)


def test_a_map_finer_than_the_features_is_changed_bilinearly() -> None:
    """Between the cells' centres; beyond the outermost as there."""
    maps, (_, features, pictures, labels) = torch.full((1, SIDE, SIDE), 0.5), random_case(12, 3)
    change = np.log(1 / (1 / by_the_book(maps, features, pictures, labels) - 1))
    places = np.clip((np.arange(2 * SIDE) + 0.5) / 2 - 0.5, 0, SIDE - 1)
    shares = np.maximum(0, 1 - abs(places[:, None] - np.arange(SIDE)))
    fine = torch.zeros(1, 2, 2 * SIDE, 2 * SIDE)
    fine[:, :, 1::2, ::2] = labels  # each answer at a pixel of its cell
    found = agree(torch.full((1, 2 * SIDE, 2 * SIDE), 0.5), features, pictures, fine)[0].numpy()
    expected = 1 / (1 + np.exp(-shares @ change @ shares.T))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_several_maps_of_an_image_are_corrected_each_for_itself() -> None:
    cases = [random_case(seed, count) for seed, count in ((10, 2), (11, 7))]
    _, *others = (torch.cat(parts) for parts in zip(*cases, strict=True))
    maps = torch.rand(3, 2, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(10))
    found = agree(maps, *others)
    assert found.shape == maps.shape
    for at in np.ndindex(3, 2):
        torch.testing.assert_close(found[at], agree(maps[at], *others), atol=1e-5, rtol=0)


def test_an_answer_reaches_what_is_like_it_and_near() -> None:
    """Two kinds of pixels, left and right; a pixel of the left one is called foreground."""
    features = torch.zeros(1, 2, 8, 8)
    features[:, 0, :, :4] = features[:, 1, :, 4:] = 1
    labels = torch.zeros(1, 2, 8, 8)
    labels[0, 1, 0, 1] = 1
    found = agree(torch.full((1, 8, 8), 0.3), features, GREY, labels)[0]
    assert found[0, 1] > 0.85
    assert found[:4, :4].min() > 0.5
    assert (found[:, 4:] - 0.3).abs().max() < 0.02
    assert found[0, 1] > found[4, 1] > found[7, 1] > 0.3


def test_an_answer_reaches_what_has_its_colour() -> None:
    """Pixels of one feature and two colours, left and right, in a picture of another size."""
    pictures = torch.zeros(1, 3, 16, 16)
    pictures[:, 1, :, 8:] = 1
    labels = torch.zeros(1, 2, 8, 8)
    labels[0, 1, 0, 3] = 1
    found = agree(torch.full((1, 8, 8), 0.3), torch.ones(1, 2, 8, 8), pictures, labels)[0]
    assert found[0, :4].min() > 0.8
    assert found[0, 4:].max() < 0.4


@pytest.mark.parametrize("value", [0, 1])
def test_answers_that_the_map_knows_change_nothing(value: int) -> None:
    maps, features, pictures, _ = random_case(0, 1)
    maps[0, 1] = 0.015 * (1 - value) + 0.985 * value
    labels = torch.zeros(1, 2, SIDE, SIDE)
    labels[0, value, 1] = 1
    torch.testing.assert_close(agree(maps, features, pictures, labels), maps, atol=1e-3, rtol=0)
    contradicted = agree(maps, features, pictures, labels.flip(1))
    assert (contradicted - maps).abs().max() > 0.3


def test_no_answer_no_change() -> None:
    maps, features, pictures, _ = random_case(1, 1)
    for labels in (torch.zeros(1, 2, SIDE, SIDE), torch.ones(1, 2, SIDE, SIDE)):
        found = agree(maps, features, pictures, labels)
        torch.testing.assert_close(found, maps.clamp(1e-3, 1 - 1e-3), atol=1e-5, rtol=0)


def test_the_majority_speaks_for_its_cell() -> None:
    """Map and answers are twice as fine as the features."""
    maps = torch.full((1, 8, 8), 0.4)
    _, features, pictures, _ = random_case(2, 1)
    labels = torch.zeros(1, 2, 8, 8)
    labels[0, 1, 2, 2:4] = labels[0, 0, 3, 3] = 1
    found = agree(maps, features, pictures, labels)
    alone = labels.clone()
    alone[0, 0] = 0
    assert torch.equal(found, agree(maps, features, pictures, alone))
    labels[0, 0, 3, 2] = 1
    assert torch.allclose(agree(maps, features, pictures, labels), maps, atol=1e-6)


def test_the_map_is_looked_at_where_the_answer_is() -> None:
    """Not at its cell's other pixels, which say otherwise."""
    _, features, pictures, _ = random_case(3, 1)
    labels = torch.zeros(1, 2, 8, 8)
    labels[0, 1, 2, 2] = 1
    known = torch.full((1, 8, 8), 0.2)
    known[0, 2, 2] = 0.99
    assert torch.allclose(agree(known, features, pictures, labels), known, atol=1e-6)


def test_images_of_a_batch_stay_apart() -> None:
    cases = [random_case(seed, count) for seed, count in ((4, 0), (5, 1), (6, 9), (7, 3))]
    together = agree(*(torch.cat(parts) for parts in zip(*cases, strict=True)))
    for one, case in zip(together, cases, strict=True):
        torch.testing.assert_close(one, agree(*case)[0], atol=1e-5, rtol=0)


@given(st.integers(0, 10**6), st.integers(0, 36), st.sampled_from([0.0, 1.0, None]))
def test_any_map_stays_a_map(seed: int, count: int, flat: float | None) -> None:
    """Also where all pixels are alike, and where features are zero."""
    maps, features, pictures, labels = random_case(seed, count, 6)
    if flat is not None:
        maps, features = torch.full_like(maps, flat), torch.full_like(features, flat)
    found = agree(maps, features, pictures, labels)
    assert found.dtype == torch.float32
    assert found.shape == maps.shape
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("side", [32, 28, 24, 17, 16])
def test_an_answer_goes_into_the_cell_that_most_of_its_pixel_lies_in(side: int) -> None:
    """Into that alone, whole; by a tie into either."""
    for at in range(side):
        pixel = torch.zeros(2, side, side)
        pixel[1, at, side - 1 - at] = 1
        found = gathered(pixel.byte(), (16, 16))
        assert found[0].sum() == 0
        assert found[1].sum() == found[1].max() == 1
        shares = resize(pixel[1].numpy(), 16)
        assert shares[found[1] == 1] == pytest.approx(shares.max())


def test_an_answer_weighs_the_same_wherever_it_lies_on_the_grid() -> None:
    """The network of enlarged images has cells that are no whole number of the labels' pixels."""
    maps = torch.full((24, 24, 24), 0.5)
    labels = torch.zeros(24, 2, 24, 24)
    for at in range(24):
        labels[at, 1, at, at] = 1
    features = torch.ones(24, 3, 15, 15)
    pictures = GREY.expand(24, -1, -1, -1)
    changes = agree(maps, features, pictures, labels).flatten(1).max(1).values
    assert changes.max() - changes.min() < 2e-3
