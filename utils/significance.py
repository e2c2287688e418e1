"""How sure a difference is: spread over seeds, and the bootstrap over images.

Two sources of chance, told apart: trials that differ in the seed alone show how much a training
varies (mean and sample standard deviation); the paired bootstrap of two sets of maps shows how much
the choice of test images matters, for these very weights.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import UserError, closest
from utils.metrics import CONVENTIONS, LOWER_IS_BETTER, METRICS
from utils.metrics.bootstrap import Comparison, paired_bootstrap
from utils.run_folder import ARMS
from utils.tallies import log_path, logs_in, read_tallies

Scores = Mapping[str, float]
"""Metric -> value."""

RESAMPLES = 2000
"""Draws of the bootstrap; the smallest p it can tell is about two in as many."""

_HELD_OUT_BY = ("data_root", "trainset", "validation_fraction", "seed", "grouped")


class Spread(NamedTuple):
    """Mean of ``n`` values and their sample standard deviation, which one value does not have."""

    mean: float
    spread: float | None
    n: int


class Compared(NamedTuple):
    """The comparison of two checkpoints in one metric on one test set, by one convention."""

    set_name: str
    metric: str
    result: Comparison
    convention: str


class Group(NamedTuple):
    """Trials that differ in the seed alone, and the settings other groups have otherwise."""

    trials: list[str]
    settings: dict[str, Any]


def spread_of(values: Iterable[float | None]) -> Spread | None:
    """Return mean and sample standard deviation of the values that are known; None for none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    several = len(known) > 1
    return Spread(statistics.fmean(known), statistics.stdev(known) if several else None, len(known))


def ratio_to_dense(arms: Mapping[str, Scores], arm: str, metric: str) -> float | None:
    """Return an arm's score divided by the dense twin's; None without both, or over 0."""
    value, dense = arms.get(arm, {}).get(metric), arms.get("dense", {}).get(metric)
    return value / dense if value is not None and dense else None


