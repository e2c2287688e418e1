"""gco.sh from end to end, undisturbed and killed at random."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from datasets.points import read_points
from utils.checkpoints import load_checkpoint
from utils.files import read_json
from utils.tables import read_rows

ROOT = Path(__file__).resolve().parent.parent


def start(flags: list[str], log: Path) -> subprocess.Popen:
    """Start gco.sh with this interpreter, in a process group of its own."""
    command = [str(ROOT / "gco.sh"), "tiny", *flags]
    env = {**os.environ, "GCO_PYTHON": sys.executable}
    with open(log, "a", encoding="utf-8") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=file, env=env, cwd=ROOT, start_new_session=True
        )


def end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8")[-2000:]


def test_the_pipeline_runs_and_survives_kills(tiny: list[str], tmp_path: Path) -> None:
    flags = [*tiny, "--with_random", "--retrain", "1"]
    log = tmp_path / "undisturbed.log"
    process = start(flags, log)
    began = time.monotonic()
    assert process.wait() == 0, end_of(log)
    lasted = time.monotonic() - began
    whole = tmp_path / "runs" / "tiny"
    check_run_folder(whole)
    assert "points/dense" in end_of(log)
    assert "random/dense" in end_of(log)

    flags = [*flags, "--runs", str(tmp_path / "killed")]
    log = tmp_path / "killed.log"
    chance = random.Random(0)
    for _ in range(3):
        process = start(flags, log)
        try:
            process.wait(timeout=chance.uniform(0.25, 0.55) * lasted)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert start(flags, log).wait() == 0, end_of(log)
    killed = tmp_path / "killed" / "tiny"
    check_run_folder(killed)
    assert_same_results(whole, killed)


def check_run_folder(run: Path) -> None:
    """The files that others build on are there, and whole."""
    written = ("config.json", "scores.csv", "best.json", "curve.png", "report.html")
    for name in (*written, "oracle/ledger.csv"):
        assert (run / name).stat().st_size > 0
    for folder in ("dense", "round_00", "round_01", "round_02", "random/round_02"):
        for name in ("checkpoints/last.pth", "checkpoints/best.pth", "log.csv", "trained.json"):
            assert (run / folder / name).exists()
        assert len(list((run / folder / "snapshots").iterdir())) == 2
    assert (run / "round_01/sheet.png").stat().st_size > 10_000
    rows = read_rows(run / "scores.csv", ("checkpoint", "set", "points"))
    assert len(rows) == 2 * 6
    assert not [
        path for path in run.rglob(".*") if path.is_file() and "tensorboard" not in str(path)
    ]
    budgets = {row["checkpoint"]: row["points"] for row in rows}
    assert budgets["round_01-best"] == budgets["random-round_02-best"] == "4"
    asked = [p for r in range(2) for p in read_points(run / f"round_0{r}/points.csv")]
    per_image = {name: sum(p.image == name for p in asked) for name in {p.image for p in asked}}
    assert set(per_image.values()) == {4}
    assert len({(p.image, p.x, p.y) for p in asked}) == len(asked)
    assert read_json(run / "best.json")["name"] == "round_02-best"


def assert_same_results(one: Path, other: Path) -> None:
    """Points, weights and scores are the same."""
    for name in ("round_00/points.csv", "round_01/points.csv", "validation/points.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert (one / "random/round_01/points.csv").read_bytes() == (
        other / "random/round_01/points.csv"
    ).read_bytes()
    ledgers = [read_points(run / "oracle/ledger.csv") for run in (one, other)]
    assert sorted(ledgers[0]) == sorted(ledgers[1])
    for folder in ("dense", "round_01", "round_02", "random/round_02"):
        first, second = (
            load_checkpoint(run / folder / "checkpoints/last.pth")["model"] for run in (one, other)
        )
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert (one / "scores.csv").read_bytes() == (other / "scores.csv").read_bytes()
