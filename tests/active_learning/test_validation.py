"""What held-out images tell of the error, and the epoch that is kept by it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import active_learning.validation as validation
from active_learning.validation import Estimate, Latest, Validation
from utils.device import Machine

NAN = float("nan")


def estimate_of(maps: np.ndarray, labels: np.ndarray, batch: int = 2) -> Estimate:
    """Return the error of maps (N, S, S) at counts (N, 2, S, S) of labels."""

    def mean_maps(models, images, pieces, batch_size, machine):
        for at in range(0, len(maps), batch):
            indices = list(range(at, min(at + batch, len(maps))))
            found = torch.from_numpy(maps[indices]).float()
            yield SimpleNamespace(indices=indices, maps=found)

    source = SimpleNamespace(at=lambda index, affine: labels[index])
    images = [None] * len(maps)
    found = Validation(images, source, [range(len(maps))], batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "mean_maps", mean_maps)
        return found.error(torch.nn.Identity(), Machine(torch.device("cpu"), torch.float32))


def test_of_masks_it_is_the_standard_error_of_the_images_means() -> None:
    rng = np.random.default_rng(0)
    maps, masks = rng.random((7, 4, 4)), rng.random((7, 4, 4)) < 0.5
    errors = np.abs(maps - masks).mean(axis=(1, 2))
    found = estimate_of(maps, np.stack([~masks, masks], 1).astype(np.uint8))
    assert found.mean == pytest.approx(errors.mean(), rel=1e-6)
    assert found.deviation == pytest.approx(errors.std(ddof=1) / np.sqrt(7), rel=1e-6)


def test_points_of_one_image_stand_and_fall_together() -> None:
    """Three at which the map is right, one at which it is wrong: a ratio of two sums."""
    labels = np.zeros((2, 2, 4, 4), np.uint8)
    labels[0, 0, 0, :3] = 1
    labels[1, 1, 0, 0] = 1
    found = estimate_of(np.zeros((2, 4, 4)), labels)
    assert found.mean == 0.25
    # Residuals -3/4 and 3/4; of two images twice the sum of squares; over four points.
    assert found.deviation == pytest.approx(np.sqrt(2 * 2 * (3 / 4) ** 2) / 4)


def test_labels_are_made_where_a_batch_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time anew, and not those of other batches or processes."""
    made: list[int] = []
    labels = np.random.default_rng(0).integers(0, 3, (5, 2, 4, 4), np.uint8)

    def at(index: int, affine: np.ndarray) -> np.ndarray:
        assert np.array_equal(affine, np.eye(3))
        made.append(index)
        return labels[index]

    def mean_maps(models, images, pieces, batch_size, machine):
        for indices in pieces:
            assert indices[0] not in made[-3:]
            yield SimpleNamespace(indices=indices, maps=torch.full((len(indices), 4, 4), 0.25))

    monkeypatch.setattr(validation, "mean_maps", mean_maps)
    monkeypatch.setattr(validation, "shard", lambda pieces: pieces[1:])
    found = Validation([None] * 5, SimpleNamespace(at=at), [[4], [2, 0], [1]], 2)
    assert made == []
    machine = Machine(torch.device("cpu"), torch.float32)
    wrong = 0.25 * labels[:3, 0].sum() + 0.75 * labels[:3, 1].sum()
    for _ in range(2):
        made.clear()
        error = found.error(torch.nn.Identity(), machine)
        assert made == [2, 0, 1]
        assert error.mean == pytest.approx(wrong / labels[:3].sum(), rel=1e-12)


@pytest.mark.parametrize("points", [0, 1])
def test_a_single_image_tells_no_deviation(points: int) -> None:
    labels = np.zeros((1, 2, 4, 4), np.uint8)
    labels[0, 1, 0, 0] = points
    assert estimate_of(np.full((1, 4, 4), 0.5), labels) == Estimate(0.5 * points, 0.0)


@pytest.mark.parametrize(
    ("within", "errors", "kept"),
    [
        (1, [(0.5, 0.1), (0.4, 0.05), (0.44, 0.0), (0.46, 0.9), (0.45, 0.0)], "11101"),
        (1.5, [(0.5, 0.1), (0.4, 0.05), (0.44, 0.0), (0.48, 0.9), (0.47, 0.0)], "11101"),
        (0, [(0.5, 0.1), (0.4, 0.05), (0.44, 0.0), (0.38, 0.9), (0.45, 0.0)], "11010"),
        (1, [(0.4, 0.0), (0.41, 0.5), (0.4, 0.5), (0.39, 0.0)], "1011"),
        (1, [(NAN, NAN), (0.4, 0.1), (NAN, 0.1), (0.45, 0.1)], "0101"),
    ],
)
def test_the_latest_within_the_lowest_ones_standard_error(
    within: float, errors: list, kept: str
) -> None:
    latest = Latest(within)
    assert "".join(str(int(latest.takes(Estimate(*error)))) for error in errors) == kept


@given(st.floats(0, 3), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_what_is_kept_is_never_clearly_worse_than_the_lowest(within: float, errors: list) -> None:
    latest = Latest(within)
    kept = [Estimate(*error) for error in errors if latest.takes(Estimate(*error))]
    assert latest.lowest.mean == min(mean for mean, _ in errors)
    # What came before the lowest is followed by it, so that the last one kept is within reach.
    assert kept[-1].mean <= latest.lowest.mean + within * latest.lowest.deviation
