"""Diversity rules: choose, among uncertain candidates, those that stand for many others.

Every rule of `DIVERSITY` is called as ``rule(scores, features, labelled_features, count, rng)``:

- ``scores`` (N,) float >= 0: the uncertainty of the candidates;
- ``features`` (N, C) float: their features, of any length;
- ``labelled_features`` (M, C) float: the features of the points already labelled, M may be 0;
- ``count``: how many to choose; ``rng``: the only source of chance.

It returns min(count, N) distinct int64 indices in order of choice. Ties go to the lowest index.
A rule raises UserError for scores or features that are not finite, ValueError for wrong shapes and
for scores below 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError

Array = NDArray[np.floating]
Rule = Callable[[Array, Array, Array, int, np.random.Generator], NDArray[np.int64]]

DIVERSITY: dict[str, Rule] = {}

# Set cover: a point stands for those with at least this cosine similarity.
COVER_SIMILARITY = 0.8

# Gains that differ by less are one: they come from rounding in the matrix product.
_TOLERANCE = 1e-9


def _register(name: str) -> Callable[[Rule], Rule]:
    """Put a rule into `DIVERSITY`, with its inputs checked and converted to float64."""

    def decorate(rule: Rule) -> Rule:
        @functools.wraps(rule)
        def checked(
            scores: Array,
            features: Array,
            labelled_features: Array,
            count: int,
            rng: np.random.Generator,
        ) -> NDArray[np.int64]:
            scores, features, labelled_features = (
                np.asarray(array, dtype=np.float64)
                for array in (scores, features, labelled_features)
            )
            _check(scores, features, labelled_features)
            count = max(0, min(count, len(scores)))
            chosen = rule(scores, features, labelled_features, count, rng)
            return np.asarray(chosen, dtype=np.int64)

        DIVERSITY[name] = checked
        return checked

    return decorate


def _check(scores: Array, features: Array, labelled_features: Array) -> None:
    shapes = (
        f"scores {scores.shape}, features {features.shape}, of labels {labelled_features.shape}"
    )
    if not scores.ndim == features.ndim - 1 == labelled_features.ndim - 1 == 1:
        raise ValueError(f"expected (N,), (N, C) and (M, C), not {shapes}")
    if len(scores) != len(features) or features.shape[1] != labelled_features.shape[1]:
        raise ValueError(f"expected (N,), (N, C) and (M, C), not {shapes}")
    if not all(np.isfinite(array).all() for array in (scores, features, labelled_features)):
        raise UserError(
            "scores or features of the candidates are not finite: the model's training has "
            "diverged; train it again with a lower learning rate"
        )
    if (scores < 0).any():
        raise ValueError(f"scores must not be negative, the lowest is {scores.min()}")


@_register("facility_location")
def facility_location(
    scores: Array,
    features: Array,
    labelled_features: Array,
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Greedily cover the candidates, weighted by score, with similar points.

    A candidate c is covered by ``cov_c``, its largest similarity ``max(0, cosine)`` to a labelled
    or chosen point. The next point is the a with the largest gain
    ``sum_c scores_c max(0, s(c, a) - cov_c)``; the sum of ``scores_c cov_c`` is monotone and
    submodular, so the result is within 1 - 1/e of the best (Nemhauser et al., 1978). When nothing
    is left to gain, the highest score not yet chosen is taken.
    """
    similarity, coverage = _similarities(features, labelled_features)
    return _greedy_cover(scores, similarity, coverage, count)


@_register("set_cover")
def set_cover(
    scores: Array,
    features: Array,
    labelled_features: Array,
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Greedy weighted set cover: `facility_location` with all or nothing for a similarity.

    A point covers the candidates whose cosine similarity to it is at least `COVER_SIMILARITY`.
    """
    similarity, coverage = _similarities(features, labelled_features)
    # The margin keeps a similarity that equals the threshold from falling short by rounding.
    threshold = COVER_SIMILARITY - _TOLERANCE
    covers = (similarity >= threshold).astype(np.float64)
    covered = (coverage >= threshold).astype(np.float64)
    return _greedy_cover(scores, covers, covered, count)


@_register("k_centre")
def k_centre(
    scores: Array,
    features: Array,
    labelled_features: Array,
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Choose, again and again, the candidate farthest from all labelled and chosen points.

    The distance is the Euclidean one of L2-normalised features. With no labelled point the first
    choice is the highest score, and so it is when all that is left lies on points already taken.
    Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach",
    ICLR 2018, algorithm 1.
    """
    points, labelled = _normalised(features), _normalised(labelled_features)
    distance = np.full(len(points), np.inf)
    for anchor in labelled:
        distance = np.minimum(distance, np.linalg.norm(points - anchor, axis=1))
    left = np.ones(len(points), dtype=bool)
    chosen: list[int] = []
    while len(chosen) < count:
        if not (chosen or len(labelled)) or distance[left].max() <= _TOLERANCE:
            best = _first_best(scores, left)
        else:
            best = _first_best(distance, left)
        chosen.append(best)
        left[best] = False
        distance = np.minimum(distance, np.linalg.norm(points - points[best], axis=1))
    return np.asarray(chosen, dtype=np.int64)


@_register("top_k")
def top_k(
    scores: Array,
    features: Array,
    labelled_features: Array,
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Choose the highest scores, in falling order; features are not looked at."""
    return np.argsort(-scores, kind="stable")[:count]


@_register("random_top")
def random_top(
    scores: Array,
    features: Array,
    labelled_features: Array,
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Choose uniformly among the candidates, which are the most uncertain points already.

    This is what the released code of ASTE-AL does under the name of diversity.
    """
    return rng.permutation(len(scores))[:count]


def _normalised(features: Array) -> Array:
    """Return the rows (N, C) at length 1; rows of zeros stay zeros."""
    # Scaled by the largest entry first, so that squares neither overflow nor vanish.
    largest = np.abs(features).max(axis=1, keepdims=True, initial=0.0)
    scaled = np.divide(features, largest, out=np.zeros_like(features), where=largest > 0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.divide(scaled, length, out=scaled, where=length > 0)


def _similarities(features: Array, labelled_features: Array) -> tuple[Array, Array]:
    """Return max(0, cosine) between candidates (N, N), and their largest to a labelled point (N,).

    A candidate is wholly similar to itself, also where its feature is zero.
    """
    points, labelled = _normalised(features), _normalised(labelled_features)
    similarity = np.clip(points @ points.T, 0.0, 1.0)
    np.fill_diagonal(similarity, 1.0)
    coverage = np.clip(points @ labelled.T, 0.0, 1.0).max(axis=1, initial=0.0)
    return similarity, coverage


def _greedy_cover(scores: Array, similarity: Array, coverage: Array, count: int) -> Array:
    left = np.ones(len(scores), dtype=bool)
    nothing = _TOLERANCE * scores.sum()
    chosen: list[int] = []
    while len(chosen) < count:
        gains = scores @ np.maximum(0.0, similarity - coverage[:, None])
        worth = gains if gains[left].max() > nothing else scores
        best = _first_best(worth, left)
        chosen.append(best)
        left[best] = False
        coverage = np.maximum(coverage, similarity[:, best])
    return np.asarray(chosen, dtype=np.int64)


def _first_best(values: Array, left: NDArray[np.bool_]) -> int:
    """Return the lowest index still ``left`` whose value is the largest, up to rounding."""
    largest = values[left].max()
    return int(np.argmax(left & (values >= largest - _TOLERANCE * abs(largest))))
