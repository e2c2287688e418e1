"""Snapshots' predictions, and the vote of neighbours against plain loops."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from active_learning.ensembles import ensemble_files, neighbour_vote, predict_snapshots
from utils.errors import UserError
from utils.run_folder import RunFolder, snapshot_name


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_vote(prob, image, kernel, sigma):
    """Vote over (H, W) with loops; image (3, H, W) or None."""
    height, width = prob.shape
    radius, result = kernel // 2, torch.zeros_like(prob)
    for y in range(height):
        for x in range(width):
            total = weights = 0.0
            for v in range(max(0, y - radius), min(height, y + radius + 1)):
                for u in range(max(0, x - radius), min(width, x + radius + 1)):
                    weight = 1.0
                    if image is not None:
                        distance = sum(
                            float(image[c, y, x] - image[c, v, u]) ** 2 for c in range(3)
                        )
                        weight = math.exp(-distance / (2 * sigma * sigma))
                    total += weight * float(prob[v, u])
                    weights += weight
            result[y, x] = total / weights
    return result


@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize(
    ("kernel", "height", "width"), [(3, 5, 7), (5, 6, 4), (9, 3, 5), (3, 1, 4)]
)
def test_vote_equals_loops(kernel, height, width, coloured):
    prob, image = rand(2, 2, height, width), rand(2, 3, height, width, seed=1)
    voted = neighbour_vote(prob, image if coloured else None, kernel, 0.3)
    assert voted.shape == prob.shape
    for snapshot in range(2):
        for index in range(2):
            expected = slow_vote(
                prob[snapshot, index], image[index] if coloured else None, kernel, 0.3
            )
            torch.testing.assert_close(voted[snapshot, index], expected)


def test_kernel_one_is_off():
    prob = rand(1, 4, 4)
    assert torch.equal(neighbour_vote(prob, rand(1, 3, 4, 4), 1), prob)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_map_is_kept_exactly(value):
    prob = torch.full((2, 1, 6, 6), value)
    assert torch.equal(neighbour_vote(prob, rand(1, 3, 6, 6).float(), 5, 0.1), prob)
    assert torch.equal(neighbour_vote(prob, None, 5), prob)


def test_votes_do_not_cross_a_border_of_colour():
    image = torch.zeros(1, 3, 6, 8)
    image[..., 4:] = 1.0
    prob = rand(1, 6, 8).float()
    prob[..., 4:] += 5
    voted = neighbour_vote(prob, image, 3, 0.05)
    for side in (slice(0, 4), slice(4, 8)):
        alone = neighbour_vote(prob[..., side], None, 3)
        torch.testing.assert_close(voted[..., side], alone)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    kernel=st.sampled_from([3, 5, 7]),
    sigma=st.floats(0.01, 2.0),
    coloured=st.booleans(),
)
def test_vote_stays_between_the_extremes(seed, kernel, sigma, coloured):
    prob, image = rand(2, 2, 6, 5, seed=seed), rand(2, 3, 6, 5, seed=seed + 1)
    voted = neighbour_vote(prob, image if coloured else None, kernel, sigma)
    low, high = prob.amin((-2, -1), True), prob.amax((-2, -1), True)
    assert ((voted >= low - 1e-12) & (voted <= high + 1e-12)).all()
    # Where hardly any neighbour votes, hardly anything changes.
    assert (coloured and sigma < 0.5) or voted.std() < prob.std()


@pytest.mark.parametrize(
    ("kernel", "sigma", "told"), [(2, 0.1, "2 pix"), (0, 0.1, "odd"), (3, 0, "sig")]
)
def test_wrong_settings_are_told(kernel, sigma, told):
    with pytest.raises(UserError, match=told):
        neighbour_vote(rand(1, 4, 4), rand(1, 3, 4, 4), kernel, sigma)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_newest_network_of_an_ensemble_comes_last(tmp_path):
    run = RunFolder(tmp_path)
    snapshots = [touch(run.snapshots("points", 1) / snapshot_name(epoch)) for epoch in (3, 20, 100)]
    members = [touch(run.checkpoint("points", 1, "last", member)) for member in (2, 1, 0)]
    assert ensemble_files(run, 1, "snapshots", 3) == snapshots
    assert ensemble_files(run, 1, "newest", 3) == snapshots[-1:]
    assert ensemble_files(run, 1, "deep", 3) == members


class Snapshot(nn.Module):
    """logits = scale x the green channel; dropout and batch norm tell train from eval mode."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.noise = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1, eps=0))

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.noise(images[:, 1:2]) * self.scale, features=images)


def test_snapshots_predict_in_eval_mode_without_gradient():
    models, images = [Snapshot(2.0), Snapshot(-1.0)], rand(3, 3, 4, 5).float().requires_grad_(True)
    maps, last = predict_snapshots(iter(models), images)
    assert torch.equal(last.features, images)
    assert torch.equal(last.logits.sigmoid()[:, 0], maps[1])
    assert maps.shape == (2, 3, 4, 5)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    torch.testing.assert_close(maps[0], torch.sigmoid(2 * images[:, 1].detach()))
    torch.testing.assert_close(maps[1], torch.sigmoid(-images[:, 1].detach()))
    for model in models:
        assert all(module.training for module in model.modules())
        assert model.scale.requires_grad
        assert model.noise[1].running_mean.item() == 0


def test_no_snapshot_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        predict_snapshots([], rand(1, 3, 4, 4))
