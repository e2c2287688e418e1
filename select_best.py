"""Choose the checkpoint to keep, and compare it with dense masks: ``select_best.py --trial T``.

Reads ``runs/<trial>/scores.csv`` and chooses by the held-out split (its points, lowest MAE) among
the tested checkpoints of the last round (``--any_round``: of any). Which epoch of a training is its
``best`` was chosen on the same images, by train.py. Writes ``best.json``, ``best.pth`` (a link to
the weights, or a copy) and ``summary.txt`` and prints the table: metric x {points, dense, ratio}.

``--trials seed_0 'lr_*'`` ranks the checkpoints of many trials, tells mean and spread over those
that differ in the seed alone, and writes ``best.json`` and ``best.pth`` to ``--out``. ``--compare
A B`` tells whether two checkpoints differ by more than the choice of test images explains.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from config import FREE, Config
from datasets.index import split_set_names
from utils import ranking, settings, significance
from utils.errors import UserError, run_script
from utils.files import atomic_path, read_json, write_json, write_text
from utils.metrics import CONVENTIONS, METRICS, POINT_METRICS, SHOWN, USUAL
from utils.published import published_lines
from utils.ranking import Row, choose_arms, scores_of
from utils.run_folder import ARMS, VALIDATION, RunFolder
from utils.score_tables import plain_markdown
from utils.scores import read_scores
from utils.settings import from_dict, to_dict
from utils.tables import text_table

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


def comparison(
    chosen: Mapping[str, Mapping[str, Mapping[str, float]]], table: Table = text_table
) -> str:
    """Return the table of the usual scores, with the ratio of each point arm to the dense twin.

    Args:
        chosen: ``{arm: {set: {metric: value}}}``.
        table: makes text of header and lines.
    """
    arms = [arm for arm in ARMS if arm in chosen]
    compared = [arm for arm in arms if arm != "dense" and "dense" in chosen]
    blocks = []
    for set_name in chosen[arms[0]]:
        header = [set_name, *arms, *(f"{arm}/dense" for arm in compared)]
        values = {arm: chosen[arm].get(set_name, {}) for arm in arms}
        lines = []
        for metric in USUAL:
            if any(metric in scores for scores in values.values()):
                line = [_fixed(values[arm].get(metric), 4) for arm in arms]
                ratios = [significance.ratio_to_dense(values, arm, metric) for arm in compared]
                lines.append([metric, *line, *(_fixed(ratio, 3) for ratio in ratios)])
        blocks.append(table(header, lines))
    return "\n\n".join(blocks)


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def summarise(
    config: Config,
    rows: Sequence[Row],
    chosen: Mapping[str, str],
    why: str,
    table: Table = text_table,
) -> str:
    """Return the text that ends a trial: the table, the budget, the pictures."""
    run = RunFolder(config.run_folder)
    scores = {arm: scores_of(rows, name) for arm, name in chosen.items()}
    text, kept = [], kept_of(chosen)
    if scores[next(iter(scores))]:
        text += [comparison(scores, table), ""]
    else:
        text += held_out_lines(rows, kept)
    tested = {row["set"]: row["convention"] for row in rows if row["set"] != VALIDATION}
    text += published_lines(tested)
    budget = next(row for row in rows if row["checkpoint"] == kept)
    if budget["points"]:
        text.append(
            f"points: {float(budget['points']):.1f} answers an image, "
            f"{float(budget['labelled_percent']):.3f} % of the training pixels"
            + (" (label mode region_mask LEAKS the mask)" * (config.label_mode == "region_mask"))
        )
    text.append(f"chosen: {checkpoint_path(run, kept)} {why}")
    pictures = [run.training("points", index) / "sheet.png" for index in range(config.rounds)]
    for picture in [*pictures, run.curve]:
        if picture.exists():
            text.append(f"picture: {picture}")
    return "\n".join(text)


def held_out_lines(rows: Sequence[Row], checkpoint: str) -> list[str]:
    """Return a line with the scores at the held-out points: all there are without test masks."""
    return [
        f"at the points of the {row['images']} held-out images: "
        + ", ".join(f"{name} {float(row[name]):.3f}" for name in POINT_METRICS if row[name] != "")
        for row in rows
        if row["checkpoint"] == checkpoint and row["set"] == VALIDATION
    ]


def kept_of(chosen: Mapping[str, str]) -> str:
    """Return the checkpoint to keep: of the asked points, if that arm was run."""
    return chosen.get("points") or next(iter(chosen.values()))


def unfinished(rows: Sequence[Row], arm: str, config: Config) -> str:
    """Say how far an arm of points was scored, if not to its last round; else an empty text."""
    last = max(int(row["round"] or 0) for row in rows if row["arm"] == arm)
    short = arm != "dense" and last < config.round_count - 1
    return f"rounds 0 to {last} of 0 to {config.round_count - 1} are scored" if short else ""


def reason(arm: str, args: argparse.Namespace, short: str = "") -> str:
    """Tell among which checkpoints one was chosen, and by what; ``short`` as of `unfinished`."""
    budget = f", {short or 'last round'}" if arm != "dense" and not args.any_round else ""
    return f"(arm {arm}{budget}: by {args.metric} on the {judged_on(args)})"


def judged_on(args: argparse.Namespace) -> str:
    """Name the images by whose scores is chosen."""
    return "test sets" if args.on_test else "validation points"


def checkpoint_path(run: RunFolder, name: str) -> str:
    """Return the file of a checkpoint, as noted beside its maps; UserError if it is not."""
    note = run.predictions / name / "made_from.json"
    made = read_json(note)
    named = made.get("checkpoint") if isinstance(made, dict) else None
    if not isinstance(named, str) or "\0" in named:
        raise UserError(f"{note}: does not name the checkpoint: run test.py again")
    return str(run.root / named)


def read_trial(run: RunFolder, sets: Sequence[str]) -> list[Row]:
    """Return the rows of a trial's scores; of the named test sets alone, if there are any.

    Raises:
        UserError: the scores are missing or damaged, or one of the sets is not in them.
    """
    rows = read_scores(run.scores)
    ranking.check_numbers(rows, run.scores)
    return ranking.restrict(rows, sets, run.scores) if sets else rows


def best_of(
    run: RunFolder,
    rows: Sequence[Row],
    chosen: Mapping[str, str],
    kept: str,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Return what ``best.json`` says of the checkpoint to keep; ``chosen`` as of `choose_arms`."""
    points = next(row["points"] for row in rows if row["checkpoint"] == kept)
    return {
        "checkpoint": checkpoint_path(run, kept),
        "name": kept,
        "chosen_on": judged_on(args),
        "metric": args.metric,
        "points": float(points) if points else None,
        "scores": scores_of(rows, kept),
        "compared": {arm: {"name": n, "scores": scores_of(rows, n)} for arm, n in chosen.items()},
    }


