"""The jobs that ``sub_by_id.sh`` submitted, as Slurm's queue tells them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError

JOB_NAME = "gco"
"""Name of the array jobs; their working folder is the folder of the trials."""

ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED "
    "TIMEOUT".split()
)
"""Slurm's states of a job that will not run again."""


class Job(NamedTuple):
    """A trial's newest job: its name, such as ``17_3``, and Slurm's word for its state."""

    name: str
    state: str

    @property
    def active(self) -> bool:
        """Whether it waits, runs, or is just ending."""
        return self.state not in ENDED


def queued_jobs(runs: Path) -> dict[str, Job]:
    """Return the newest job of each trial in a folder, as far as Slurm remembers it.

    Raises:
        UserError: Slurm does not answer.
    """
    if not shutil.which("squeue"):
        return {}
    options = ["--noheader", "--array", "--states=all", f"--name={JOB_NAME}"]
    command = ["squeue", *options, "--format=%F %K %T %Z"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"squeue: {told.removeprefix('squeue: ')}: ask again when Slurm answers")
    found: dict[str, tuple[tuple[bool, int], Job]] = {}
    for line in done.stdout.splitlines():
        array, index, state, folder = line.split(" ", 3)
        if not index.isdigit() or Path(folder).resolve() != runs.resolve():
            continue
        job = Job(f"{array}_{index}", state)
        order = (job.active, int(array))
        if f"t{index}" not in found or found[f"t{index}"][0] < order:
            found[f"t{index}"] = (order, job)
    return {trial: job for trial, (_, job) in found.items()}


def refuse_active(trials: Sequence[str], jobs: dict[str, Job]) -> None:
    """Raise `UserError` if a trial waits in the queue or runs."""
    active = [
        f"{trial} (job {jobs[trial].name}, {jobs[trial].state.lower()})"
        for trial in trials
        if trial in jobs and jobs[trial].active
    ]
    if active:
        raise UserError(
            f"{', '.join(active)}: submitted already: wait, end it with scancel, or give --force"
        )
