"""Stages that are killed, whose disk is full, whose files are damaged: a sample of the sweep.

The sweep runs in a process of its own: it forks, which is only safe before threads are there.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from benchmarks.fault_injection import KINDS, Injection, kill, terminate
from benchmarks.fault_stages import Pipeline, Stage, differences, forked
from benchmarks.faults import ASKED, FULL, KILLED, Case, attempt, cases, pipeline_of
from utils.files import atomic_path, read_json, write_json, write_text
from utils.stages import run_stage
from utils.stopping import EXIT_STOPPED, finishing

ROOT = Path(__file__).resolve().parents[2]


def test_disturbed_stages_run_again_end_as_undisturbed_ones(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, str(ROOT / "benchmarks/faults.py"), "--sample", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert out.exists(), done.stderr[-2000:]
    found = read_json(out)
    assert found["troubles"] == []
    assert found["defects"] == []
    assert len(found["files"]) > 20
    assert sum(row["refused"] for row in found["files"]) > len(found["files"])
    assert done.returncode == 0
    tried = {(row["what"], row["when"]) for row in found["counts"]}
    assert {(KILLED, kind) for kind in KINDS} <= tried
    assert {what for what, _ in tried} >= {KILLED, FULL, ASKED, "other"}


def test_a_killed_stage_keeps_no_lock_of_progress_bars(tmp_path: Path) -> None:
    """Else whoever killed it would wait for ever at the next bar."""
    lock = tqdm.get_lock()

    def work() -> None:
        tqdm.get_lock().acquire()
        time.sleep(60)

    assert forked(work, tmp_path / "log", seconds=1) == -9
    for part in lock.locks:
        assert part.acquire(timeout=1)
        part.release()


def careless(argv: Any) -> int:
    """A stage that writes a file in place, and appends a line to another each time."""
    folder = Path(argv[argv.index("--runs") + 1])
    folder.mkdir(exist_ok=True)
    for name in ("a.txt", "b.txt"):
        if not (folder / name).exists():
            write_text(folder / f"{name}.careful", "whole")
            (folder / name).write_text("as it is")
    with open(folder / "log.txt", "a") as file:
        file.write("one line\n")
    return 0


def careful(argv: Any) -> int:
    """A stage that writes whole files alone."""
    folder = Path(argv[argv.index("--runs") + 1])
    for name in ("a.txt", "b.txt"):
        write_text(folder / name, f"text of {name}")
    return 0


def nesting(argv: Any) -> int:
    """A stage that makes a folder in that of all runs, which may not be there."""
    folder = Path(argv[argv.index("--runs") + 1]) / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "a.txt", "text")
    return 0


def linking(argv: Any) -> int:
    """A stage that puts a link to a whole file in place."""
    folder = Path(argv[argv.index("--runs") + 1])
    with atomic_path(folder / "best.pth") as temporary:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to("weights.pth")
    return 0


@pytest.fixture
def small(tmp_path: Path) -> Pipeline:
    """A pipeline without stages, that needs no data."""
    (tmp_path / "data").mkdir()
    return Pipeline(tmp_path, [])


def test_a_pipeline_has_the_stages_of_its_settings(tmp_path: Path) -> None:
    again = pipeline_of(tmp_path, ["--retrain", "1"], with_random=True)
    assert [stage.name for stage in again.stages if "2" in stage.name] == [
        *("ask points 2", "train points 2", "ask random 2", "train random 2")
    ]
    assert [stage.name for stage in pipeline_of(tmp_path, [], with_random=False).stages] == [
        *("settings", "ask points 0", "train points 0", "train dense", "ask points 1"),
        *("train points 1", "test", "evaluate", "select"),
    ]


def troubles(pipeline: Pipeline, main: Any) -> dict[tuple[str, str], str]:
    """Try all that can befall a stage; return the last trouble of each kind."""
    pipeline.stages.append(Stage("it", main))
    pipeline.run_whole()
    found: dict[tuple[str, str], str] = {}
    for case in cases(pipeline, 0):
        trouble = attempt(pipeline, case, random.Random(0))
        found[case.what, case.when] = found.get((case.what, case.when), "") or trouble
    return found


def test_the_harness_finds_what_a_careless_stage_loses(small: Pipeline) -> None:
    found = troubles(small, careless)
    assert "log.txt: differs" in found[KILLED, "in the middle of an append"]
    assert "log.txt: differs" in found[FULL, "in the middle of an append"]


def test_and_nothing_in_a_careful_one_at_any_change(small: Pipeline) -> None:
    found = troubles(small, careful)
    assert set(found.values()) == {""}
    assert {kind for what, kind in found if what == KILLED} >= set(KINDS[:4])


def test_the_first_stage_makes_as_many_changes_when_it_is_disturbed(small: Pipeline) -> None:
    assert set(troubles(small, nesting).values()) == {""}


def test_what_a_link_points_at_is_not_halved(small: Pipeline) -> None:
    """It may be one file with the copy that runs are compared with."""
    small.runs.mkdir()
    (small.runs / "weights.pth").write_bytes(b"whole")
    assert set(troubles(small, linking).values()) == {""}
    kept = [path.read_bytes() for path in (small.home / "kept").rglob("weights.pth")]
    assert kept == [b"whole"] * 2


def saving(argv: Any) -> int:
    """A stage that finishes its file when it is asked to end."""
    with finishing():
        careful(argv)
    return 0


def test_a_stage_that_listens_is_asked_to_end_and_not_killed(small: Pipeline) -> None:
    assert run_stage  # this module has it, as the scripts of such stages do
    small.stages.append(Stage("it", saving))
    small.runs.mkdir()
    ended = small.start(small.stages[0], Injection(small.runs, 1, terminate, halves=False))
    assert ended.status == EXIT_STOPPED
    assert (small.runs / "b.txt").read_text() == "text of b.txt"
    small.run_whole()
    case = Case(small.stages[0], ASKED, "at every fifth of these", 1)
    assert attempt(small, case, random.Random(0)) == ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.stages.listen", lambda: None)
        assert "was to stop, and ended with -15" in attempt(small, case, random.Random(0))


@pytest.mark.parametrize("number", range(8))
def test_a_kill_leaves_the_old_file_or_the_new_one(small: Pipeline, number: int) -> None:
    small.stages.append(Stage("it", careful))
    small.runs.mkdir()
    for name in ("a.txt", "b.txt"):
        (small.runs / name).write_text("old")
    ended = small.start(small.stages[0], Injection(small.runs, number))
    assert ended.status == -9
    new = {name: (small.runs / name).read_text() for name in ("a.txt", "b.txt")}
    assert new["a.txt"] == ("old" if number < 3 else "text of a.txt")
    assert new["b.txt"] == ("old" if number < 7 else "text of b.txt")
    half = small.runs / ".b.partial.txt"
    if number == 5:
        assert half.read_text() == "text of b.txt"[:6]


def test_a_kill_while_the_changes_are_told_leaves_no_half_of_them(small: Pipeline) -> None:
    def kill_while_flushing() -> None:
        os.fsync = lambda handle: kill()

    def changes_nothing(argv: Any) -> int:
        return 0

    small.stages.append(Stage("it", changes_nothing))
    small.runs.mkdir()
    ended = small.start(small.stages[0], prepare=kill_while_flushing)
    assert (ended.status, ended.seen) == (-9, [])


def test_pictures_that_came_back_are_no_difference_and_others_are(tmp_path: Path) -> None:
    def noted(**pictures: str) -> dict[str, object]:
        return {"fingerprint": "f", "pictures": pictures}

    for run, note in (("one", noted(a="1", b="2")), ("two", noted(b="2", a="3"))):
        write_json(tmp_path / run / "made_from.json", note)
    assert differences(tmp_path / "one", tmp_path / "two") == []
    write_json(tmp_path / "two" / "made_from.json", noted(a="1", c="2"))
    assert differences(tmp_path / "one", tmp_path / "two") == ["made_from.json: differs"]
    write_json(tmp_path / "two" / "made_from.json", {**noted(a="1", b="2"), "fingerprint": "g"})
    assert differences(tmp_path / "one", tmp_path / "two") == ["made_from.json: differs"]


def test_a_hung_stage_and_a_defect_are_no_success(small: Pipeline, tmp_path: Path) -> None:
    def fails(argv: Any) -> int:
        raise ValueError("a defect")

    small.stages.append(Stage("it", fails))
    ended = small.start(small.stages[0])
    assert ended.status == 1
    assert not ended.clean
    assert "a defect" in ended.told
    assert forked(lambda: time.sleep(60), tmp_path / "log", seconds=0.1) == -9
    case = Case(small.stages[0], KILLED, KINDS[0], 0)
    small.before["it"] = small.after["it"] = tmp_path / "nothing"
    assert "was not hit, and ended with 1" in attempt(small, case, random.Random(0))
