"""A training that was stopped, and whose files have changed since: it goes on, or tells why not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import active_learning.__main__ as asking
import train
from active_learning.learner import Learner
from active_learning.looked import Looked
from active_learning.self_training import Teacher
from models import build_model
from tests.small_trials import (
    NO_PSEUDO,
    assert_same_training,
    config_of,
    flag,
    run_of,
    stop_within_the_second_epoch,
)
from utils.checkpoints import load_checkpoint, save_checkpoint
from utils.device import Machine
from utils.errors import UserError
from utils.files import read_json
from utils.run_folder import list_snapshots
from utils.stopping import Stopped


@pytest.mark.parametrize(("arm", "pseudo"), [("dense", []), ("points", []), ("points", NO_PSEUDO)])
def test_a_resumed_training_ends_as_an_undisturbed_one(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str, pseudo: list[str]
) -> None:
    flags = flag(flag(tiny, "arm", arm), "workers", 0)
    points = ["--losses_points", "bce=1+coherence=0.3+consistency=1", *pseudo]
    asking.main([*tiny, *points])
    train.main([*flags, *points])
    folder = run_of(tiny).training(arm, 0)

    stopped = flag(flags, "runs", tmp_path / "stopped") + points
    asking.main([*flag(tiny, "runs", tmp_path / "stopped"), *points])
    stop_within_the_second_epoch(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train.main(stopped)
    monkeypatch.undo()
    assert not run_of(stopped).trained(arm, 0).exists()
    train.main(stopped)
    assert_same_training(folder, run_of(stopped).training(arm, 0))


def test_a_picture_that_vanishes_before_a_look_is_named_and_nothing_is_lost(
    tiny: list[str], sample_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images that a training learns from are in memory by then; the teacher's are not."""
    data = tmp_path / "data"
    shutil.copytree(sample_root, data)
    flags = flag(tiny, "data_root", data)
    asking.main(flags)
    train.main(flags)
    again = flag(flags, "runs", tmp_path / "again")
    asking.main(again)
    gone = train.Trainer(config_of(again), "points", 0).images.samples[3].image
    look = Teacher.look

    def looks(self: Teacher, epoch: int, *args: object) -> None:
        if epoch == 1:
            gone.rename(tmp_path / gone.name)
        look(self, epoch, *args)

    monkeypatch.setattr(Teacher, "look", looks)
    with pytest.raises(UserError, match=gone.name):
        train.main(again)
    monkeypatch.undo()
    (tmp_path / gone.name).rename(gone)
    train.main(again)
    assert_same_training(run_of(flags).training("points", 0), run_of(again).training("points", 0))


