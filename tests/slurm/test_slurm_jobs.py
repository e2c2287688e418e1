"""Trials as jobs of a real Slurm: queued, warned, queued again, cancelled, failed, chosen among."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.files import read_json
from utils.tables import read_rows

ROOT = Path(__file__).resolve().parent.parent.parent


class Cluster:
    """The commands of a user, in a folder of their own."""

    def __init__(self, folder: Path, environment: dict[str, str], python: str) -> None:
        self.folder, self.runs = folder, folder / "runs"
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SBATCH", "SLURM"))}
        self.env |= {**environment, "GCO_PYTHON": python}

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess:
        env = {**self.env, **variables}
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True)

    def submit(self, *arguments: str, **variables: str) -> tuple[str, str]:
        """Submit trials; return the numbers of the array and of the choosing job."""
        done = self.run(str(ROOT / "sub_by_id.sh"), *arguments, **variables)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        return tuple(line.split(": job ")[1].split(",")[0] for line in lines[:2])

    def states(self, *jobs: str) -> list[str]:
        done = self.run(
            *("squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(jobs)}"),
            *("--format=%i %T", "--sort=i"),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split("\n")[:-1]

    def wait(self, what: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, self.told()
            time.sleep(0.1)

    def told(self) -> str:
        logs = [f"{log}\n{log.read_text()[-1500:]}" for log in self.runs.glob("*.log")]
        return "\n".join([self.run("squeue", "--array", "--states=all").stdout, *logs])

    def wait_for_end(self, job: str) -> None:
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
        self.wait(lambda: all(state.endswith(ended) for state in self.states(job)))

    def epochs(self, trial: str) -> int:
        log = self.runs / trial / "round_00" / "log.csv"
        return len(read_rows(log, ("epoch",))) if log.exists() else 0

    def status(self, *ids: str) -> dict[str, str]:
        """Return the lines of ``--status`` by trial."""
        done = self.run(str(ROOT / "sub_by_id.sh"), "--status", *ids)
        assert done.returncode == 0, done.stderr
        return {line.split()[0]: line for line in done.stdout.splitlines()[2:]}


@pytest.fixture
def stub(tmp_path: Path, cluster: dict[str, str]) -> Cluster:
    """A user whose interpreter runs stages that learn nothing."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/stub_stages.py" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "user").mkdir()
    return Cluster(tmp_path / "user", cluster, str(python))


def test_one_trial_is_queued_again_one_fails_and_the_best_of_the_others_is_chosen(
    stub: Cluster,
) -> None:
    job, choice = stub.submit("11", "3", STUB_SECONDS="0.3", STUB_FAIL="13")
    again = stub.run(str(ROOT / "sub_by_id.sh"), "10", "2")
    assert again.returncode == 2
    assert again.stderr.startswith(f"error: t11 (job {job}_11, ")
    assert "submitted already" in again.stderr
    assert again.stderr.count("\n") == 1

    # What Slurm sends before the time is up, see --signal in the job script.
    stub.wait(lambda: stub.epochs("t12") >= 2)
    assert f"running ({job}_12)" in stub.status("11", "3")["t12"]
    stub.run("scancel", "--signal=USR1", "--batch", f"{job}_12")
    log = stub.runs / f"slurm-{job}_12.log"
    stub.wait(lambda: "stopped by SIG" in log.read_text())
    stopped_after = stub.epochs("t12")
    assert 2 <= stopped_after < 10

    stub.wait_for_end(choice)
    assert stub.states(job) == [f"{job}_11 COMPLETED", f"{job}_12 COMPLETED", f"{job}_13 FAILED"]
    rows = read_rows(stub.runs / "t12" / "round_00" / "log.csv", ("epoch",))
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 11)]
    ran = (stub.runs / "ran").read_text().splitlines()
    assert sum(line.startswith("t12 train.py") for line in ran) == 2
    assert sum(line.startswith("t11 train.py") for line in ran) == 1
    assert {line.split()[2] for line in ran} <= {"devices=0", "devices=1"}
    assert log.read_text().count("stopped, saved") == 1

    # Chosen among the finished two; what is missing is told, and makes the choosing job fail.
    assert stub.states(choice) == [f"{choice} FAILED"]
    assert read_json(stub.runs / "choice-11-13" / "best.json")["trial"] == "t12"
    told = (stub.runs / f"slurm-{choice}_choice.log").read_text()
    assert "not finished, left out: t13 (train points)" in told
    shown = stub.status("11", "3")
    assert "finished" in shown["t11"]
    assert f"failed ({job}_13)" in shown["t13"]
    assert "error: made to fail" in shown["t13:"]

    # The same command again: the two are left as they are, the third goes on.
    _, choice = stub.submit("11", "3")
    stub.wait_for_end(choice)
    assert stub.states(choice) == [f"{choice} COMPLETED"]
    assert stub.epochs("t13") == 10


