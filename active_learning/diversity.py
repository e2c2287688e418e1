"""Diversity rules: choose, among uncertain candidates, those that stand for many others.

Every rule of `DIVERSITY` is called as ``rule(scores, sites, labelled, count, rng)``:

- ``scores`` (N,) float >= 0: the uncertainty of the candidates;
- ``sites``, `Sites` of N: what they look like, and where they are;
- ``labelled``, `Sites` of M: the same of the points already labelled, M may be 0;
- ``count``: how many to choose; ``rng``: the only source of chance.

It returns min(count, N) distinct int64 indices in order of choice. Ties go to the lowest index.
A rule raises UserError for scores or features that are not finite, ValueError for wrong shapes and
for scores below 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from active_learning.agreement import NOISE, Described, covariance, describe
from utils.errors import UserError

Array = NDArray[np.floating]


class Sites(NamedTuple):
    """Some pixels of one image.

    Attributes:
        features: float (N, C), the network's, of any length.
        colours: float (N, 3), RGB in [0, 1], of the pixel and its neighbours.
        places: float (N, 2), y and x as shares of the image's height and width.
    """

    features: Array
    colours: Array
    places: Array


Rule = Callable[[Array, Sites, Sites, int, np.random.Generator], NDArray[np.int64]]

DIVERSITY: dict[str, Rule] = {}

# Set cover: a point stands for those with at least this cosine similarity.
COVER_SIMILARITY = 0.8

# Gains that differ by less are one: they come from rounding in the matrix product.
_TOLERANCE = 1e-9


def _register(name: str) -> Callable[[Rule], Rule]:
    """Put a rule into `DIVERSITY`, with its inputs checked and converted to float64."""

    def decorate(rule: Rule) -> Rule:
        """Put the checked rule into the registry, and return it."""

        @functools.wraps(rule)
        def checked(
            scores: Array, sites: Sites, labelled: Sites, count: int, rng: np.random.Generator
        ) -> NDArray[np.int64]:
            scores = np.asarray(scores, dtype=np.float64)
            sites, labelled = (
                Sites(*(np.asarray(array, dtype=np.float64) for array in some))
                for some in (sites, labelled)
            )
            _check(scores, sites, labelled)
            count = max(0, min(count, len(scores)))
            chosen = rule(scores, sites, labelled, count, rng)
            return np.asarray(chosen, dtype=np.int64)

        DIVERSITY[name] = checked
        return checked

    return decorate


def _check(scores: Array, sites: Sites, labelled: Sites) -> None:
    shapes = [scores.shape, *(array.shape for some in (sites, labelled) for array in some)]
    channels = sites.features.shape[1:]
    counts = len(scores), len(labelled.features)
    expected = [(count, *rest) for count in counts for rest in (channels, (3,), (2,))]
    if scores.ndim != 1 or len(channels) != 1 or shapes[1:] != expected:
        raise ValueError(f"expected (N,), then (N, C), (N, 3), (N, 2), and of M, not {shapes}")
    if not all(np.isfinite(array).all() for array in (scores, *sites, *labelled)):
        raise UserError(
            "scores or features of the candidates are not finite: the model's training has "
            "diverged; train it again with a lower learning rate"
        )
    if (scores < 0).any():
        raise ValueError(f"scores must not be negative, the lowest is {scores.min()}")


@_register("variance_reduction")
def variance_reduction(
    scores: Array, sites: Sites, labelled: Sites, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Greedily choose the pixels whose answers will tell most about all the candidates.

    How saliency at one pixel tells of another is modelled as where answers are used, by the kernel
    of `agreement.agree`: a Gaussian process over features, colours and places. Its covariance K,
    given the labelled and the chosen points, does not depend on what they were answered. An answer
    at a lowers the variance at c by ``K(c, a)^2 / (K(a, a) + NOISE)``; the next point is the a with
    the largest sum over c of ``scores_c`` times that. When nothing is left to gain, the highest
    score not yet chosen is taken.

    With all scores alike this is the criterion of Cohn, Ghahramani and Jordan, "Active Learning
    with Statistical Models", JAIR 1996 (for Gaussian processes Seo et al., IJCNN 2000), and
    V-optimality on graphs (Ji and Han, AISTATS 2012).
    """
    some, known = _described(sites), _described(labelled)
    left = np.ones(len(scores), dtype=bool)
    nothing = _TOLERANCE * scores.sum()
    spread = _conditioned(some, known)
    chosen: list[int] = []
    while len(chosen) < count:
        gains = scores @ np.square(spread) / (spread.diagonal() + NOISE)
        worth = gains if gains[left].max() > nothing else scores
        best = _first_best(worth, left)
        chosen.append(best)
        left[best] = False
        told = spread[:, best]
        spread = spread - np.outer(told, told) / (told[best] + NOISE)
    return np.asarray(chosen, dtype=np.int64)