def write_best(folder: Path, best: Mapping[str, Any]) -> None:
    """Write ``best.json``, and ``best.pth`` beside it: a relative link, or a copy without links.

    Without the weights there is no ``best.pth``, not even one of an earlier choice.
    """
    weights, link = Path(best["checkpoint"]).resolve(), folder / "best.pth"
    write_json(folder / "best.json", best)
    if not weights.is_file():
        link.unlink(missing_ok=True)
        print(f"{weights}: the weights are not there: no {link} is made")
        return
    with atomic_path(link) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(os.path.relpath(weights, folder.resolve()))
        except OSError:  # a file system or an account that has no links
            shutil.copyfile(weights, temporary)


def choose_in_trial(config: Config, args: argparse.Namespace) -> None:
    """Choose within one trial, write ``best.json`` and ``summary.txt``, and print the table."""
    run = RunFolder(config.run_folder)
    rows = read_trial(run, args.sets)
    chosen = choose_arms(rows, args.metric, args.on_test, args.any_round)
    if not chosen:
        raise UserError(f"{run.scores}: no checkpoint of this trial in it: run evaluate.py")
    write_best(run.root, best_of(run, rows, chosen, kept_of(chosen), args))
    arm = next(arm for arm, name in chosen.items() if name == kept_of(chosen))
    why = reason(arm, args, unfinished(rows, arm, config))
    text = summarise(config, rows, chosen, why)
    write_text(run.root / "summary.txt", text + "\n")
    print(summarise(config, rows, chosen, why, plain_markdown) if args.markdown else text)


def read_trials(
    runs: Path, names: Sequence[str], args: argparse.Namespace
) -> tuple[dict[str, list[Row]], str]:
    """Return the rows of trials, and the test sets that all were scored on, joined by ``+``.

    Raises:
        UserError: scores are missing or damaged, or cannot be compared.
    """
    tables = {name: read_trial(RunFolder(runs / name), args.sets) for name in names}
    sets, fault = ranking.common_sets(tables)
    if fault and args.on_test:
        raise UserError(f"{fault}: run evaluate.py for both, or name common sets by --sets")
    if fault:
        print(f"WARNING: {fault}: test scores are told of {'+'.join(sets) or 'no set'} alone")
    tables = {name: ranking.restrict(rows, sets, runs) for name, rows in tables.items()}
    return tables, "+".join(sets)


