"""What else befalls a trial: damaged files, lost pictures, killed helpers, rivals, wrong clocks.

Each scenario disturbs a pipeline that has run (`benchmarks.fault_stages.Pipeline`), does what the
message tells, and returns what is wrong then, or an empty text.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import test
import train
from benchmarks.fault_injection import Injection, kill, refuse
from benchmarks.fault_stages import Ended, Pipeline, forked
from utils.errors import run_script
from utils.run_folder import RunFolder

SCENARIOS: dict[str, Callable[[Pipeline], str]] = {}


def scenario(name: str) -> Callable[[Callable[[Pipeline], str]], Callable[[Pipeline], str]]:
    """Enter a scenario by its name."""

    def enter(function: Callable[[Pipeline], str]) -> Callable[[Pipeline], str]:
        SCENARIOS[name] = function
        return function

    return enter


class Trouble(Exception):
    """Something is wrong; the text says what."""


def expect_told(ended: Ended, *needles: str) -> None:
    """Raise `Trouble` unless a stage told an error in one line that holds every needle."""
    if not ended.clean or any(needle not in ended.told for needle in needles):
        raise Trouble(f"not told as it should ({ended.status}): {ended.told[-600:]}")


def expect_done(pipeline: Pipeline, name: str) -> None:
    """Run a stage; raise `Trouble` unless it leaves what the undisturbed run left."""
    stage = pipeline.stage(name)
    ended = pipeline.start(stage)
    if ended.status != 0:
        raise Trouble(f"{name} ended with {ended.status}: {ended.told[-600:]}")
    if found := pipeline.differences(stage):
        raise Trouble(f"{name}: {'; '.join(found)}")


def halve(path: Path) -> None:
    """Leave the first half of a file, in a file of its own: it may be linked."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def attempt(name: str, pipeline: Pipeline) -> str:
    """Run a scenario; return what is wrong, or an empty text."""
    try:
        return SCENARIOS[name](pipeline) or ""
    except Trouble as trouble:
        return str(trouble)


@scenario("last.pth cut in half, told, deleted")
def _last_cut(pipeline: Pipeline) -> str:
    stage = pipeline.put_back("train points 0")
    last = RunFolder(pipeline.run).checkpoint("points", 0, "last")
    pipeline.start(stage, Injection(pipeline.runs, _change_after(pipeline, stage.name), kill))
    halve(last)
    expect_told(pipeline.start(stage), "last.pth", "damaged", "delete it")
    last.unlink()
    expect_done(pipeline, stage.name)
    return ""


def _change_after(pipeline: Pipeline, name: str) -> int:
    """Return a change in the second half of a stage."""
    return len(pipeline.changes[name]) * 2 // 3


@scenario("a snapshot cut in half, told, deleted, its round trained again")
def _snapshot_cut(pipeline: Pipeline) -> str:
    ask = pipeline.put_back("ask points 1")
    run = RunFolder(pipeline.run)
    snapshot = next(run.snapshots("points", 0).glob("*.pth"))
    halve(snapshot)
    expect_told(pipeline.start(ask), snapshot.name, "delete it")
    snapshot.unlink()
    expect_told(pipeline.start(ask), "only 1 of 2 snapshots", "best.pth")
    run.checkpoint("points", 0, "best").unlink()
    if (ended := pipeline.start(pipeline.stage("train points 0"))).status != 0:
        raise Trouble(f"not trained again: {ended.told[-300:]}")
    expect_done(pipeline, ask.name)
    return ""


@scenario("best.pth cut in half, told, deleted, trained again")
def _best_cut(pipeline: Pipeline) -> str:
    stage = pipeline.put_back("test")
    best = RunFolder(pipeline.run).checkpoint("points", 1, "best")
    halve(best)
    expect_told(pipeline.start(stage), "best.pth", "delete it")
    best.unlink()
    ended = pipeline.start(pipeline.stage("train points 1"))
    if ended.status != 0:
        raise Trouble(f"not trained again: {ended.told[-300:]}")
    expect_done(pipeline, stage.name)
    return ""


@scenario("points cut in half (a line, and between lines), told, deleted, asked again")
def _points_cut(pipeline: Pipeline) -> str:
    _cut_points(pipeline, 0)
    return ""


@scenario("points of a later round cut likewise, told, deleted, asked again")
def _later_points_cut(pipeline: Pipeline) -> str:
    _cut_points(pipeline, 1)
    return ""


