"""The metrics by name: of each image, and of a set, from the tallies of its maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError
from utils.metrics.conventions import Convention
from utils.metrics.tally import PARTS
from utils.metrics.thresholds import (
    Floats,
    area_under_roc,
    at_thresholds,
    average_precision,
    mean_errors,
)
from utils.registry import look_up

CHUNK = 256
"""Images whose curves are in memory at one time."""

LOWER_IS_BETTER = frozenset({"MAE", "BER"})
"""The metrics that are errors."""

CURVES = ("precision", "recall", "f", "fpr", "e", "iou", "dice")
"""The curves that are averaged over the images of a set."""


class Rule(NamedTuple):
    """How a metric follows from quantities averaged over the images of a set.

    Attributes:
        needs: names of the quantities, see `quantities`.
        score: the metric from the averages and the convention; works on leading axes.
    """

    needs: tuple[str, ...]
    score: Callable[[Mapping[str, Floats], Convention], Floats]


def _plain(name: str) -> Rule:
    return Rule((name,), lambda means, _: means[name])


def _largest(curve: str) -> Rule:
    return Rule((curve,), lambda means, _: means[curve].max(axis=-1))


def _mean(curve: str) -> Rule:
    return Rule((curve,), lambda means, _: means[curve].mean(axis=-1))


RULES = {
    "maxF": _largest("f"),
    "meanF": _mean("f"),
    "adpF": _plain("adpF"),
    "wF": _plain("wF"),
    "S": _plain("S"),
    "maxE": _largest("e"),
    "meanE": _mean("e"),
    "adpE": _plain("adpE"),
    "MAE": _plain("MAE"),
    "AP": Rule(
        ("precision", "recall"),
        lambda means, _: average_precision(means["precision"], means["recall"]),
    ),
    "AUC": Rule(
        ("recall", "fpr"),
        lambda means, how: area_under_roc(means["recall"], means["fpr"], how.close_roc),
    ),
    "IoU": _plain("IoU"),
    "maxIoU": _largest("iou"),
    "Dice": _plain("Dice"),
    "maxDice": _largest("dice"),
    "BER": _plain("BER"),
    "BIoU": _plain("BIoU"),
}

METRICS = tuple(RULES)
"""Names of the metrics, in the order of every table."""

USUAL = METRICS[: METRICS.index("MAE") + 1]
"""Those that papers on salient objects report."""

SHOWN = ("maxF", "wF", "S", "meanE", "MAE")
"""Those of the printed tables, unless others are asked for."""


def parts_of(metrics: Iterable[str]) -> frozenset[str]:
    """Return which of `PARTS` the metrics need.

    Raises:
        UserError: a metric is unknown.
    """
    return PARTS & needs_of(metrics)


def needs_of(metrics: Iterable[str]) -> frozenset[str]:
    """Return the names of the quantities that the metrics need, see `quantities`.

    Raises:
        UserError: a metric is unknown.
    """
    return frozenset(need for name in metrics for need in look_up(RULES, name, "metric").needs)


def quantities(tallies: NDArray, convention: Convention, needs: Iterable[str]) -> dict[str, Floats]:
    """Return what is averaged over images: each image's curves [N, T] and plain scores [N].

    The tallies of a few hundred images at a time, for memory.

    Raises:
        UserError: a tally lacks a part that is needed.
    """
    scores = at_thresholds(tallies["counts"], convention)
    at_half = {"IoU": scores.iou, "Dice": scores.dice, "BER": scores.ber}
    adaptive = {"adpF": scores.f, "adpE": scores.e}
    found = {}
    for name in needs:
        if name in CURVES:
            found[name] = getattr(scores, name)[:, :-2]
        elif name in adaptive:
            found[name] = adaptive[name][:, -2]
        elif name in at_half:
            found[name] = at_half[name][:, -1]
        elif name == "MAE":
            found[name] = mean_errors(tallies["counts"], convention)
        else:
            found[name] = _part(tallies, name)
    return found


def scores_of(
    means: Mapping[str, Floats], convention: Convention, metrics: Sequence[str]
) -> dict[str, Floats]:
    """Return the metrics of averaged quantities, each of the shape of a plain score there."""
    return {name: RULES[name].score(means, convention) for name in metrics}


def each_image(
    tallies: NDArray, convention: Convention, metrics: Sequence[str] = METRICS
) -> dict[str, Floats]:
    """Return the scores of each image by itself, float64 [N]; maxF is of the image's own curve.

    Raises:
        UserError: a metric is unknown, or a tally lacks a part that it needs.
    """
    needs = needs_of(metrics)
    chunks = [
        scores_of(
            quantities(tallies[start : start + CHUNK], convention, needs), convention, metrics
        )
        for start in range(0, len(tallies), CHUNK)
    ]
    return {name: np.concatenate([np.empty(0), *(c[name] for c in chunks)]) for name in metrics}


class SetScores:
    """Scores of a set of maps, each image counting the same, in memory that does not grow.

    Attributes:
        images: number of maps added so far.
    """

    def __init__(self, convention: Convention, metrics: Sequence[str] = METRICS) -> None:
        """Raises UserError if a metric is unknown."""
        self.images = 0
        self._convention = convention
        self._metrics = tuple(metrics)
        self._needs = needs_of(metrics) | set(CURVES)
        self._sums: dict[str, Floats] = {}

    def add(self, tallies: NDArray) -> None:
        """Add the maps of these tallies [N].

        The same tallies in the same order give the same sums to the last bit, if they are added in
        parts that are multiples of `CHUNK` (but for the last), and within 1e-12 otherwise.

        Raises:
            UserError: a tally lacks a part that a metric needs.
        """
        for start in range(0, len(tallies), CHUNK):
            chunk = tallies[start : start + CHUNK]
            for name, values in quantities(chunk, self._convention, self._needs).items():
                self._sums[name] = self._sums.get(name, 0.0) + values.sum(axis=0)
            self.images += len(chunk)

    def result(self) -> dict[str, float]:
        """Return the set's scores by metric.

        The largest and mean values, AP and AUC are of the curves averaged over the images; the
        others are means over the images.

        Raises:
            UserError: no image was added.
        """
        scores = scores_of(self._means(), self._convention, self._metrics)
        return {name: float(score) for name, score in scores.items()}

    def curves(self) -> dict[str, Floats]:
        """Return the curves averaged over the images and their thresholds (0 to 255), [T] each.

        Raises:
            UserError: no image was added.
        """
        means = self._means()
        averaged = {name: means[name] for name in CURVES}
        return averaged | {"thresholds": self._convention.threshold_values()}

    def _means(self) -> dict[str, Floats]:
        if not self.images:
            raise UserError("no saliency map was scored: check that maps and masks were found")
        return {name: total / self.images for name, total in self._sums.items()}


def _part(tallies: NDArray, name: str) -> Floats:
    """Return S, wF or BIoU of each image."""
    values = tallies[name]
    if lacking := int(np.isnan(values).sum()):
        raise UserError(
            f"{lacking} of {len(values)} maps were scored without {name}: score them again with it"
        )
    return values
