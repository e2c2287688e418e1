"""Choose the checkpoint to keep, and compare it with dense masks: ``select_best.py --trial T``.

Reads ``runs/<trial>/scores.csv`` and chooses by the held-out split (its points, lowest MAE) among
the tested checkpoints with the whole label budget (``--any_round``: with any). Which epoch of a
training is its ``best`` was chosen on the same images, by train.py. Writes ``best.json`` and
``summary.txt`` and prints the table: metric x {points, dense, ratio}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import config as settings
from config import Config
from utils.errors import UserError, run_script
from utils.files import read_json, write_json, write_text
from utils.metrics import METRICS
from utils.run_folder import VALIDATION, RunFolder
from utils.scores import LOWER_IS_BETTER, read_scores
from utils.tables import text_table

Row = dict[str, str]


def choose(rows: Sequence[Row], metric: str, on_test: bool) -> str:
    """Return the name of the best checkpoint among ``rows``.

    Args:
        rows: rows of ``scores.csv``.
        metric: the score to choose by.
        on_test: choose by the mean over the test sets, not by the held-out split.

    Raises:
        UserError: no row holds the score.
    """
    sums: dict[str, list[float]] = {}
    for row in rows:
        if (row["set"] != VALIDATION) == on_test and row[metric] != "":
            sums.setdefault(row["checkpoint"], []).append(float(row[metric]))
    if not sums:
        where = "the test sets" if on_test else "the validation points (or use --on_test)"
        raise UserError(f"no checkpoint has {metric} on {where}: run evaluate.py first")
    sign = 1 if metric in LOWER_IS_BETTER else -1
    return min(sums, key=lambda name: (sign * sum(sums[name]) / len(sums[name]), name))


def with_whole_budget(rows: Sequence[Row], arm: str) -> list[Row]:
    """Return the rows of an arm's checkpoints that had the most points."""
    mine = [row for row in rows if row["arm"] == arm]
    last = max((int(row["round"]) for row in mine), default=None)
    return [row for row in mine if int(row["round"]) == last]


def scores_of(rows: Sequence[Row], checkpoint: str) -> dict[str, dict[str, float]]:
    """Return ``{set: {metric: value}}`` on the test sets; ``mean`` is the mean over the sets."""
    scores = {
        row["set"]: {name: float(row[name]) for name in METRICS}
        for row in rows
        if row["checkpoint"] == checkpoint and row["set"] != VALIDATION
    }
    if len(scores) > 1:
        means = {n: sum(s[n] for s in scores.values()) / len(scores) for n in METRICS}
        scores = {"mean": means, **scores}
    return scores


def comparison(chosen: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the table of scores, with the ratio of each point arm to the dense twin.

    Args:
        chosen: ``{arm: {set: {metric: value}}}``.
    """
    arms = [arm for arm in ("points", "dense", "random") if arm in chosen]
    compared = [arm for arm in arms if arm != "dense" and "dense" in chosen]
    blocks = []
    for set_name in chosen[arms[0]]:
        header = [set_name, *arms, *(f"{arm}/dense" for arm in compared)]
        lines = []
        for metric in METRICS:
            values = {arm: chosen[arm][set_name][metric] for arm in arms}
            line = [metric, *(f"{values[arm]:.4f}" for arm in arms)]
            for arm in compared:
                dense = values["dense"]
                line.append(f"{values[arm] / dense:.3f}" if dense > 0 else "-")
            lines.append(line)
        blocks.append(text_table(header, lines))
    return "\n\n".join(blocks)


def choose_arms(
    rows: Sequence[Row], metric: str, on_test: bool, any_round: bool = False
) -> dict[str, str]:
    """Return the best checkpoint of each arm that was run.

    The random arm shares its first round with the points; with one round it is not told apart.
    """
    found = {}
    for arm in ("points", "dense", "random"):
        of_arm = [row for row in rows if row["arm"] == arm]
        mine = of_arm if any_round else with_whole_budget(rows, arm)
        if mine:
            found[arm] = choose(mine, metric, on_test)
    return found


def summarise(config: Config, rows: Sequence[Row], chosen: dict[str, str]) -> str:
    """Return the text that ends a trial: the table, the budget, the pictures."""
    run = RunFolder(config.run_folder)
    scores = {arm: scores_of(rows, name) for arm, name in chosen.items()}
    text = []
    kept = chosen.get("points", next(iter(chosen.values())))
    if scores[next(iter(scores))]:
        text += [comparison(scores), ""]
    budget = next(row for row in rows if row["checkpoint"] == kept)
    if budget["points"]:
        text.append(
            f"points: {float(budget['points']):.1f} answers an image, "
            f"{float(budget['labelled_percent']):.3f} % of the training pixels"
            + (" (label mode region_mask LEAKS the mask)" * (config.label_mode == "region_mask"))
        )
    text.append(f"chosen: {checkpoint_path(run, kept)}")
    pictures = [run.training("points", index) / "sheet.png" for index in range(config.rounds)]
    for picture in [*pictures, run.curve]:
        if picture.exists():
            text.append(f"picture: {picture}")
    return "\n".join(text)


def checkpoint_path(run: RunFolder, name: str) -> str:
    """Return the file of a checkpoint, as noted beside its maps."""
    note = run.predictions / name / "made_from.json"
    return str(run.root / read_json(note)["checkpoint"])


def main(argv: Sequence[str] | None = None) -> int:
    """Choose, write ``best.json`` and print the table; see the module's text."""

    def extend(parser: Any) -> None:
        parser.add_argument("--metric", choices=METRICS, default="MAE", help="score to choose by")
        parser.add_argument("--any_round", action="store_true", help="earlier rounds, too")
        parser.add_argument("--on_test", action="store_true", help="choose on the test sets")

    config, args = settings.parse(argv, __doc__, extend)
    run = RunFolder(config.run_folder)
    rows = read_scores(run.scores)
    if args.on_test:
        print("WARNING: choosing on the test sets; the scores below are not a fair estimate")
    chosen = choose_arms(rows, args.metric, args.on_test, args.any_round)
    if not chosen:
        raise UserError(f"{run.scores}: no checkpoint of this trial in it: run evaluate.py")
    kept = chosen.get("points") or next(iter(chosen.values()))
    row = next(row for row in rows if row["checkpoint"] == kept)
    best = {
        "checkpoint": checkpoint_path(run, kept),
        "name": kept,
        "chosen_on": "test sets" if args.on_test else "validation points",
        "metric": args.metric,
        "points": float(row["points"]) if row["points"] else None,
        "scores": scores_of(rows, kept),
        "compared": {arm: {"name": n, "scores": scores_of(rows, n)} for arm, n in chosen.items()},
    }
    write_json(run.best, best)
    text = summarise(config, rows, chosen)
    write_text(run.root / "summary.txt", text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    run_script(main)
