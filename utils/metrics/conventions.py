"""The ways published tools count: what a saliency map is turned into before it is scored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Convention:
    """One way of scoring; `utils.metrics` says in full what each known one does.

    Attributes:
        name: the name in `CONVENTIONS`.
        stretch: whether every metric but MAE sees each map stretched to span [0, 1].
        stretch_mae: whether MAE sees the stretched map too.
        constant_to_zero: whether stretching a constant map makes it 0 (else it is left as it is).
        single: whether stretching is done in single precision.
        thresholds: 256: the stretched map, times 255 and truncated, is compared with 255, 254 … 0;
            255: the stretched map itself is compared with 255 even steps, in single precision.
        epsilon: what is added to divisors that could be 0.
        masks_apart: whether the E-measure of an empty or full mask is the share of pixels found
            right (else the general formula, which then gives a quarter).
        centroid_offset: what is added to the rounded mean row and column of the mask to get the
            first row and column of the lower and right quadrants of the S-measure.
        close_roc: whether the points (0, 0) and (1, 1) are added to the ROC curve.
    """

    name: str
    stretch: bool = True
    stretch_mae: bool = True
    constant_to_zero: bool = False
    single: bool = False
    thresholds: int = 256
    epsilon: float = float(np.spacing(1.0))
    masks_apart: bool = True
    centroid_offset: int = 1
    close_roc: bool = True

    def levels(self, lowest: int, highest: int) -> Floats:
        """Return the saliency of each grey value of a map that spans [lowest, highest].

        Returns:
            Float64 [256] in [0, 1], never falling. Values outside the span do not occur in the
            map; they get 0 or 1. Read-only.
        """
        return _levels(self, lowest, highest)

    def mae_levels(self, lowest: int, highest: int) -> Floats:
        """Return the saliency of each grey value as MAE sees it, float64 [256], read-only."""
        return _levels(self, lowest, highest) if self.stretch_mae else _levels(_AS_IT_IS, 0, 255)

    def span(self, lowest: int, highest: int) -> tuple[int, int]:
        """Return the grey values that stand for 0 and for 1, without rounding.

        A grey value v is worth (v - zero) / (one - zero). Comparisons with one half and with the
        adaptive threshold are made with these integers, so that no rounding decides a tie.
        """
        if not self.stretch:
            return 0, 255
        if lowest < highest:
            return lowest, highest
        return (lowest, lowest + 255) if self.constant_to_zero else (0, 255)

    def half(self, lowest: int, highest: int) -> int:
        """Return the smallest grey value worth one half or more; above ``highest`` if none is."""
        zero, one = self.span(lowest, highest)
        return min((zero + one + 1) // 2, 256)

    def first_found(self, lowest: int, highest: int) -> NDArray[np.intp]:
        """Return the smallest grey value found at each threshold, from the highest to 0.

        Returns:
            [thresholds], never rising, in 0..256; above ``highest`` where none is found. Read-only.
        """
        return _first_found(self, lowest, highest)

    def threshold_values(self) -> Floats:
        """Return the threshold of each entry of a curve, on the scale 0 to 255, float64."""
        if self.thresholds == 256:
            return np.arange(255.0, -1, -1)
        return 255.0 * _even_steps(self.thresholds)[::-1]


_AS_IT_IS = Convention("as it is", stretch=False)

CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention("pysodmetrics"),
        Convention("raw", stretch=False, stretch_mae=False),
        Convention(
            "eval-co-sod",
            stretch_mae=False,
            constant_to_zero=True,
            single=True,
            thresholds=255,
            epsilon=1e-20,
            masks_apart=False,
            centroid_offset=0,
            close_roc=False,
        ),
    )
}
"""The known conventions; the first is the project's own."""


@lru_cache(maxsize=4096)
def _levels(convention: Convention, lowest: int, highest: int) -> Floats:
    # The divisions are those of the tools, in their order and precision, so that levels fall on
    # the same side of each threshold.
    kind = np.float32 if convention.single else np.float64
    levels = np.arange(256, dtype=kind) / kind(255)
    if convention.stretch and lowest != highest:
        levels = (levels - levels[lowest]) / (levels[highest] - levels[lowest])
    elif convention.stretch and convention.constant_to_zero:
        levels = np.where(np.arange(256) > highest, kind(1), kind(0))
    levels = levels.clip(0, 1).astype(np.float64)
    levels.setflags(write=False)
    return levels


@lru_cache(maxsize=4096)
def _first_found(convention: Convention, lowest: int, highest: int) -> NDArray[np.intp]:
    levels = _levels(convention, lowest, highest)
    if convention.thresholds == 256:
        first = np.searchsorted(np.floor(levels * 255), np.arange(256))
    else:
        first = np.searchsorted(levels, _even_steps(convention.thresholds))
    first = first[::-1]
    first.setflags(write=False)
    return first


def _even_steps(number: int) -> Floats:
    """Return single-precision steps from 0 to 1 as torch.linspace makes them, float64 [number].

    Torch goes forward from 0 and backward from 1, with one rounding a value; other functions put
    some steps one last bit beside, and levels such as 1/2 lie on steps.
    """
    step, index = float(np.float32(1) / np.float32(number - 1)), np.arange(number)
    steps = np.where(index < number // 2, step * index, 1 - step * (number - 1 - index))
    return steps.astype(np.float32).astype(np.float64)