def test_a_training_stopped_in_its_looks_makes_no_label_twice(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In round 1, taught by round 0 before its first epoch, and by itself before the second."""
    flags = flag(tiny, "round", 1)
    for args in (tiny, flags):
        asking.main(args)
        train.main(args)
    again = flag(flags, "runs", tmp_path / "again")
    shutil.copytree(tmp_path / "runs", tmp_path / "again")
    folder = run_of(again).training("points", 1)
    shutil.rmtree(folder)
    asking.main(again)
    add, made, stops = Looked.add, [], [19, 7]

    def stopped(self: Looked, index: int, *label: object) -> None:
        if stops and len(made) == stops[-1]:
            stops.pop()
            raise Stopped
        made.append(index)
        add(self, index, *label)

    monkeypatch.setattr(Looked, "add", stopped)
    for _ in range(2):
        with pytest.raises(Stopped):
            train.main(again)
        assert len(list(folder.glob("looked_*"))) == 1
    train.main(again)
    assert made == [*range(14)] * 2
    assert_same_training(run_of(flags).training("points", 1), folder)
    assert not list(folder.glob("looked_*"))


def test_a_training_begun_anew_keeps_no_old_snapshots(tiny: list[str]) -> None:
    run = run_of(tiny)
    asking.main(tiny)
    stale = run.snapshots("points", 0) / "epoch_0009.pth"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of other settings")
    train.main(tiny)
    assert [load_checkpoint(path)["epoch"] for path in list_snapshots(stale.parent)] == [1, 2]


def test_a_finished_training_is_left_alone(tiny: list[str]) -> None:
    flags = flag(tiny, "arm", "dense")
    train.main(flags)
    last = run_of(tiny).checkpoint("dense", 0, "last")
    before = last.stat().st_mtime_ns
    train.main(flags)
    assert last.stat().st_mtime_ns == before


def test_other_pictures_than_those_it_began_with_are_told(
    tiny: list[str], sample_root: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(sample_root, data)
    flags = flag(flag(tiny, "data_root", data), "arm", "dense")
    train.main(flags)
    run_of(flags).trained("dense", 0).unlink()
    gone = sorted((data / "images/SAMPLE-TR").iterdir())[3]
    gone.rename(tmp_path / gone.name)
    (run_of(flags).root / "data_checked.json").unlink()
    with pytest.raises(UserError, match=r"last\.pth: the pictures of SAMPLE-TR are not those that"):
        train.main(flags)
    (tmp_path / gone.name).rename(gone)
    train.main(flags)


def test_masks_know_no_rounds_and_seconds_are_those_of_all_legs(tiny: list[str]) -> None:
    train.main([*tiny, "--arm", "dense", "--round", "1"])
    done = run_of(tiny).trained("dense", 0)
    first = read_json(done)
    assert first["round"] == 0
    assert load_checkpoint(run_of(tiny).checkpoint("dense", 0, "best"))["round"] == 0
    done.unlink()
    train.main([*tiny, "--arm", "dense"])  # nothing is left to be done
    assert read_json(done) == first
    assert first["seconds"] > 0


def test_a_training_goes_on_where_another_machine_has_half_precision(tiny: list[str]) -> None:
    config = config_of(tiny)
    learners = []
    for dtype in (torch.float32, torch.float16):
        learner = Learner(config, "dense", Machine(torch.device("cpu"), dtype))
        learner.take(build_model(config.backbone, config.width)[0])
        learners.append(learner)
    full, half = learners
    assert half.scaler.is_enabled()
    assert not full.scaler.is_enabled()
    fresh = half.scaler.state_dict()
    half.load_learning_state(full.learning_state())
    assert half.scaler.state_dict() == fresh
    full.load_learning_state(half.learning_state())
    half.load_learning_state({**half.learning_state(), "scaler": {**fresh, "scale": 4.0}})
    assert half.scaler.get_scale() == 4


def test_what_has_gone_is_trained_anew_or_told(tiny: list[str]) -> None:
    """Deleted, as the message about a damaged file says: nothing is silently done without it."""
    asking.main(tiny)
    train.main(tiny)
    run = run_of(tiny)
    snapshots, best = run.snapshots("points", 0), run.checkpoint("points", 0, "best")
    sound = best.read_bytes()
    list_snapshots(snapshots)[0].unlink()
    ask = flag(tiny, "round", 1)
    with pytest.raises(UserError, match=rf"only 1 of 2 snapshots: delete {best} and train round 0"):
        asking.main(ask)
    run.points("points", 1).parent.mkdir(exist_ok=True)
    shutil.copy(run.points("points", 0), run.points("points", 1))
    last, done = run.checkpoint("points", 0, "last"), run.trained("points", 0)
    with pytest.raises(UserError, match=rf"fewer than 2 snapshots: delete {last} and {done}, and"):
        train.main(ask)
    run.points("points", 1).unlink()
    run.trained("points", 0).unlink()  # as after a kill before the training was told to be done
    with pytest.raises(UserError, match=r"epoch_0001\.pth: the snapshot has gone: delete .*last"):
        train.main(tiny)
    run.trained("points", 0).write_text("{}")
    best.unlink()
    train.main(tiny)
    assert best.read_bytes() == sound
    assert len(list_snapshots(snapshots)) == 2
    asking.main(ask)


def test_a_training_state_that_is_damaged_is_told(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_within_the_second_epoch(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train.main([*tiny, "--arm", "dense"])
    last = run_of(tiny).checkpoint("dense", 0, "last")
    sound = load_checkpoint(last)
    for key, value in (("epoch", None), ("optimizer", {"state": {}}), ("random", {"torch": 3})):
        training = {**sound["training"], key: value}
        save_checkpoint(last, {**sound, "training": training})
        with pytest.raises(UserError, match=r"last\.pth: .*is damaged .*delete it to train anew"):
            train.main([*tiny, "--arm", "dense"])
