"""Acquisition functions: contract of all, and known values of each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from active_learning.uncertainty import (
    ACQUISITIONS,
    balanced_entropy,
    beta_entropy,
    binary_entropy,
    random_map,
)
from utils.errors import UserError

ENSEMBLE = ["bald", "variance", "entropy", "least_confidence", "margin"]
LOG2 = math.log(2)


def probs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def column(*values: float) -> torch.Tensor:
    """One pixel seen by several snapshots: (T, 1, 1, 1)."""
    return torch.tensor(values).view(-1, 1, 1, 1)


def entropy(p: float) -> float:
    return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)


@pytest.mark.parametrize("name", ACQUISITIONS)
@pytest.mark.parametrize("snapshots", [1, 3])
def test_contract(name, snapshots):
    clean, adversarial = probs(snapshots, 2, 4, 5), probs(snapshots, 2, 4, 5, seed=1)
    for rows in (clean, adversarial):
        rows[:, 0, 0] = torch.tensor([0.0, 1.0, 1e-12, 1 - 1e-7, 0.5])
        rows[:, 0, 1] = torch.tensor([1 + 1e-6, -1e-6, 1.0, 0.0, 0.5])  # rounding of a vote
    kept = clean.clone(), adversarial.clone()
    chance = random_map([1, 2], 4, 5)
    scores = ACQUISITIONS[name](clean, adversarial, chance)
    assert scores.shape == (2, 4, 5)
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).all()
    assert (scores >= 0).all()
    assert torch.equal(clean, kept[0])
    assert torch.equal(adversarial, kept[1])
    assert ACQUISITIONS[name](clean.double(), adversarial.double(), chance).dtype == torch.float32


@pytest.mark.parametrize("name", [*ENSEMBLE, "balent"])
def test_adversarial_row_joins_the_ensemble(name):
    clean, adversarial = probs(3, 2, 4, 4), probs(3, 2, 4, 4, seed=1)
    both = ACQUISITIONS[name](clean, adversarial)
    torch.testing.assert_close(both, ACQUISITIONS[name](torch.cat([clean, adversarial])))
    assert not torch.allclose(both, ACQUISITIONS[name](clean), atol=1e-3)


def test_adversarial_shift_is_the_difference_of_the_means():
    clean, adversarial = column(0.9, 0.7), column(0.1, 0.3)
    torch.testing.assert_close(
        ACQUISITIONS["adversarial_shift"](clean, adversarial), torch.full((1, 1, 1), 0.6)
    )
    assert ACQUISITIONS["adversarial_shift"](clean, clean.flip(0)).item() == pytest.approx(0)


def test_adversarial_shift_without_attack_says_what_to_set():
    with pytest.raises(UserError, match=r"--attack .* --acquisition"):
        ACQUISITIONS["adversarial_shift"](probs(1, 1, 2, 2))


@pytest.mark.parametrize("values", [(0.0, 1.0), (0.2, 0.6, 0.7), (0.5, 0.5), (1.0, 1.0, 0.0)])
def test_known_values(values):
    mean = sum(values) / len(values)
    known = {
        "bald": entropy(mean) - sum(map(entropy, values)) / len(values),
        "variance": float(np.var(values)),
        "entropy": entropy(mean),
        "margin": 1 - abs(mean - (1 - mean)),
        "least_confidence": 2 * (1 - max(mean, 1 - mean)),
    }
    for name in ENSEMBLE:
        score = ACQUISITIONS[name](column(*values)).item()
        assert score == pytest.approx(known[name], abs=1e-6), name


def test_disagreement_of_one_snapshot_is_zero():
    clean = probs(1, 2, 8, 8)
    assert (ACQUISITIONS["bald"](clean) == 0).all()
    assert (ACQUISITIONS["variance"](clean) == 0).all()


def test_two_classes_rank_alike():
    clean = probs(1, 1, 20, 20)
    scores = [ACQUISITIONS[name](clean).flatten() for name in ENSEMBLE[2:]]
    for other in scores[1:]:
        assert stats.spearmanr(scores[0], other).statistic > 1 - 1e-6


def test_bald_tells_disagreement_from_doubt():
    doubt, disagreement = column(0.5, 0.5), column(0.05, 0.95)
    assert ACQUISITIONS["entropy"](doubt) == ACQUISITIONS["entropy"](disagreement)
    assert ACQUISITIONS["bald"](doubt).item() == 0
    assert ACQUISITIONS["bald"](disagreement).item() > 0.7


def test_random_needs_no_model_and_follows_the_seed_of_the_image():
    acquisition = ACQUISITIONS["random"]
    assert not acquisition.needs_model
    chance = random_map([7, 8], 30, 40)
    assert torch.equal(acquisition(None, None, chance), chance)
    assert torch.equal(random_map([8], 30, 40)[0], chance[1])
    assert stats.kstest(chance.flatten().numpy(), "uniform").pvalue > 0.01
    with pytest.raises(ValueError, match="random map"):
        acquisition(None)


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_needs_are_declared(name):
    acquisition = ACQUISITIONS[name]
    assert acquisition.needs_attack == (name == "adversarial_shift")
    assert acquisition.needs_model == (name != "random")
    if acquisition.needs_model:
        with pytest.raises(ValueError, match="predictions"):
            acquisition(None, probs(1, 1, 2, 2))


def test_entropy_at_the_ends_is_exactly_zero():
    ends = torch.tensor([0.0, 1.0, -1e-7, 1 + 1e-7])
    assert (binary_entropy(ends) == 0).all()
    assert binary_entropy(torch.tensor(0.5)).item() == 1


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_beta_entropy_of_all_sizes_is_that_of_scipy():
    sizes = np.array([1e-3, 0.03, 0.7, 1.0, 2.5, 40.0, 999.9, 1000.1, 3e4])
    a, b = (axis.ravel() for axis in np.meshgrid(sizes, sizes))
    found = beta_entropy(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    known = np.array([float(stats.beta(*pair).entropy()) for pair in zip(a, b, strict=True)])
    np.testing.assert_allclose(found, known, rtol=1e-9, atol=1e-8)
    # Narrow ones are normal; one with a = 1 is b (1 - x)^(b - 1), an exponential in the limit.
    wide = doubles(1e8, 3e11, 1e15)
    normal = 0.5 * torch.log(2 * math.pi * math.e * 0.21 / wide)
    torch.testing.assert_close(beta_entropy(0.3 * wide, 0.7 * wide), normal, rtol=0, atol=1e-7)
    torch.testing.assert_close(
        beta_entropy(torch.ones(3).double(), wide), 1 - wide.log(), rtol=0, atol=1e-7
    )


def test_balanced_entropy_of_a_fitted_beta():
    generator = np.random.default_rng(5)
    members = generator.beta(*generator.uniform(0.2, 9, (2, 1, 60)), (5, 60)).astype(np.float32)
    mean, variance = members.mean(0, np.float64), members.var(0, np.float64)
    a, b = (part * (mean * (1 - mean) / variance - 1) for part in (mean, 1 - mean))
    np.testing.assert_allclose(stats.beta(a, b).mean(), mean)
    np.testing.assert_allclose(stats.beta(a, b).var(), variance)
    label = stats.entropy([mean, 1 - mean])
    answered = mean * stats.beta(a + 1, b).entropy() + (1 - mean) * stats.beta(a, b + 1).entropy()
    balance = (answered + label) / (label + LOG2)
    found = balanced_entropy(torch.from_numpy(members)[:, None, None])[0, 0]
    np.testing.assert_allclose(found.numpy(), balance, rtol=1e-5, atol=1e-6)
    assert (balance > 0).sum() > 10 < (balance < 0).sum()

    # The order is that of the paper's acquisition, which jumps where BalEnt changes its sign.
    paper = np.where(balance >= 0, 1 / balance, balance)
    score = ACQUISITIONS["balent"](torch.from_numpy(members)[:, None, None])[0, 0].numpy()
    assert (np.argsort(paper) == np.argsort(score)).all()
    assert score[balance >= 0].min() > 0.66 > 0.5 > score[balance < 0].max()


def test_balanced_entropy_of_a_uniform_probability():
    """Mean 1/2 and variance 1/12 fit Beta(1, 1); after an answer it is Beta(2, 1)."""
    members = column(0.5 - 12**-0.5, 0.5 + 12**-0.5)
    known = (0.5 - LOG2 + LOG2) / (2 * LOG2)  # The entropy of the density 2x is 1/2 - log 2.
    assert balanced_entropy(members).item() == pytest.approx(known, abs=1e-6)
    assert ACQUISITIONS["balent"](members).item() == pytest.approx(1 / (1 + known), abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1.0])
def test_balanced_entropy_asks_nothing_where_members_agree(value):
    for count in range(1, 8):
        members = column(*[value] * count)
        assert balanced_entropy(members).item() == -math.inf
        assert ACQUISITIONS["balent"](members).item() == 0


def test_balanced_entropy_asks_nothing_where_members_say_0_and_1_alone():
    for count in range(2, 20):  # every number of ones; some variances are rounded downwards
        members = (torch.arange(count)[:, None] < torch.arange(1, count)).float()[:, None, None]
        assert (balanced_entropy(members) == -math.inf).all()
        assert (ACQUISITIONS["balent"](members) == 0).all()


@pytest.mark.parametrize("rest", [[0.3, 0.3], [0.0, 1.0]])
def test_balanced_entropy_falls_to_its_limits(rest):
    """Members near agreement, and near saying 0 and 1 alone."""
    centre = torch.tensor([0.3, 0.7]) if rest[0] else torch.tensor([0.25, 0.75])
    steps = [2.0**-k for k in range(0, 22, 3)]
    rows = torch.stack([torch.lerp(torch.tensor(rest), centre, step) for step in steps], dim=1)
    scores = ACQUISITIONS["balent"](rows[:, None, None])[0, 0]
    assert (scores[1:].diff() < 0).all()
    assert 0 < scores[-1] < 0.05
