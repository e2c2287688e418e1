"""The label-efficiency experiment goes on: what is run, kept, refused, and left where it was."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from benchmarks import label_efficiency, label_runs
from benchmarks.label_arms import (
    BASE_TRIAL,
    Arm,
    Planned,
    flags_of,
    plan,
)
from benchmarks.label_compared import Compared
from benchmarks.label_kept import without_folders
from benchmarks.label_scores import Entry, blocks_of
from benchmarks.label_stages import Journal, Stages, commit_of, made_with
from config import Config
from utils.errors import UserError
from utils.files import read_json, write_json
from utils.metrics import METRICS
from utils.run_folder import RunFolder
from utils.scores import write_scores
from utils.tables import read_rows


def test_results_name_the_commit_that_made_them(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == "unknown"

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *who, *words]
        told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return told.stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1", encoding="utf-8")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    git("tag", "v1")
    commit = git("rev-parse", "--short=7", "HEAD")
    assert commit_of(tmp_path) == commit
    (tmp_path / "a").write_text("2", encoding="utf-8")
    assert commit_of(tmp_path) == f"{commit}-dirty"
    assert made_with("c", "cpu", "i")["versions"].keys() >= {"commit", "torch"}


def test_nothing_of_a_place_is_told() -> None:
    words = ["--out", "/a/b/c", "--data_root=/d/e", "rel/x", "bce=1+iou=2"]
    found = [without_folders(word) for word in words]
    assert found == ["--out", "c", "--data_root=e", "rel/x", "bce=1+iou=2"]


MADE = {"command": "--seeds 1", "device": "cpu", "versions": {"torch": "0"}}


class Pretended(Stages):
    """Stages that only leave behind what a stage leaves; some of them fail or are killed."""

    threads = 1

    def __init__(self, trap: Callable[[str, str], None] = lambda trial, stage: None) -> None:
        super().__init__(jobs=1, made=MADE)
        self.trap = trap
        self.seen: list[tuple[str, str]] = []

    def run(
        self,
        command: Sequence[str],
        log: Path,
        tick: Callable[[float], None] = lambda seconds: None,
        keep_open: Sequence[int] = (),
    ) -> None:
        flags = dict(itertools.pairwise(command))
        stage = flags.get("-m", command[0]).removesuffix(".py")
        index = int(flags.get("--round", 0))
        run = RunFolder(Path(flags["--runs"]) / flags["--trial"])
        name = f"{stage} {flags.get('--arm', '')} {index}" if "--arm" in flags else stage
        tick(1.0)
        self.trap(flags["--trial"], name)
        self.seen.append((flags["--trial"], name))
        if stage == "active_learning":
            self.leave(run.points(flags["--arm"], index), run.ledger, run.validation_points)
            self.leave(run.root / "data_checked.json")
        elif stage == "train":
            folder = run.training(flags["--arm"], index)
            weights = [folder / "checkpoints" / f"{kind}.pth" for kind in ("best", "last")]
            self.leave(*weights, folder / "snapshots" / "epoch_0001.pth", folder / "trained.json")
        elif stage == "test":
            self.leave(run.predictions / "x" / "A" / "1.png", run.predictions / "x" / "made.json")
            assert flags["--checkpoint"].endswith("best.pth")
        elif stage == "evaluate":
            write_scores(run.scores, rows_of(run))
            self.leave(run.superpixels / "200" / "1.png")

    def leave(self, *paths: Path) -> None:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x", encoding="utf-8")


def rows_of(run: RunFolder) -> list[dict[str, Any]]:
    """Return the scores of all checkpoints of a trial."""
    names = [run.checkpoint_name(path) for path in run.root.rglob("checkpoints/best.pth")]
    about = {"images": 1, "points": 5, "labelled_percent": 1, **dict.fromkeys(METRICS, 0.5)}
    sets = read_json(run.config)["testsets"].split("+")
    return [{"checkpoint": name, "set": one, **about} for name in names for one in sets]


def read(
    arms: Sequence[str], root: Path, sets: Sequence[str] = "B", **flags: Any
) -> tuple[dict[str, Entry], list[str]]:
    given = {"data_root": "D", "trainset": "A", "testsets": "B", "retrain": 0, **flags}
    entries, faults = label_efficiency.read_all(plan(arms, given, [0], root)[0], sets)
    return {entry.arm: entry for entry in entries}, faults


def work_of(arms: Sequence[str], root: Path, **flags: Any) -> list[tuple[Planned, Planned]]:
    given = {"data_root": "D", "trainset": "A", "testsets": "B", "retrain": 0, **flags}
    fields = flags_of(given, Arm(""), BASE_TRIAL, 0, root)
    base = Planned("default", 0, BASE_TRIAL, fields, "points")
    return [(one, base) for one in [base, *plan(arms, given, [0], root)[0]]]


def run_pretended(
    arms: Sequence[str], root: Path, stages: Stages, keep: bool = False, **flags: Any
) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_runs, "keep_images", pretend_images)
        found = label_runs.run_all(work_of(arms, root, **flags), stages, keep)
        return {one.trial: fault for one, fault in found}


def pretend_images(run: RunFolder, checkpoints: Sequence[Path], sets: Sequence[str]) -> None:
    scores = {"images": ["1.png"], "S": [0.5], "MAE": [0.5]}
    names = map(run.checkpoint_name, checkpoints)
    write_json(run.root / "images.json", {name: dict.fromkeys(sets, scores) for name in names})


def test_an_arm_trains_what_it_does_not_share(tmp_path: Path) -> None:
    stages = Pretended()
    faults = run_pretended(["random", "margin", "region"], tmp_path, stages)
    assert set(faults.values()) == {""}
    of_trial = {t: [name for trial, name in stages.seen if trial == t] for t in faults}
    scoring = ["test", "evaluate"]
    first = ["active_learning points 0", "train points 0"]
    second = ["active_learning points 1", "train points 1"]
    assert of_trial[BASE_TRIAL] == [*first, "train dense 0", *scoring]
    assert of_trial["margin"] == [*second, *scoring]
    assert of_trial["region"] == [*first, *second, *scoring]
    assert of_trial["random"] == ["active_learning random 1", "train random 1", *scoring]
    run = tmp_path / "seed_0"
    assert Journal(run / "margin").shared
    assert not Journal(run / "region").shared
    assert read_json(run / "margin/config.json")["acquisition"] == "margin"
    # Space is spared, but for what later arms start from.
    assert (run / "base/round_00/snapshots").exists()
    assert (run / "base/round_00/checkpoints/last.pth").exists()
    for folder in ("base/dense", "margin/round_00", "region/round_00", "random/random/round_01"):
        assert sorted(p.name for p in (run / folder).rglob("*.pth")) == ["best.pth"]
    assert not list(run.glob("*/preds/*/A"))
    assert len(list(run.glob("*/preds/x/made.json"))) == 4


def test_rounds_without_a_training_are_asked_and_counted(tmp_path: Path) -> None:
    stages, tested = Pretended(), []

    def watched(command: Sequence[str], *args: Any) -> None:
        if command[0] == "test.py":
            tested.append([Path(word).parts[-3] for word in command if word.endswith(".pth")])
        Pretended.run(stages, command, *args)

    stages.run = watched
    assert set(run_pretended(["default", "steps_3"], tmp_path, stages).values()) == {""}
    mine = [name for trial, name in stages.seen if trial == "steps_3"]
    asked = [f"active_learning points {index}" for index in (1, 2, 3)]
    assert mine == [*asked, "train points 3", "test", "evaluate"]
    assert tested == [["round_00", "dense"], ["round_01"], ["round_03"]]
    found, _ = read(["dense", "default", "steps_3"], tmp_path, ["B"])
    assert {name: (one.asked, len(one.rounds)) for name, one in found.items()} == {
        "dense": (1, 1),
        "default": (2, 2),
        "steps_3": (4, 2),
    }


def test_an_arm_trains_again_on_the_same_answers_and_its_last_training_counts(
    tmp_path: Path,
) -> None:
    stages = Pretended()
    arms = ["default", "random", "ours_1"]
    assert set(run_pretended(arms, tmp_path, stages, retrain=1).values()) == {""}
    mine = [name for trial, name in stages.seen if trial == "random"]
    asked = [
        f"{stage} random {index}" for index in (1, 2) for stage in ("active_learning", "train")
    ]
    assert mine == [*asked, "test", "evaluate"]
    assert not list((tmp_path / "seed_0/default").rglob("snapshots/*"))
    found, faults = read(["dense", *arms], tmp_path, retrain=1)
    assert not faults
    assert [len(entry.rounds) for entry in found.values()] == [1, 3, 3, 2]
    assert found["default"].kept[1] == "round_02-best"
    # Both budgets of the default count as their last training left them.
    rounds = tuple(
        (points, {"B": {"maxF": score}}) for points, score in ((5, 0.1), (10, 0.2), (10, 0.3))
    )
    assert [entry.selection for entry in found.values()] == [0.0, 1.0, 1.0, 0.0]
    entry = dataclasses.replace(found["default"], rounds=rounds)
    assert entry.budgets == [0, 2]
    assert entry.area("maxF", ["B"]) == pytest.approx((0.1 + 0.3) / 2)


def test_a_trial_gets_no_further_training_where_its_snapshots_have_gone(tmp_path: Path) -> None:
    assert set(run_pretended(["default"], tmp_path, Pretended()).values()) == {""}
    stages = Pretended()
    faults = run_pretended(["default"], tmp_path, stages, retrain=1)
    assert faults["base"].endswith("was begun with another --retrain: name another --out")
    assert faults["default"] == "the base trial of this seed failed"
    assert stages.seen == []


def test_a_trial_notes_what_trained_it(tmp_path: Path) -> None:
    run_pretended(["margin", "default"], tmp_path, Pretended())
    other = Pretended()
    other.made = {**MADE, "versions": {"torch": "1"}}
    run_pretended(["margin", "region"], tmp_path, other, testsets="B+C")
    found = {
        name: Journal(tmp_path / "seed_0" / name).made for name in ("base", "margin", "region")
    }
    assert found == {"base": [MADE], "margin": [MADE], "region": [other.made]}
    entries = list(read(["margin", "region"], tmp_path)[0].values())
    trained = label_efficiency.about(Config(trainset="A"), entries, [0])["trained"]
    assert trained == [{**MADE, "threads": 1}, {**other.made, "threads": 1}]


def test_other_settings_are_left_out_of_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = ["default", "rounds_2", "margin"]
    faults = run_pretended(arms, tmp_path, Pretended(), rounds=5)
    assert set(faults.values()) == {""}
    found, faults = read(arms, tmp_path, rounds=5, workers=3, device="cpu")
    assert {arm: (entry.trial, len(entry.rounds)) for arm, entry in found.items()} == {
        "default": ("default", 5),
        "rounds_2": ("ours_10", 2),
        "margin": ("margin", 5),
    }
    assert not faults
    # With plain flags rounds_2 is the trial of the default, which holds five rounds.
    found, faults = read(arms, tmp_path)
    assert not found
    assert len(faults) == 3
    assert all("was run with other settings (rounds)" in fault for fault in faults)
    words = ["--data_root", "D", "--trainset", "A", "--testsets", "B", "--out", str(tmp_path)]
    words += ["--device", "cpu", "--seeds", "1", "--arms", "rounds_2"]
    assert label_efficiency.main([*words, "--report"]) == 1
    assert "seed 0, rounds_2: left out: " in capsys.readouterr().err
    assert not list(tmp_path.glob("table.*"))


def test_a_trial_that_is_refused_is_not_read(tmp_path: Path) -> None:
    run_pretended(["margin", "region"], tmp_path, Pretended())
    faults = run_pretended(["margin", "region"], tmp_path, Pretended(), lr=0.5)
    assert all(faults.values())
    found, faults = read(["margin", "region"], tmp_path, lr=0.5)
    assert not found
    assert all("other settings (lr)" in fault for fault in faults)
    path = tmp_path / "seed_0" / BASE_TRIAL / "config.json"
    write_json(path, {**read_json(path), "seed": 7})
    found, (fault,) = read(["margin", "region"], tmp_path)
    assert list(found) == ["region"]
    assert "its first round is another" in fault


def test_an_arm_is_read_where_its_first_round_is_scored_too(tmp_path: Path) -> None:
    run_pretended(["margin"], tmp_path, Pretended(), testsets="B+C")
    run_pretended(["dense"], tmp_path, Pretended(), testsets="B")
    found, faults = read(["dense", "margin"], tmp_path, ["B", "C"])
    assert (found, faults) == ({}, [])
    assert list(read(["dense", "margin"], tmp_path, ["B"])[0]) == ["dense", "margin"]


def test_an_arm_of_one_round_may_be_the_base_trials(tmp_path: Path) -> None:
    arms = ["default", "margin", "no_self_training"]
    stages = Pretended()
    assert set(run_pretended(arms, tmp_path, stages, rounds=1).values()) == {""}
    assert {trial for trial, _ in stages.seen} == {BASE_TRIAL, "no_self_training"}
    found, faults = read(arms, tmp_path, rounds=1)
    assert not faults
    base = tmp_path / "seed_0" / BASE_TRIAL
    assert {found[arm].kept for arm in arms[:2]} == {(base / "images.json", "round_00-best")}
    assert [len(entry.rounds) for entry in found.values()] == [1, 1, 1]
    assert not Compared([found["default"], found["margin"]], blocks_of(["B"], [])).p
    again = Pretended()
    run_pretended(arms, tmp_path, again, rounds=1)
    assert again.seen == []


class OfTwoThreads(Pretended):
    threads = 2


def test_a_trial_keeps_its_number_of_threads(tmp_path: Path) -> None:
    def kill(trial: str, stage: str) -> None:
        if (trial, stage) == ("region", "train points 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pretended(["region"], tmp_path, Pretended(kill))
    assert Journal(tmp_path / "seed_0" / "region").threads == 1
    other = OfTwoThreads()
    faults = run_pretended(["margin", "region", "paper"], tmp_path, other)
    assert faults[BASE_TRIAL] == faults["paper"] == ""  # done; begun by this call
    assert "seed_0/region: began with 1 threads" in faults["region"]
    assert "seed_0/base: began with 1 threads" in faults["margin"]
    assert {trial for trial, _ in other.seen} == {"paper"}
    assert set(run_pretended(["margin", "region"], tmp_path, Pretended()).values()) == {""}


def test_keep_keeps_all(tmp_path: Path) -> None:
    run_pretended(["margin"], tmp_path, Pretended(), keep=True)
    run = tmp_path / "seed_0" / "margin"
    assert (run / "preds/x/A/1.png").exists()
    assert (run / "round_01/snapshots").exists()


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    run_pretended(["margin"], tmp_path, Pretended())
    again = Pretended()
    assert set(run_pretended(["margin"], tmp_path, again).values()) == {""}
    assert again.seen == []
    run_pretended(["margin"], tmp_path, again, testsets="B+C")  # maps of the new set
    assert {name for _, name in again.seen} == {"test", "evaluate"}
    assert Journal(tmp_path / "seed_0" / "margin").scored_on == "B+C"


def carried_out(
    monkeypatch: pytest.MonkeyPatch, root: Path, arms: str, stages: Stages, *more: str
) -> tuple[int, list[tuple[str, str]]]:
    """Call the benchmark with pretended stages; return its exit code and what they did."""
    monkeypatch.setattr(label_efficiency, "Stages", lambda jobs, made: stages)
    monkeypatch.setattr(label_efficiency, "prepare_data", lambda *args: None)
    images = stages.made.get("images", "")
    monkeypatch.setattr(label_efficiency, "training_images_of", lambda config: images)
    monkeypatch.setattr(label_runs, "keep_images", pretend_images)
    words = ["--data_root", str(root / "data"), "--trainset", "A", "--testsets", "B"]
    words += ["--device", "cpu", "--seeds", "1", "--arms", arms, *more]
    return label_efficiency.main(words), stages.seen


def test_what_is_kept_is_not_run_again_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there, kept = tmp_path / "here", tmp_path / "there", tmp_path / "kept"
    call = functools.partial(carried_out, monkeypatch)
    out = ["--out", str(here / "out"), "--pack", str(kept)]
    assert call(here, "margin,rounds_1", Pretended(), *out)[0] == 0
    assert "3 trials are kept" in capsys.readouterr().out
    names = ["bench.json", "config.json", "images.json", "scores.csv"]
    for trial in (BASE_TRIAL, "margin", "rounds_1"):
        assert sorted(path.name for path in (kept / "seed_0" / trial).iterdir()) == names
    texts = [path.read_text(encoding="utf-8") for path in kept.rglob("*.*")]
    assert not any(str(tmp_path) in text for text in texts)
    # All of it is read there; nothing is run.
    reading = ["--out", str(there / "out"), "--kept", str(kept)]
    assert call(there, "margin,rounds_1", Pretended(), *reading) == (0, [])
    tables = [root / "out" / "table.csv" for root in (here, there)]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    assert not (there / "out" / "seed_0").exists()
    # One more arm is run with a base trial of its own, and reported beside what is kept.
    code, seen = call(there, "margin,bald", Pretended(), *reading)
    assert (code, {trial for trial, _ in seen}) == (0, {BASE_TRIAL, "bald"})
    rows = read_rows(there / "out" / "table.csv", ("arm",))
    assert [row["arm"] for row in rows] == ["dense", "margin", "bald"]
    # Both together are kept in one folder, if the base trials' scores are the same.
    both = [*reading, "--pack", str(kept)]
    scores = there / "out" / "seed_0" / BASE_TRIAL / "scores.csv"
    sound = scores.read_text(encoding="utf-8")
    scores.write_text(sound.replace("0.5", "0.6"), encoding="utf-8")
    with pytest.raises(UserError, match="base: holds other scores than"):
        call(there, "margin,bald", Pretended(), *both)
    assert not (kept / "seed_0" / "bald").exists()
    scores.write_text(sound, encoding="utf-8")
    assert call(there, "margin,bald", Pretended(), *both) == (0, [])
    assert (kept / "seed_0" / "bald" / "images.json").exists()


def test_no_base_trial_is_run_that_nobody_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of arms with a first round of their own, where what is kept holds the dense twin."""
    here, there, kept = tmp_path / "here", tmp_path / "there", tmp_path / "kept"
    call = functools.partial(carried_out, monkeypatch)
    assert call(here, "dense", Pretended(), "--out", str(here / "out"), "--pack", str(kept))[0] == 0
    both = ["--out", str(there / "out"), "--kept", str(kept), "--pack", str(there / "kept")]
    code, seen = call(there, "region,ours_5", Pretended(), *both)
    assert (code, {trial for trial, _ in seen}) == (0, {"region", "ours_5"})
    assert seen.count(("region", "train points 0")) == 1
    assert not (there / "out" / "seed_0" / BASE_TRIAL).exists()
    rows = read_rows(there / "out" / "table.csv", ("arm",))
    assert [row["arm"] for row in rows] == ["dense", "region", "ours_5"]
    assert sorted(path.name for path in (there / "kept/seed_0").iterdir()) == [
        BASE_TRIAL,
        "ours_5",
        "region",
    ]
    # One that begins with it brings it along.
    code, seen = call(there, "margin,region", Pretended(), *both)
    assert (code, {trial for trial, _ in seen}) == (0, {BASE_TRIAL, "margin"})
    # Of two base trials one alone can be kept in a place, if their scores are the same.
    scores = there / "out" / "seed_0" / BASE_TRIAL / "scores.csv"
    scores.write_text(scores.read_text(encoding="utf-8").replace("0.5", "0.6"), encoding="utf-8")
    with pytest.raises(UserError, match=r"base: holds other scores than .*, or would"):
        call(there, "margin", Pretended(), *both[:-1], str(there / "new"))
    assert not (there / "new").exists()


