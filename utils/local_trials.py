"""Run the trials of ``sub_by_id.sh`` on this machine, some at a time, where there is no Slurm.

``python -m utils.local_trials --ids 10 5 --at_once 2 -- FLAGS`` runs gco.sh for t10 .. t14, the
seed of each its ID. The output of each goes to ``<runs>/local-<trial>.log``. Cores and GPUs are
shared out among those that run at a time. A trial that fails does not stop the others.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from utils.cli import Parser
from utils.cores import OWN_LIMIT, core_count
from utils.errors import EXIT_INTERRUPTED, UserError, run_script
from utils.run_folder import RunFolder
from utils.stopping import EXIT_STOPPED
from utils.trial_status import standing

ROOT = Path(__file__).resolve().parent.parent
ENDS = ("finished", "waiting for answers", "failed", "to go on")


def visible_devices() -> list[str]:
    """Return the names of the CUDA devices that this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    import torch  # loaded only where it must be asked

    return [str(index) for index in range(torch.cuda.device_count())]


def share(things: Sequence[str], place: int, places: int) -> list[str]:
    """Return what one of ``places`` gets of things; with fewer things than places, one of them."""
    if not things:
        return []
    mine = list(things[place::places])
    return mine or [things[place % len(things)]]


class Trials:
    """Trials that are run, at most some at a time."""

    def __init__(self, runs: Path, at_once: int, flags: Sequence[str]) -> None:
        self.runs, self.at_once, self.flags = runs, at_once, list(flags)
        self.devices = visible_devices()
        self.running: dict[int, tuple[str, int, subprocess.Popen]] = {}
        self.status: dict[str, int] = {}
        self.stopping: signal.Signals | None = None

    def log(self, trial: str) -> Path:
        """Return where a trial's output goes."""
        return self.runs / f"local-{trial}.log"

    def run(self, numbers: Sequence[int]) -> int:
        """Run gco.sh for each number; return the exit status of the whole."""
        waiting = list(numbers)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._stop)
        try:
            while self.running or (waiting and not self.stopping):
                taken = {place for _, place, _ in self.running.values()}
                for place in sorted(set(range(self.at_once)) - taken):
                    if waiting and not self.stopping:
                        self._start(waiting.pop(0), place)
                self._wait_for_one()
        except BaseException:  # the trials have sessions of their own: nobody else would end them
            for _, _, process in self.running.values():
                self._ask_to_stop(process)
            for _, _, process in self.running.values():
                process.wait()
            raise
        return self._tell([f"t{number}" for number in waiting])

    def _start(self, number: int, place: int) -> None:
        trial, log = f"t{number}", self.log(f"t{number}")
        mine = share(self.devices, place, self.at_once)
        cores = str(max(1, core_count() // self.at_once))
        env = {"OMP_NUM_THREADS": cores, **os.environ, OWN_LIMIT: cores}
        env["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        command = [str(ROOT / "gco.sh"), trial, "--seed", str(number), *self.flags]
        with open(log, "a", encoding="utf-8") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,  # Ctrl-C comes to us alone, and is passed on once
            )
        self.running[process.pid] = (trial, place, process)
        print(f"{trial}: runs, {log}", flush=True)
        if self.stopping:  # asked while it was started
            self._ask_to_stop(process)

    def _wait_for_one(self) -> None:
        if not self.running:
            return
        pid, result = os.wait()
        trial, _, process = self.running.pop(pid)
        code = os.waitstatus_to_exitcode(result)
        process.returncode = code
        self.status[trial] = code
        told = {"to go on": "stopped, all is saved", "failed": f"failed with status {code}"}
        end = self._end(trial, code)
        see = f", see {self.log(trial)}" if end in ("failed", "waiting for answers") else ""
        print(f"{trial}: {told.get(end, end)}{see}", flush=True)

    def _end(self, trial: str, code: int) -> str:
        """Return how a trial ended, one of `ENDS`."""
        if code:
            return "to go on" if code == EXIT_STOPPED else "failed"
        # gco.sh ends well, too, when the next thing to do is people's.
        asks = standing(RunFolder(self.runs / trial), []).stage.startswith("ask ")
        return "waiting for answers" if asks else "finished"

    def _stop(self, number: int, frame: object) -> None:
        if not self.stopping:
            self.stopping = signal.Signals(number)
            for _, _, process in self.running.values():
                self._ask_to_stop(process)

    @staticmethod
    def _ask_to_stop(process: subprocess.Popen) -> None:
        # `Popen.send_signal` would first fetch the status of one that has just ended, and
        # `_wait_for_one` wait for it in vain.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)

    def _tell(self, left: Sequence[str]) -> int:
        """Print the summary; return the exit status."""
        codes = {**self.status, **dict.fromkeys(left, EXIT_STOPPED)}
        groups: dict[str, list[str]] = {end: [] for end in ENDS}
        for trial in sorted(codes, key=lambda trial: int(trial[1:])):
            groups[self._end(trial, codes[trial])].append(trial)
        print("; ".join(f"{name}: {' '.join(who)}" for name, who in groups.items() if who))
        if self.stopping:
            print(f"stopped by {self.stopping.name}: the same command goes on from here")
            return EXIT_INTERRUPTED if self.stopping == signal.SIGINT else EXIT_STOPPED
        if groups["to go on"]:
            return EXIT_STOPPED
        return 1 if groups["failed"] else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; see the module's text."""
    parser = Parser(description=__doc__)
    parser.add_argument("--ids", type=int, nargs=2, required=True, metavar=("FIRST", "N"))
    parser.add_argument("--at_once", type=int, required=True, help="trials at a time")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all trials")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="-- and the flags of gco.sh")
    args = parser.parse(argv)
    if args.at_once < 1:
        raise UserError(f"--at_once {args.at_once}: give 1 or more")
    args.runs.mkdir(parents=True, exist_ok=True)
    first, count = args.ids
    flags = args.flags[1:] if args.flags[:1] == ["--"] else args.flags
    return Trials(args.runs, args.at_once, flags).run(range(first, first + count))


if __name__ == "__main__":
    run_script(main)