def read_settings(runs: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the settings of trials as plain values; ``UserError`` for damaged ones."""
    paths = {name: RunFolder(runs / name).config for name in names}
    return {name: to_dict(from_dict(read_json(p), str(p))) for name, p in paths.items()}


def choose_among_trials(config: Config, args: argparse.Namespace) -> None:
    """Rank the checkpoints of many trials, write ``best.json``, and print what is known of them."""
    runs, metric = Path(config.runs), args.metric
    known = {path.parent.name for path in runs.glob("*/config.json")}
    names = ranking.find_trials(known, args.trials, str(runs))
    values = read_settings(runs, names)
    tables, sets = read_trials(runs, names, args)
    chosen, pool = {}, []
    short = {}
    for name, rows in tables.items():
        try:
            chosen[name] = choose_arms(rows, metric, args.on_test, args.any_round)
        except UserError as error:
            raise UserError(f"trial {name}: {error}") from None
        for arm in chosen[name]:
            short[name, arm] = unfinished(rows, arm, Config(**values[name]))
            if short[name, arm]:
                print(f"WARNING: trial {name}, arm {arm}: {short[name, arm]}")
            mine = ranking.eligible(rows, arm, args.any_round)
            pool += ranking.candidates(mine, name, metric, args.on_test)
    if not pool:
        raise UserError(f"{runs}: the scores name no checkpoint of these trials: run evaluate.py")
    ranked = ranking.rank(pool, metric)
    kept = next((one for one in ranked if one.arm == "points"), ranked[0])
    run, arms = RunFolder(runs / kept.trial), chosen[kept.trial]
    best = best_of(run, tables[kept.trial], arms, kept.checkpoint, args)
    listed = [{"rank": place, **one.as_row(metric)} for place, one in enumerate(ranked, start=1)]
    write_best(args.out or runs, {**best, "trial": kept.trial, "ranking": listed})
    print(args.table(*ranking.ranking_rows(ranked, metric)))
    for line in ranking.explain_ties(ranked, metric):
        print(line)
    if sets:
        tell_spread(values, tables, chosen, sets, args)
    why = reason(kept.arm, args, short[kept.trial, kept.arm])
    print(f"chosen: {best['checkpoint']} {why}")


def tell_spread(
    values: Mapping[str, Mapping[str, Any]],
    tables: Mapping[str, Sequence[Row]],
    chosen: Mapping[str, Mapping[str, str]],
    sets: str,
    args: argparse.Namespace,
) -> None:
    """Print mean and spread of each arm's chosen checkpoint over trials of different seeds.

    Args:
        values: settings by trial.
        tables: rows by trial, all of the same test sets.
        chosen: ``{trial: {arm: checkpoint}}``.
        sets: the test sets, joined by ``+``.
        args: the command line.
    """
    groups = significance.group_trials(values, FREE | {"seed", "trial"})
    for group in groups:
        scores = [
            {arm: next(iter(scores_of(tables[t], n).values())) for arm, n in chosen[t].items()}
            for t in group.trials
        ]
        header, lines = significance.spread_rows(scores)
        print(f"\n{significance.describe(group, values)}\n")
        print(args.table([f"mean of {sets}" if "+" in sets else sets, *header], lines))
    print("", *significance.notes(groups, values, args.on_test), sep="\n")


def compare(config: Config, args: argparse.Namespace) -> None:
    """Print the differences of two checkpoints, with intervals over the choice of images."""
    folders = [
        significance.tally_folder(Path(config.runs), name, config.trial) for name in args.compare
    ]
    metrics = [args.metric] if args.metric else SHOWN
    found = significance.compare(*folders, metrics, args.sets, args.convention)
    print(args.table(*significance.comparison_rows(found, args.compare)))
    for line in significance.comparison_notes(found):
        print(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Choose, write ``best.json`` and print the table; see the module's text."""

    def extend(parser: argparse.ArgumentParser) -> None:
        flag = parser.add_argument
        held_out = f"on the held-out split one of {', '.join(POINT_METRICS)}"
        flag("--metric", choices=METRICS, help=f"score to choose by (default: MAE); {held_out}")
        flag("--any_round", action="store_true", help="earlier rounds, too")
        flag("--on_test", action="store_true", help="choose on the test sets")
        flag("--sets", help="test sets to look at, joined by + (default: all)")
        flag("--trials", nargs="+", metavar="TRIAL", help="rank these; patterns like 'seed_*', too")
        flag("--out", type=Path, help="folder of best.json of many trials (default: <runs>)")
        flag("--compare", nargs=2, metavar="NAME", help="two of <checkpoint>, <trial>/<checkpoint>")
        flag("--convention", choices=CONVENTIONS, help="of --compare (default: the first of both)")
        flag("--markdown", action="store_true", help="print the tables as Markdown")

    config, args = settings.parse(argv, __doc__, extend, lambda a: bool(a.trials or a.compare))
    if args.trials and args.compare:
        raise UserError("--trials and --compare cannot be done at once: give one of them")
    if args.convention and not args.compare:
        raise UserError("--convention goes with --compare: to score by another, see evaluate.py")
    for name in ("on_test", "any_round", "out"):
        if args.compare and getattr(args, name):
            raise UserError(f"--{name} has no meaning with --compare: leave one out")
    if args.out and not args.trials:
        raise UserError("--out goes with --trials: of one trial best.json lies in its folder")
    args.sets = split_set_names(args.sets) if args.sets else []
    args.table = plain_markdown if args.markdown else text_table
    if args.compare:
        compare(config, args)
        return 0
    args.metric = args.metric or "MAE"
    if args.on_test:
        print("WARNING: choosing on the test sets; the scores below are not a fair estimate")
    if args.trials:
        choose_among_trials(config, args)
    else:
        choose_in_trial(config, args)
    return 0


if __name__ == "__main__":
    run_script(main)
