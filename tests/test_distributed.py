"""Two processes do what one does: steps, pseudo labels, the choice of points, maps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import active_learning.__main__ as asking
import train
from tests import shared_work
from utils.checkpoints import load_checkpoint
from utils.run_folder import RunFolder
from utils.tables import read_rows

ROOT = Path(__file__).resolve().parent.parent
WORK = str(ROOT / "tests" / "shared_work.py")

HELD: list[socket.socket] = []
"""Sockets on the ports that were chosen: none listens, but while it is open the system gives its
port to nobody who leaves the choice to it."""


def start(count: int, out: Path, task: str, flags: list[str] = ()) -> list[subprocess.Popen]:
    """Start the processes of one piece of work, with the environment that torchrun makes."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    HELD.append(held)
    env = {**os.environ, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(held.getsockname()[1])}
    return [
        subprocess.Popen(
            [sys.executable, WORK, str(out), task, *flags],
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(count)
    ]


def finish(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        told = process.communicate(timeout=600)[1]
        assert process.returncode == 0, told[-3000:]


def test_two_processes_do_the_work_of_one(
    tiny: list[str], sample_root: Path, tmp_path: Path
) -> None:
    tiny = [*tiny, "--average", "1"]  # of few steps, half would be too short a memory
    asking.main(tiny)
    train.main(tiny)
    runs = tmp_path / "runs"
    shutil.copytree(runs, tmp_path / "shared")
    out, flags = tmp_path / "shared.json", [*tiny, "--runs", str(tmp_path / "shared")]
    processes = start(2, out, "all_of_it", flags)
    one = shared_work.all_of_it(tiny)
    finish(processes)
    two = json.loads(out.read_text())
    assert one.keys() == two.keys()
    assert one["stages"] == two["stages"]
    for case in shared_work.CASES:
        assert_same_steps(one[case], two[case])
    assert {"triplet", "others/iou", "discriminator", "contrast"} <= set(one["grouped"]["names"])
    assert {"pseudo/ssim", "consistency"} <= set(one["points"]["names"])
    assert set(one["taught"]["names"]) == {"pseudo/bce", "pseudo/iou", "pseudo/ssim", "others/iou"}
    assert_same_files(runs / "tiny", tmp_path / "shared" / "tiny")


def assert_same_steps(one: dict, two: dict) -> None:
    """Losses, the gradient of each parameter and the batch statistics are the same."""
    assert one["names"] == two["names"]
    assert one["steps"]
    # A discriminator's step is taken in single precision, and moves the network's next one.
    least = 1e-6 if "discriminator" in one["names"] else 1e-8
    for first, second in zip(one["steps"], two["steps"], strict=True):
        for kind, values in first.items():
            assert np.isfinite(values).all()
            np.testing.assert_allclose(second[kind], values, rtol=1e-5, atol=least)


def assert_same_files(one: Path, two: Path) -> None:
    """Two processes choose the same points, draw the same sheet and make the same maps."""
    names = ["round_01/points.csv", "oracle/ledger.csv"]
    maps = sorted(path.relative_to(one) for path in (one / "preds").rglob("*.png"))
    assert len(maps) == 6 + 2
    for name in [*names, *maps]:
        assert (one / name).read_bytes() == (two / name).read_bytes()
    sheets = [np.load(run / "round_01/sheet.npz") for run in (one, two)]
    assert sheets[0].files == sheets[1].files
    assert all(np.array_equal(sheets[0][name], sheets[1][name]) for name in sheets[0].files)
    for run in (one, two):
        assert (run / "round_01/trained.json").exists()
        assert len(read_rows(run / "round_01/log.csv", ("val_MAE",))) == 2
        assert len(list((run / "round_01/snapshots").iterdir())) == 2
        assert len(list((run / "round_01/tensorboard").iterdir())) == 1


def test_one_that_fails_takes_the_others_with_it(tmp_path: Path) -> None:
    processes = start(2, tmp_path / "none.json", "failing")
    told = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], told
    assert told[1] == "error: the last process has failed: mend it\nat exit\n"
    assert told[0] == "at exit\n"


def test_a_signal_to_torchrun_stops_all_processes_and_the_training_goes_on(
    tiny: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc_per_node", "2", "train.py", *tiny, "--arm", "dense"]
    command += ["--epochs", "6"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    log = RunFolder(tmp_path / "runs" / "tiny").training("dense", 0) / "log.csv"
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes) as process:
        while not log.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=300)[0]
    assert process.returncode != 0
    assert "stopped by a signal: run the same command again to go on" in told
    last = RunFolder(tmp_path / "runs" / "tiny").checkpoint("dense", 0, "last")
    saved = load_checkpoint(last)["training"]
    assert 1 <= saved["epoch"] < 6
    # Another number of processes may go on.
    train.main([*tiny, "--arm", "dense", "--epochs", "6"])
    assert f"going on after epoch {saved['epoch']} of 6" in capfd.readouterr().out
    epochs = [row["epoch"] for row in read_rows(log, ("epoch",))]
    assert epochs == [str(epoch) for epoch in range(1, 7)]
