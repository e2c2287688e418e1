"""Whether one method is better than another on a set of images, by a paired bootstrap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError
from utils.metrics.conventions import Convention
from utils.metrics.summary import CHUNK, Floats, needs_of, quantities, scores_of

CONFIDENCE = 0.95


class Comparison(NamedTuple):
    """One metric of two methods on the same images.

    Attributes:
        a: the set's score of the first method.
        b: the set's score of the second.
        difference: a - b.
        low: lower end of the 95 % interval of the difference (percentiles of the resamples).
        high: its upper end.
        p: two-sided p-value of "no difference", in (0, 1]: twice the share of resamples whose
            difference is 0 or on the other side of it, the sample itself counted among them.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    a: NDArray,
    b: NDArray,
    metrics: Sequence[str],
    convention: Convention,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare two methods on the same images (Efron and Tibshirani, 1993, chapters 13 and 15).

    Images are drawn with replacement, the same ones for both methods, and every metric is made anew
    of each draw: maxF, say, is the largest value of the draw's averaged curve. The images count as
    the sample: what the interval holds is how much the score depends on which images are in the
    set, not on the seed of a training. Memory does not grow with the images.

    Args:
        a: tallies of the first method, [N].
        b: tallies of the second, [N], of the same images in the same order.
        metrics: names in `utils.metrics.METRICS`.
        convention: how to count.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        A comparison for each metric. With the same seed the same, to the last bits.

    Raises:
        UserError: the numbers of images differ, there are fewer than two, a metric is unknown, a
            tally lacks a part that a metric needs, or a score is not finite.
    """
    if len(a) != len(b):
        raise UserError(f"{len(a)} images against {len(b)}: compare methods on the same images")
    if len(a) < 2:
        raise UserError(f"{len(a)} image to draw from: a bootstrap needs two at the least")
    needs = needs_of(metrics)
    # The first row of the weights is the set itself, so that it is scored just as the draws are.
    sums: list[dict[str, Floats]] = [{}, {}]
    start = 0
    for weights in draw_counts(len(a), resamples, seed):
        weights = np.vstack([np.ones(weights.shape[1]), weights])
        chunk = slice(start, start + weights.shape[1])
        start = chunk.stop
        for total, tallies in zip(sums, (a, b), strict=True):
            for name, values in quantities(tallies[chunk], convention, needs).items():
                total[name] = total.get(name, 0.0) + weights @ values
    scores = []
    for total in sums:
        means = {name: values / len(a) for name, values in total.items()}
        scores.append(scores_of(means, convention, metrics))
    return {name: _comparison(scores[0][name], scores[1][name]) for name in metrics}


def paired_means(
    a: Sequence[Floats],
    b: Sequence[Floats],
    resamples: int = 2000,
    seed: int = 0,
    draw_trainings: bool = False,
) -> Comparison:
    """Compare two methods by scores of single images, in one set or averaged over several.

    Images are drawn within each set, so that every set keeps its weight. Scores are averaged over
    trainings; the images alone are the sample, unless the trainings are drawn, too: then what the
    interval holds, and p, allow for other trainings as well as for other images (the sources of
    variance that Bouthillier et al., MLSys 2021, tell apart). Of few trainings it is too sure
    where these differ much (of three alike but for chance, a quarter do at p < .05), and too
    cautious where single images differ from training to training. Where one of three disagrees on
    the sign, p stays above about .03: one draw in 27 takes that one alone, and half or more of
    those are on its side.

    Args:
        a: scores of the first method, one array a set: [N], or [R, N] of R trainings.
        b: scores of the second on the same images in the same order; its trainings are paired with
            the first's, as those of one seed are.
        resamples: number of draws.
        seed: of the draws.
        draw_trainings: draw trainings with replacement, the same ones in all sets.

    Raises:
        UserError: the numbers of images or trainings differ, a set has fewer than two images, or a
            score is not finite.
    """
    pairs = [tuple(map(np.atleast_2d, pair)) for pair in zip(a, b, strict=True)]
    trainings = len(pairs[0][0])
    counts = sorted({len(scores) for pair in pairs for scores in pair})
    if counts != [trainings]:
        raise UserError(f"{counts[0]} trainings against {counts[-1]}: compare as many, in pairs")
    shares = np.full((resamples + 1, trainings), 1 / trainings)
    if draw_trainings:
        rng = np.random.default_rng(seed + len(pairs))
        shares[1:] = rng.multinomial(trainings, shares[0], size=resamples) / trainings
    totals = [np.zeros(resamples + 1), np.zeros(resamples + 1)]
    for index, scores in enumerate(pairs):
        images = scores[0].shape[1]
        if images < 2 or images != scores[1].shape[1]:
            raise UserError(
                f"{images} images against {scores[1].shape[1]}: a bootstrap needs the same ones, "
                "two at the least"
            )
        start = 0
        for weights in draw_counts(images, resamples, seed + index):
            weights = np.vstack([np.ones(weights.shape[1]), weights])
            chunk = slice(start, start + weights.shape[1])
            start = chunk.stop
            for total, values in zip(totals, scores, strict=True):
                sums = np.einsum("ij,ij->i", weights @ values[:, chunk].T, shares)
                total += sums / (images * len(pairs))
    return _comparison(*totals)


def draw_counts(images: int, resamples: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Yield how often each image is drawn in each resample, [resamples, up to `CHUNK`] in turn.

    Each resample is of as many images as there are, drawn uniformly with replacement. How many fall
    into a chunk is drawn first, then which, so that no table of all images is needed.
    """
    rng = np.random.default_rng(seed)
    left = np.full(resamples, images)
    for start in range(0, images, CHUNK):
        size = min(CHUNK, images - start)
        taken = rng.binomial(left, size / (images - start))
        left -= taken
        resample = np.repeat(np.arange(resamples), taken)
        drawn = resample * size + rng.integers(size, size=len(resample))
        yield np.bincount(drawn, minlength=resamples * size).reshape(resamples, size)


def _comparison(a: Floats, b: Floats) -> Comparison:
    """Compare scores of the set (first) and of the resamples (the rest); see `paired_means`."""
    difference = a - b
    if not np.isfinite(difference).all():
        raise UserError("scores that are not finite numbers cannot be compared: score anew")
    drawn = difference[1:]
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [outside, 1 - outside])
    beyond = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Comparison(
        a=float(a[0]),
        b=float(b[0]),
        difference=float(difference[0]),
        low=float(low),
        high=float(high),
        p=float(min(1.0, 2 * (1 + beyond) / (1 + len(drawn)))),
    )
