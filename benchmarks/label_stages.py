"""The stages of the label-efficiency experiment: processes, their logs, and their times."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from utils.cores import core_count
from utils.errors import UserError
from utils.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
LOG_LINES = 5
"""Lines of a failed stage's log that are shown."""


class Journal:
    """What is known of a trial's run beside its files: ``bench.json`` in its folder.

    Attributes:
        seconds: wall time of each stage, all starts together.
        scored_on: the test sets of the trial's scores; empty: not scored yet.
        shared: whether the first round is the base trial's.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bench.json"
        known = read_json(self.path) if self.path.exists() else {}
        self.seconds: dict[str, float] = known.get("seconds", {})
        self.scored_on: str = known.get("scored_on", "")
        self.shared: bool = known.get("shared", False)

    def write(self) -> None:
        """Put it on disk."""
        seconds = {name: round(value, 1) for name, value in self.seconds.items()}
        write_json(
            self.path, {"seconds": seconds, "scored_on": self.scored_on, "shared": self.shared}
        )


@dataclass
class Stages:
    """Runs the project's scripts as processes of their own.

    Attributes:
        jobs: how many run at once, at most; they divide the cores among them.
        stop: when set, what is running is ended.
    """

    jobs: int
    stop: Event = field(default_factory=Event)
    beat: float = 10.0

    @property
    def threads(self) -> int:
        """Threads, and scoring processes, of one stage."""
        return max(1, core_count() // self.jobs)

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
        told = time.monotonic()
        with open(log, "a", encoding="utf-8") as output:
            print("$", *command, file=output, flush=True)
            process = subprocess.Popen(
                [sys.executable, *script],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                pass_fds=keep_open,
            )
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
        if process.returncode:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            last = " | ".join([line.strip() for line in lines if line.strip()][-LOG_LINES:])
            name = next(part for part in command if part != "-m")
            raise UserError(f"{name} failed ({process.returncode}), see {log}: {last}")
