"""gco.sh and the signals that ask it to stop, and its processes on several GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


class Trial:
    """gco.sh with stages that learn nothing, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.python = folder / "python"
        stub = ROOT / "tests" / "stub_stages.py"
        self.python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stub}" "$@"\n')
        self.python.chmod(0o755)

    def start(self, *flags: str, **variables: str) -> subprocess.Popen:
        env = {
            **os.environ,
            "GCO_PYTHON": str(self.python),
            "CUDA_VISIBLE_DEVICES": "",
            **variables,
        }
        command = [str(ROOT / "gco.sh"), "t12", "--seed", "12", *flags]
        with open(self.log, "a") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True
            )

    def epochs(self) -> int:
        log = self.folder / "runs" / "t12" / "round_00" / "log.csv"
        return len(log.read_text().splitlines()) - 1 if log.exists() else 0

    def start_training(self, **variables: str) -> subprocess.Popen:
        # Ten epochs: long enough for it to be still at work when this process's turn comes.
        process = self.start(STUB_SECONDS="1", **variables)
        end = time.monotonic() + 60
        while self.epochs() < 1:
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        return process

    def ran(self) -> list[str]:
        return (self.folder / "runs" / "ran").read_text().splitlines()


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_the_stage_and_the_same_command_goes_on(
    trial: Trial, number: signal.Signals
) -> None:
    process = trial.start_training()
    process.send_signal(number)
    assert process.wait(30) == 75
    lines = trial.log.read_text().splitlines()
    assert lines[-2:] == [
        "stopped, saved",
        f"stopped by {number.name}: the same command goes on from here",
    ]
    assert 1 <= trial.epochs() < 10
    assert [line.split()[1] for line in trial.ran()] == ["active_learning", "train.py"]
    assert trial.start().wait(60) == 0
    assert trial.epochs() == 10
    assert trial.ran()[-1].startswith("t12 active_learning.report")


@pytest.mark.parametrize(
    ("stage", "devices", "expected"),
    [
        ("143", "", 75),  # killed by the signal before it could see to it
        ("1", "0,1", 75),  # torchrun tells no more of the stop
        ("1", "0", 1),
        ("2", "0,1", 2),
        ("0", "0", 75),  # it was done, but more stages are to come
    ],
)
def test_what_a_stopped_stage_leaves_with(
    trial: Trial, stage: str, devices: str, expected: int
) -> None:
    process = trial.start_training(STUB_STOPPED=stage, CUDA_VISIBLE_DEVICES=devices)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == expected
    assert ("goes on from here" in trial.log.read_text()) == (expected == 75)
    assert trial.ran()[-1].split()[1] == "train.py"


def test_a_stage_that_stops_by_itself_is_passed_on_and_one_that_fails_too(trial: Trial) -> None:
    process = trial.start_training()
    stage = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int(stage), signal.SIGTERM)
    assert process.wait(30) == 75
    assert trial.start(STUB_FAIL="12").wait(30) == 2
    assert trial.ran()[-1].split()[1] == "train.py"


def test_a_stage_that_is_killed_is_told_in_plain_words(trial: Trial) -> None:
    process = trial.start_training()
    stage = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int(stage), signal.SIGKILL)
    assert process.wait(30) == 137
    last = trial.log.read_text().splitlines()[-1]
    assert last.startswith("error: a stage was killed from outside")
    assert last.endswith("the same command goes on from here")


def test_ctrl_c_reaches_the_stage_and_ends_with_130(trial: Trial) -> None:
    process = trial.start_training()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert "KeyboardInterrupt" in trial.log.read_text()
    assert trial.ran()[-1].split()[1] == "train.py"


@pytest.mark.parametrize(("devices", "count"), [("0,1", 2), ("3", 1), ("", 1)])
def test_each_gpu_gets_a_process(trial: Trial, devices: str, count: int) -> None:
    assert trial.start(CUDA_VISIBLE_DEVICES=devices).wait(60) == 0, trial.log.read_text()
    told = f"devices={devices}" + " --standalone --nproc_per_node 2 grants=110" * (count == 2)
    of_stage = {line.split()[1]: line.split(maxsplit=2)[2] for line in trial.ran()}
    for stage in ("active_learning", "train.py", "test.py"):
        assert of_stage[stage] == told
    for stage in ("evaluate.py", "select_best.py", "active_learning.report"):
        assert of_stage[stage] == f"devices={devices}"


@pytest.mark.parametrize(
    ("rounds", "trained"), [(1, "0"), (3, "0 1 2"), (5, "0 2 4"), (13, "0 11 12")]
)
def test_only_rounds_that_are_trained_start_a_training(
    trial: Trial, rounds: int, trained: str
) -> None:
    process = trial.start(STUB_ROUNDS=str(rounds), STUB_TRAINED=trained)
    assert process.wait(60) == 0, trial.log.read_text()
    expected = []
    for index in range(rounds):
        expected += ["active_learning", *["train.py"] * (str(index) in trained.split())]
    assert [line.split()[1] for line in trial.ran()][: len(expected) + 1] == [*expected, "test.py"]


def test_open_questions_are_no_failure_and_the_same_command_goes_on(trial: Trial) -> None:
    assert trial.start(STUB_ORACLE="human", STUB_WAITING="1").wait(60) == 0
    lines = trial.log.read_text().splitlines()
    assert lines[-1] == "when they are answered, the same command goes on"
    assert [line.split()[1] for line in trial.ran()] == ["active_learning"]
    # Of several processes one alone asks.
    assert trial.start(STUB_ORACLE="human", CUDA_VISIBLE_DEVICES="0,1").wait(60) == 0
    asking = [line for line in trial.ran()[1:] if line.split()[1] == "active_learning"]
    assert ["--nproc_per_node" in line for line in asking] == [True, False]


def test_a_folder_may_have_an_odd_name(trial: Trial) -> None:
    runs = " it's \\ $HOME "
    assert trial.start("--runs", runs).wait(60) == 0, trial.log.read_text()
    assert (trial.folder / runs / "t12" / "scores.csv").exists()
    assert [path.name for path in trial.folder.iterdir() if path.is_dir()] == [runs]