def test_arms_with_a_first_round_of_their_own_do_not_fail_with_the_base_trial(
    tmp_path: Path,
) -> None:
    def fail(trial: str, stage: str) -> None:
        if trial == BASE_TRIAL:
            raise UserError("no memory")

    faults = run_pretended(["margin", "region"], tmp_path, Pretended(fail))
    assert faults == {
        BASE_TRIAL: "no memory",
        "margin": "the base trial of this seed failed",
        "region": "",
    }


def test_what_is_kept_of_other_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = functools.partial(carried_out, monkeypatch, tmp_path, "margin")
    kept = tmp_path / "kept"
    assert call(Pretended(), "--out", str(tmp_path / "a"), "--pack", str(kept))[0] == 0
    reading = ["--out", str(tmp_path / "b"), "--kept", str(kept)]
    for more in (["--lr", "0.5"], ["--data_root", "elsewhere"]):
        with pytest.raises(UserError, match=r"was run with other settings \((lr|data_root)\)"):
            call(Pretended(), *reading, *more)
    # The dense twin does not depend on what counts for later rounds of points alone.
    alone = carried_out(monkeypatch, tmp_path, "dense", Pretended(), *reading, "--no-reseed")
    assert alone == (0, [])
    # Another set was not scored: the arm is run.
    assert call(Pretended(), *reading, "--testsets", "B+C")[1]