def _described(sites: Sites) -> Described:
    sites = sites._replace(features=_normalised(sites.features))
    return describe(*(torch.from_numpy(array.T)[None] for array in sites))


def _conditioned(some: Described, known: Described) -> Array:
    """Return the covariance (N, N) of some sites, given noisy answers at the known ones."""
    prior = covariance(some, some)[0].numpy()
    np.fill_diagonal(prior, 1.0)  # also of a site whose feature is zero
    count = known.where.shape[-1]
    if not count:
        return prior
    across = covariance(some, known)[0].numpy()
    among = covariance(known, known)[0].numpy() + NOISE * np.eye(count)
    return prior - across @ np.linalg.solve(among, across.T)


@_register("facility_location")
def facility_location(
    scores: Array, sites: Sites, labelled: Sites, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Greedily cover the candidates, weighted by score, with similar points.

    A candidate c is covered by ``cov_c``, its largest similarity ``max(0, cosine)`` to a labelled
    or chosen point. The next point is the a with the largest gain
    ``sum_c scores_c max(0, s(c, a) - cov_c)``; the sum of ``scores_c cov_c`` is monotone and
    submodular, so the result is within 1 - 1/e of the best (Nemhauser et al., 1978). When nothing
    is left to gain, the highest score not yet chosen is taken.
    """
    similarity, coverage = _similarities(sites.features, labelled.features)
    return _greedy_cover(scores, similarity, coverage, count)


@_register("set_cover")
def set_cover(
    scores: Array, sites: Sites, labelled: Sites, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Greedy weighted set cover: `facility_location` with all or nothing for a similarity.

    A point covers the candidates whose cosine similarity to it is at least `COVER_SIMILARITY`.
    """
    similarity, coverage = _similarities(sites.features, labelled.features)
    # The margin keeps a similarity that equals the threshold from falling short by rounding.
    threshold = COVER_SIMILARITY - _TOLERANCE
    covers = (similarity >= threshold).astype(np.float64)
    covered = (coverage >= threshold).astype(np.float64)
    return _greedy_cover(scores, covers, covered, count)


@_register("k_centre")
def k_centre(
    scores: Array, sites: Sites, labelled: Sites, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Choose, again and again, the candidate farthest from all labelled and chosen points.

    The distance is the Euclidean one of L2-normalised features. With no labelled point the first
    choice is the highest score, and so it is when all that is left lies on points already taken.
    Sener and Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach",
    ICLR 2018, algorithm 1.
    """
    points, anchors = _normalised(sites.features), _normalised(labelled.features)
    distance = np.full(len(points), np.inf)
    for anchor in anchors:
        distance = np.minimum(distance, np.linalg.norm(points - anchor, axis=1))
    left = np.ones(len(points), dtype=bool)
    chosen: list[int] = []
    while len(chosen) < count:
        if not (chosen or len(anchors)) or distance[left].max() <= _TOLERANCE:
            best = _first_best(scores, left)
        else:
            best = _first_best(distance, left)
        chosen.append(best)
        left[best] = False
        distance = np.minimum(distance, np.linalg.norm(points - points[best], axis=1))
    return np.asarray(chosen, dtype=np.int64)


@_register("top_k")
def top_k(
    scores: Array, sites: Sites, labelled: Sites, count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Choose the highest scores, in falling order; features are not looked at."""
    return np.argsort(-scores, kind="stable")[:count]


@_register("random_top")
def random_top(
    scores: Array, sites: Sites, labelled: Sites, count: int, rng: np.random.Generator
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
