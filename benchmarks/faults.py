"""What becomes of a trial whose stages are killed, whose disk is full, whose files are spoilt?

    python benchmarks/faults.py [--out results.json] [--with_random] [--retrain 1] [flags of gco.sh]

A tiny trial (two rounds, masks) is run once, undisturbed. Then every stage is disturbed at every
single change that it makes to a file: killed (SIGKILL) before it, with half of the file written,
with all of it written and not yet put in place, and after; told that the disk is full, from there
on; asked to end (SIGTERM) there. Then the same command is run again, as a user would, and what it
leaves must be what the undisturbed run left: the same points, maps, scores and weights, bit for
bit, with nothing of the killed process left over. A full disk must be told in one line, with exit
status 2. Further, stages are killed at random times, and again and again. The cases come in random
order, so that those of the first ``--minutes`` are a fair sample.

Then every kind of file that is read is spoilt in many ways (bits flipped, cut, bytes exchanged,
numbers replaced by nan and huge ones, ...), and read; see `fault_files.py`, `fault_readers.py`.
"""

from __future__ import annotations

import argparse
import io
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fault_files import spoil
from benchmarks.fault_injection import KINDS, WRITING, Injection, fill_disk, kill, terminate
from benchmarks.fault_readers import readers
from benchmarks.fault_scenarios import SCENARIOS
from benchmarks.fault_scenarios import attempt as scenario
from benchmarks.fault_stages import Ended, Pipeline, Stage, prepare, stages
from utils.errors import run_script
from utils.files import write_json
from utils.stopping import EXIT_STOPPED
from utils.tables import text_table

FEW = 4
"""Spoilt files of each kind in a sample."""
SAMPLED = ("a snapshot", "a loader's process", "a second process")
"""How the scenarios of a sample begin."""

ENDS = ("refused", "read", "defect")
LARGE = 100_000
"""Bytes from which on a file is spoilt a tenth as often."""
HANGS = 20
"""Seconds after which reading counts as hung."""

KILLED, FULL, ASKED = "killed", "disk full from there on", "asked to end (SIGTERM)"
OTHER = "other"
IN_A_ROW = "every stage three times in a row"
LONG = 0.5
"""Seconds a stage must take to be killed at random times."""

RESUMABLE = (-9, -15, EXIT_STOPPED)
"""Exit statuses of a stage that a signal ended."""


@dataclass(frozen=True)
class Case:
    """One disturbance: of which stage, what is done, when, and at which change (None: a time)."""

    stage: Stage
    what: str
    when: str
    number: int | None = None

    def injection(self, runs: Path) -> Injection:
        """Return what disturbs the stage."""
        act = {KILLED: kill, FULL: fill_disk, ASKED: terminate}[self.what]
        return Injection(
            runs, self.number, act, lasts=act is fill_disk, halves=act is not terminate
        )


def cases(pipeline: Pipeline, timed: int) -> list[Case]:
    """Return a case for each change of each stage and what may befall it; and some at any time."""
    found = []
    for stage in pipeline.stages:
        for number, kind in enumerate(pipeline.changes[stage.name]):
            found.append(Case(stage, KILLED, kind, number))
            if kind in WRITING:
                found.append(Case(stage, FULL, kind, number))
            if number % 5 == 0:
                found.append(Case(stage, ASKED, "at every fifth of these", number))
    stages = [stage for stage in pipeline.stages if pipeline.times[stage.name] > LONG]
    return found + [Case(stages[i % len(stages)], KILLED, "at a random time") for i in range(timed)]


def sampled(todo: Sequence[Case]) -> list[Case]:
    """Return the first case of each kind and act."""
    first: dict[tuple[str, str], Case] = {}
    for case in todo:
        first.setdefault((case.what, case.when), case)
    return list(first.values())


def attempt(pipeline: Pipeline, case: Case, chance: random.Random) -> str:
    """Disturb a stage, run it again as a user would, and return what is wrong then, or nothing."""
    pipeline.put_back(case.stage.name)
    if case.number is None:
        seconds = chance.uniform(0, pipeline.times[case.stage.name])
        ended = pipeline.start(case.stage, seconds=seconds)
    else:
        ended = pipeline.start(case.stage, case.injection(pipeline.runs))
    if case.what == KILLED and case.number is not None and ended.status != -9:
        return f"was not hit, and ended with {ended.status}"
    if case.what == FULL and not (ended.clean or ended.status == 0):
        return f"told the full disk badly ({ended.status}): {last_line(ended)}"
    if case.what == ASKED and case.stage.listens and ended.status not in (0, EXIT_STOPPED):
        return f"was to stop, and ended with {ended.status}: {last_line(ended)}"
    if case.what != FULL and ended.status not in (0, *RESUMABLE):
        return f"ended with {ended.status}: {last_line(ended)}"
    again = pipeline.start(case.stage)
    if again.status != 0:
        return f"run again, it ended with {again.status}: {last_line(again)}"
    return "; ".join(pipeline.differences(case.stage))


def last_line(ended: Ended) -> str:
    """Return the last line that a stage told."""
    lines = [line for line in ended.told.splitlines() if line.strip()]
    return lines[-1][-300:] if lines else ""


def row_of_kills(pipeline: Pipeline, chance: random.Random) -> str:
    """Run the whole pipeline, every stage killed three times in a row at random times."""
    pipeline.put_back(pipeline.stages[0].name)
    for stage in pipeline.stages:
        for _ in range(3):
            pipeline.start(stage, seconds=chance.uniform(0, pipeline.times[stage.name]))
        ended = pipeline.start(stage)
        if ended.status != 0:
            return f"{stage.name} ended with {ended.status}: {last_line(ended)}"
    return "; ".join(pipeline.differences(pipeline.stages[-1]))


