"""Deep ensembles: members that differ, resume and are asked; nothing else changes."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

import active_learning.__main__ as asking
import active_learning.maps as looked
import test as testing
import train
from config import Config
from datasets.cache import ResizedImages
from datasets.images import read_mask, write_png
from datasets.points import read_points
from tests.small_trials import config_of, run_of, stop_within_the_second_epoch
from utils.checkpoints import load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.run_folder import RunFolder
from utils.seeding import generator_for
from utils.tables import read_rows

DEEP = ["--ensemble", "deep", "--workers", "0"]


def ask_and_train(flags: list[str], rounds: int) -> RunFolder:
    for index in range(rounds):
        asking.main([*flags, "--round", str(index)])
        train.main([*flags, "--round", str(index)])
    return run_of(flags)


def weights(run: RunFolder, round_index: int, member: int) -> dict[str, torch.Tensor]:
    return load_checkpoint(run.checkpoint("points", round_index, "last", member))["model"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def log_of(run: RunFolder, round_index: int, member: int) -> list[dict[str, str]]:
    rows = read_rows(run.training("points", round_index, member) / "log.csv", ("epoch", "loss"))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same_members(one: RunFolder, other: RunFolder) -> None:
    for member in range(2):
        assert same(weights(one, 0, member), weights(other, 0, member))
        assert log_of(one, 0, member) == log_of(other, 0, member)
        assert len(log_of(one, 0, member)) == 2


@pytest.fixture(scope="module")
def flags(sample_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags of a trial of two rounds, of two members each but the last."""
    runs = tmp_path_factory.mktemp("deep") / "runs"
    return [
        *("--trial", "tiny", "--runs", str(runs), "--data_root", str(sample_root)),
        *("--trainset", "SAMPLE-TR", "--backbone", "mobilenet_v2", "--backbone_weights", "none"),
        *("--width", "8", "--size", "32", "--batch_size", "4", "--epochs", "2", "--snapshots", "2"),
        *("--rounds", "2", "--points_per_image", "4", "--validation_fraction", "0.2"),
        *("--device", "cpu", "--preset", "aste", *DEEP),
    ]


@pytest.fixture(scope="module")
def whole(flags: list[str]) -> RunFolder:
    """That trial, asked and trained. Do not write into it."""
    return ask_and_train(flags, 2)


def elsewhere(flags: list[str], runs: Path, *more: str) -> list[str]:
    return [*flags, "--runs", str(runs), *more]


def test_every_round_that_is_asked_has_its_members(whole: RunFolder, flags: list[str]) -> None:
    names = {path.name for path in whole.training("points", 0, 1).iterdir()}
    assert names == {"checkpoints", "snapshots", "log.csv", "tensorboard"}
    kept = {path.relative_to(whole.root).as_posix() for path in whole.root.rglob("*.pth")}
    own = ("checkpoints/best.pth", "checkpoints/last.pth")
    own += ("snapshots/epoch_0001.pth", "snapshots/epoch_0002.pth")
    expected = {f"round_0{index}/{name}" for index in range(2) for name in own}
    assert kept == expected | {f"round_00/members/1/{name}" for name in own[1:]}


def test_every_member_teaches_itself(whole: RunFolder, flags: list[str]) -> None:
    """Pseudo labels come to all members in the same epochs, to each from its own snapshots."""
    for member in range(2):
        teacher = train.Trainer(config_of(flags), "points", 0, member).teacher
        assert teacher.own == whole.snapshots("points", 0, member)
        teacher = train.Trainer(config_of(flags), "points", 1, member).teacher
        assert teacher.earlier == whole.snapshots("points", 0, member)
        rows = read_rows(whole.training("points", 0, member) / "log.csv", ("epoch",))
        assert [bool(row.get("pseudo/bce")) for row in rows] == [False, True]


def test_members_are_as_many_as_snapshots_where_questions_follow() -> None:
    deep = Config(ensemble="deep", snapshots=4, rounds=3)
    counts = {(arm, r): train.member_count(deep, arm, r) for arm in train.ARMS for r in range(3)}
    asked = {("points", 0), ("points", 1)}
    assert counts == {pair: 4 if pair in asked else 1 for pair in counts}
    assert train.member_count(Config(rounds=3), "points", 0) == 1


