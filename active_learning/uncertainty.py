"""Acquisition functions: how much is to be learnt from asking about a pixel.

Every entry of `ACQUISITIONS` is called as ``acquisition(clean, adversarial, random_map)`` and gives
scores (B, H, W) float32 >= 0; the higher, the rather the pixel is asked. ``clean`` and
``adversarial`` are probabilities (T, B, H, W) of T snapshots on the clean and on the attacked
images, after the spatial vote. ``adversarial`` is None where no attack is made. All but
``adversarial_shift`` and ``random`` then join the two rows to one ensemble of 2T members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.errors import UserError


@dataclass(frozen=True)
class Acquisition:
    """An acquisition function, and what must be computed before it can be called.

    Attributes:
        score: the function, see the module's description.
        needs_model: whether it looks at predictions; if not, they may be None.
        needs_attack: whether it needs the predictions on attacked images.
        needs_members: whether it says how far the ensemble's members differ, and so nothing of one.
    """

    score: Callable[[Tensor | None, Tensor | None, Tensor | None], Tensor]
    needs_model: bool = True
    needs_attack: bool = False
    needs_members: bool = False

    def __call__(
        self,
        clean: Tensor | None,
        adversarial: Tensor | None = None,
        random_map: Tensor | None = None,
    ) -> Tensor:
        """Return the scores (B, H, W), float32 >= 0.

        Args:
            clean: (T, B, H, W) in [0, 1].
            adversarial: (T, B, H, W) in [0, 1], or None where no attack is made.
            random_map: (B, H, W) in [0, 1), see `random_map`; only ``random`` reads it.

        Raises:
            UserError: the function needs an attack and there is none.
            ValueError: another input that the function needs is None.
        """
        if self.needs_attack and adversarial is None:
            raise UserError(
                "this acquisition function compares clean with attacked images and there is no "
                "attack: set --attack (for instance pgd), or another --acquisition"
            )
        if self.needs_model and clean is None:
            raise ValueError("this acquisition function needs the model's predictions")
        return self.score(clean, adversarial, random_map)


def random_map(seeds: Sequence[int], height: int, width: int) -> Tensor:
    """Draw (B, H, W) float32 uniform in [0, 1) on the CPU, each image's from its own seed."""
    maps = torch.empty(len(seeds), height, width)
    for row, seed in zip(maps, seeds, strict=True):
        row.uniform_(generator=torch.Generator().manual_seed(seed))
    return maps


def binary_entropy(prob: Tensor) -> Tensor:
    """Return ``-p log2 p - (1-p) log2 (1-p)`` in bits, in [0, 1] and exactly 0 at p = 0 and 1.

    ``prob`` is of any shape; values that rounding has put outside [0, 1] are clamped.
    """
    prob = prob.clamp(0.0, 1.0)
    nats = torch.special.xlogy(prob, prob) + torch.special.xlogy(1 - prob, 1 - prob)
    return (-nats / math.log(2)).clamp(0.0, 1.0)


def _shift(clean: Tensor, adversarial: Tensor, _: Tensor | None) -> Tensor:
    """``|mean clean - mean adversarial|`` over snapshots, in [0, 1] (ASTE-AL's uncertainty map)."""
    return (clean.float().mean(0) - adversarial.float().mean(0)).abs()


def _bald(ensemble: Tensor) -> Tensor:
    """Mutual information of label and snapshot, in bits: H(mean p) - mean H(p).

    Houlsby et al., "Bayesian Active Learning for Classification and Preference Learning", 2011.
    """
    return (binary_entropy(ensemble.mean(0)) - binary_entropy(ensemble).mean(0)).clamp_min(0.0)


def _variance(ensemble: Tensor) -> Tensor:
    """Variance of p over the ensemble's members (dividing by their number), in [0, 1/4]."""
    return ensemble.var(0, correction=0)


def _entropy(ensemble: Tensor) -> Tensor:
    """Entropy of the mean prediction, in bits."""
    return binary_entropy(ensemble.mean(0))


def _margin(ensemble: Tensor) -> Tensor:
    """``1 - |2p - 1|`` of the mean prediction: 1 where both classes are equally likely."""
    return (1 - (2 * ensemble.mean(0) - 1).abs()).clamp_min(0.0)


def beta_entropy(alpha: Tensor, beta: Tensor) -> Tensor:
    """Return the differential entropy of Beta(alpha, beta) in nats, at most 0.

    It is ``g(alpha) + g(beta) - g(alpha + beta) - digamma(alpha + beta)``, where g is the entropy
    of a Gamma variable of that shape: the usual form, without its large terms that cancel.
    Parameters are float64 above 0, of one shape.
    """
    total = alpha + beta
    return _gamma_entropy(alpha) + _gamma_entropy(beta) - _gamma_entropy(total) - total.digamma()


