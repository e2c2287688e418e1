"""How well annotators agree on the pixels that two of them answered: Cohen's kappa.

Kappa (Cohen, "A Coefficient of Agreement for Nominal Scales", 1960) is (observed - expected) /
(1 - expected): the share of pixels that both answered alike, less what two annotators would reach
by chance who answer each as often as these do. 1: always alike, 0: no better than chance. The three
answers (foreground, background, can't say) are three classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from active_learning.answers import (
    BACKGROUND,
    CANNOT_SAY,
    FOREGROUND,
    REVIEWER,
    UNREADABLE,
    Answer,
    Standing,
)
from utils.files import write_json

CLASSES = (FOREGROUND, BACKGROUND, CANNOT_SAY)
"""Rows and columns of a table of answers."""

DRAWS = 2000
"""Of the bootstrap."""

MOST_PAIRS = 100
"""Pairs of annotators that are looked at: a hundred annotators make five thousand."""


class Agreement(NamedTuple):
    """How often two annotators answered alike.

    Attributes:
        first, second: their names; of `overall`, what they are.
        table: pixels by the answer of the first (row) and of the second, in order of `CLASSES`.
        kappa: None where it is undefined: there is no pixel, or both gave one and the same answer
            throughout, so that chance alone would explain it.
        low, high: 95 % interval over the choice of pixels (bootstrap); None without kappa, and
            where no draw gives another one: so few pixels, or all alike, tell nothing of others.
            Pixels count as independent, which those of one image are not quite, so it is narrow
            rather than wide.
    """

    first: str
    second: str
    table: tuple[tuple[int, ...], ...]
    kappa: float | None
    low: float | None
    high: float | None

    @property
    def pixels(self) -> int:
        """How many pixels both answered."""
        return sum(map(sum, self.table))

    @property
    def alike(self) -> int:
        """How many of them they answered alike."""
        return sum(row[index] for index, row in enumerate(self.table))

    def why_undefined(self) -> str:
        """Say why there is no kappa; empty where there is one."""
        if self.kappa is not None:
            return ""
        return "both gave one and the same answer throughout" if self.pixels else "no pixel"


def agreement_of(first: str, second: str, pairs: Iterable[tuple[str, str]]) -> Agreement:
    """Return the agreement of two annotators.

    Args:
        first, second: their names.
        pairs: the answers of both to each pixel that both answered, letters of `CLASSES`.
    """
    table = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    for one, other in pairs:
        table[CLASSES.index(one), CLASSES.index(other)] += 1
    kappa = float(kappas(table[None].astype(np.float64))[0])
    low = high = None
    if not np.isnan(kappa):
        low, high = _interval(table)
    told = None if np.isnan(kappa) else kappa
    return Agreement(first, second, tuple(map(tuple, table.tolist())), told, low, high)


def kappas(tables: np.ndarray) -> np.ndarray:
    """Return Cohen's kappa of tables of answers, float64 (N, C, C) -> (N,); NaN where undefined."""
    total = tables.sum(axis=(1, 2))
    alike = np.trace(tables, axis1=1, axis2=2)
    # In counts throughout, so that a chance agreement of exactly 1 is found to be so.
    chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1)
    room = total * total - chance
    found = np.full(len(tables), np.nan)
    np.divide(total * alike - chance, room, out=found, where=room > 0)
    return found


def pairwise(standing: Standing, most: int = MOST_PAIRS) -> list[Agreement]:
    """Return the agreement of every two annotators, those with most pixels in common first.

    Args:
        standing: the answers of each pixel that stand, one an annotator. Those of reviewers, who
            saw the others', are no second opinions.
        most: pairs that are returned.
    """
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for answers in standing.values():
        said = sorted((a.annotator, a.answer) for a in _opinions(answers))
        for index, (first, one) in enumerate(said):
            for second, other in said[index + 1 :]:
                pairs.setdefault((first, second), []).append((one, other))
    first = sorted(pairs, key=lambda names: (-len(pairs[names]), names))[:most]
    return [agreement_of(*names, pairs[names]) for names in first]


def overall(standing: Standing) -> Agreement:
    """Return the agreement of each pixel's first answer, which counts, with its later ones.

    Args:
        standing: as for `pairwise`; those of a pixel in the order in which they were first given.
    """
    pairs = []
    for answers in standing.values():
        said = [answer.answer for answer in _opinions(answers)]
        pairs += [(said[0], later) for later in said[1:]]
    return agreement_of("first answers", "later answers", pairs)


def write_agreement(path: Path, standing: Standing) -> None:
    """Write the agreement of all, and of every two annotators, as JSON; whole or not at all."""
    every = [overall(standing), *pairwise(standing)]
    told: list[dict[str, Any]] = [
        {"pixels": one.pixels, "alike": one.alike, **one._asdict()} for one in every
    ]
    write_json(path, {"classes": CLASSES, "overall": told[0], "pairs": told[1:]})


def _opinions(answers: Sequence[Answer]) -> list[Answer]:
    return [
        answer
        for answer in answers
        if not answer.annotator.startswith(REVIEWER) and answer.annotator != UNREADABLE
    ]


def _interval(table: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """Return the 2.5th and 97.5th percentile of kappa when the pixels are drawn anew, if any."""
    total = int(table.sum())
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(total, table.ravel() / total, size=DRAWS)
    found = kappas(drawn.reshape(-1, *table.shape).astype(np.float64))
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return (float(low), float(high)) if low < high else (None, None)
