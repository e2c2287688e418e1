"""Objects cut out of pictures: where colours and edges say that a saliency map's outline runs."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

BINS = 32
"""Shades of each channel that colours are told apart by."""

BLUR = 0.7
"""How far a colour's count is spread over colours like it: standard deviation, in bins."""

COLOURS = 0.8
"""Weight of what a pixel's colour says; at 1 it would count as much as if the map did not know."""

MOST = 3.0
"""Logit that a colour says at most."""

SURE = 0.05
"""Below it background is taken for certain, above one minus it foreground; the rest is cut."""

CUTS = 1
"""Iterations of GrabCut; more of them, each as long, cut no better."""

LEAST = 20
"""Pixels of either class that a colour model needs; a map with fewer is taken at one half."""

_EDGE = 0.01
_NEVER_SEEN = 1e-3


def by_colours(image: np.ndarray, prob: np.ndarray) -> np.ndarray:
    """Correct a saliency map by the colours of what it takes for object and for ground.

    Bayes' rule: to each pixel's logit comes the logarithm of how much more of the object than of
    the ground has its colour, by two histograms of the picture (Swain and Ballard, IJCV 1991) in
    which each pixel counts by its saliency, and by what it lacks of one.

    Args:
        image: uint8 (S, S, 3), RGB.
        prob: float (S, S), saliency in [0, 1].

    Returns:
        float (S, S), in (0, 1).
    """
    shades = image.astype(np.intp) * BINS // 256
    at = np.ravel_multi_index(np.moveaxis(shades, -1, 0), (BINS,) * 3)
    counts = (
        np.bincount(at.ravel(), side.ravel(), BINS**3).reshape((BINS,) * 3)
        for side in (prob, 1 - prob)
    )
    shares = (gaussian_filter(count, BLUR) + _NEVER_SEEN for count in counts)
    of_object, of_ground = (share.ravel()[at] / share.sum() for share in shares)
    says = COLOURS * np.clip(np.log(of_object / of_ground), -MOST, MOST)
    known = np.clip(prob, _EDGE, 1 - _EDGE)
    return 1 / (1 + (1 - known) / known * np.exp(-says))


def cut(image: np.ndarray, prob: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Cut the object out that a saliency map points at: GrabCut (Rother et al., SIGGRAPH 2004).

    Colour models of the map's two sides and the picture's edges decide anew about all pixels of
    which the map is not sure; answers stand whatever the map says.

    Args:
        image: uint8 (S, S, 3), RGB.
        prob: float (S, S), saliency in [0, 1].
        labels: counts (2, S, S), of background and foreground answers at each pixel.
        seed: of the colour models' clustering.

    Returns:
        uint8 (S, S): 255 for foreground, 0 for background.
    """
    guess = np.where(prob > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    guess[prob > 1 - SURE] = cv2.GC_FGD
    guess[prob < SURE] = cv2.GC_BGD
    guess[labels[0] > labels[1]] = cv2.GC_BGD
    guess[labels[1] > labels[0]] = cv2.GC_FGD
    share = _foreground(guess).mean() / 255
    if min(share, 1 - share) * guess.size >= LEAST:
        cv2.setRNGSeed(seed)  # of this thread
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(image[..., ::-1].copy(), guess, None, *models, CUTS, cv2.GC_INIT_WITH_MASK)
    return _foreground(guess)


def overlap(prob: np.ndarray, made: np.ndarray) -> float:
    """Return how much a saliency map (S, S) in [0, 1] and a cut, bool (S, S), have in common.

    The soft intersection over union, in [0, 1]; of a cut without foreground it is 0. A faint haze
    over all the ground counts, so that it is lower for small objects. It needs no mask; how it goes
    with the IoU of cut and mask is told in benchmarks/label_efficiency/README.md.
    """
    return float(np.minimum(prob, made).sum() / max(np.maximum(prob, made).sum(), 1e-9))


def _foreground(guess: np.ndarray) -> np.ndarray:
    return np.uint8(255) * np.isin(guess, (cv2.GC_FGD, cv2.GC_PR_FGD))
