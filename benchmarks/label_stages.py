"""The stages of the label-efficiency experiment: processes, their logs, and their times."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

from utils.cores import core_count
from utils.errors import UserError
from utils.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
LOG_LINES = 5
"""Lines of a failed stage's log that are shown."""

PACKAGES = ("torch", "torchvision", "numpy", "opencv-contrib-python-headless", "scipy")


class Journal:
    """What is known of a trial's run beside its files: ``bench.json`` in its folder.

    Attributes:
        seconds: wall time of each stage, all starts together.
        scored_on: the test sets of the trial's scores; empty: not scored yet.
        shared: whether the first round is the base trial's.
        threads: of its stages; 0: nothing has been run yet.
        made: what it was trained with, see `made_with`; several, if a run went on with another.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bench.json"
        known = read_json(self.path) if self.path.exists() else {}
        self.seconds: dict[str, float] = known.get("seconds", {})
        self.scored_on: str = known.get("scored_on", "")
        self.shared: bool = known.get("shared", False)
        self.threads: int = known.get("threads", 0)
        self.made: list[dict[str, Any]] = known.get("made", [])

    def write(self) -> None:
        """Put it on disk."""
        seconds = {name: round(value, 1) for name, value in self.seconds.items()}
        known = {"seconds": seconds, "scored_on": self.scored_on, "shared": self.shared}
        write_json(self.path, {**known, "threads": self.threads, "made": self.made})

    def check_threads(self, threads: int) -> None:
        """Raise `UserError` if the trial has begun with another number of threads."""
        if self.threads not in (0, threads):
            raise UserError(
                f"{self.path.parent}: began with {self.threads} threads a stage, now it would get "
                f"{threads}, and sums round otherwise: give the --jobs of then, on as many cores, "
                "or another --out"
            )

    def begin_stage(self, threads: int, made: dict[str, Any] | None) -> None:
        """Note the threads of a stage (see `check_threads`) and, of a training, what makes it."""
        self.check_threads(threads)
        self.threads = threads
        if made is not None and made not in self.made:
            self.made.append(made)
        self.write()


def commit_of(folder: Path) -> str:
    """Return the commit that a checkout is at, and whether files differ from it; else "unknown"."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=7"]
    try:
        told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


def made_with(command: str, device: str, images: str) -> dict[str, Any]:
    """Return what may change a training beside its settings: code, device, versions, images.

    Args:
        command: as it was given, without folders.
        device: its type.
        images: a hash of the training images' names: settings name the set alone.
    """
    versions = {"commit": commit_of(ROOT), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return {"command": command, "device": device, "versions": versions, "images": images}


@dataclass
class Stages:
    """Runs the project's scripts as processes of their own.

    Attributes:
        jobs: how many run at once, at most. Where the system lets it, each has cores of its own,
            as many as the others; more jobs than cores share them.
        made: what trainings are made with, see `made_with`.
        stop: when set, what is running is ended.
        beat: seconds between two calls of ``tick`` in `run`.
    """

    jobs: int
    made: dict[str, Any] = field(default_factory=dict)
    stop: Event = field(default_factory=Event)
    beat: float = 10.0

    def __post_init__(self) -> None:
        self._free: SimpleQueue[int] = SimpleQueue()
        for place in range(self.jobs):
            self._free.put(place)

    @property
    def threads(self) -> int:
        """Threads, and scoring processes, of one stage."""
        return max(1, core_count() // self.jobs)

    def cores(self, place: int) -> set[int]:
        """Return the cores of the stage at a place, of 0 to jobs - 1."""
        known = sorted(os.sched_getaffinity(0))
        return {known[(place * self.threads + i) % len(known)] for i in range(self.threads)}

    @contextlib.contextmanager
    def _bound(self, place: int) -> Iterator[None]:
        """Bind this thread to the cores of a place; a process that it starts inherits that.

        All that a stage computes with goes by them: numbers of threads, of OpenCV too, and pools.
        """
        if not hasattr(os, "sched_setaffinity"):  # known to Linux alone
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores(place))
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def run(
        self,
        command: Sequence[str],
        log: Path,
        tick: Callable[[float], None] = lambda seconds: None,
        keep_open: Sequence[int] = (),
    ) -> None:
        """Run a stage to its end.

        Args:
            command: a script of the repository, or ``-m`` and a module, and its arguments.
            log: its output is appended there.
            tick: is told the seconds since the last call, every `beat` of them and at the end.
            keep_open: file descriptors that the stage holds, too.

        Raises:
            UserError: the stage failed, or was ended; tells the last lines of the log.
        """
        script = list(command) if command[0] == "-m" else [str(ROOT / command[0]), *command[1:]]
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        env |= {"OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}
        log.parent.mkdir(parents=True, exist_ok=True)
        place = self._free.get()
        try:
            with open(log, "a", encoding="utf-8") as output, self._bound(place):
                print("$", *command, file=output, flush=True)
                process = subprocess.Popen(
                    [sys.executable, *script],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=env,
                    pass_fds=keep_open,
                )
            self._wait(process, tick)
        finally:
            self._free.put(place)
        if process.returncode:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            last = " | ".join([line.strip() for line in lines if line.strip()][-LOG_LINES:])
            name = next(part for part in command if part != "-m")
            raise UserError(f"{name} failed ({process.returncode}), see {log}: {last}")

    def _wait(self, process: subprocess.Popen, tick: Callable[[float], None]) -> None:
        """Wait for a stage's end, or end it when all is to stop."""
        told = time.monotonic()
        try:
            while process.poll() is None and not self.stop.is_set():
                try:
                    process.wait(0.2)
                except subprocess.TimeoutExpired:
                    if time.monotonic() - told >= self.beat:
                        told, since = time.monotonic(), told
                        tick(told - since)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            tick(time.monotonic() - told)
