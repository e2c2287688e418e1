"""Slow, plain versions of the scores, and what the tests of the counts share."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

TALLY = np.dtype([("counts", "<u4", (2, 256)), ("S", "<f8"), ("wF", "<f8"), ("BIoU", "<f8")])


def tally_of(pred: np.ndarray, mask: np.ndarray, **parts: float) -> np.ndarray:
    """Return a tally [1], counted pixel by pixel; parts not given are NaN."""
    tally = np.zeros(1, TALLY)
    for part in ("S", "wF", "BIoU"):
        tally[part] = parts.get(part, np.nan)
    mask = mask if mask.dtype == bool else mask > 128
    for value, inside in zip(pred.ravel().tolist(), mask.ravel().tolist(), strict=True):
        tally["counts"][0, int(inside), value] += 1
    return tally


def random_tallies(number: int, seed: int) -> np.ndarray:
    """Return tallies of as many made-up images, [number]; no image is like another."""
    rng = np.random.default_rng(seed)
    tallies = np.zeros(number, TALLY)
    grey = np.arange(256)
    for inside, centre in ((0, rng.uniform(0, 120, number)), (1, rng.uniform(90, 255, number))):
        rate = 40 * np.exp(-np.abs(grey - centre[:, None]) / rng.uniform(5, 60, (number, 1)))
        tallies["counts"][:, inside] = rng.poisson(rate)
    tallies["counts"][:, :, 128] += 1
    for part in ("S", "wF", "BIoU"):
        tallies[part] = rng.random(number)
    return tallies


@st.composite
def pairs(draw):
    """Draw a map, of few grey values or many, and a Boolean mask of the same size."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    values = draw(st.lists(st.integers(0, 255), min_size=1, max_size=9, unique=True))
    elements = draw(st.sampled_from([st.integers(0, 255), st.sampled_from(values)]))
    fill = st.nothing()
    return (
        draw(arrays(np.uint8, shape, elements=elements, fill=fill)),
        draw(arrays(np.bool_, shape, fill=fill)),
    )


def stretched(pred: np.ndarray) -> np.ndarray:
    """Return the map in [0, 1] as PySODMetrics stretches it."""
    saliency = pred / 255
    if saliency.max() != saliency.min():
        saliency = (saliency - saliency.min()) / (saliency.max() - saliency.min())
    return saliency


def fractions(pred: np.ndarray, stretch: bool) -> list[Fraction]:
    """Return the map in [0, 1] without rounding, pixel after pixel; a constant map over 255."""
    values = pred.ravel().tolist()
    zero, one = (min(values), max(values)) if stretch and pred.min() != pred.max() else (0, 255)
    return [Fraction(value - zero, one - zero) for value in values]


def found_at(pred: np.ndarray, stretch: bool, which: str) -> np.ndarray:
    """Return the map binarised at its adaptive threshold or at one half, without rounding."""
    values = fractions(pred, stretch)
    threshold = Fraction(1, 2)
    if which == "adaptive":
        threshold = min(2 * sum(values) / len(values), Fraction(1))
    return np.array([value >= threshold for value in values]).reshape(pred.shape)


def binary_scores(binary: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Return the scores of one binary map as PySODMetrics defines them, pixel by pixel."""
    tp, fp = np.sum(binary & mask), np.sum(binary & ~mask)
    fn, tn = np.sum(~binary & mask), np.sum(~binary & ~mask)

    def share(part, whole):
        return part / whole if whole else 0.0

    precision, recall = share(tp, tp + fp), share(tp, tp + fn)
    return {
        "precision": precision,
        "recall": recall,
        "f": share(1.3 * precision * recall, 0.3 * precision + recall),
        "fpr": share(fp, fp + tn),
        "e": enhanced_alignment(binary, mask),
        "iou": share(tp, tp + fp + fn),
        "dice": share(2 * tp, 2 * tp + fp + fn),
        "ber": 1 - (recall + share(tn, tn + fp)) / 2,
    }


def enhanced_alignment(binary: np.ndarray, mask: np.ndarray) -> float:
    """Return the E-measure of a binary map, pixel by pixel."""
    if not mask.any():
        enhanced = ~binary
    elif mask.all():
        enhanced = binary
    else:
        a, b = binary - binary.mean(), mask - mask.mean()
        enhanced = (2 * a * b / (a**2 + b**2) + 1) ** 2 / 4
    return enhanced.sum() / max(mask.size - 1, 1)
