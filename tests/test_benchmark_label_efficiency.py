"""The label-efficiency experiment as a whole; and that sharing a first round changes nothing."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import label_efficiency
from benchmarks.label_arms import (
    ARMS,
    ASKS_LATER,
    Arm,
    as_flags,
    flags_of,
    fresh,
)
from benchmarks.label_kept import without_folders
from benchmarks.label_stages import ROOT, Journal, Stages
from config import FIELDS
from datasets.points import read_points
from utils import settings
from utils.checkpoints import load_checkpoint
from utils.files import read_json
from utils.locks import in_use
from utils.run_folder import RunFolder
from utils.stopping import EXIT_STOPPED
from utils.tables import read_rows


class InProcess(Stages):
    """Runs the stages themselves, without the seconds that a new process takes to import them."""

    threads = 1

    def run(
        self,
        command: Sequence[str],
        log: Path,
        tick: Callable[[float], None] = lambda seconds: None,
        keep_open: Sequence[int] = (),
    ) -> None:
        if command[:2] == ["-m", "datasets.check"]:
            return
        name = "active_learning.__main__" if command[0] == "-m" else command[0]
        words = command[2:] if command[0] == "-m" else command[1:]
        assert import_module(name.removesuffix(".py")).main(words) == 0
        tick(1.0)


ASKED_OTHERWISE = {
    "acquisition": "bald",
    "attack": "fgsm",
    "attack_eps": 1.0,
    "attack_step": 0.25,
    "attack_steps": 2,
    "attack_patches": 2,
    "vote_kernel": 3,
    "vote_sigma": 0.2,
    "ask_scale": 1.5,
    "candidates": "superpixels",
    "candidates_percent": 30.0,
    "candidates_max": 20,
    "diversity": "k_centre",
    "ask_agree": False,
    "train_every": 2,
    "retrain": 1,
    "pseudo_alone": False,
    "reseed": False,
    **({"spend": "pool"} if "spend" in FIELDS else {}),
}


def test_the_whole_run_and_that_sharing_changes_nothing(
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ASKED_OTHERWISE.keys() == ASKS_LATER & FIELDS.keys()
    rounds = {"rounds": 3, "points_per_round": "2+1+1"}
    arm = Arm("all fields of ASKS_LATER, and more rounds", ASKED_OTHERWISE | rounds)
    monkeypatch.setitem(ARMS, "otherwise", arm)
    monkeypatch.setitem(ARMS, "odd", Arm("", {"no_such_field": 1}))
    monkeypatch.setattr(label_efficiency, "Stages", InProcess)
    out, flags = tmp_path / "out", [*tiny[4:], "--epochs", "1", "--snapshots", "1"]
    flags += ["--seeds", "1", "--out", str(out)]
    command = [*flags, "--arms", "default,otherwise,odd"]
    code = label_efficiency.main(command)
    told = capsys.readouterr()
    assert code == 1
    assert "odd: left out: config.py has no field no_such_field" in told.err
    check_report(out)
    results = read_json(out / "results.json")
    (trained,) = results["trained"]
    assert trained["command"] == shlex.join(map(without_folders, command))
    assert (trained["threads"], trained["device"]) == (1, "cpu")
    assert trained["versions"].keys() > {"python", "torch"}
    assert label_efficiency.main([*command, "--report"]) == 1  # for odd
    assert read_json(out / "results.json") == results

    alone = {**fresh_flags(flags, out), "runs": str(tmp_path / "alone")}
    words = as_flags(alone)
    for index in ("0", "1", "2", "3"):
        which = [*words, "--arm", "points", "--round", index]
        assert import_module("active_learning.__main__").main(which) == 0
        assert import_module("train").main(which) == 0
    shared, scratch = out / "seed_0" / "otherwise", tmp_path / "alone" / "otherwise"
    assert Journal(shared).shared
    for name in ("round_00", "round_01", "round_02", "round_03", "validation"):
        name += "/points.csv"
        assert (shared / name).read_bytes() == (scratch / name).read_bytes()
    ledgers = [sorted(read_points(run / "oracle/ledger.csv")) for run in (shared, scratch)]
    assert ledgers[0] == ledgers[1]
    assert not RunFolder(shared).trained("points", 1).exists()
    for index in (0, 2, 3):
        first, second = (
            load_checkpoint(RunFolder(run).checkpoint("points", index, "best"))["model"]
            for run in (shared, scratch)
        )
        assert all(torch.equal(first[key], second[key]) for key in first)
    default = out / "seed_0" / "default"
    assert (default / "round_01/points.csv").read_bytes() != (
        shared / "round_01/points.csv"
    ).read_bytes()


def test_told_to_stop_it_ends_what_it_runs(tiny: list[str], tmp_path: Path) -> None:
    """Each stage holds its trial's lock, too."""
    out = tmp_path / "out"
    command = [sys.executable, "benchmarks/label_efficiency.py", *tiny[4:], "--epochs", "900"]
    command += ["--seeds", "1", "--arms", "default", "--out", str(out)]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    lock = out / "seed_0" / "base" / "bench.lock"
    log = lock.with_name("bench.log")
    while not (log.exists() and "epoch 1 of 900" in log.read_text()):
        assert running.poll() is None
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    told = running.communicate()[1]
    assert running.returncode == EXIT_STOPPED, told
    assert "run the same command again" in told
    assert not in_use(lock)
    assert "stopped by a signal" in log.read_text()  # so what was trained is saved


def fresh_flags(flags: list[str], out: Path) -> dict[str, Any]:
    """Return all fields of the arm's trial."""
    given = label_efficiency.parse(flags)[1]
    config = fresh(flags_of(given, ARMS["otherwise"], "otherwise", 0, out))
    return settings.to_dict(config)


def check_report(out: Path) -> None:
    """The report holds what the trials' own tables hold."""
    rows = read_rows(out / "table.csv", ("arm", "seed", "set", "S", "S/dense"))
    assert [row["arm"] for row in rows] == ["dense", "default", "otherwise"]
    dense, default = rows[:2]
    mine = read_rows(out / "seed_0/default/scores.csv", ("checkpoint", "set", "S"))
    final = next(r for r in mine if (r["checkpoint"], r["set"]) == ("round_01-best", "SAMPLE-TE"))
    assert float(default["S"]) == float(final["S"])
    assert float(default["S/dense"]) == pytest.approx(float(default["S"]) / float(dense["S"]))
    assert float(default["points"]) == 4
    base = read_rows(out / "seed_0/base/scores.csv", ("checkpoint", "set", "S"))
    first = next(r for r in base if (r["checkpoint"], r["set"]) == ("round_00-best", "SAMPLE-TE"))
    area = (float(first["maxF"]) + float(final["maxF"])) / 2
    assert float(default["area maxF"]) == pytest.approx(area)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["settings"]["data_root"] == "data"
    assert results["arms"]["default"]["rounds"]["0"][0]["points"] == 2
    assert str(out) not in json.dumps(results)
    assert (out / "figure.png").stat().st_size > 10_000
    table = (out / "table.md").read_text(encoding="utf-8")
    line = next(line for line in table.splitlines() if line.startswith("| otherwise |"))
    *p, of_both, of_both_too = (cell.strip(" \\<") for cell in line.split("|")[-5:-1])
    assert of_both == of_both_too == "-"  # of one seed
    p = [float(value) for value in p]
    assert np.all((np.array(p) > 0) & (np.array(p) <= 1))
