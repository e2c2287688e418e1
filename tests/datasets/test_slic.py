"""Superpixels of our own: what makes them superpixels, and that they are as good as OpenCV's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from datasets.slic import slic_regions
from datasets.superpixels import superpixels


def scene(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy image of a bright ellipse on a dark ground that changes, and the ellipse."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = ((y - 0.45 * height) / 0.3 / height) ** 2 + ((x - 0.6 * width) / 0.25 / width) ** 2 < 1
    image = 40 + 40 * x / width + 90 * mask + rng.normal(0, 6, (height, width))
    image = np.stack([image, image * 0.8, 200 - image * 0.6], 2)
    return image.clip(0, 255).astype(np.uint8), mask


def best_accuracy(regions: np.ndarray, mask: np.ndarray) -> float:
    """Return the share of pixels that are right if every region is given its majority's side."""
    size = np.bincount(regions.ravel())
    inside = np.bincount(regions.ravel(), mask.ravel())
    return float(np.maximum(inside, size - inside).sum() / mask.size)


@pytest.fixture
def no_contrib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "ximgproc")


@pytest.mark.parametrize(("height", "width"), [(97, 130), (131, 64)])
def test_regions_are_connected_alike_in_size_and_as_many_as_wanted(
    no_contrib: None, height: int, width: int
) -> None:
    image, _ = scene(height, width, 0)
    regions = superpixels(image, 60)
    assert regions.dtype == np.int32
    assert regions.shape == (height, width)
    assert np.array_equal(np.unique(regions), np.arange(regions.max() + 1))
    assert 45 <= regions.max() + 1 <= 75
    assert all(ndimage.label(regions == k)[1] == 1 for k in range(regions.max() + 1))
    sizes = np.bincount(regions.ravel()) * 60 / regions.size
    assert sizes.min() >= 0.25
    assert sizes.max() < 4


@pytest.mark.parametrize("seed", [0, 1])
def test_regions_follow_edges_as_well_as_those_of_opencv(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = scene(110, 150, seed)
    theirs = best_accuracy(superpixels(image, 60), mask)
    monkeypatch.delattr(cv2, "ximgproc")
    ours = best_accuracy(superpixels(image, 60), mask)
    blind = np.mgrid[:110, :150][0] // 17 * 10 + np.mgrid[:110, :150][1] // 17
    assert ours > best_accuracy(np.unique(blind, return_inverse=True)[1].reshape(110, 150), mask)
    assert ours > theirs - 0.005


def test_a_flat_image_is_cut_into_its_grid() -> None:
    flat = np.full((60, 80, 3), 120, np.uint8)
    regions = slic_regions(flat, 10, 5, 25)
    y, x = np.mgrid[:60, :80]
    assert np.mean(regions == y // 10 * 8 + x // 10) > 0.9
    assert len(np.unique(regions)) == 48


def test_regions_repeat_and_the_lack_is_told_once(
    no_contrib: None, capsys: pytest.CaptureFixture[str]
) -> None:
    image, _ = scene(70, 90, 3)
    one, other = superpixels(image, 40), superpixels(image, 40)
    assert np.array_equal(one, other)
    assert capsys.readouterr().out.count("ximgproc") <= 1
