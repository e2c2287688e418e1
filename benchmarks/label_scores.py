"""Scores of the label-efficiency experiment: read from its trials, put in ratio, compared."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.label_arms import ARMS, BASE_TRIAL, Planned
from benchmarks.label_runs import CONVENTION, Journal
from config import from_dict
from utils import ranking
from utils.files import read_json
from utils.metrics import METRICS, paired_means
from utils.results import image_scores
from utils.run_folder import VALIDATION, RunFolder
from utils.scores import read_scores
from utils.significance import check_same_images, holm, ratio_to_dense
from utils.tallies import log_path, read_tallies

TESTED = ("S", "MAE")
"""Metrics that arms are compared by: those that are means over the images."""

REFERENCE = "default"

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
        rounds: points an image and scores after each round; of the dense twin a single one,
            whose points are None.
        labelled: labelled share of the training pixels, percent.
        region_error: wrong share of the labels if answers were spread, percent; None: unknown.
        label_mode: how labels were made of answers; empty for masks.
        images: number of images of each set.
        selection: seconds taken by asking, the first random round not counted.
        training: seconds taken by training, the first round included.
        tallies: folder of what is kept of each map.
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
    tallies: Path

    @property
    def points(self) -> float | None:
        """Points an image in all; None for masks."""
        return self.rounds[-1][0]

    def means(self, sets: Sequence[str], index: int = -1) -> dict[str, float]:
        """Return the metrics averaged over sets, after a round."""
        scores = self.rounds[index][1]
        return {
            metric: statistics.fmean(scores[name][metric] for name in sets)
            for metric in METRICS
            if all(metric in scores[name] for name in sets)
        }

    def area(self, metric: str, sets: Sequence[str]) -> float | None:
        """Return the mean height of the curve of a score over points; None for one round alone."""
        if len(self.rounds) < 2:
            return None
        values = [self.means(sets, index)[metric] for index in range(len(self.rounds))]
        heights = [1 - value if metric == "MAE" else value for value in values]
        return mean_height([float(points or 0) for points, _ in self.rounds], heights)


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

    Raises:
        UserError: a table of scores is missing or damaged.
    """
    runs = Path(planned.flags["runs"])
    run, base = RunFolder(runs / planned.trial), RunFolder(runs / BASE_TRIAL)
    journal = Journal(run.root)
    if not set(sets) <= set(journal.scored_on.split("+")):
        return None
    config = from_dict(read_json(run.config), str(run.config))
    kind = planned.supervision
    rows = _by_checkpoint(run)
    first = _by_checkpoint(base) if journal.shared else rows
    last = 0 if kind == "dense" else config.rounds - 1
    names = [run.checkpoint_name(run.checkpoint(kind, index, "best")) for index in range(last + 1)]
    found = [(first if index == 0 else rows)[name] for index, name in enumerate(names)]
    budget = found[-1][0]
    seconds = journal.seconds
    training = [value for name, value in seconds.items() if name.startswith("train ")]
    if kind == "dense":
        training = [seconds.get("train dense", 0.0)]
    elif journal.shared:
        training.append(Journal(base.root).seconds.get("train round_00", 0.0))
    asking = [v for name, v in seconds.items() if name.startswith("ask ") and "_00" not in name]
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
        tallies=run.root / "tallies" / names[-1],
    )


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


class Compared:
    """The p values of arms against `REFERENCE`, by block, arm and metric, in ``p``."""

    def __init__(self, entries: Sequence[Entry], blocks: Sequence[Block]) -> None:
        self.images: dict[Path, dict[str, NDArray[np.float64]]] = {}
        self.names: dict[str, tuple[Sequence[str], Path]] = {}
        arms = by_arm(entries)
        self.p: dict[tuple[str, str, str], float] = {}
        for block in blocks:
            for metric in TESTED:
                found = {
                    arm: p
                    for arm, mine in arms.items()
                    if arm != REFERENCE
                    for p in [self._p(mine, arms.get(REFERENCE, {}), block.sets, metric)]
                    if p is not None
                }
                for arm, p in zip(found, holm(list(found.values())), strict=True):
                    self.p[block.title, arm, metric] = p

    def _p(
        self,
        mine: Mapping[int, Entry],
        theirs: Mapping[int, Entry],
        sets: Sequence[str],
        metric: str,
    ) -> float | None:
        """Return the p value of an arm; None without a common seed, or for one and the same arm.

        Each image's scores are averaged over the common seeds first: images are what is drawn.
        """
        seeds = sorted(mine.keys() & theirs.keys())
        if not seeds or mine[seeds[0]].tallies == theirs[seeds[0]].tallies:
            return None
        averaged = [
            [
                np.mean([self._of_image(side[seed], name)[metric] for seed in seeds], axis=0)
                for name in sets
            ]
            for side in (mine, theirs)
        ]
        return paired_means(*averaged).p

    def _of_image(self, entry: Entry, set_name: str) -> dict[str, NDArray[np.float64]]:
        """Return the scores of each image of a set, in order of name."""
        path = log_path(entry.tallies, set_name, CONVENTION)
        if path not in self.images:
            kept = read_tallies(path)
            names, first = self.names.setdefault(set_name, (kept.names, path))
            check_same_images(names, kept.names, (first, path))
            self.images[path] = image_scores(kept, TESTED)
        return self.images[path]


def by_arm(entries: Sequence[Entry]) -> dict[str, dict[int, Entry]]:
    """Return the entries by arm, in the order of `ARMS`, and seed."""
    return {
        arm: {entry.seed: entry for entry in entries if entry.arm == arm}
        for arm in ARMS
        if any(entry.arm == arm for entry in entries)
    }


def ratio(entry: Entry, dense: Mapping[int, Entry], sets: Sequence[str], m: str) -> float | None:
    """Return a score divided by that of the dense twin of the same seed; None without one."""
    if entry.seed not in dense:
        return None
    return ratio_to_dense(
        {"arm": entry.means(sets), "dense": dense[entry.seed].means(sets)}, "arm", m
    )