def test_the_seeds_of_trainings_are_no_other_trials() -> None:
    seeds = [
        train.training_seed(Config(seed=seed), index, member)
        for seed in range(50)
        for index in range(4)
        for member in range(5)
    ]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**32
    assert [train.training_seed(Config(seed=seed), 0, 0) for seed in range(50)] == list(range(50))
    # The second training of a trial is the second, also where a round went by without one.
    seldom = Config(seed=7, rounds=3, train_every=2)
    assert train.training_seed(seldom, 2, 1) == train.training_seed(Config(seed=7), 1, 1)
    same = [train.training_seed(Config(seed=7, reseed=False), index, 3) for index in range(4)]
    assert same == [train.training_seed(Config(seed=7), 0, 3)] * 4


def test_members_differ_in_initial_weights_order_and_augmentation(
    whole: RunFolder, flags: list[str], tmp_path: Path
) -> None:
    fresh = elsewhere(flags, tmp_path)
    asking.main(fresh)
    first, second = (train.Trainer(config_of(fresh), "points", 0, member) for member in (0, 1))
    assert not torch.equal(first.model.head.weight, second.model.head.weight)
    assert list(first.sampler) != list(second.sampler)
    dataset = first.loader.dataset, second.loader.dataset
    assert not torch.equal(dataset[0][0, 0][0], dataset[1][0, 0][0])
    # The same images are learnt from and held out, and the rates are those of one training.
    names = [[sample.name for sample in one.images.samples] for one in dataset]
    assert names[0] == names[1]
    assert first.snapshot_epochs == second.snapshot_epochs
    assert not same(weights(whole, 0, 0), weights(whole, 0, 1))


def test_the_rounds_own_network_is_the_one_of_a_trial_with_snapshots(
    whole: RunFolder, flags: list[str], tmp_path: Path
) -> None:
    plain = ask_and_train(elsewhere(flags, tmp_path, "--ensemble", "snapshots"), 2)
    assert same(weights(plain, 0, 0), weights(whole, 0, 0))
    asked = [run.points("points", 1).read_bytes() for run in (plain, whole)]
    assert asked[0] != asked[1]


@pytest.mark.parametrize("stopped_in", [0, 1])
def test_a_kill_in_any_member_changes_nothing(
    whole: RunFolder,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped_in: int,
) -> None:
    again = elsewhere(flags, tmp_path)
    asking.main(again)
    stop_within_the_second_epoch(monkeypatch, stopped_in)
    with pytest.raises(KeyboardInterrupt):
        train.main(again)
    monkeypatch.undo()
    run = run_of(again)
    assert not run.trained("points", 0).exists()
    own = run.checkpoint("points", 0, "last")
    before = own.stat().st_mtime_ns
    train.main(again)
    assert (own.stat().st_mtime_ns == before) == (stopped_in == 1)
    assert run.trained("points", 0).exists()
    assert_same_members(run, whole)


