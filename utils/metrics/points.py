"""Scores of saliency that is known only at labelled points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError
from utils.metrics.conventions import CONVENTIONS
from utils.metrics.tally import TALLY
from utils.metrics.thresholds import at_thresholds, mean_errors

POINT_METRICS = ("maxF", "meanF", "adpF", "MAE")
"""The metrics that `point_scores` gives; the others need whole maps."""


def point_tally(values: NDArray[np.uint8], labels: NDArray[np.integer]) -> NDArray[np.void]:
    """Count the saliency read at labelled points of one map.

    Args:
        values: saliency at the points, uint8 [N].
        labels: 0 (background) or 1 (foreground), [N].

    Returns:
        TALLY of shape (); the scores that need whole maps are NaN.

    Raises:
        UserError: the lengths differ, or a label is neither 0 nor 1.
        TypeError: ``values`` is not uint8.
    """
    if values.dtype != np.uint8:
        raise TypeError(f"saliency at points must be uint8, not {values.dtype}")
    if values.shape != labels.shape or values.ndim != 1:
        raise UserError(
            f"{values.shape} saliency values for {labels.shape} labels: give one value a point"
        )
    foreground = labels == 1
    if not np.all(foreground | (labels == 0)):
        wrong = labels[~foreground & (labels != 0)][0]
        raise UserError(f"point label {wrong} is neither 0 nor 1: leave out skipped points")
    counts = np.bincount(foreground.astype(np.intp) * 256 + values, minlength=512)
    return np.array((counts.reshape(2, 256), np.nan, np.nan, np.nan), TALLY)


def point_scores(counts: NDArray[np.int64]) -> dict[str, float]:
    """Score the saliency read at labelled points, pooled over all images.

    For a validation split that is known only by its labelled points. When the points are random
    pixels, equally many in each image, MAE is an unbiased estimate of the dense MAE of the maps as
    they are. The F-scores estimate, without bias in the limit of many points, the F-measure of all
    pixels thrown together, which is not the mean of the images' own F-measures. A map's minimum
    and maximum are unknown here, so nothing is stretched, and the adaptive threshold is taken
    from the pooled values. Points chosen by a query are no random pixels: their scores rank
    models on those points only.

    Without a foreground point every F is 0; without a background point maxF is 1 (reached at
    threshold 0), and precision is 1 wherever a point is found.

    Args:
        counts: points of each grey value in the background (0) and the foreground (1), [2, 256]:
            those of the maps' `point_tally`, added up.

    Returns:
        maxF, meanF, adpF and MAE.

    Raises:
        UserError: there is no point.
    """
    if not counts.any():
        raise UserError("no labelled point to score: check the points file of the split")
    f = at_thresholds(counts[None], CONVENTIONS["raw"]).f[0]
    return {
        "maxF": float(f[:-2].max()),
        "meanF": float(f[:-2].mean()),
        "adpF": float(f[-2]),
        "MAE": float(mean_errors(counts[None], CONVENTIONS["raw"])[0]),
    }
