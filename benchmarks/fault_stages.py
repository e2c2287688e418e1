"""A small pipeline whose stages run in forked processes, so that one that is killed costs little.

Everything is imported once; a stage is a fork that calls the stage's ``main``. After an undisturbed
run the folder as it was before every stage can be put back, the stage disturbed and run again, and
what it leaves compared with what the undisturbed run left.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

import active_learning.__main__ as asking
import evaluate
import select_best
import test
import train
from benchmarks.fault_injection import Injection
from config import Config
from datasets.sample import make_sample
from models import build_model
from models.saliency_net import NO_PARTS
from utils import settings
from utils.errors import run_script
from utils.files import read_json, write_json
from utils.stages import run_stage
from utils.tables import read_rows

LONGEST = 120.0
"""Seconds after which a stage counts as hung."""

_ERROR = re.compile(r"(?:^|\x1b\[A|\r)error: .+", re.MULTILINE)
"""A line of error; a progress bar that is wiped away may stand before it."""

_FREE = ("*.lock", "*.tally", "*.index", "*.pdf", "labels.json")
"""Files that differ between equal runs: by process, by the files' own times, by the date."""


_FREE_KEYS = {"seconds", "workers", "cache_mb"}
"""What equal results may say otherwise: how long they took, and how batches were prepared."""


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline: its name, its ``main``, and its arguments beside the trial's."""

    name: str
    main: Callable[[Sequence[str]], int]
    flags: tuple[str, ...] = ()

    @property
    def listens(self) -> bool:
        """Whether its script stops on a signal, rather than being killed by it."""
        return hasattr(sys.modules[self.main.__module__], run_stage.__name__)


def stages(rounds: int = 2, arms: Sequence[str] = ("dense", "random")) -> list[Stage]:
    """Return the stages of ``gco.sh``, in its order, all on one core.

    Args:
        rounds: all of them, those that only train again included.
        arms: beside the points.
    """
    found = [Stage("settings", settings.main, ("--save",))]

    def add_round(arm: str, index: int) -> None:
        which = ("--arm", arm, "--round", str(index))
        found.append(Stage(f"ask {arm} {index}", asking.main, which))
        found.append(Stage(f"train {arm} {index}", train.main, which))

    add_round("points", 0)
    if "dense" in arms:
        found.append(Stage("train dense", train.main, ("--arm", "dense")))
    for index in range(1, rounds):
        for arm in ("points", *(arm for arm in arms if arm == "random")):
            add_round(arm, index)
    found += [Stage("test", test.main), Stage("evaluate", evaluate.main, ("--no_figures",))]
    return [*found, Stage("select", select_best.main)]


@dataclass(frozen=True)
class Ended:
    """How a stage ended.

    Attributes:
        status: exit status; negative: the signal that killed it; None: it hung.
        told: its standard output and error.
        seen: the kinds of the changes that it made to files, see `Injection`.
        seconds: how long it took.
    """

    status: int | None
    told: str
    seen: list[str]
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether it told one line of error, and no traceback."""
        errors = _ERROR.findall(self.told)
        return self.status == 2 and len(errors) == 1 and "Traceback" not in self.told


@dataclass
class Pipeline:
    """A tiny trial: its data, its folder, and what an undisturbed run leaves.

    Attributes:
        home: holds all of it.
        stages: in order.
        more: further flags of the trial.
    """

    home: Path
    stages: list[Stage]
    more: tuple[str, ...] = ()
    before: dict[str, Path] = field(default_factory=dict)
    after: dict[str, Path] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    changes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def runs(self) -> Path:
        """Folder of the trial's runs."""
        return self.home / "runs"

    @property
    def run(self) -> Path:
        """The trial's folder."""
        return self.runs / "tiny"

    @property
    def flags(self) -> list[str]:
        """The trial's settings, as flags."""
        return [
            *("--trial", "tiny", "--runs", str(self.runs), "--data_root", str(self.home / "data")),
            *("--trainset", "SAMPLE-TR", "--testsets", "SAMPLE-TE", "--backbone", "mobilenet_v2"),
            *("--backbone_weights", "none", "--width", "8", "--size", "32", "--batch_size", "4"),
            *("--epochs", "2", "--snapshots", "2", "--rounds", "2", "--points_per_image", "4"),
            *("--retrain", "0", "--validation_fraction", "0.2", "--device", "cpu"),
            *("--workers", "0", *self.more),
        ]

    @property
    def config(self) -> Config:
        """The trial's settings."""
        return settings.parse(self.flags, "")[0]

    def run_whole(self) -> None:
        """Run all stages, keeping the folder as it was before and after each.

        Raises:
            RuntimeError: a stage failed.
        """
        # There as in every run after it: making it would be one change more.
        self.runs.mkdir(parents=True, exist_ok=True)
        if not (self.home / "data").exists():
            forked(lambda: make_sample(self.home / "data", 8, 2, 48), self.home / "log")
        for index, stage in enumerate(self.stages):
            self.before[stage.name] = self._keep(index)
            ended = self.start(stage)
            if ended.status != 0:
                raise RuntimeError(f"{stage.name} ended with {ended.status}: {ended.told}")
            self.times[stage.name], self.changes[stage.name] = ended.seconds, ended.seen
            self.after[stage.name] = self._keep(index + 1)

    def _keep(self, index: int) -> Path:
        kept = self.home / "kept" / str(index)
        if not kept.exists():
            copy_run(self.runs, kept)
        return kept

    def stage(self, name: str) -> Stage:
        """Return a stage by its name."""
        return next(stage for stage in self.stages if stage.name == name)

    def command(self, name: str, flags: Sequence[str] = ()) -> Callable[[], int]:
        """Return what a stage does when it is called."""
        stage = self.stage(name)
        return lambda: stage.main([*self.flags, *stage.flags, *flags])

    def put_back(self, name: str) -> Stage:
        """Make the folder what it was before a stage, and return that."""
        shutil.rmtree(self.runs, ignore_errors=True)
        copy_run(self.before[name], self.runs)
        return self.stage(name)

    def start(
        self,
        stage: Stage,
        injection: Injection | None = None,
        seconds: float | None = None,
        prepare: Callable[[], Any] = lambda: None,
        flags: Sequence[str] = (),
    ) -> Ended:
        """Run a stage to its end, or to that of its time.

        Args:
            stage: what to run.
            injection: what happens to its files; None: they are counted.
            seconds: after which it is killed; None: never, but see `LONGEST`.
            prepare: is called in the stage's process before it begins.
            flags: further ones.
        """
        watched = injection or Injection(self.runs)
        # The file lies outside the folder that is watched.
        told, changes = self.home / "log", self.home / "changes.json"

        def work() -> None:
            prepare()
            watched.install()
            try:
                run = run_stage if stage.listens else run_script
                run(self.command(stage.name, flags))
            finally:
                write_json(changes, watched.seen)

        changes.unlink(missing_ok=True)
        began = time.monotonic()
        status = forked(work, told, seconds)
        took = time.monotonic() - began
        seen = read_json(changes) if changes.exists() else []
        return Ended(status, told.read_text(errors="replace"), seen, took)

    def differences(self, stage: Stage) -> list[str]:
        """Return the files that are not as the undisturbed run had them after a stage."""
        return differences(self.after[stage.name], self.runs)