def test_the_hash_of_the_training_images_tells_sets_apart(sample_root: Path) -> None:
    sets = [Config(data_root=str(sample_root), trainset=f"SAMPLE-{name}") for name in ("TR", "TE")]
    assert len({label_efficiency.training_images_of(config) for config in sets}) == 2


def test_what_was_trained_on_other_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings name a set, not its images: of two parts of one name, say."""
    call = functools.partial(carried_out, monkeypatch, tmp_path, "margin")
    some, others = Pretended(), Pretended()
    some.made, others.made = ({**MADE, "images": name} for name in ("some", "others"))
    kept = tmp_path / "kept"
    assert call(some, "--out", str(tmp_path / "a"), "--pack", str(kept))[0] == 0
    reading = ["--out", str(tmp_path / "b"), "--kept", str(kept)]
    assert call(some, *reading)[0] == 0
    with pytest.raises(UserError, match=r"kept/seed_0/.*: was trained on other images than"):
        call(others, *reading)
    # Nor does a report put both into one table.
    journal = kept / "seed_0" / "margin" / "bench.json"
    journal.write_text(journal.read_text(encoding="utf-8").replace("some", "others"))
    with pytest.raises(UserError, match="or than other results of this table"):
        call(some, *reading, "--report")


def test_results_from_before_images_were_kept_are_told(tmp_path: Path) -> None:
    run_pretended(["dense", "margin"], tmp_path, Pretended())
    (tmp_path / "seed_0" / "margin" / "images.json").unlink()
    found, (fault,) = read(["dense", "margin"], tmp_path)
    assert list(found) == ["dense"]
    assert "lacks images.json" in fault
    again = Pretended()
    run_pretended(["margin"], tmp_path, again)
    assert [name for _, name in again.seen] == ["test", "evaluate"]
    assert list(read(["dense", "margin"], tmp_path)[0]) == ["dense", "margin"]


def test_a_killed_run_goes_on_and_adds_up_its_time(tmp_path: Path) -> None:
    def kill(trial: str, stage: str) -> None:
        if (trial, stage) == ("margin", "train points 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pretended(["margin"], tmp_path, Pretended(kill))
    going_on = Pretended()
    run_pretended(["margin"], tmp_path, going_on)
    names = [name for _, name in going_on.seen]
    assert names == ["train points 1", "test", "evaluate"]
    seconds = Journal(tmp_path / "seed_0" / "margin").seconds
    assert seconds == {"ask round_01": 1.0, "train round_01": 2.0, "test": 1.0, "evaluate": 1.0}


def test_a_failing_arm_does_not_stop_the_others(tmp_path: Path) -> None:
    def fail(trial: str, stage: str) -> None:
        if trial == "margin":
            raise UserError("it broke")

    faults = run_pretended(["margin", "entropy"], tmp_path, Pretended(fail))
    assert faults == {BASE_TRIAL: "", "margin": "it broke", "entropy": ""}


def test_without_its_base_trial_no_arm_is_run(tmp_path: Path) -> None:
    def fail(trial: str, stage: str) -> None:
        raise UserError("it broke")

    faults = run_pretended(["margin"], tmp_path, Pretended(fail))
    assert faults == {BASE_TRIAL: "it broke", "margin": "the base trial of this seed failed"}


def test_an_arm_is_not_compared_with_a_base_of_other_defaults(tmp_path: Path) -> None:
    run_pretended([], tmp_path, Pretended())
    path = tmp_path / "seed_0" / BASE_TRIAL / "config.json"
    write_json(path, {**read_json(path), "lr": 0.5})
    faults = run_pretended(["margin"], tmp_path, Pretended())
    assert "other defaults (lr)" in faults["margin"]


def test_a_link_replaces_what_is_there_and_is_not_written_through(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    write_json(source, 1)
    target.write_text("old", encoding="utf-8")
    label_runs.link(source, target)
    assert read_json(target) == 1
    write_json(target, 2)  # as every stage writes
    assert read_json(source) == 1


def test_stages_run_from_any_folder_and_tell_the_end_of_their_log(
    sample_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    stages, times = Stages(jobs=1), []
    log = tmp_path / "log"
    check = ["-m", "datasets.check", "--data_root", str(sample_root), "--trainset"]
    stages.run([*check, "SAMPLE-TR"], log, times.append)
    assert sum(times) > 0
    with pytest.raises(UserError, match=r"datasets.check failed \(2\), see .*NO-SET"):
        stages.run([*check, "NO-SET"], log)
    with pytest.raises(UserError, match=r"evaluate.py failed \(2\)"):
        stages.run(["evaluate.py", "--no_such_flag"], log)
    assert log.read_text(encoding="utf-8").count("$ ") == 3


needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="processes are bound to cores on Linux alone"
)


@needs_affinity
def test_stages_have_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def divided(cores: set[int], jobs: int) -> list[set[int]]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores)
        stages = Stages(jobs)
        assert {len(stages.cores(place)) for place in range(jobs)} == {stages.threads}
        return [stages.cores(place) for place in range(jobs)]

    assert divided({1, 3, 4, 8, 9}, 2) == [{1, 3}, {4, 8}]
    assert divided({2, 5}, 1) == [{2, 5}]
    assert divided({2, 5}, 3) == [{2}, {5}, {2}]


@needs_affinity
def test_a_stage_knows_no_other_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages, own = Stages(jobs=2), os.sched_getaffinity(0)
    tell = "import os; print('cores', *sorted(os.sched_getaffinity(0)))"
    command = ["-m", "timeit", "-n", "1", "-r", "1", tell]

    def told() -> list[set[int]]:
        lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
        return [set(map(int, line.split()[1:])) for line in lines if line.startswith("cores ")]

    for _ in range(2):
        stages.run(command, tmp_path / "log")
    assert os.sched_getaffinity(0) == own
    assert told() == [stages.cores(0), stages.cores(1)]
    monkeypatch.delattr(os, "sched_setaffinity")
    stages.run(command, tmp_path / "log")
    assert told()[2] == own


def test_a_stage_ends_when_it_is_told_to(tmp_path: Path) -> None:
    stages = Stages(jobs=1)
    timer = Timer(0.3, stages.stop.set)
    timer.start()
    sleep = ["-m", "timeit", "-n", "1", "-r", "1", "import time; time.sleep(200)"]
    with pytest.raises(UserError, match=r"timeit failed \(-15\)"):
        stages.run(sleep, tmp_path / "log")