def _gamma_entropy(shape: Tensor) -> Tensor:
    """Entropy of a Gamma variable of scale 1, in nats; above 1000 by its asymptotic series."""
    exact = shape + shape.lgamma() + (1 - shape) * shape.digamma()
    series = (math.log(2 * math.pi * math.e) + shape.log()) / 2 - 1 / (3 * shape)
    return torch.where(shape < 1000, exact, series - 1 / (12 * shape**2))


def balanced_entropy(ensemble: Tensor) -> Tensor:
    """Return BalEnt of each pixel, float64 (B, H, W), in [-inf, 1/2].

    ``BalEnt = (sum_i E[P_i] h(P_i+) + H(Y)) / (H(Y) + log 2)``, in nats. P_i, the probability of
    class i, is taken to be a Beta variable with the members' mean m and variance v: P_1 is
    Beta(a, b) with ``a = m c``, ``b = (1 - m) c``, ``c = m (1 - m) / v - 1``, and P_0 = 1 - P_1.
    P_i+ is P_i after an answer i, Beta(a + 1, b) and Beta(b + 1, a); h is the differential entropy
    and H(Y) that of the mean prediction. The variance divides by the number of members, so that a
    Beta always fits; the published code divides by one less, of a hundred members.

    In both limits it is -inf, and so it is here: members that agree wholly (P is certain), and
    members that say 0 or 1 alone (an answer makes it certain). It is NaN where a member is.

    Woo, "Active Learning in Bayesian Neural Networks with Balanced Entropy Learning Principle",
    ICLR 2023; the equation is checked against the author's code.
    """
    members = ensemble.double().clamp(0.0, 1.0)
    mean, variance = members.mean(0), members.var(0, correction=0)
    limit = torch.where(mean.isnan(), mean, -math.inf)
    # Rounding leaves equal members a variance of about 1e-34, and could leave 0 and 1 a Beta.
    differ = members.amax(0) > members.amin(0)
    soft = ((members > 0) & (members < 1)).any(0)
    concentration = mean * (1 - mean) / variance - 1
    fits = differ & soft & (concentration > 0)
    mean = torch.where(fits, mean, 0.5)
    concentration = torch.where(fits, concentration, 1.0)
    a, b = mean * concentration, (1 - mean) * concentration
    answered = mean * beta_entropy(a + 1, b) + (1 - mean) * beta_entropy(a, b + 1)
    label = binary_entropy(mean) * math.log(2)
    return torch.where(fits, (answered + label) / (label + math.log(2)), limit)


def _balent(ensemble: Tensor) -> Tensor:
    """Balanced entropy acquisition in the paper's order, brought into [0, 1].

    The paper asks by ``1 / BalEnt`` where BalEnt is 0 or more (the nearer to 0 the rather) and by
    BalEnt itself where it is negative (again the nearer to 0 the rather, but after all others).
    So does ``w / (1 + |BalEnt|)`` with w = 1 where BalEnt >= 0, giving [2/3, 1], and w = 1/2
    elsewhere, giving [0, 1/2): 0 for -inf alone. Rules that look at more than the order see these
    sizes, which are ours.
    """
    balance = balanced_entropy(ensemble)
    weight = torch.where(balance >= 0, 1.0, 0.5)
    return (weight / (1 + balance.abs())).float()


def _random(_clean: Tensor | None, _adversarial: Tensor | None, chance: Tensor | None) -> Tensor:
    """Return the random map itself."""
    if chance is None:
        raise ValueError("random acquisition needs a random map")
    return chance.float()


def _joined(score: Callable[[Tensor], Tensor], needs_members: bool = False) -> Acquisition:
    """Make an acquisition of a function of one ensemble (S, B, H, W)."""

    def of_rows(clean: Tensor, adversarial: Tensor | None, _: Tensor | None) -> Tensor:
        rows = clean if adversarial is None else torch.cat([clean, adversarial])
        return score(rows.float())

    return Acquisition(of_rows, needs_members=needs_members)


# With two classes margin is twice the least confidence, and entropy ranks pixels as they do; its
# values differ, which matters to the diversity rules that weigh candidates by their score.
ACQUISITIONS: dict[str, Acquisition] = {
    "adversarial_shift": Acquisition(_shift, needs_attack=True),
    "bald": _joined(_bald, needs_members=True),
    "variance": _joined(_variance, needs_members=True),
    "balent": _joined(_balent, needs_members=True),
    "entropy": _joined(_entropy),
    "least_confidence": _joined(_margin),
    "margin": _joined(_margin),
    "random": Acquisition(_random, needs_model=False),
}