def forked(work: Callable[[], Any], log: Path, seconds: float | None = None) -> int | None:
    """Run something in a forked process, its output in a file; return its exit status.

    Args:
        work: is run; `SystemExit` gives the status.
        log: written anew.
        seconds: after which the process is killed; None: after `LONGEST` it counts as hung.
    """
    child = os.fork()
    if child == 0:
        _run_child(work, log)
    end = time.monotonic() + (LONGEST if seconds is None else seconds)
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None if seconds is None else -signal.SIGKILL
        time.sleep(0.005)


def _run_child(work: Callable[[], Any], log: Path) -> None:
    """Run something, and leave without the parent's own endings (of pytest, for one)."""
    status = 1
    # Progress bars share a lock with the parent, who would wait for ever for that of a killed one.
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = sys.stderr = open(  # noqa: SIM115  to the process's end
            1, "w", encoding="utf-8", errors="replace", closefd=False
        )
        # Renews torch's thread pool, which a fork leaves broken, before threads do it at one
        # moment, one of which can then find none ("Invalid thread pool!").
        torch.set_num_threads(1)
        try:
            work()
            status = 0
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
    finally:
        os._exit(status)


def prepare() -> None:
    """Fit this process to fork stages: no threads, which a fork would lose; all is imported."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # What stages import when they first need it: that takes longer than they do.
    for name in ("compat.proto.event_pb2", "compat.proto.summary_pb2", "summary.writer"):
        importlib.import_module(f"tensorboard.{name}")
    for name in ("tensorboard.summary.writer.record_writer", "matplotlib.pyplot", "scipy.ndimage"):
        importlib.import_module(name)
    model = build_model("mobilenet_v2", 8, "none", NO_PARTS)[0]
    torch.optim.AdamW(model.parameters()).step()


def copy_run(source: Path, target: Path) -> None:
    """Copy a folder of runs; checkpoints, which are only ever replaced, are linked."""

    def copy(one: str, other: str) -> None:
        if one.endswith(".pth") and not os.path.islink(one):
            os.link(one, other)
        else:
            shutil.copy2(one, other, follow_symlinks=False)

    if source.exists():
        shutil.copytree(source, target, symlinks=True, copy_function=copy)
    else:
        target.mkdir(parents=True)


def differences(one: Path, other: Path) -> list[str]:
    """Return the files below two folders that hold other results, or are in one of them alone."""
    names = [set(_files(folder)) for folder in (one, other)]
    found = [f"{name}: only in one of the runs" for name in names[0] ^ names[1]]
    return sorted(found) + [
        f"{name}: differs" for name in sorted(names[0] & names[1]) if _differ(one, other, name)
    ]


def _files(folder: Path) -> list[str]:
    paths = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    listed = [path for path in paths if "tensorboard" not in path.parts]
    return [str(path) for path in listed if not any(path.match(free) for free in _FREE)]


def _differ(one: Path, other: Path, name: str) -> bool:
    first, second = one / name, other / name
    if first.is_symlink() or second.is_symlink():
        return os.readlink(first) != os.readlink(second)
    if first.samefile(second) or first.read_bytes() == second.read_bytes():
        return False
    return not _same(_result(first), _result(second))


def _result(path: Path) -> Any:
    """Return what a file says, without what may differ between runs."""
    if path.suffix == ".pth":
        try:
            return torch.load(path, weights_only=True)
        except RuntimeError as error:  # told with its name, as what differs
            return f"unreadable: {error}"
    if path.suffix == ".npz":
        with np.load(path) as stored:
            return dict(stored)
    if path.suffix == ".json":
        found = json.loads(path.read_text(encoding="utf-8"))
        if path.name == "made_from.json":  # a picture that went and came back has another state
            found["pictures"] = sorted(found["pictures"])
        return found
    if path.suffix == ".csv":
        return read_rows(path, ())
    return path.read_bytes()


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        keys = one.keys() - _FREE_KEYS
        return keys == other.keys() - _FREE_KEYS and all(_same(one[k], other[k]) for k in keys)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if torch.is_tensor(one):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
    return one == other
