"""How far the trials of ``sub_by_id.sh`` are: ``python -m utils.trial_status --ids 10 5``.

Reads the files of each trial and, where there is Slurm, its queue; nothing is changed. Nothing
here needs the trial's process to be alive, nor PyTorch to be loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from config import Config
from utils.cli import Parser
from utils.errors import UserError, run_script
from utils.files import read_json
from utils.run_folder import REGION_LABELS, VALIDATION, RunFolder
from utils.settings import from_dict
from utils.slurm_queue import Job, queued_jobs, refuse_active
from utils.tables import read_rows, text_table

LOG_END = 4096
"""Bytes of a log in which its last line is looked for."""

HEADER = ("trial", "stage", "round", "epoch", "score", "job", "last sign of life")


class Step(NamedTuple):
    """One stage of a trial; ``folder`` is that of a training, None for other stages."""

    name: str
    round: int | None
    result: Path
    folder: Path | None = None


@dataclass(frozen=True)
class Standing:
    """How far a trial is.

    Attributes:
        stage: what it does or would do next; "finished", "not begun" or "damaged".
        round: of the stage; None: it belongs to none.
        rounds: of the trial.
        epoch: whole epochs of the training in hand and all of them, "7/30"; empty: no training.
        score: the newest validation error, or the test scores of a finished trial.
        seen: when a file of the trial was last made or a log written, seconds since 1970.
    """

    stage: str
    round: int | None = None
    rounds: int = 0
    epoch: str = ""
    score: str = ""
    seen: float | None = None

    @property
    def finished(self) -> bool:
        """Whether every stage has left its result."""
        return self.stage == "finished"


def steps(run: RunFolder, config: Config) -> Iterator[Step]:
    """Yield the stages of a trial in the order of gco.sh."""
    for index in range(config.round_count):
        for arm in ("points", "random") if index and config.random_arm else ("points",):
            folder = run.training(arm, index)
            yield Step(f"ask {arm}", index, run.points(arm, index))
            if index in config.trained_rounds:
                yield Step(f"train {arm}", index, run.trained(arm, index), folder)
        if index == 0 and config.with_dense:
            yield Step("train dense", None, run.trained("dense", 0), run.training("dense", 0))
    yield Step("test and evaluate", None, run.scores)
    yield Step("choose", None, run.best)


def standing(run: RunFolder, logs: Sequence[Path]) -> Standing:
    """Return how far a trial is by its files.

    Args:
        run: its folder.
        logs: where its output went; they tell of life, too.

    One whose settings are damaged, or one of whose results is, does not hide the other trials.
    """
    try:
        return _standing(run, logs)
    except UserError as error:
        print(f"note: {error}", file=sys.stderr)
        return Standing("damaged", seen=_last_sign(run, logs))


def _standing(run: RunFolder, logs: Sequence[Path]) -> Standing:
    if not run.config.exists():
        return Standing("not begun", seen=_last_sign(run, logs))
    values = read_json(run.config)
    try:
        config = from_dict(values, run.config.name)
    except UserError as error:
        told = f"not the settings of a trial ({error})"
        raise UserError(f"{run.config}: {told}: mend or delete it") from None
    todo = [step for step in steps(run, config) if not step.result.exists()]
    if not todo and _sets_that_lack_scores(run, config):
        todo = [Step("test and evaluate", None, run.scores)]
    rounds = config.round_count
    seen, score = _last_sign(run, logs), _validation_score(run)
    if not todo:
        return Standing("finished", None, rounds, "", _test_score(run) or score, seen)
    now = todo[0]
    epoch = f"{_epochs_done(now.folder)}/{config.epochs}" if now.folder else ""
    return Standing(now.name, now.round, rounds, epoch, score, seen)


def _sets_that_lack_scores(run: RunFolder, config: Config) -> set[str]:
    """Return the sets on which the last round has no scores: it was trained, or they named, since.

    The test sets that have masks, all where the data are not to be seen from here; and the held-out
    split where it has points.
    """
    root, wanted = Path(config.data_root), set(filter(None, config.testsets.split("+")))
    if root.is_dir():
        wanted = {name for name in wanted if (root / "gts" / name).is_dir()}
    wanted |= {VALIDATION} if run.validation_points.exists() else set()
    last = run.checkpoint_name(run.checkpoint("points", config.round_count - 1, "best"))
    try:
        rows = read_rows(run.scores, ("checkpoint", "set")) if wanted else []
    except UserError:
        rows = []
    return wanted - {row["set"] for row in rows if row["checkpoint"] == last}


def _epochs_done(training: Path) -> int:
    """Return the whole epochs of a training; of a deep ensemble, of its newest member."""
    members = [p for p in training.glob("members/*/log.csv") if p.parent.name.isdecimal()]
    newest = max(members, key=lambda log: int(log.parent.name), default=training / "log.csv")
    return len(_rows(newest))


def _rows(log: Path) -> list[dict[str, str]]:
    """Return the epochs of a training's log; none where it is missing or damaged."""
    try:
        return read_rows(log, ("epoch", "val_MAE"))
    except UserError:
        return []


def _validation_score(run: RunFolder) -> str:
    logs = [path for top in (".", "random") for path in (run.root / top).glob("round_*/log.csv")]
    logs = [path for path in (*logs, run.root / "dense" / "log.csv") if path.exists()]
    rows = _rows(max(logs, key=lambda path: path.stat().st_mtime)) if logs else []
    with contextlib.suppress(ValueError, IndexError):
        return f"validation MAE {float(rows[-1]['val_MAE']):.4f}"
    return ""


