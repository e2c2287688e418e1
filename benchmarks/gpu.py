"""All that needs a GPU, in one command: `benchmarks/gpu.sh` calls this.

Parts follow one another, each in a process of its own with a limit of time. One that exceeds it is
ended and said to be unfinished, with what it had measured; one for which no time is left is skipped
and said so:

- ``checks``: is it the same on GPU and CPU, in bfloat16, compiled, resumed? (gpu_checks.py)
- ``tests``: tests/test_cuda.py, on a GPU alone
- ``trial``: the whole of gco.sh on sample data that it draws
- ``pipeline``, ``overlap``: every stage beside its floor; the points that bfloat16 would choose
- ``network``: the network by backbone, part, precision and layout (benchmarks/network.py)
- ``compiled``: the same network compiled and not, on a GPU alone
- ``experiment``, ``report``: masks, asked and random points (benchmarks/label_efficiency.py) with
  the rest of the time, and its table. What it has made stays in ``--out``: the same command again
  goes on with it.

A part that is in ``--out`` already, made by the same commit, is not run again (where files differ
from their commit it is); ``--again`` does. ``<out>/all.json`` has all numbers as soon as they are
there. A table is printed last. On a GPU the numbers are then also written to
``benchmarks/results/gpu/<date>_<device>.json``, a new file each time.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.label_arms import as_flags
from benchmarks.label_stages import commit_of
from config import FIELDS
from utils import settings
from utils.device import choose_machine
from utils.errors import UserError, run_script
from utils.files import read_json, write_json
from utils.run_folder import RunFolder
from utils.tables import text_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "gpu"
GRACE = 20.0
"""Seconds that a part is given to end, once it was told to."""

LEFTOVER = 2.0
"""Seconds that processes are given which a part has left behind."""

LEAST = 20.0
"""Seconds under which no part is begun."""

REPORT = 40.0
"""Seconds that are kept for the table of an experiment that is not at its end."""

ON_CPU = {"backbone": "mobilenet_v2", "backbone_weights": "none", "size": 64, "batch_size": 4}
"""Settings of all parts on a CPU, under the flags that are given."""


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: of its result, ``<out>/<name>.json``.
        command: a script and its flags, without the interpreter.
        limit: seconds at most; 0: all that is left.
    """

    name: str
    command: list[str]
    limit: float


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the benchmark's arguments, and the config fields that were given.

    Raises:
        UserError: a flag is unknown, or a number cannot be meant.
    """
    parser = settings.make_parser(__doc__)
    parser.formatter_class = RawDescriptionHelpFormatter
    flag = parser.add_argument
    flag("--minutes", type=float, default=9.0, help="time for all of it (default: 9)")
    flag("--out", type=Path, default=Path("runs/gpu"), help="folder of it all")
    flag("--parts", default="", help="names joined by commas (default: all)")
    flag("--arms", default="default,random", help="arms of the experiment beside the dense one")
    flag("--seeds", default="3", help="seeds of the experiment: their number (default: 3)")
    flag("--again", action="store_true", help="run parts again that have a result")
    found = vars(parser.parse(argv))
    flags = {name: found.pop(name) for name in FIELDS if name in found}
    args = argparse.Namespace(**found)
    if not args.minutes > 0:
        raise UserError(f"--minutes {args.minutes:g}: must be above 0")
    for name in ("trial", "runs", "seed"):
        if name in flags:
            raise UserError(f"--{name} is chosen here: leave it out")
    return args, flags


def list_parts(args: argparse.Namespace, flags: dict[str, Any], cuda: bool) -> list[Part]:
    """Return the parts in their order.

    Raises:
        UserError: ``--parts`` names none of them.
    """
    flags = {**({} if cuda else ON_CPU), **flags}
    out = args.out
    small = ["--images", *(("96", "--tests", "64") if cuda else ("16", "--tests", "8"))]
    network = {
        name: flags[name] for name in ("backbone", "width", "size", "device") if name in flags
    }
    data = {name: flags[name] for name in flags if name != "testsets"}
    backbone = flags.get("backbone", FIELDS["backbone"].default)
    switches = ["none", "gam", "gconet_plus"] if cuda else ["none"]
    chosen = {name: flags[name] for name in ("device", "precision") if name in flags}

    def result(name: str) -> list[str]:
        return ["--out", str(out / f"{name}.json")]

    drawn = {"trial": "drawn", "runs": str(out / "trial"), **chosen}
    pipeline = ["benchmarks/pipeline.py", *as_flags(data), *small, "--turns", "1"]
    nets = ["benchmarks/network.py", *as_flags(network)]
    alone = ["--backbones", "--switches", "--whole", "none", "--precisions", "bf16"]
    experiment = ["benchmarks/label_efficiency.py", *as_flags(flags), "--arms", args.arms]
    experiment += ["--seeds", args.seeds, "--out", str(out / "experiment")]
    tests = ["-m", "pytest", "-v", "--durations=0", str(ROOT / "tests" / "test_cuda.py")]
    parts = [
        Part("checks", ["benchmarks/gpu_checks.py", *as_flags(network), *result("checks")], 100),
        Part("tests", tests, 100),
        Part("trial", ["gco.sh", *as_flags(drawn)], 150),
        Part("pipeline", [*pipeline, *result("pipeline")], 110),
        Part("overlap", [*pipeline, "--overlap", *result("overlap")], 60),
        Part(
            "network",
            [
                *(*nets, "--turns", "3" if cuda else "1", "--no-compile", *result("network")),
                *("--backbones", backbone, "--switches", *switches),
            ],
            80,
        ),
        Part("compiled", [*nets, "--turns", "3", "--compile", *alone, *result("compiled")], 150),
        Part("experiment", experiment, 0),
        Part("report", [*experiment, "--report"], REPORT),
    ]
    names = [name for name in args.parts.split(",") if name]
    if unknown := set(names) - {part.name for part in parts}:
        raise UserError(f"--parts {', '.join(sorted(unknown))}: not among them: see --help")
    on_gpu = ("tests", "compiled")
    return [p for p in parts if (p.name in names if names else cuda or p.name not in on_gpu)]


def run_part(part: Part, left: float, log: Path) -> tuple[str, float]:
    """Run a part, its output into a log; return how it ended, and its seconds.

    It is the head of a group of processes of its own, all of which end with it.
    """
    limit = min(part.limit or left, left)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    env |= {"PYTHONUNBUFFERED": "1", "GCO_PYTHON": sys.executable}
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with open(log, "a", encoding="utf-8") as output:
        process = subprocess.Popen(
            words_of(part.command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
            ended = "done" if code == 0 else f"failed ({code}), see {log}: {last_line(log)}"
        except subprocess.TimeoutExpired:
            ended = f"unfinished after {limit:.0f} s"
        finally:
            end_group(process)
    return ended, time.monotonic() - begun


def words_of(command: Sequence[str]) -> list[str]:
    """Return what is run: a script of the shell as it is, all else by this interpreter."""
    first, rest = command[0], command[1:]
    if first.startswith("-"):
        return [sys.executable, *command]
    start = [] if first.endswith(".sh") else [sys.executable]
    return [*start, str(ROOT / first), *rest]


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip()[-200:] for line in reversed(lines) if line.strip()), "")


def end_group(process: subprocess.Popen) -> None:
    """End what is left of a part: first ask, then insist.

    Its head may take its time, to save; what outlives that is a loader's, which has nothing to.
    """
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        _wait_for_group(process.pid)


def _wait_for_group(leader: int) -> None:
    """Wait until no process of a group is left, as long as is granted."""
    until = time.monotonic() + LEFTOVER
    while time.monotonic() < until:
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)


def result_path(part: Part, out: Path) -> Path:
    """Return where a part writes its numbers."""
    if part.name == "report":
        return out / "experiment" / "results.json"
    if part.name == "trial":
        return RunFolder(out / "trial" / "drawn").best
    return out / f"{part.name}.json"


def run_parts(parts: Sequence[Part], args: argparse.Namespace, about: dict) -> dict[str, Any]:
    """Run what there is time for; return how each part ended, with its numbers."""
    note = args.out / "parts.json"
    known = read_json(note) if note.exists() else {}
    until, found = time.monotonic() + 60 * args.minutes - GRACE, {}
    for part in parts:
        before, left = known.get(part.name, {}), until - time.monotonic()
        left -= REPORT if part.name == "experiment" else 0
        command = hashlib.blake2b(shlex.join(part.command).encode(), digest_size=8).hexdigest()
        mine = {"commit": about["commit"], "device": about["device"], "command": command}
        named = not re.search("-dirty$|^unknown$", about["commit"])  # else of which code is it?
        again = args.again or not named or part.name in ("experiment", "report")
        if not again and before.get("ended") == "done" and mine.items() <= before.items():
            found[part.name] = {**before, "ended": "done", "seconds": 0.0}
        elif left < LEAST:
            found[part.name] = {"ended": "skipped: no time left", "seconds": 0.0, "result": None}
            continue
        else:
            if part.name == "trial":
                shutil.rmtree(args.out / "trial", ignore_errors=True)  # done, it does nothing
            if part.name != "experiment":  # whose trials go on; numbers of before are not these
                result_path(part, args.out).unlink(missing_ok=True)
            print(f"{part.name} ...", flush=True)
            ended, seconds = run_part(part, left, args.out / "logs" / f"{part.name}.log")
            found[part.name] = {"ended": ended, "seconds": round(seconds, 1), **mine}
            known[part.name] = dict(found[part.name])
            write_json(note, known)
        path = result_path(part, args.out)
        found[part.name]["result"] = read_json(path) if path.exists() else None
        write_json(args.out / "all.json", {"about": about, "parts": found})
    return found


def lines_of(name: str, result: Any) -> list[list[str]]:
    """Return what stands in the table for a part's numbers."""
    if name == "checks" and result:
        return [[f"  {one['check']}", one["told"]] for one in result["checks"]]
    if name in ("pipeline", "overlap") and result:
        rows = result["rows"]
        if name == "overlap":
            return [[f"  {r['way']}", f"{r['pixel']:.3f} the same pixel"] for r in rows]
        kept = [row for row in rows if row["ratio"]]
        return [
            [
                f"  {row['stage']}",
                f"{row['images'] / row['seconds']:.1f} images/s, {row['ratio']:.2f} of its floor",
            ]
            for row in kept
        ]
    if name in ("network", "compiled") and result:
        return [
            [
                f"  {row['backbone']} {row['parts']} {row['way']}",
                f"{row['forward']:.0f} images/s, {row['step']:.0f} trained",
            ]
            for row in result["rows"]
        ]
    if name == "trial" and result:
        return [["  held-out error", f"{result['val_MAE']:.4f}"]]
    if name == "report" and result:
        return [
            [f"  {arm}, seed {seed}", f"maxF {rounds[-1]['maxF']:.4f}"]
            for arm, known in result["arms"].items()
            for seed, rounds in known["rounds"].items()
        ]
    return []


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts and print the table; see the module's text."""
    args, flags = parse(argv)
    machine = choose_machine(flags.get("device", "auto"), flags.get("precision", "auto"))
    cuda = machine.device.type == "cuda"
    device = torch.cuda.get_device_name(machine.device) if cuda else "cpu"
    about = {"device": device, "torch": torch.__version__, "commit": commit_of(ROOT)}
    about |= {"date": date.today().isoformat(), "minutes": args.minutes}
    found = run_parts(list_parts(args, flags, cuda), args, about)
    if cuda:
        slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
        stem, number = f"{about['date']}_{slug}", 1
        while (target := RESULTS / f"{stem}{f'_{number}' if number > 1 else ''}.json").exists():
            number += 1
        write_json(target, {"about": about, "parts": found})
        print(target)
    rows = []
    for name, part in found.items():
        rows.append([name, f"{part['ended']} ({part['seconds']:.0f} s)"])
        rows += lines_of(name, part["result"])
    print(text_table([f"{device}, torch {torch.__version__}", "result"], rows))
    return 1 if any(part["ended"].startswith("failed") for part in found.values()) else 0


if __name__ == "__main__":
    run_script(main)