def test_a_cancelled_trial_stays_away(stub: Cluster) -> None:
    job, choice = stub.submit("5", "1", STUB_SECONDS="1")
    stub.wait(lambda: stub.epochs("t5") >= 1)
    stub.run("scancel", job)
    stub.wait_for_end(choice)
    time.sleep(1)
    assert stub.states(job) == [f"{job}_5 CANCELLED"]
    assert stub.states(choice) == [f"{choice} FAILED"]
    assert "none is finished" in (stub.runs / f"slurm-{choice}_choice.log").read_text()
    assert stub.epochs("t5") < 10
    again, _ = stub.submit("5", "1")
    stub.wait_for_end(again)
    assert stub.epochs("t5") == 10


def test_a_trial_whose_node_fails_is_queued_again(stub: Cluster) -> None:
    job, choice = stub.submit("21", "1", STUB_SECONDS="0.5", SBATCH_NO_REQUEUE="1")
    stub.wait(lambda: stub.epochs("t21") >= 2)
    node = ("scontrol", "update", "NodeName=node")
    down = stub.run(*node, "State=DOWN", "Reason=test")
    try:
        assert down.returncode == 0, down.stderr
        stub.wait(lambda: stub.states(job) == [f"{job}_21 PENDING"], 30)
    finally:
        stub.run(*node, "State=RESUME")
    stub.wait_for_end(choice)
    assert stub.states(job, choice) == [f"{job}_21 COMPLETED", f"{choice} COMPLETED"], stub.told()
    assert stub.epochs("t21") == 10
    ran = (stub.runs / "ran").read_text().splitlines()
    assert sum(line.startswith("t21 train.py") for line in ran) == 2


def test_a_real_trial_is_stopped_by_slurm_and_goes_on(
    cluster: dict[str, str], tmp_path: Path, tiny: list[str]
) -> None:
    user = Cluster(tmp_path, cluster, sys.executable)
    flags = [*tiny[2:], "--rounds", "1", "--no-with_dense", "--epochs", "12", "--losses_pseudo", ""]
    job, choice = user.submit("3", "1", "--gres", "none", *flags)
    last = user.runs / "t3" / "round_00" / "checkpoints" / "last.pth"
    user.wait(last.exists, 240)
    user.run("scancel", "--signal=USR1", "--batch", f"{job}_3")
    user.wait(lambda: "stopped by SIG" in (user.runs / f"slurm-{job}_3.log").read_text())
    assert 1 <= user.epochs("t3") < 12
    user.wait(lambda: user.states(choice)[0].endswith(("COMPLETED", "FAILED")), 240)
    assert user.states(job, choice) == [f"{job}_3 COMPLETED", f"{choice} COMPLETED"], user.told()
    assert "going on after" in (user.runs / f"slurm-{job}_3.log").read_text()
    assert user.epochs("t3") == 12
    assert read_json(user.runs / "choice-3-3" / "best.json")["trial"] == "t3"