def table(found: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Count what was tried and survived, a row for each thing done and time."""
    tried = Counter(entry[:2] for entry in found)
    failed = Counter(entry[:2] for entry in found if entry[2])
    order = [*KINDS, "at every fifth of these", "at a random time", IN_A_ROW, *SCENARIOS]
    rows = sorted(
        tried, key=lambda key: ((KILLED, FULL, ASKED, OTHER).index(key[0]), order.index(key[1]))
    )
    return [
        {"what": what, "when": when, "tried": count, "survived": count - failed[what, when]}
        for what, when in rows
        for count in [tried[what, when]]
    ]


def sweep(
    pipeline: Pipeline,
    minutes: float,
    timed: int,
    chance: random.Random,
    sample: bool = False,
) -> dict[str, Any]:
    """Disturb a pipeline everywhere, in random order; return the counts and what went wrong.

    Args:
        pipeline: it has run.
        minutes: after which no more is tried.
        timed: kills at random times.
        chance: orders the cases, and draws the times.
        sample: one case of each kind and act alone, of any stage.
    """
    began = time.monotonic()
    todo = cases(pipeline, timed)
    chance.shuffle(todo)
    tried = [name for name in SCENARIOS if not sample or name.startswith(SAMPLED)]
    if pipeline.config.ensemble == "deep":  # its members are asked, not snapshots
        tried = [name for name in tried if not name.startswith("a snapshot")]
    found = [(OTHER, name, scenario(name, pipeline)) for name in tried]
    found += [(KILLED, IN_A_ROW, row_of_kills(pipeline, chance)) for _ in range(timed > 0)]
    todo = sampled(todo) if sample else todo
    done = 0
    for case in tqdm(todo, unit="fault", smoothing=0, mininterval=20):
        if time.monotonic() - began > 60 * minutes:
            break
        done += 1
        trouble = attempt(pipeline, case, chance)
        where = f"{case.stage.name}, change {case.number}: "
        found.append((case.what, case.when, trouble and where + trouble))
        if trouble:
            print("\nNOT SURVIVED:", *found[-1], file=sys.stderr, flush=True)
    return {
        "changes": {stage.name: len(pipeline.changes[stage.name]) for stage in pipeline.stages},
        "not_tried": len(todo) - done,
        "counts": table(found),
        "troubles": [entry for entry in found if entry[2]],
        "seconds": round(time.monotonic() - began),
    }


def spoil_files(pipeline: Pipeline, count: int, chance: random.Random) -> dict[str, Any]:
    """Spoil each kind of file in many ways and read it; return the counts and what went wrong."""
    rows, troubles = [], []
    for reader in readers(pipeline, pipeline.home / "spoilt"):
        found: Counter[str] = Counter()
        tries = count if len(reader.good) < LARGE else max(1, count // 10)
        for _ in tqdm(range(tries), reader.name, mininterval=20):
            way, content = spoil(reader.good, chance)
            began = time.monotonic()
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                came = reader.try_content(content)
            if (took := time.monotonic() - began) > HANGS:
                came = f"took {took:.0f} s"
            found[came if came in ("refused", "read") else "defect"] += 1
            if came not in ("refused", "read"):
                troubles.append((reader.name, way, came))
                print("\nDEFECT:", *troubles[-1], file=sys.stderr, flush=True)
        rows.append({"file": reader.name, "tried": tries, **{k: found[k] for k in ENDS}})
    return {"files": rows, "defects": troubles}


def pipeline_of(folder: Path, flags: Sequence[str], with_random: bool) -> Pipeline:
    """Return a tiny trial with all its stages, not run yet.

    Args:
        folder: holds all of it.
        flags: further settings of the trial.
        with_random: whether an arm of random points is run beside masks and asked points.
    """
    pipeline = Pipeline(folder, [], tuple(flags))
    arms = ("dense", "random") if with_random else ("dense",)
    pipeline.stages = stages(pipeline.config.round_count, arms)
    return pipeline


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweeps, print the counts, and write them."""
    # A flag of gco.sh that is begun like one of these is not one of these.
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=30, help="stop then, with what was tried")
    parser.add_argument("--timed", type=int, default=100, help="kills at random times")
    parser.add_argument("--sample", action="store_true", help="one or a few of each kind alone")
    parser.add_argument("--spoilt", type=int, default=1000, help="spoilt files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--with_random", action="store_true", help="an arm of random points, too")
    parser.add_argument("--out", type=Path, help="write the counts as JSON")
    args, flags = parser.parse_known_args(argv)
    prepare()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = pipeline_of(Path(folder), flags, args.with_random)
        pipeline.run_whole()
        result = spoil_files(pipeline, FEW if args.sample else args.spoilt, chance)
        timed = 0 if args.sample else args.timed
        result |= sweep(pipeline, args.minutes, timed, chance, args.sample)
    about = {"python": platform.python_version(), "torch": torch.__version__}
    about |= {"numpy": np.__version__, "system": platform.system()}
    about |= {"with_random": args.with_random, "flags": flags}
    result = {"about": about, **result}
    lines = [[r["what"], r["when"], str(r["tried"]), str(r["survived"])] for r in result["counts"]]
    print(text_table(["what", "when", "tried", "survived"], lines))
    kinds = [[r["file"], *(str(r[k]) for k in ("tried", *ENDS))] for r in result.get("files", [])]
    print(text_table(["spoilt file", "tried", *ENDS], kinds))
    if args.out:
        write_json(args.out, result)
    return 1 if result["troubles"] or result.get("defects") else 0


if __name__ == "__main__":
    run_script(main)
