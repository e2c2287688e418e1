"""Which checkpoint is best: candidates from rows of ``scores.csv``, and their order.

The order of a ranking, each rule deciding only where all before it are equal to the six digits
that ``scores.csv`` stores:

1. the metric,
2. a second metric (MAE; maxF if the metric is MAE): both exist on points and on masks alike,
3. fewer points an image (masks count as more than any number of points),
4. the earlier round,
5. the name (trial, then checkpoint).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from utils.errors import UserError, closest
from utils.metrics import LOWER_IS_BETTER, METRICS, POINT_METRICS
from utils.run_folder import ARMS, VALIDATION

Row = Mapping[str, str]

_NUMBERS = ("images", *METRICS, "round", "points", "labelled_percent")
_WHOLE = ("images", "round")


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that may be chosen; ``second`` and ``points`` are None where unknown."""

    trial: str
    checkpoint: str
    arm: str
    round: int
    points: float | None
    value: float
    second: float | None

    def as_row(self, metric: str) -> dict[str, Any]:
        """Return plain values, those of ``best.json``."""
        about = {"trial": self.trial, "name": self.checkpoint, "arm": self.arm}
        budget = {"round": self.round, "points": self.points}
        return {**about, **budget, metric: self.value, second_metric(metric): self.second}


def second_metric(metric: str) -> str:
    """Return the metric that decides between checkpoints equal in ``metric``."""
    return "maxF" if metric == "MAE" else "MAE"


def check_numbers(rows: Sequence[Row], path: Path) -> None:
    """Check that every value that should be a number is one, or empty.

    Raises:
        UserError: one is text, infinite or not a number; names file, line and column.
    """
    for line, row in enumerate(rows, start=2):
        for column in _NUMBERS:
            text = row[column]
            try:
                good = text == "" or math.isfinite(int(text) if column in _WHOLE else float(text))
            except (ValueError, OverflowError):
                good = False
            if not good:
                kind = "whole number" if column in _WHOLE else "finite number"
                raise UserError(
                    f"{path}, line {line}: {column} = '{text}' is not a {kind}: run evaluate.py "
                    "again"
                )


def find_trials(known: Collection[str], wanted: Iterable[str], where: str) -> list[str]:
    """Return the trials that names or shell-style patterns stand for, each once.

    Args:
        known: names of all trials.
        wanted: names, or patterns such as ``seed_*``; the trials of one come sorted.
        where: the folder of the trials, for messages.

    Raises:
        UserError: a name is unknown, or a pattern matches no trial.
    """
    found: dict[str, None] = {}
    for name in wanted:
        matching = [name] if name in known else sorted(k for k in known if fnmatchcase(k, name))
        if not matching:
            told = closest(name, known) or f" (there are: {', '.join(sorted(known)) or 'none'})"
            what = "trial matches" if set(name) & set("*?[") else "trial"
            raise UserError(f"no {what} '{name}' in {where}{told}")
        found |= dict.fromkeys(matching)
    return list(found)


def restrict(rows: Sequence[Row], sets: Iterable[str], path: Path) -> list[Row]:
    """Return the rows of the named test sets and of the held-out split.

    Raises:
        UserError: no row is of one of the sets; names ``path``.
    """
    known = sorted({row["set"] for row in rows} - {VALIDATION})
    wanted = {*sets, VALIDATION}
    for name in sorted(wanted - {*known, VALIDATION}):
        told = f"{closest(name, known)} (known: {', '.join(known) or 'none'})"
        raise UserError(f"{path}: no scores on a test set '{name}'{told}")
    return [row for row in rows if row["set"] in wanted]


def common_sets(tables: Mapping[str, Sequence[Row]]) -> tuple[list[str], str]:
    """Return the test sets on which every checkpoint of every trial was scored.

    A set with another number of images is another set: a mean over it would be of other pictures.

    Args:
        tables: rows of ``scores.csv`` by trial.

    Returns:
        Names in the order of the first trial; and the first difference in words, empty for none.

    Raises:
        UserError: scores were made in several conventions.
    """
    images: dict[str, dict[str, str]] = {}
    made: dict[str, str] = {}
    for trial, rows in tables.items():
        for row in rows:
            of_checkpoint = images.setdefault(f"{trial}/{row['checkpoint']}", {})
            if row["set"] != VALIDATION:
                of_checkpoint[row["set"]] = row["images"]
                made.setdefault(row.get("convention", ""), trial)
    if len(made) > 1:
        told = ", ".join(f"{name or 'unnamed'} ({trial})" for name, trial in made.items())
        raise UserError(
            f"scores in different conventions cannot be compared: {told}: run evaluate.py on all "
            "trials with one of them"
        )
    first = next(iter(images.values()), {})
    common = [
        name
        for name, number in first.items()
        if all(sets.get(name) == number for sets in images.values())
    ]
    return common, _first_difference(images, common)


def _first_difference(images: Mapping[str, Mapping[str, str]], common: Collection[str]) -> str:
    """Say of the first set that is not common where it was scored, and where otherwise or not."""
    for checkpoint, sets in images.items():
        for name in sets:
            if name in common:
                continue
            other = next(o for o in images if images[o].get(name) != sets[name])
            there = images[other].get(name)
            lacking = "not scored" if there is None else f"scored on {there} images"
            return f"{name} is scored on {sets[name]} images by {checkpoint}, {lacking} by {other}"
    return ""


