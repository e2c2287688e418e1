"""The pipeline benchmark and the one command for GPUs: what they count, and that all of it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import gpu, pipeline, pipeline_questions
from benchmarks.pipeline_clock import Clock, Parts, Row, measure
from benchmarks.pipeline_questions import Half, agreement
from benchmarks.pipeline_trial import link_images
from datasets.index import list_set
from train import Trainer
from utils.errors import UserError

SMALL = (
    *("--images", "12", "--tests", "4", "--turns", "1", "--size", "32", "--batch_size", "4"),
    *("--width", "8", "--snapshots", "2", "--epochs", "2", "--attack_steps", "1"),
    *("--device", "cpu", "--superpixels", "20"),
)


class Steps:
    """A clock whose turns take what they are said to."""

    device = torch.device("cpu")

    def __init__(self, *seconds: float) -> None:
        self.left = list(seconds)

    def seconds(self, work: object) -> float:
        work()
        return self.left.pop(0)


def test_medians_leave_the_first_turn_out_and_ratios_are_those_of_turns() -> None:
    clock = Steps(99, 99, 2, 1, 8, 2, 3, 1)  # work and floor in turns
    done = []
    row = measure(
        clock, "stage", 5, lambda: done.append("work"), lambda: done.append("floor"), 3, "told"
    )
    assert done == ["work", "floor"] * 4
    assert (row.seconds, row.floor, row.ratio) == (3, 1, 3)  # ratios 2, 4, 3


def test_what_takes_long_is_timed_without_a_first_turn() -> None:
    row = measure(Steps(6, 2), "stage", 5, list, list, 1, warm=False)
    assert (row.seconds, row.floor, row.ratio) == (6, 2, 3)


def test_parts_are_timed_and_put_back() -> None:
    parts = Parts(Clock(torch.device("cpu"), cpu=False))
    owner, table = SimpleNamespace(nap=time.sleep), {"nap": time.sleep}
    with parts.watching((owner, "nap", "one"), (table, "nap", "two")):
        owner.nap(0.02)
        owner.nap(0.02)
        table["nap"](0.01)
    assert owner.nap is time.sleep
    assert table["nap"] is time.sleep
    assert parts.seconds["one"] >= 0.04
    assert parts.seconds["two"] >= 0.01


def test_points_that_two_choices_share() -> None:
    regions = [np.repeat([[0, 1]], 2, 0), np.zeros((3, 3), int)]
    one = [np.array([[0, 0], [1, 0]]), np.array([[2, 2]])]
    other = [np.array([[0, 1], [1, 0]]), np.array([[0, 0]])]
    found = agreement(one, other, regions)
    assert found == {"pixel": pytest.approx(1 / 3), "superpixel": pytest.approx(1.0)}
    for choice in (one, other):
        # Two points in one superpixel are two, too.
        assert agreement(choice, choice, regions) == {"pixel": 1.0, "superpixel": 1.0}
    regions[0][:] = 0
    assert agreement(one, [one[0][:1], one[1]], regions)["superpixel"] == 1.0


def test_half_precision_leaves_the_attack_alone_where_it_is_told_to() -> None:
    seen = []

    class Network(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> None:
            seen.append(torch.is_autocast_enabled("cpu"))

    for attacked in (False, True):
        half = Half(Network(), attacked)
        half(torch.zeros(1))
        with torch.no_grad():
            half(torch.zeros(1))
    assert seen == [False, True, True, True]


@pytest.mark.parametrize("count", [3, 16, 40])
def test_images_are_linked_in_any_number(sample_root: Path, tmp_path: Path, count: int) -> None:
    samples = list_set(sample_root, "SAMPLE-TR")
    link_images(samples, count, tmp_path, "X")
    made = list_set(tmp_path, "X")
    assert len(made) == count
    sources = {sample.image.resolve() for sample in made}
    assert len(sources) == min(count, len(samples))
    assert all(sample.mask.exists() for sample in made)


def test_every_stage_is_timed_and_written(tmp_path: Path, sample_root: Path) -> None:
    out = tmp_path / "found.json"
    data = ("--data_root", str(sample_root), "--trainset", "SAMPLE-TR", "--testsets", "SAMPLE-TE")
    pipeline.main([*SMALL, *data, "--preset", "aste", "--out", str(out)])
    found = json.loads(out.read_text())
    rows = {row["stage"].strip(): row for row in found["rows"]}
    beside_floor = {
        *("reading images and masks", "asking", "asking, superpixels to be made"),
        *("self-training's look", "training, points", "validation", "training, dense"),
        *("test", "evaluation, one process"),
    }
    assert {name for name, row in rows.items() if row["ratio"]} == beside_floor
    assert {
        "attack",
        "predictions",
        "choice among candidates, beside",
        "vote of neighbours",
        "agree",
    } <= rows.keys()
    assert all(row["seconds"] > 0 for name, row in rows.items() if not name.startswith("all else"))
    assert rows["asking"]["ratio"] > 0.5
    text = out.with_suffix(".md").read_text()
    shares = [line.split("|")[6].strip() for line in text.splitlines()[2:]]
    assert sum(int(share[:-1]) for share in shares if share) == pytest.approx(100, abs=4)


def test_what_was_timed_before_the_time_was_over_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stages(*how: object) -> Iterator[list[Row]]:
        yield [Row("asking", 4, 2.0, 1.0, "passes", 2.0, 1.0)]
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "all_stages", stages)
    out = tmp_path / "found.json"
    with pytest.raises(KeyboardInterrupt):
        pipeline.main([*SMALL, "--out", str(out)])
    assert [row["stage"] for row in json.loads(out.read_text())["rows"]] == ["asking"]
    assert "| asking | 2.0 | passes | 4.0 | 2.00 |" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize("mode", ["scaling", "ensembles", "overlap"])
def test_other_modes(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    timed = pipeline_questions._training_seconds

    def training(trainer: Trainer, *how: object) -> float:
        trained.append((trainer.config.ensemble, trainer.member, timed(trainer, *how)))
        return trained[-1][-1]

    monkeypatch.setattr(pipeline_questions, "_training_seconds", training)
    out = tmp_path / "found.json"
    pipeline.main([*SMALL, f"--{mode}", "--counts", "12,24", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    if mode == "scaling":
        assert [int(row["images"]) for row in rows] == [11, 23]
    elif mode == "ensembles":
        assert [row["networks trained"] for row in rows] == ["1", "2"]
        kinds, members, seconds = zip(*trained, strict=True)
        assert kinds == ("snapshots", "deep", "deep")
        assert members == (0, 0, 1)
        assert [row["training"] for row in rows] == [seconds[0], seconds[1] + seconds[2]]
    else:
        assert rows[0]["pixel"] == 1
        assert all(0 <= row["pixel"] <= row["superpixel"] <= 1 for row in rows)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--images", "3"], "--images"),
        (["--data_root", "D"], "--trainset"),
        (["--trial", "T"], "--trial"),
        (["--scaling", "--counts", "30,20"], "--counts"),
        (["--overlap", "--networks", "no such folder"], "--networks"),
        (["--precision", "half"], "--precision half: use auto, fp32"),
        (["--rounds", "1"], "--rounds 1: must be 2 or more"),
        (["--binarise", "decoder"], "give --binarise none"),
        (["--preset", "gconet_plus"], "give --binarise none"),
    ],
)
def test_flags_that_cannot_be_meant(flags: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        pipeline.main([*SMALL, *flags])


def script(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "part.py"
    path.write_text(text)
    return [str(path)]


def test_a_part_that_takes_too_long_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    child = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"open({str(tmp_path / 'deaf')!r}, 'w').close(); time.sleep(60)"
    )
    text = (
        "import subprocess, sys, time\n"
        f"process = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(process.pid))\n"
        f"while not __import__('os').path.exists({str(tmp_path / 'deaf')!r}): time.sleep(0.01)\n"
        "time.sleep(60)\n"
    )
    begun = time.monotonic()
    part = gpu.Part("slow", script(tmp_path, text), 2.0)
    ended, seconds = gpu.run_part(part, 100.0, tmp_path / "log")
    assert ended == "unfinished after 2 s"
    # What ignores its signal is not waited for as long as a part that saves.
    assert 2 <= seconds < gpu.GRACE
    assert time.monotonic() - begun < gpu.GRACE
    pid = int((tmp_path / "pid").read_text())
    status = Path(f"/proc/{pid}/status")
    assert not status.exists() or "Z (zombie)" in status.read_text()


def test_what_is_done_failed_and_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = gpu.Part("checks", script(tmp_path, "print('fine')"), 30.0)
    bad = gpu.Part("network", ["-c"], 30.0)
    args = SimpleNamespace(minutes=1.0, out=tmp_path / "out", again=False)
    about = {"commit": "c", "device": "cpu"}
    found = gpu.run_parts([good, bad], args, about)
    assert found["checks"]["ended"] == "done"
    assert found["network"]["ended"].startswith("failed (2), see ")
    log = tmp_path / "out" / "logs" / "checks.log"
    assert log.read_text() == "fine\n"
    gpu.run_parts([good], args, about)
    assert log.read_text() == "fine\n", "run again"
    gpu.run_parts([good], args, {**about, "commit": "other"})
    assert log.read_text() == "fine\nfine\n"
    numbers = tmp_path / "out" / "checks.json"
    numbers.write_text("[1]")
    assert gpu.run_parts([good], args, {**about, "commit": "other"})["checks"]["result"] == [1]
    other = gpu.Part("checks", [*good.command, "--size", "64"], 30.0)
    assert gpu.run_parts([other], args, {**about, "commit": "other"})["checks"]["result"] is None
    assert log.read_text() == "fine\n" * 3
    for count, commit in enumerate(("c-dirty", "c-dirty", "unknown", "unknown"), start=4):
        numbers.write_text("[1]")
        found = gpu.run_parts([good], args, {**about, "commit": commit})
        assert (log.read_text(), found["checks"]["result"]) == ("fine\n" * count, None)
    report = gpu.Part("report", bad.command, 30.0)
    path = gpu.result_path(report, args.out)
    path.parent.mkdir()
    path.write_text("[3]")  # of another time
    assert gpu.run_parts([report], args, about)["report"]["result"] is None
    args.minutes = 0.1
    numbers.with_name("network.json").write_text("[2]")  # of another time
    assert gpu.run_parts([bad], args, about)["network"]["result"] is None
    assert gpu.run_parts([bad], args, about)["network"]["ended"] == "skipped: no time left"


def test_numbers_of_parts_are_there_when_a_later_one_breaks_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = gpu.run_part

    def run_part(part: gpu.Part, *how: Any) -> tuple[str, float]:
        if part.name == "network":
            raise KeyboardInterrupt
        return run(part, *how)

    monkeypatch.setattr(gpu, "run_part", run_part)
    args = SimpleNamespace(minutes=1.0, out=tmp_path / "out", again=False)
    text = f"open({str(args.out / 'checks.json')!r}, 'w').write('[1]')"
    parts = [gpu.Part("checks", script(tmp_path, text), 30.0), gpu.Part("network", ["-c"], 30.0)]
    with pytest.raises(KeyboardInterrupt):
        gpu.run_parts(parts, args, {"commit": "c", "device": "cpu"})
    parts = json.loads((args.out / "all.json").read_text())["parts"]
    assert parts["checks"]["ended"] == "done"
    assert parts["checks"]["result"] == [1]


def test_a_part_finds_our_modules_and_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/of the user")
    text = "import os; print(os.environ['PYTHONPATH'], os.environ['GCO_PYTHON'])"
    part = gpu.Part("checks", script(tmp_path, text), 30.0)
    assert gpu.run_part(part, 30.0, tmp_path / "log")[0] == "done"
    assert (tmp_path / "log").read_text() == f"{gpu.ROOT}:/of the user {sys.executable}\n"
    assert gpu.words_of(["gco.sh", "--size", "8"]) == [str(gpu.ROOT / "gco.sh"), "--size", "8"]
    assert gpu.words_of(["-m", "pytest"]) == [sys.executable, "-m", "pytest"]


def test_a_trial_of_another_time_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    args = SimpleNamespace(minutes=1.0, out=tmp_path / "out", again=False)
    part = gpu.Part("trial", script(tmp_path, "print('fine')"), 30.0)
    best = gpu.result_path(part, args.out)
    best.parent.mkdir(parents=True)
    best.write_text("[1]")
    assert gpu.run_parts([part], args, {"commit": "c", "device": "cpu"})["trial"]["result"] is None
    assert not best.parent.exists()


def test_parts_and_their_limits() -> None:
    args, flags = gpu.parse(["--minutes", "5", "--parts", "pipeline,experiment", "--width", "8"])
    parts = gpu.list_parts(args, flags, cuda=False)
    assert [part.name for part in parts] == ["pipeline", "experiment"]
    assert [part.limit for part in parts] == [110, 0]
    assert parts[0].command[:1] == ["benchmarks/pipeline.py"]
    assert {"--width", "--size", "--turns"} <= set(parts[0].command)
    every = {where: gpu.list_parts(gpu.parse([])[0], {}, where) for where in (False, True)}
    assert {part.name for part in every[True]} - {part.name for part in every[False]} == {
        *("tests", "compiled")
    }
    shell = next(part for part in every[True] if part.name == "trial")
    assert gpu.result_path(shell, Path("o")) == Path("o/trial/drawn/best.json")
    assert {"drawn", "o/trial"} <= set(
        gpu.list_parts(gpu.parse(["--out", "o"])[0], {}, True)[2].command
    )
    with pytest.raises(UserError, match="--parts chekcs"):
        gpu.list_parts(gpu.parse(["--parts", "chekcs"])[0], {}, cuda=True)
    with pytest.raises(UserError, match="--seed"):
        gpu.parse(["--seed", "1"])


def test_the_command_says_what_it_would_do() -> None:
    gpu_sh = Path(gpu.ROOT) / "benchmarks" / "gpu.sh"
    assert os.access(gpu_sh, os.X_OK)
    process = subprocess.run(
        [str(gpu_sh), "--help"],
        env={**os.environ, "GCO_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--minutes" in process.stdout