def _test_score(run: RunFolder) -> str:
    """Return the first scores of ``best.json``: the mean of the test sets, or the only one."""
    best = read_json(run.best)
    try:
        name, values = next(iter(best["scores"].items()), ("", {}))
        told = [f"{metric} {values[metric]:.4f}" for metric in ("maxF", "MAE") if metric in values]
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""
    return " ".join([name, *told])


def _last_sign(run: RunFolder, logs: Sequence[Path]) -> float | None:
    """Return when a file was last made in the trial's folders, or one of the logs written.

    Files exist whole or not at all, so a new one shows in its folder's time of change: a few
    folders are asked for theirs, not thousands of maps.
    """
    times = []
    for path in (*_folders(run), *logs):
        try:
            times.append(os.stat(path).st_mtime)
        except OSError:  # gone since, or never there
            continue
    return max(times, default=None)


def _folders(run: RunFolder) -> Iterator[Path]:
    """Yield the folders of a trial, without listing those that hold a file for each image.

    The folders of groups that lie in these are left out, too.
    """
    for top, below, _ in os.walk(run.root):
        folder = Path(top)
        yield folder
        of_images = folder == run.superpixels or folder.parent == run.predictions
        full = [name for name in below if of_images or name == REGION_LABELS]
        yield from (folder / name for name in full)
        below[:] = [name for name in below if name not in full]


def logs_by_trial(runs: Path) -> dict[str, list[Path]]:
    """Return the logs of the jobs of each trial that has any, the newest last."""
    found: dict[str, list[Path]] = {}
    for path in runs.glob("*.log"):
        if named := re.fullmatch(r"(?:slurm-.*_|local-t)(\d+)\.log", path.name):
            found.setdefault(f"t{named[1]}", []).append(path)
    for logs in found.values():
        logs.sort(key=lambda path: path.stat().st_mtime)
    return found


def last_line(log: Path) -> str:
    """Return the last line of a log; of a progress bar, its last state."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_END))
        text = file.read().decode("utf-8", "replace").replace("\r", "\n")
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")


def age(seconds: float) -> str:
    """Return a time span in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def as_row(trial: str, now: Standing, job: Job | None) -> list[str]:
    """Return a trial's line of the table."""
    told = "" if now.round is None else f"{now.round} of 0-{now.rounds - 1}"
    seen = "" if now.seen is None else f"{age(time.time() - now.seen)} ago"
    state = f"{job.state.lower()} ({job.name})" if job else ""
    cells = (trial, now.stage, told, now.epoch, now.score, state, seen)
    return [cell or "-" for cell in cells]


def show(runs: Path, trials: Sequence[str], jobs: dict[str, Job]) -> None:
    """Print the table, and the last words of the trials that neither are finished nor wait."""
    lines, words, all_logs = [], [], logs_by_trial(runs)
    for trial in trials:
        logs = all_logs.get(trial, [])
        now = standing(RunFolder(runs / trial), logs)
        lines.append(as_row(trial, now, jobs.get(trial)))
        if logs and not now.finished and not (trial in jobs and jobs[trial].active):
            words.append(f"{trial}: {logs[-1]} ends with: {last_line(logs[-1])}")
    print(text_table(HEADER, lines))
    for line in words:
        print(line)


def known_trials(runs: Path, jobs: dict[str, Job]) -> list[str]:
    """Return the trials that have a folder or a job, by ID; UserError if there is none."""
    folders = {path.parent.name for path in runs.glob("t*/config.json")}
    numbers = {int(name[1:]) for name in {*folders, *jobs} if name[1:].isdigit()}
    if not numbers:
        raise UserError(f"{runs}: no trial t<ID> there: give --runs, or start some")
    return [f"t{number}" for number in sorted(numbers)]


def tell_finished(runs: Path, trials: Sequence[str]) -> int:
    """Print the trials that are finished, a line each; tell the others; return the exit status."""
    missing = 0
    for trial in trials:
        now = standing(RunFolder(runs / trial), [])
        if now.finished:
            print(trial)
        else:
            missing = 1
            print(f"not finished, left out: {trial} ({now.stage})", file=sys.stderr)
    return missing


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; see the module's text."""
    parser = Parser(description=__doc__)
    flag = parser.add_argument
    flag("--runs", type=Path, default=Path("runs"), help="folder of all trials (default: runs)")
    flag("--ids", type=int, nargs=2, metavar=("FIRST", "N"), help="trials (default: all t<ID>)")
    flag("--finished", action="store_true", help="print which are finished; status 1: not all")
    flag("--refuse_active", action="store_true", help="fail if one of them is queued or running")
    args: argparse.Namespace = parser.parse(argv)
    first, count = args.ids or (0, 0)
    trials = [f"t{number}" for number in range(first, first + count)]
    if args.finished:
        return tell_finished(args.runs, trials)
    if args.refuse_active:
        refuse_active(trials, queued_jobs(args.runs))
        return 0
    jobs = {}
    try:
        jobs = queued_jobs(args.runs)
    except UserError as error:
        print(f"note: {error}", file=sys.stderr)
    show(args.runs, trials or known_trials(args.runs, jobs), jobs)
    return 0


if __name__ == "__main__":
    run_script(main)