def _cut_points(pipeline: Pipeline, index: int) -> None:
    stage = pipeline.put_back(f"train points {index}")
    points = RunFolder(pipeline.run).points("points", index)
    lines = points.read_bytes().splitlines(keepends=True)
    halves = b"".join(lines[: len(lines) // 2]), b"".join(lines[:-1]), b"".join(lines[:4])[:-5]
    for half in halves:
        points.write_bytes(half)
        expect_told(pipeline.start(stage), str(points))
    points.unlink()
    expect_done(pipeline, f"ask points {index}")
    expect_done(pipeline, stage.name)


@scenario("a folder that may not be written, told")
def _read_only(pipeline: Pipeline) -> str:
    for name in ("ask points 0", "train points 0", "test", "evaluate", "select"):
        stage = pipeline.put_back(name)
        refused = Injection(pipeline.runs, 0, refuse, lasts=True)
        expect_told(pipeline.start(stage, refused), "read-only")
        expect_done(pipeline, name)
    return ""


@scenario("a picture that vanishes while maps are made, told, put back")
def _picture_gone(pipeline: Pipeline) -> str:
    picture = next((pipeline.home / "data" / "images" / "SAMPLE-TE").iterdir())
    hide = picture.with_name(f".{picture.name}.hidden")

    def prepare() -> None:
        real = test.Segmenter.run

        def run(self: Any, *args: Any) -> list[str]:
            if picture.exists():
                picture.rename(hide)
            return real(self, *args)

        test.Segmenter.run = run

    return _gone(pipeline, "test", prepare, hide, picture)


@scenario("a picture that vanishes while a loader's process reads it, told, put back")
def _training_picture_gone(pipeline: Pipeline) -> str:
    pictures = sorted((pipeline.home / "data" / "images" / "SAMPLE-TR").iterdir())
    hidden = pictures[0].parent.with_name("hidden")

    def prepare() -> None:
        real = train.Trainer.train_epoch

        def train_epoch(self: Any, began: float) -> dict[str, float]:
            if self.epoch == 1:
                pictures[0].parent.rename(hidden)
            return real(self, began)

        train.Trainer.train_epoch = train_epoch

    flags = ("--workers", "1", "--cache_mb", "0")
    return _gone(pipeline, "train dense", prepare, hidden, pictures[0].parent, flags)


@scenario("a map that vanishes while it is scored, told, made again")
def _map_gone(pipeline: Pipeline) -> str:
    place = pipeline.run / "preds" / "round_01-best" / "SAMPLE-TE"
    hidden = place.with_name(".hidden")

    def prepare() -> None:
        real = evaluate.find_pairs

        def find_pairs(*args: Any) -> Any:
            found = real(*args)
            if place.exists():
                place.rename(hidden)
            return found

        evaluate.find_pairs = find_pairs

    return _gone(pipeline, "evaluate", prepare, hidden, place)


def _gone(
    pipeline: Pipeline,
    name: str,
    prepare: Callable[[], None],
    hidden: Path,
    place: Path,
    flags: tuple[str, ...] = (),
) -> str:
    stage = pipeline.put_back(name)
    try:
        expect_told(pipeline.start(stage, prepare=prepare, flags=flags))
    finally:
        if hidden.exists():
            hidden.rename(place)
    expect_done(pipeline, name)
    return ""


@scenario("a loader's process killed, told")
def _worker_killed(pipeline: Pipeline) -> str:
    stage = pipeline.put_back("train dense")

    def prepare() -> None:
        real = train.Trainer.step

        def step(self: Any, batch: Any) -> Any:
            if self.epoch == 1:
                for worker in self.loader._iterator._workers:
                    os.kill(worker.pid, signal.SIGKILL)
                time.sleep(0.2)
            return real(self, batch)

        train.Trainer.step = step

    ended = pipeline.start(stage, prepare=prepare, flags=("--workers", "1"))
    expect_told(ended, "a process that prepares batches was killed", "--workers")
    expect_done(pipeline, stage.name)
    return ""


@scenario("a second process on the same arm is refused, on another arm it is not")
def _rivals(pipeline: Pipeline) -> str:
    stage = pipeline.put_back("train dense")
    told = pipeline.home / "rival"
    statuses = pipeline.home / "statuses"

    def prepare() -> None:
        real = train.train_members

        def train_members(*args: Any) -> Any:
            train.train_members = real
            same = forked(lambda: run_script(pipeline.command("train dense")), told)
            said = told.read_text()
            other = forked(lambda: run_script(pipeline.command("train points 0")), told)
            statuses.write_text(f"[{same}, {other}] {said}")
            return real(*args)

        train.train_members = train_members

    ended = pipeline.start(stage, prepare=prepare)
    said = statuses.read_text()
    if ended.status != 0 or not said.startswith("[2, 0]") or "in use by process" not in said:
        raise Trouble(f"{ended.status}: {said}")
    return "; ".join(pipeline.differences(stage))


@scenario("killed with its loader's processes alive, and run again at once")
def _orphans(pipeline: Pipeline) -> str:
    stage = pipeline.put_back("train dense")

    def prepare() -> None:
        def step(self: Any, batch: Any) -> Any:
            kill()

        train.Trainer.step = step

    pipeline.start(stage, prepare=prepare, flags=("--workers", "1"))
    expect_done(pipeline, stage.name)
    return ""


@scenario("a clock that jumps a day back and forth")
def _clock(pipeline: Pipeline) -> str:
    def prepare() -> None:
        real, turns = time.time, itertools.cycle((0.0, -86400.0, 86400.0, -1e9))
        time.time = lambda: real() + next(turns)

    pipeline.put_back(pipeline.stages[0].name)
    for stage in pipeline.stages:
        ended = pipeline.start(stage, prepare=prepare)
        if ended.status != 0:
            raise Trouble(f"{stage.name} ended with {ended.status}: {ended.told[-300:]}")
    return "; ".join(pipeline.differences(pipeline.stages[-1]))