def candidates(rows: Sequence[Row], trial: str, metric: str, on_test: bool) -> list[Candidate]:
    """Return the checkpoints that have the metric, on every test set if they are chosen there.

    Args:
        rows: rows of one trial's ``scores.csv``.
        trial: the trial's name.
        metric: the score to choose by.
        on_test: take the mean over the test sets, not the score on the held-out split.
    """
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        if (row["set"] != VALIDATION) == on_test:
            by_name.setdefault(row["checkpoint"], []).append(row)
    second = second_metric(metric)
    return [
        Candidate(
            trial=trial,
            checkpoint=name,
            arm=mine[0]["arm"],
            round=int(mine[0]["round"] or 0),
            points=float(mine[0]["points"]) if mine[0]["points"] else None,
            value=statistics.fmean(float(row[metric]) for row in mine),
            second=(
                statistics.fmean(float(row[second]) for row in mine)
                if all(row[second] != "" for row in mine)
                else None
            ),
        )
        for name, mine in by_name.items()
        if all(row[metric] != "" for row in mine)
    ]


def rank(found: Iterable[Candidate], metric: str) -> list[Candidate]:
    """Return the candidates, the best first; the module's text tells the order."""
    return sorted(found, key=lambda candidate: _rank_key(candidate, metric))


def _rank_key(candidate: Candidate, metric: str) -> tuple[Any, ...]:
    def goodness(value: float | None, name: str) -> float:
        if value is None:
            return math.inf
        # Means of stored digits: what differs beyond the ninth is arithmetic alone.
        return round(value if name in LOWER_IS_BETTER else -value, 9)

    return (
        goodness(candidate.value, metric),
        goodness(candidate.second, second_metric(metric)),
        math.inf if candidate.points is None else candidate.points,
        candidate.round,
        (candidate.trial, candidate.checkpoint),
    )


def explain_ties(ranked: Sequence[Candidate], metric: str) -> list[str]:
    """Return a line for each two neighbours equal in the metric: the rule that parted them."""
    second = second_metric(metric)
    better = "lower" if second in LOWER_IS_BETTER else "higher"
    rules = (metric, f"{better} {second}", "fewer points", "the earlier round", "the name")
    lines = []
    for one, other in itertools.pairwise(ranked):
        pair = zip(_rank_key(one, metric), _rank_key(other, metric), strict=True)
        rule = next(index for index, (a, b) in enumerate(pair) if a != b)
        if rule > 0:
            names = [f"{c.trial}/{c.checkpoint}" for c in (one, other)]
            lines.append(f"tie in {metric}: {names[0]} before {names[1]} by {rules[rule]}")
    return lines


def ranking_rows(ranked: Sequence[Candidate], metric: str) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of the table of a ranking."""
    second = second_metric(metric)
    lines = []
    for place, one in enumerate(ranked, start=1):
        points = "-" if one.points is None else f"{one.points:g}"
        beside = "-" if one.second is None else f"{one.second:.6f}"
        name = f"{one.trial}/{one.checkpoint}"
        lines.append([str(place), name, one.arm, points, f"{one.value:.6f}", beside])
    return ["", "trial/checkpoint", "arm", "points", metric, second], lines


def choose(rows: Sequence[Row], metric: str, on_test: bool) -> str:
    """Return the name of the best checkpoint among ``rows``.

    Args:
        rows: rows of ``scores.csv``.
        metric: the score to choose by.
        on_test: choose by the mean over the test sets, not by the held-out split.

    Raises:
        UserError: no row holds the score.
    """
    found = rank(candidates(rows, "", metric, on_test), metric)
    if not found:
        where = (
            "every test set (or name some by --sets)"
            if on_test
            else f"the validation points, which give {', '.join(POINT_METRICS)} (or use --on_test)"
        )
        remedy = "run evaluate.py first"
        if not on_test and metric not in POINT_METRICS:
            remedy = "choose one of these"
        raise UserError(f"no checkpoint has {metric} on {where}: {remedy}")
    return found[0].checkpoint


def eligible(rows: Sequence[Row], arm: str, any_round: bool) -> list[Row]:
    """Return the rows of the checkpoints of an arm's last round, or of all of its rounds."""
    mine = [row for row in rows if row["arm"] == arm]
    last = max((int(row["round"] or 0) for row in mine), default=None)
    return [row for row in mine if any_round or int(row["round"] or 0) == last]


def scores_of(rows: Sequence[Row], checkpoint: str) -> dict[str, dict[str, float]]:
    """Return ``{set: {metric: value}}`` on the test sets; ``mean`` is the mean over the sets."""
    scores = {
        row["set"]: {name: float(row[name]) for name in METRICS if row[name] != ""}
        for row in rows
        if row["checkpoint"] == checkpoint and row["set"] != VALIDATION
    }
    if len(scores) > 1:
        everywhere = [name for name in METRICS if all(name in s for s in scores.values())]
        means = {n: sum(s[n] for s in scores.values()) / len(scores) for n in everywhere}
        scores = {"mean": means, **scores}
    return scores


def choose_arms(
    rows: Sequence[Row], metric: str, on_test: bool, any_round: bool = False
) -> dict[str, str]:
    """Return the best checkpoint of each arm that was run.

    The random arm shares its first round with the points; with one round it is not told apart.
    """
    by_arm = {arm: eligible(rows, arm, any_round) for arm in ARMS}
    return {arm: choose(mine, metric, on_test) for arm, mine in by_arm.items() if mine}