def test_of_a_member_nothing_is_kept_while_the_next_one_trains(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = elsewhere(flags, tmp_path, "--losses_pseudo", "")
    asking.main(again)
    init, seen, alive = train.Trainer.__init__, [], []

    def watched(self: train.Trainer, *args: object) -> None:
        alive.append([trainer() is not None for trainer in seen])
        seen.append(weakref.ref(self))
        init(self, *args)

    monkeypatch.setattr(train.Trainer, "__init__", watched)
    train.main(again)
    assert alive == [[], [False]]


def test_a_finished_member_is_not_built(
    whole: RunFolder, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, run = copy_first_round(whole, flags, tmp_path)
    before = run.trained("points", 0).read_bytes()
    run.trained("points", 0).unlink()
    monkeypatch.setattr(ResizedImages, "__init__", None)
    left = run.training("points", 0, 1) / "looked_0.maps"  # a stop behind the last epoch's save
    left.touch()
    train.main(again)
    assert not left.exists()
    assert run.trained("points", 0).read_bytes() == before
    run.trained("points", 0).unlink()
    run.config.unlink()
    with pytest.raises(UserError, match=r"last\.pth: trained with other settings \(lr"):
        train.main([*again, "--lr", "0.5"])


def copy_first_round(whole: RunFolder, flags: list[str], runs: Path) -> tuple[list[str], RunFolder]:
    """Copy a trial as it stood before its second round."""
    copied = elsewhere(flags, runs)
    shutil.copytree(whole.root, runs / "tiny")
    run = run_of(copied)
    shutil.rmtree(run.training("points", 1))
    return copied, run


def test_questions_are_put_to_the_members_and_the_attack_is_made_on_the_rounds_own(
    whole: RunFolder, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, run = copy_first_round(whole, flags, tmp_path)
    shutil.rmtree(run.snapshots("points", 0))
    attacked = []
    attack = looked.ATTACKS["pgd"]

    def spy(model: torch.nn.Module, *args: object) -> torch.Tensor:
        attacked.append({key: value.clone() for key, value in model.state_dict().items()})
        return attack(model, *args)

    monkeypatch.setitem(looked.ATTACKS, "pgd", spy)
    asking.main([*again, "--round", "1"])
    assert run.points("points", 1).read_bytes() == whole.points("points", 1).read_bytes()
    assert attacked
    assert all(same(found, weights(run, 0, 0)) for found in attacked)


@pytest.mark.parametrize("member", [0, 1])
def test_every_member_is_asked(
    whole: RunFolder, flags: list[str], tmp_path: Path, member: int
) -> None:
    again, run = copy_first_round(whole, flags, tmp_path)
    path = run.checkpoint("points", 0, "last", member)
    state = load_checkpoint(path)
    state["model"]["head.weight"] = -3 * state["model"]["head.weight"].flip(1)
    save_checkpoint(path, state)
    asking.main([*again, "--round", "1"])
    assert run.points("points", 1).read_bytes() != whole.points("points", 1).read_bytes()


def test_a_missing_member_is_told(whole: RunFolder, flags: list[str], tmp_path: Path) -> None:
    again, run = copy_first_round(whole, flags, tmp_path)
    run.checkpoint("points", 0, "last", 1).unlink()
    with pytest.raises(UserError, match=r"members/1/\S+: a member .*trained\.json .*round 0 again"):
        asking.main([*again, "--round", "1"])
    # What it advises does help.
    run.trained("points", 0).unlink()
    train.main(again)
    assert_same_members(run, whole)


def test_members_are_no_checkpoints_to_be_tested(whole: RunFolder, flags: list[str]) -> None:
    expected = [whole.checkpoint("points", index, "best") for index in range(2)]
    assert testing.finished_checkpoints(config_of(flags)) == expected


def test_nothing_but_the_asked_pixels_reaches_the_members(
    whole: RunFolder, flags: list[str], sample_root: Path, tmp_path: Path
) -> None:
    scrambled = tmp_path / "scrambled"
    shutil.copytree(sample_root, scrambled)
    asked = read_points(whole.ledger)
    for path in (scrambled / "gts/SAMPLE-TR").iterdir():
        mask = read_mask(path)
        noise = generator_for(path.name).random(mask.shape) < 0.5
        known = [point for point in asked if Path(point.image).stem == path.stem]
        assert known
        for point in known:
            noise[point.y, point.x] = mask[point.y, point.x]
        write_png(path, noise.astype(np.uint8) * 255)
    again = ask_and_train(elsewhere(flags, tmp_path, "--data_root", str(scrambled)), 2)
    for index in range(2):
        mine, theirs = (run.points("points", index).read_bytes() for run in (again, whole))
        assert mine == theirs
    assert_same_members(again, whole)


def test_a_warm_start_goes_on_from_the_member_itself(flags: list[str], tmp_path: Path) -> None:
    warm = elsewhere(flags, tmp_path, "--warm_start", "--rounds", "3", "--lr", "0", "--epochs", "2")
    run = ask_and_train(warm, 2)
    for member in range(2):
        first, second = (weights(run, index, member) for index in range(2))
        changed = {key for key in first if not torch.equal(first[key], second[key])}
        assert all("running_" in key or "num_batches" in key for key in changed)
    assert not torch.equal(weights(run, 1, 0)["head.weight"], weights(run, 1, 1)["head.weight"])
