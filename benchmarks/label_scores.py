"""Scores of the label-efficiency experiment: read from its trials, and put in ratio."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.label_arms import (
    ARMS,
    ASKS_LATER,
    BASE_TRIAL,
    Planned,
    fresh,
    shares_first_round,
)
from benchmarks.label_kept import IMAGES, named_alike
from benchmarks.label_stages import Journal
from config import FREE, Config
from utils import ranking, settings
from utils.errors import UserError
from utils.files import read_json
from utils.metrics import METRICS
from utils.run_folder import VALIDATION, RunFolder
from utils.scores import read_scores
from utils.significance import ratio_to_dense

REFERENCE = "default"
"""The arm that others are compared with."""

Scores = dict[str, dict[str, float]]
"""Set -> metric -> value."""


@dataclass(frozen=True)
class Block:
    """A part of the table: the mean over some test sets, or one of them."""

    title: str
    sets: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One arm with one seed, as its finished trial has it.

    Attributes:
        arm: name in `ARMS`.
        seed: the seed.
        trial: the trial it is read from; another arm's where both are one and the same.
        rounds: points an image and scores after each round that is trained; of the dense twin a
            single one, whose points are None.
        labelled: labelled share of the training pixels, percent.
        region_error: wrong share of the labels if answers were spread, percent; None: unknown.
        label_mode: how labels were made of answers; empty for masks.
        images: number of images of each set.
        selection: seconds taken by asking, the first random round not counted.
        training: seconds taken by training, the first round included.
        kept: the file of each image's scores, and the name of the last round's checkpoint there.
        asked: number of rounds that ask, trained or not.
        keep_within: standard errors of the lowest within which an epoch is kept, see `config.py`.
        made: what it was trained with, see `label_stages.made_with`, and its threads.
    """

    arm: str
    seed: int
    trial: str
    rounds: tuple[tuple[float | None, Scores], ...]
    labelled: float
    region_error: float | None
    label_mode: str
    images: dict[str, int]
    selection: float
    training: float
    kept: tuple[Path, str]
    asked: int
    keep_within: float
    made: tuple[dict[str, Any], ...] = ()

    @property
    def points(self) -> float | None:
        """Points an image in all; None for masks."""
        return self.rounds[-1][0]

    @property
    def budgets(self) -> list[int]:
        """Places in ``rounds`` of the last training on each number of points."""
        last = {points: index for index, (points, _) in enumerate(self.rounds)}
        return list(last.values())

    def means(self, sets: Sequence[str], index: int = -1) -> dict[str, float]:
        """Return the metrics averaged over sets, after a round."""
        scores = self.rounds[index][1]
        return {
            metric: statistics.fmean(scores[name][metric] for name in sets)
            for metric in METRICS
            if all(metric in scores[name] for name in sets)
        }

    def area(self, metric: str, sets: Sequence[str]) -> float | None:
        """Return the mean height of the curve of a score over points; None for one budget alone."""
        if len(self.budgets) < 2:
            return None
        values = [self.means(sets, index)[metric] for index in self.budgets]
        heights = [1 - value if metric == "MAE" else value for value in values]
        return mean_height([float(self.rounds[index][0] or 0) for index in self.budgets], heights)

    def same_range(self, other: Entry) -> bool:
        """Tell whether the curves of both go from as many points to as many (to one decimal)."""
        ends = [[round(of.rounds[at][0] or 0.0, 1) for at in (0, -1)] for of in (self, other)]
        return ends[0] == ends[1]


def mean_height(places: Sequence[float], heights: Sequence[float]) -> float:
    """Return the area under a curve by trapezia, divided by its width (above 0)."""
    x, y = np.asarray(places, float), np.asarray(heights, float)
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1])).sum() / 2 / (x[-1] - x[0]))


def blocks_of(sets: Sequence[str], hard: Sequence[str]) -> list[Block]:
    """Return the parts of the table: means (of the hard sets and of the others), then each set."""
    others = tuple(name for name in sets if name not in hard)
    told = "the other sets" if hard else "the test sets"
    groups = [(told, others), ("the hard sets", tuple(hard))]
    means = [
        Block(f"Mean over {what} ({', '.join(group)})", group)
        for what, group in groups
        if len(group) > 1
    ]
    return [*means, *(Block(name, (name,)) for name in sets)]


