"""Objects cut out of pictures: where colours and edges say that a saliency map's outline runs."""

from __future__ import annotations

import functools

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

BINS = 32
"""Shades of each channel that colours are told apart by."""

BLUR = 0.7
"""How far a pixel counts for colours like its own: standard deviation, in bins."""

WHOLE = 0.1
"""Share of the whole picture's colours in those of object and ground: it bounds what they say."""

SPREAD = 30.0
"""How far a map is smoothed (lambda): where no edge stops it, by 1.6 of its roots, in pixels."""

CONTRAST = 10.0
"""What stops it (sigma): two neighbours whose colours differ by d are tied by exp(-d / sigma)."""

SURE = 0.05
"""Below it GrabCut takes background for certain, above one minus it foreground."""

CUTS = 1
"""Iterations of GrabCut; more of them, each as long, cut no better."""

LEAST = 20
"""Pixels of either class that its colour model needs; a map with fewer is taken at one half."""

_EDGE = 0.01
"""Saliency that colours may still change: .999 counts as .99, and a colour can make it unsure."""

_TINY = 1e-12
"""A share of colours far below that of one pixel: it keeps the logarithm finite."""


def by_colours(image: np.ndarray, prob: np.ndarray) -> np.ndarray:
    """Correct a saliency map by the colours of what it takes for object and for ground.

    Bayes' rule: the pixel's logit, plus log(p(colour | object) / p(colour | ground)). Both are
    colour histograms of this picture, where each pixel weighs as much as its saliency, or as one
    minus it (of skin and all else by Jones and Rehg, IJCV 2002). The pixel itself is left out, so
    that a colour that no other pixel has says nothing; and both are mixed with the histogram of the
    whole picture, which bounds what any colour says.

    Args:
        image: uint8 (S, S, 3), RGB.
        prob: float (S, S), saliency in [0, 1].

    Returns:
        float64 (S, S), in (0, 1).
    """
    prob = np.clip(prob, 0, 1).astype(np.float64)
    sides = np.stack([prob, 1 - prob])
    shades = np.moveaxis(image.astype(np.intp) * BINS // 256, -1, 0)
    colours = np.ravel_multi_index(tuple(shades), (BINS,) * 3)
    like = np.stack([_of_like_colour(colours, side) for side in sides])
    like = np.maximum(like - _own_share() * sides, 0)
    others = sides.sum(axis=(1, 2), keepdims=True) - sides
    whole = like.sum(axis=0) / max(prob.size - 1, 1)
    shares = (1 - WHOLE) * like / np.maximum(others, _TINY) + WHOLE * whole + _TINY
    known = np.clip(prob, _EDGE, 1 - _EDGE)
    return 1 / (1 + (1 - known) / known * shares[1] / shares[0])


def _of_like_colour(colours: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return, of each pixel, how much those of its colour, and of colours like it, weigh."""
    counts = np.bincount(colours.ravel(), weights.ravel(), BINS**3).reshape((BINS,) * 3)
    return gaussian_filter(counts, BLUR, mode="constant").ravel()[colours]


@functools.cache
def _own_share() -> float:
    """Return how much of a pixel its own colour keeps when it is counted for those like it."""
    one = np.zeros((BINS,) * 3)
    one[(BINS // 2,) * 3] = 1
    return float(gaussian_filter(one, BLUR, mode="constant").max())


def cut(image: np.ndarray, prob: np.ndarray, labels: np.ndarray, by: str, seed: int) -> np.ndarray:
    """Cut the object out that a saliency map points at; answers stand whatever the map says.

    By smoothing, the fast global smoother (Min et al., TIP 2014): the map is evened out along rows
    and columns until they meet an edge of the picture, then taken at one half. Or by GrabCut
    (Rother et al., SIGGRAPH 2004): colour models of the map's two sides and the picture's edges
    decide anew about all pixels of which the map is not sure.

    Args:
        image: uint8 (S, S, 3), RGB.
        prob: float (S, S), saliency in [0, 1].
        labels: counts (2, S, S), of background and foreground answers at each pixel.
        by: smoothing or grabcut.
        seed: of the clustering of GrabCut's colour models.

    Returns:
        uint8 (S, S): 255 for foreground, 0 for background.
    """
    away, on = labels[0] > labels[1], labels[1] > labels[0]
    return np.uint8(255) * _WAYS[by](image, prob, away, on, seed)


def can_smooth() -> bool:
    """Tell whether this OpenCV has what `cut` smooths with (its contrib modules)."""
    return hasattr(cv2, "ximgproc")


def _smoothing(
    image: np.ndarray, prob: np.ndarray, away: np.ndarray, on: np.ndarray, seed: int
) -> np.ndarray:
    even = cv2.ximgproc.fastGlobalSmootherFilter(image, np.float32(prob), SPREAD, CONTRAST)
    return ((even > 0.5) | on) & ~away


def _grabcut(
    image: np.ndarray, prob: np.ndarray, away: np.ndarray, on: np.ndarray, seed: int
) -> np.ndarray:
    guess = np.where(prob > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    guess[on | (~away & (prob > 1 - SURE))] = cv2.GC_FGD
    guess[away | (~on & (prob < SURE))] = cv2.GC_BGD
    count = np.count_nonzero(_foreground(guess))
    if min(count, guess.size - count) >= LEAST:
        cv2.setRNGSeed(seed)  # of this thread
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(image[..., ::-1].copy(), guess, None, *models, CUTS, cv2.GC_INIT_WITH_MASK)
    return _foreground(guess)


_WAYS = {"smoothing": _smoothing, "grabcut": _grabcut}


def overlap(prob: np.ndarray, made: np.ndarray) -> float:
    """Return how much a saliency map (S, S) in [0, 1] and a cut, bool (S, S), have in common.

    The soft intersection over union, in [0, 1]; of a cut without foreground it is 0. A faint haze
    over all the ground counts, so that it is lower for small objects. It needs no mask; how it goes
    with the IoU of cut and mask is told in benchmarks/label_efficiency/EIGHT_EPOCHS.md.
    """
    return float(np.minimum(prob, made).sum() / max(np.maximum(prob, made).sum(), 1e-9))


def _foreground(guess: np.ndarray) -> np.ndarray:
    return np.isin(guess, (cv2.GC_FGD, cv2.GC_PR_FGD))
