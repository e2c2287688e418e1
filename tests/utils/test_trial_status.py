"""What ``sub_by_id.sh --status`` tells: by the files of a trial, and by Slurm's queue."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from utils import trial_status
from utils.errors import UserError
from utils.run_folder import RunFolder
from utils.settings import from_dict
from utils.slurm_queue import Job, queued_jobs, refuse_active
from utils.trial_status import age, last_line, logs_by_trial, standing, steps

SETTINGS = {"rounds": 2, "epochs": 30, "with_dense": True, "with_random": True}
ORDER = (
    "ask points 0, train points 0, train dense None, ask points 1, train points 1, "
    "ask random 1, train random 1, test and evaluate None, choose None"
)


def begin(runs: Path, trial: str = "t3", **changes: object) -> RunFolder:
    run = RunFolder(runs / trial)
    run.root.mkdir(parents=True)
    run.config.write_text(json.dumps({**SETTINGS, **changes}))
    return run


def write(path: Path, text: str = "{}") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_log(folder: Path, epochs: int) -> None:
    rows = [f"{epoch},0.{epoch:02d}5\n" for epoch in range(1, epochs + 1)]
    write(folder / "log.csv", "epoch,val_MAE\n" + "".join(rows))


def test_a_log_that_holds_no_number_hides_nothing(tmp_path: Path) -> None:
    run = begin(tmp_path, "t3")
    write(run.training("points", 0) / "log.csv", "epoch,val_MAE\n1,0.5\n2,\n")
    write(run.training("points", 0) / "members" / "odd" / "log.csv", "epoch,val_MAE\n1,0.5\n")
    assert standing(run, []).score == ""


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every folder that is listed, in order."""
    found: list[Path] = []

    def spy(path: str | os.PathLike[str], real: Callable = os.scandir) -> object:
        found.append(Path(path))
        return real(path)

    def names(path: str | os.PathLike[str], real: Callable = os.listdir) -> list[str]:
        found.append(Path(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", spy)
    monkeypatch.setattr(os, "listdir", names)
    return found


def squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str, status: int = 0) -> None:
    """Fake Slurm's command."""
    text = "\n".join(lines)
    write(folder / "bin" / "squeue", f"#!/bin/sh\ncat << 'END'\n{text}\nEND\nexit {status}\n")
    (folder / "bin" / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def test_the_stages_are_those_of_gco_in_its_order(tmp_path: Path) -> None:
    names = [
        f"{step.name} {step.round}" for step in steps(RunFolder(tmp_path), from_dict(SETTINGS, ""))
    ]
    assert names == ORDER.split(", ")
    fewer = {**SETTINGS, "with_dense": False, "with_random": False}
    names = [step.name for step in steps(RunFolder(tmp_path), from_dict(fewer, ""))]
    assert names == [*["ask points", "train points"] * 2, "test and evaluate", "choose"]
    sparing = {**fewer, "rounds": 4, "train_every": 2}
    found = steps(RunFolder(tmp_path), from_dict(sparing, ""))
    trained = [step.round for step in found if "train" in step.name]
    assert trained == [0, 2, 3]
    again = {**fewer, "rounds": 1, "with_random": True, "retrain": 2}
    names = [step.name for step in steps(RunFolder(tmp_path), from_dict(again, ""))]
    assert names == ["ask points", "train points", "test and evaluate", "choose"]  # none teaches
    again["losses_pseudo"] = {"bce": 1.0}
    names = [step.name for step in steps(RunFolder(tmp_path), from_dict(again, ""))]
    assert names == [*["ask points", "train points"] * 3, "test and evaluate", "choose"]
    assert standing(begin(tmp_path, "again", **again), []).rounds == 3


def test_a_trial_stands_at_its_first_stage_without_a_result(tmp_path: Path) -> None:
    assert standing(RunFolder(tmp_path / "t1"), []).stage == "not begun"
    run = begin(tmp_path)
    for step in steps(run, from_dict(SETTINGS, "")):
        now = standing(run, [])
        assert (now.stage, now.round, now.rounds) == (step.name, step.round, 2)
        assert now.epoch == ("0/30" if step.name.startswith("train") else "")
        assert not now.finished
        write(step.result)
    assert standing(run, []).finished


def test_a_test_set_that_was_named_when_all_was_over_is_still_to_be_scored(tmp_path: Path) -> None:
    for name in "AB":
        (tmp_path / "gts" / name).mkdir(parents=True)
    where = {"data_root": str(tmp_path)}
    run = begin(tmp_path, testsets="A+BARE", **where)  # a set without masks has no scores
    for step in steps(run, from_dict(SETTINGS, "")):
        write(step.result)
    assert standing(run, []).stage == "test and evaluate"  # scores that are none
    write(run.scores, "checkpoint,set\nround_01-best,A\nround_00-best,B\n")
    assert standing(run, []).finished
    write(run.config, json.dumps({**SETTINGS, **where, "testsets": "A+B"}))
    assert standing(run, []).stage == "test and evaluate"
    write(run.scores, "checkpoint,set\nround_01-best,A\nround_01-best,B\n")
    assert standing(run, []).finished


def test_sets_that_cannot_be_seen_from_here_are_scored_or_not(tmp_path: Path) -> None:
    run = begin(tmp_path, testsets="A", data_root=str(tmp_path / "of the nodes alone"))
    for step in steps(run, from_dict(SETTINGS, "")):
        write(step.result)
    assert standing(run, []).stage == "test and evaluate"
    write(run.scores, "checkpoint,set\nround_01-best,A\n")
    assert standing(run, []).finished


def test_a_round_that_was_trained_when_all_was_over_is_still_to_be_scored(tmp_path: Path) -> None:
    """By the held-out split where no test set has masks."""
    taught = {"losses_pseudo": {"bce": 1.0}}
    run = begin(tmp_path, **taught)
    write(run.validation_points)
    for step in steps(run, from_dict({**SETTINGS, **taught, "retrain": 1}, "")):
        write(step.result)
    write(run.scores, "checkpoint,set\nround_01-best,validation\n")
    assert standing(run, []).finished
    write(run.config, json.dumps({**SETTINGS, **taught, "retrain": 1}))
    assert standing(run, []).stage == "test and evaluate"
    write(run.scores, "checkpoint,set\nround_02-best,validation\n")
    assert standing(run, []).finished


def test_epochs_and_scores_are_of_the_training_in_hand(tmp_path: Path) -> None:
    run = begin(tmp_path, ensemble="deep")
    write(run.points("points", 0))
    write_log(run.training("points", 0), 7)
    now = standing(run, [])
    assert (now.epoch, now.score) == ("7/30", "validation MAE 0.0750")
    write_log(run.training("points", 0, 2), 1)
    write_log(run.training("points", 0, 10), 4)
    assert standing(run, []).epoch == "4/30"
    for step in steps(run, from_dict(SETTINGS, "")):
        write(step.result)
    assert standing(run, []).score == "validation MAE 0.0750"
    scores = {"mean": {"maxF": 0.81234, "MAE": 0.05}, "A": {"MAE": 0.1}}
    write(run.best, json.dumps({"scores": scores}))
    assert standing(run, []).score == "mean maxF 0.8123 MAE 0.0500"


def test_the_newest_training_tells_the_score(tmp_path: Path) -> None:
    run = begin(tmp_path)
    for folder, epochs, when in (("points", 9, 100), ("dense", 3, 200), ("random", 5, 150)):
        write_log(run.training(folder, 1), epochs)
        os.utime(run.training(folder, 1) / "log.csv", (when, when))
    assert standing(run, []).score == "validation MAE 0.0350"


def test_a_new_file_and_a_line_of_the_log_are_signs_of_life(tmp_path: Path) -> None:
    run = begin(tmp_path)
    maps = run.predictions / "round_00-best" / "TE"
    maps.mkdir(parents=True)
    folders = [run.root, *(path for path in run.root.rglob("*") if path.is_dir())]
    for folder in folders:
        os.utime(folder, (1000, 1000))
    assert standing(run, []).seen == 1000
    log = tmp_path / "slurm-7_3.log"
    log.write_text("x")
    os.utime(log, (2000, 2000))
    assert standing(run, [log, tmp_path / "gone.log"]).seen == 2000
    write(maps / "1.png")
    assert time.time() - standing(run, [log]).seen < 60


def test_a_map_of_any_kind_is_a_sign_of_life_and_is_not_listed(
    tmp_path: Path, listed: list[Path]
) -> None:
    run = begin(tmp_path)
    full = [
        run.predictions / "round_00-best" / "TE",
        run.superpixels / "200",
        run.region_labels("points", 0),
        run.region_labels("random", 1),
    ]
    for folder in full:
        (folder / "a group").mkdir(parents=True)
    short = [run.training("points", 0, 1) / "snapshots", run.root / "oracle"]
    for folder in short:
        folder.mkdir(parents=True)
    every = [run.root, *(path for path in run.root.rglob("*") if path.is_dir())]
    listed.clear()
    for folder in (*full, *short):
        for other in every:
            os.utime(other, (1000, 1000))
        os.utime(folder, (2000, 2000))
        assert standing(run, []).seen == 2000, folder
    assert {*short, run.root} <= {*listed}
    assert not {path for path in listed if any(path.is_relative_to(folder) for folder in full)}


def test_the_folder_of_all_trials_is_listed_no_more_often_for_more_of_them(
    tmp_path: Path, listed: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    times = []
    for trial in ("t3", "t4", "t5"):
        begin(tmp_path, trial)
        (tmp_path / f"local-{trial}.log").write_text(f"words of {trial}\n")
        listed.clear()
        trial_status.main(["--runs", str(tmp_path)])
        times.append(listed.count(tmp_path))
    assert times == times[:1] * 3
    assert capsys.readouterr().out.endswith("local-t5.log ends with: words of t5\n")


def test_logs_are_told_apart_by_trial_the_newest_last(tmp_path: Path) -> None:
    (tmp_path / "slurm-9_choice.log").symlink_to("nowhere")
    names = ("slurm-7_3.log", "local-t3.log", "slurm-6_3.log", "slurm-7_13.log", "local-t4.log")
    for when, name in enumerate(names):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (when, when))
    assert {t: [p.name for p in logs] for t, logs in logs_by_trial(tmp_path).items()} == {
        "t3": [*names[:3]],
        "t13": ["slurm-7_13.log"],
        "t4": ["local-t4.log"],
    }


def test_a_damaged_trial_is_told_and_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged, sound = begin(tmp_path, "t3"), begin(tmp_path, "t4")
    for step in steps(sound, from_dict(SETTINGS, "")):
        write(step.result)
    zero = json.dumps({**SETTINGS, "train_every": 0})
    for text in ("{", "[]", '{"rounds": "x"}', '{"rouns": 2}', zero):
        damaged.config.write_text(text)
        assert trial_status.main(["--runs", str(tmp_path), "--ids", "3", "2", "--finished"]) == 1
        told = capsys.readouterr()
        assert told.out == "t4\n"
        assert "note: " in told.err
        assert "config.json" in told.err
        assert "not finished, left out: t3 (damaged)" in told.err
    assert trial_status.main(["--runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["t3", "damaged"], ["t4", "finished"]]


@pytest.mark.parametrize("best", ['{"scores": {"TE": {"MAE": null}}}', '{"scores": 3}', "[]"])
def test_a_score_that_is_none_is_not_shown(tmp_path: Path, best: str) -> None:
    run = begin(tmp_path)
    for step in steps(run, from_dict(SETTINGS, "")):
        write(step.result)
    write(run.best, best)
    assert standing(run, []).score == ""
    assert standing(run, []).finished


def test_the_queue_tells_the_newest_job_of_each_trial_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "my runs"
    runs.mkdir()
    (tmp_path / "link").symlink_to(runs)
    squeue(
        tmp_path,
        monkeypatch,
        f"7 3 PENDING {tmp_path / 'link'}",
        f"9 3 CANCELLED {runs}",  # newer, but it is the older one that waits
        f"7 4 FAILED {runs}",
        f"10 4 TIMEOUT {runs}",
        f"11 5 RUNNING {tmp_path}",  # of another folder
        f"12 N/A RUNNING {runs}",  # no array
    )
    jobs = queued_jobs(runs)
    assert jobs == {"t3": Job("7_3", "PENDING"), "t4": Job("10_4", "TIMEOUT")}
    refuse_active(["t4", "t5"], jobs)
    with pytest.raises(UserError, match=r"t3 \(job 7_3, pending\): submitted already"):
        refuse_active(["t3", "t4"], jobs)


def test_without_slurm_there_are_no_jobs_and_a_mute_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(tmp_path / "runs")
    squeue(tmp_path, monkeypatch, status=1)
    with pytest.raises(UserError, match="squeue: no reason given"):
        queued_jobs(tmp_path)
    assert trial_status.main(["--runs", str(tmp_path / "runs")]) == 0
    told = capsys.readouterr()
    assert "t3" in told.out
    assert told.err.startswith("note: squeue")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert queued_jobs(tmp_path) == {}


def test_the_table_names_every_trial_and_the_last_words_of_the_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for trial in ("t3", "t12", "sample"):
        begin(runs, trial)
    (runs / "slurm-7_3.log").write_text("epoch 1\nerror: the disk is full\n\n")
    (runs / "slurm-7_12.log").write_text("runs on\n")
    squeue(
        tmp_path, monkeypatch, f"7 3 FAILED {runs}", f"7 12 RUNNING {runs}", f"7 4 PENDING {runs}"
    )
    trial_status.main(["--runs", str(runs)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["t3", "t4", "t12"]
    assert "failed (7_3)" in lines[2]
    assert "0 of 0-1" in lines[2]
    assert "not begun" in lines[3]
    assert lines[5:] == [f"t3: {runs}/slurm-7_3.log ends with: error: the disk is full"]
    assert trial_status.main(["--runs", str(runs), "--ids", "3", "1", "--finished"]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "not finished, left out: t3 (ask points)\n")
    with pytest.raises(UserError, match="no trial t<ID> there"):
        trial_status.main(["--runs", str(tmp_path / "none")])


def test_the_last_line_of_a_log_is_the_last_state_of_its_bar(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for text, last in (
        ("", ""),
        ("a\nb\r\n \n", "b"),
        ("x\n10%\r90%", "90%"),
        ("y" * 9000, "y" * 4096),
    ):
        log.write_text(text)
        assert last_line(log) == last


@pytest.mark.parametrize(
    ("seconds", "told"), [(-3, "0 s"), (59, "59 s"), (90, "2 min"), (7200, "2 h"), (172800, "2 d")]
)
def test_ages_are_told_in_their_largest_unit(seconds: float, told: str) -> None:
    assert age(seconds) == told