def read_entry(planned: Planned, sets: Sequence[str]) -> Entry | None:
    """Read the result of an arm with one seed; None where its trial is not finished.

    An arm that has its first round from the base trial is read from both.

    Raises:
        UserError: its trial has other settings than the arm with these flags (the dense twin: but
            for those of `ASKS_LATER`), or the base trial has not the first round that it would
            share; or a table of scores is missing or damaged.
    """
    runs = Path(planned.flags["runs"])
    run, base = RunFolder(runs / planned.trial), RunFolder(runs / BASE_TRIAL)
    journal = Journal(run.root)
    journals = [journal, Journal(base.root)] if journal.shared else [journal]
    if not all(set(sets) <= set(one.scored_on.split("+")) for one in journals):
        return None
    config = named_alike(_settings(run), fresh(planned.flags))
    ignored = FREE | {"trial"} | (ASKS_LATER if planned.supervision == "dense" else set())
    others = settings.differences(_settings(run), config).keys() - ignored
    if others:
        raise UserError(
            f"{run.root}: was run with other settings ({', '.join(sorted(others))}): give the "
            "flags of then, or name another --out"
        )
    if not (run.root / IMAGES).exists():
        raise UserError(f"{run.root}: lacks {IMAGES}: give the same command without --report")
    if journal.shared and not shares_first_round(_settings(base), config):
        raise UserError(f"{base.root}: its first round is another than that of {run.root}")
    kind = planned.supervision
    asked, trained = (1, [0]) if kind == "dense" else (config.rounds, config.trained_rounds)
    names = [run.checkpoint_name(run.checkpoint(kind, index, "best")) for index in trained]
    of_round = [base if journal.shared and not index else run for index in trained]
    tables = {of: _by_checkpoint(of) for of in dict.fromkeys(of_round)}
    found = [tables[of][name] for of, name in zip(of_round, names, strict=True)]
    budget = found[-1][0]
    seconds = journal.seconds
    training = [value for name, value in seconds.items() if name.startswith("train ")]
    if kind == "dense":
        training = [seconds.get("train dense", 0.0)]
    elif journal.shared:
        training.append(journals[1].seconds.get("train round_00", 0.0))
    asking = [seconds.get(f"ask round_{index:02d}", 0.0) for index in range(1, config.rounds)]
    return Entry(
        arm=planned.arm,
        seed=planned.seed,
        trial=planned.trial,
        rounds=tuple((_number(of[0]["points"]), _scores(of, sets)) for of in found),
        labelled=float(budget["labelled_percent"]),
        region_error=_number(budget["region_error"]),
        label_mode=budget["label_mode"],
        images={row["set"]: int(row["images"]) for row in found[-1]},
        selection=sum(asking) if kind != "dense" else 0.0,
        training=sum(training),
        kept=(of_round[-1].root / IMAGES, names[-1]),
        asked=asked,
        keep_within=config.keep_within,
        made=tuple({**made, "threads": one.threads} for one in journals for made in one.made),
    )


def _settings(run: RunFolder) -> Config:
    """Return the settings that a trial was run with."""
    return settings.from_dict(read_json(run.config), str(run.config))


def _by_checkpoint(run: RunFolder) -> dict[str, list[dict[str, str]]]:
    """Return the rows of a trial's scores on test sets, by checkpoint."""
    rows = read_scores(run.scores)
    ranking.check_numbers(rows, run.scores)
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["set"] != VALIDATION:
            found.setdefault(row["checkpoint"], []).append(row)
    return found


def _number(text: str) -> float | None:
    return float(text) if text else None


def _scores(rows: Sequence[Mapping[str, str]], sets: Sequence[str]) -> Scores:
    return {
        row["set"]: {name: float(row[name]) for name in METRICS if row[name] != ""}
        for row in rows
        if row["set"] in sets
    }


def by_arm(entries: Sequence[Entry]) -> dict[str, dict[int, Entry]]:
    """Return the entries by arm, in the order of `ARMS`, and seed."""
    return {
        arm: {entry.seed: entry for entry in entries if entry.arm == arm}
        for arm in ARMS
        if any(entry.arm == arm for entry in entries)
    }


def area(
    entry: Entry, reference: Mapping[int, Entry], metric: str, sets: Sequence[str]
) -> float | None:
    """Return `Entry.area`; None if its range of points is not that of the reference arm.

    Over other points the same curve has another mean height.
    """
    alike = any(entry.same_range(other) for other in reference.values())
    return entry.area(metric, sets) if alike else None


def ratio(entry: Entry, dense: Mapping[int, Entry], sets: Sequence[str], m: str) -> float | None:
    """Return a score divided by that of the dense twin of the same seed; None without one."""
    if entry.seed not in dense:
        return None
    return ratio_to_dense(
        {"arm": entry.means(sets), "dense": dense[entry.seed].means(sets)}, "arm", m
    )