def spread_rows(trials: Sequence[Mapping[str, Scores]]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of the table of scores over trials, with the ratios to dense.

    A ratio is taken within each trial first, then averaged: trials of one seed share their split
    and initial weights, which a ratio of means would waste.

    Args:
        trials: ``{arm: {metric: value}}`` of each trial.
    """
    arms = [arm for arm in ARMS if any(arm in trial for trial in trials)]
    compared = [arm for arm in arms if arm != "dense" and "dense" in arms]
    lines = []
    for metric in METRICS:
        scores = [spread_of(trial.get(arm, {}).get(metric) for trial in trials) for arm in arms]
        ratios = [spread_of(ratio_to_dense(t, arm, metric) for t in trials) for arm in compared]
        if any(scores):
            cells = [_spread_text(score, 4) for score in scores]
            cells += [_spread_text(ratio, 3) for ratio in ratios]
            lines.append([metric, *cells])
    return [*arms, *(f"{arm}/dense" for arm in compared)], lines


def _spread_text(score: Spread | None, digits: int) -> str:
    if score is None:
        return "-"
    spread = "" if score.spread is None else f" ± {score.spread:.{digits}f}"
    return f"{score.mean:.{digits}f}{spread} ({score.n})"


def group_trials(
    settings: Mapping[str, Mapping[str, Any]], ignored: Collection[str]
) -> list[Group]:
    """Group trials whose settings are alike but for the ignored ones.

    Args:
        settings: plain values by trial.
        ignored: names that may differ within a group.

    Returns:
        Groups in the order of their first trials.
    """
    groups: dict[str, list[str]] = {}
    for trial, values in settings.items():
        kept = {name: value for name, value in values.items() if name not in ignored}
        groups.setdefault(json.dumps(kept, sort_keys=True), []).append(trial)
    alike = [json.loads(key) for key in groups]
    varying = [n for n in alike[0] if any(one.get(n) != alike[0][n] for one in alike)]
    return [
        Group(trials, {name: values[name] for name in varying})
        for trials, values in zip(groups.values(), alike, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm, Scand. J. Statist. 1979), in their order.

    Rejecting what is at most alpha keeps the chance of any false rejection at most alpha.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank_index, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank_index) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def describe(group: Group, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the line above a group's table.

    Args:
        group: the trials.
        settings: plain values by trial, as given to `group_trials`.
    """
    other = ", ".join(f"{name} = {value}" for name, value in group.settings.items())
    seeds = ", ".join(f"{trial} (seed {settings[trial]['seed']})" for trial in group.trials)
    return f"{seeds}{': ' if other else ''}{other}"


def notes(
    groups: Sequence[Group], settings: Mapping[str, Mapping[str, Any]], on_test: bool
) -> list[str]:
    """Return the lines that say how to read the tables of `spread_rows`, and their weak points."""
    lines = [
        "mean ± sample standard deviation (number of trials), over trials that differ in the seed "
        "alone; a ratio to dense is taken within each trial first"
    ]
    for group in groups:
        seeds = [settings[trial]["seed"] for trial in group.trials]
        again = [t for t, seed in zip(group.trials, seeds, strict=True) if seeds.count(seed) > 1]
        if again:
            lines.append(
                f"WARNING: {', '.join(again)} repeat a seed: their spread is too small to stand "
                "for that over seeds"
            )
    splits = {json.dumps([values[name] for name in _HELD_OUT_BY]) for values in settings.values()}
    if len(splits) > 1 and not on_test:
        lines.append(
            "the trials hold out different images (these follow from seed, trainset, "
            "validation_fraction and grouped): a part of the differences in the ranking is between "
            "those images"
        )
    return lines


def tally_folder(runs: Path, name: str, trial: str) -> Path:
    """Return the folder of a checkpoint's kept tallies.

    Args:
        runs: folder of all trials.
        name: ``<checkpoint>`` or ``<trial>/<checkpoint>``.
        trial: the trial of a checkpoint named alone.

    Raises:
        UserError: there is no such trial or checkpoint, or nothing was kept.
    """
    first, slash, rest = name.partition("/")
    trial, checkpoint = (first, rest) if slash else (trial, name)
    kept = runs / trial / "tallies"
    if not (runs / trial).is_dir():
        others = [path.parent.name for path in runs.glob("*/config.json")]
        raise UserError(f"no trial '{trial}' in {runs}{closest(trial, others)}")
    if not kept.is_dir():
        raise UserError(f"{kept}: no such folder: run evaluate.py --trial {trial} first")
    known = sorted(path.name for path in kept.iterdir() if path.is_dir())
    if checkpoint not in known:
        told = closest(checkpoint, known)
        raise UserError(f"no checkpoint '{checkpoint}' in {kept}{told} (known: {', '.join(known)})")
    return kept / checkpoint


def sets_in_both(
    a: Path, b: Path, wanted: Collection[str], convention: str | None
) -> dict[str, str]:
    """Return the test sets that were scored for both of two checkpoints, each with its convention.

    Args:
        a: folder of a checkpoint's logs, see `utils.tallies`.
        b: another one.
        wanted: the sets to take; all, sorted, if it is empty.
        convention: what the scores were made by; None: of those of both, the first in
            `CONVENTIONS`.

    Raises:
        UserError: no set is there, or a wanted one is not, or not in a convention of both.
    """
    logs = [logs_in(folder) for folder in (a, b)]
    both = sorted(logs[0].keys() & logs[1].keys())
    for name in wanted:
        if name not in both:
            lacking = a if name not in logs[0] else b
            told = closest(name, both)
            raise UserError(f"{lacking}: no scores on '{name}'{told}: run evaluate.py on that set")
    if not both:
        raise UserError(f"no test set was scored for both {a} and {b}: run evaluate.py on both")
    found = {}
    for name in wanted or both:
        known = [one for one in CONVENTIONS if all(one in log[name] for log in logs)]
        chosen = [one for one in known if convention in (None, one)]
        if not chosen:
            there = [" and ".join(log[name]) for log in logs]
            asked = f", not both in {convention}" if convention else ""
            raise UserError(
                f"{a} is scored on {name} in the convention {there[0]}, {b} in {there[1]}{asked}: "
                "run evaluate.py for both with one --convention"
            )
        found[name] = chosen[0]
    return found


def compare(
    a: Path,
    b: Path,
    metrics: Sequence[str],
    sets: Collection[str] = (),
    convention: str | None = None,
) -> list[Compared]:
    """Compare two checkpoints on each test set by the bootstrap over images.

    Args:
        a: folder of a checkpoint's logs.
        b: that of the other one.
        metrics: scores to compare by.
        sets: the sets to take; all that both have, if it is empty.
        convention: see `sets_in_both`.

    Raises:
        UserError: the tallies are missing, damaged, of other images, or in another convention.
    """
    found = []
    for name, how in sets_in_both(a, b, sets, convention).items():
        paths = (log_path(a, name, how), log_path(b, name, how))
        one, other = (read_tallies(path) for path in paths)
        check_same_images(one.names, other.names, paths)
        results = paired_bootstrap(
            one.tallies, other.tallies, metrics, CONVENTIONS[how], resamples=RESAMPLES, seed=0
        )
        found += [Compared(name, metric, results[metric], how) for metric in metrics]
    return found


def check_same_images(a: Sequence[str], b: Sequence[str], paths: tuple[Path, Path]) -> None:
    """Raise `UserError` unless two sets of maps are of the same images, in the same order."""
    if list(a) == list(b):
        return
    only = [sorted(set(one) - set(other)) for one, other in ((a, b), (b, a))]
    told = [
        f"{path} alone has {names[0]}" for path, names in zip(paths, only, strict=True) if names
    ]
    raise UserError(
        f"not the same images: {', '.join(told) or 'they are in another order'}: run evaluate.py "
        "for both on the same masks"
    )


def comparison_rows(
    found: Sequence[Compared], names: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of the table that compares two checkpoints.

    Args:
        found: one for each line. The p values are adjusted (`holm`) for as many tests.
        names: what the two checkpoints are called.
    """
    lines = []
    adjusted = holm([one.result.p for one in found])
    for (set_name, metric, result, _), p in zip(found, adjusted, strict=True):
        interval = f"{result.low:+.4f} .. {result.high:+.4f}"
        scores = [f"{result.a:.4f}", f"{result.b:.4f}", f"{result.difference:+.4f}"]
        lines.append([f"{set_name} {metric}", *scores, interval, f"{result.p:.4f}", f"{p:.4f}"])
    return ["set, metric", *names, "difference", "95 % interval", "p", "p (Holm)"], lines


def comparison_notes(found: Sequence[Compared]) -> list[str]:
    """Return the lines that say how to read the table of `comparison_rows`."""
    conventions = ", ".join(dict.fromkeys(one.convention for one in found))
    falling = dict.fromkeys(one.metric for one in found if one.metric in LOWER_IS_BETTER)
    return [
        f"convention: {conventions}",
        "difference: the first less the second"
        + (f"; in {', '.join(falling)} the lower is the better" if falling else ""),
        f"interval and p: paired bootstrap over the images, {RESAMPLES} draws; they hold for these "
        "two sets of weights and say nothing of another training (for that: --trials)",
        f"p (Holm): adjusted for the {len(found)} comparisons of this table, any of which may look "
        "good by chance",
    ]
