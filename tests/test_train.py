"""Training: what it reads, and what it learns."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import active_learning.__main__ as asking
import train
from active_learning.validation import Estimate
from datasets.augment import Augmentation
from datasets.images import read_mask
from datasets.points import Point, read_points, write_points
from datasets.round_labels import class_weights
from datasets.training import Batch
from losses import objective
from models import Prediction
from models.adversary import Adversary
from models.saliency_net import NO_PARTS
from models.stored import load_model
from tests.small_trials import (
    NO_PSEUDO,
    assert_same_training,
    config_of,
    flag,
    run_of,
    run_rounds,
    weights,
)
from utils import distributed
from utils.checkpoints import load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.files import read_json
from utils.run_folder import ARMS, RunFolder
from utils.tables import read_rows

ROOT = Path(__file__).resolve().parent.parent


def scramble_unasked(source: Path, target: Path, run: RunFolder) -> int:
    """Copy a data root; make every mask pixel that was not asked noise; return the asked count."""
    shutil.copytree(source, target)
    asked = read_points(run.ledger)
    rng = np.random.default_rng(0)
    for path in (target / "gts").rglob("*.png"):
        mask = read_mask(path)
        noise = rng.random(mask.shape) < 0.5
        name = path.relative_to(target / "gts" / "SAMPLE-TR") if "SAMPLE-TR" in path.parts else None
        for point in asked:
            if name is not None and Path(point.image).with_suffix(".png") == name:
                noise[point.y, point.x] = mask[point.y, point.x]
        cv2.imwrite(str(path), noise.astype(np.uint8) * 255)
    return len(asked)


@pytest.mark.parametrize(
    ("arm", "more"),
    [
        ("points", ["--label_mode", "pixel"]),
        ("points", ["--label_mode", "region"]),
        ("points", NO_PSEUDO),
        ("points", ["--retrain", "1"]),
        ("random", []),
    ],
)
def test_nothing_but_the_asked_pixels_reaches_points_losses_and_weights(
    tiny: list[str], sample_root: Path, tmp_path: Path, arm: str, more: list[str]
) -> None:
    flags = [*flag(tiny, "arm", arm), *more]
    run = run_rounds(flags)
    scrambled = tmp_path / "scrambled"
    asked = scramble_unasked(sample_root, scrambled, run)
    config = config_of(flags)
    validation = len(read_points(run.validation_points))
    training = sum(len(read_points(run.points(arm, r))) for r in range(config.rounds))
    assert asked == validation + training
    assert training % config.points_per_image == 0

    again = run_rounds(flag(flag(flags, "runs", tmp_path / "again"), "data_root", scrambled))
    for index in range(config.round_count):
        one, other = run.points(arm, index), again.points(arm, index)
        assert one.read_bytes() == other.read_bytes()
        assert_same_training(one.parent, other.parent)


@pytest.mark.parametrize("arm", ARMS)
def test_each_arm_learns_and_validates_by_its_own_labels(tiny: list[str], arm: str) -> None:
    for index in range(2):
        asking.main([*tiny, "--arm", "random", "--round", str(index)])
    run, config = run_of(tiny), config_of(tiny)
    if arm == "points":  # as if they had been asked of networks
        shutil.copytree(run.training("random", 1), run.training("points", 1))
    trainer = train.Trainer(config, arm, int(arm != "dense"))
    assert config.losses_dense != config.losses_points
    own = config.losses_dense if arm == "dense" else config.losses_points
    assert trainer.on_labels.last == own
    known = trainer.validation.labels
    images = range(len(trainer.validation.images))
    count = sum(int(known.at(index, np.eye(3)).sum()) for index in images)
    every = len(images) * config.size**2
    assert count == (every if arm == "dense" else len(read_points(run.validation_points)))


def test_points_train_without_any_mask(tiny: list[str], sample_root: Path, tmp_path: Path) -> None:
    run = run_rounds(tiny)
    bare = tmp_path / "bare"
    shutil.copytree(sample_root, bare)
    shutil.rmtree(bare / "gts")
    (bare / "gts").write_text("no masks here")
    copied = tmp_path / "copied" / "tiny"
    for name in ("round_00/points.csv", "round_01/points.csv", "validation/points.csv"):
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run.root / name, copied / name)
    shutil.copytree(run.snapshots("points", 0), copied / "round_00/snapshots")
    flags = flag(flag(tiny, "runs", copied.parent), "data_root", bare)
    train.main(flag(flags, "round", 1))
    assert_same_training(run.root / "round_01", copied / "round_01")


def test_masks_do_change_a_dense_training(
    tiny: list[str], sample_root: Path, tmp_path: Path
) -> None:
    """The counterpart of the strictness test: it can fail."""
    run = run_rounds(tiny)
    scrambled = tmp_path / "scrambled"
    scramble_unasked(sample_root, scrambled, run)
    train.main(flag(tiny, "arm", "dense"))
    other = flag(flag(tiny, "runs", tmp_path / "again"), "data_root", scrambled)
    train.main(flag(other, "arm", "dense"))
    with pytest.raises(AssertionError):
        assert_same_training(run.root / "dense", run_of(other).root / "dense")


def test_the_discriminator_learns_from_answers_alone(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[torch.Tensor]] = {"judge": [], "learn": []}

    def watch(name: str, real: Callable) -> Callable:
        def watched(self: Adversary, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            seen[name].append(labels)
            return real(self, logits, labels)

        return watched

    for name in seen:
        monkeypatch.setattr(Adversary, name, watch(name, getattr(Adversary, name)))
    run_rounds([*tiny, "--adversarial", "0.1"])
    assert len(seen["judge"]) == len(seen["learn"]) > 4
    for one, other in zip(*seen.values(), strict=True):
        assert torch.equal(one, other)
        assert (one.sum(1) > 0).float().mean() < 0.05


def test_the_round_that_both_arms_share_is_that_of_the_points(tiny: list[str]) -> None:
    asking.main(flag(tiny, "arm", "random"))
    train.main(flag(tiny, "arm", "random"))
    assert load_checkpoint(run_of(tiny).checkpoint("points", 0, "best"))["arm"] == "points"


@pytest.mark.parametrize(
    ("within", "older", "kept"),
    [(1, False, (4, 0.33)), (1.2, False, (5, 0.345)), (0, False, (2, 0.3)), (1, True, (2, 0.3))],
)
def test_snapshots_and_the_latest_good_epoch_are_kept(
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
    within: float,
    older: bool,
    kept: tuple[int, float],
) -> None:
    """Also of a training that is killed between the lowest error and the epoch that is kept.

    Of a checkpoint of before, which tells no standard error, the lowest goes on to be kept.
    """
    errors = {1: (0.5, 0.1), 2: (0.3, 0.04), 3: (0.35, 0.2), 4: (0.33, 0.2), 5: (0.345, 0.2)}

    def scripted(self: train.Trainer, error: Estimate) -> None:
        if self.epoch == killed:
            raise KeyboardInterrupt
        save(self, Estimate(*errors[self.epoch]))

    killed, save = 4, train.Trainer.save
    monkeypatch.setattr(train.Trainer, "save", scripted)
    flags = [*flag(flag(tiny, "arm", "dense"), "epochs", 5), "--keep_within", str(within)]
    with pytest.raises(KeyboardInterrupt):
        train.main(flags)
    run, killed = run_of(flags), None
    if older:
        last = run.checkpoint("dense", 0, "last")
        state = load_checkpoint(last)
        del state["training"]["lowest"]
        save_checkpoint(last, state)
    train.main(flags)
    names = [path.name for path in sorted(run.snapshots("dense", 0).iterdir())]
    assert names == ["epoch_0003.pth", "epoch_0005.pth"]
    best = load_checkpoint(run.checkpoint("dense", 0, "best"))
    assert (best["epoch"], best["val_MAE"]) == kept
    assert read_json(run.trained("dense", 0))["best_val_MAE"] == kept[1]
    assert best["config"]["backbone"] == "mobilenet_v2"


def test_each_epoch_is_told_in_a_line(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    train.main(flag(tiny, "arm", "dense"))
    rows = read_rows(run_of(tiny).root / "dense/log.csv", ("loss", "val_MAE"))
    printed = capsys.readouterr().out.splitlines()
    told = [line for line in printed if line.startswith("dense, epoch")]
    assert len(told) == 2
    for epoch, (line, row) in enumerate(zip(told, rows, strict=True), 1):
        loss, error = float(row["loss"]), float(row["val_MAE"])
        start = f"dense, epoch {epoch} of 2: loss {loss:.4g}, held-out error {error:.4f}, "
        assert line.startswith(start)
        assert line.endswith(" s")


def test_what_is_kept_is_the_mean_of_the_last_weights(tiny: list[str]) -> None:
    """Buffers too; the mean forgets within half of the training's steps, as the flags say."""
    trainer = train.Trainer(config_of(tiny), "dense", 0)
    memory, expected = 0.5 * 2 * len(trainer.sampler), {}
    assert memory > 2
    trainer.model.train()
    for batch in trainer.loader:
        trainer.step(batch)
        for name, value in trainer.model.state_dict().items():
            new = value.double()
            old = expected.get(name, new)
            expected[name] = old + (new - old) / memory
    for name, value in trainer.kept.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-6)
    weight = next(name for name in expected if name.endswith("weight"))
    assert not torch.equal(trainer.model.state_dict()[weight], trainer.kept.state_dict()[weight])
    trainer.save(Estimate(0.5, 0.1))
    saved = load_checkpoint(trainer.run.checkpoint("dense", 0, "best"))["model"]
    assert torch.equal(saved[weight], trainer.kept.state_dict()[weight])
    plain = train.Trainer(config_of(flag(flag(tiny, "average", 0), "trial", "plain")), "dense", 0)
    assert plain.kept is plain.model


def test_what_is_kept_is_what_is_validated(tiny: list[str]) -> None:
    trainer = train.Trainer(config_of(tiny), "dense", 0)
    trainer.fit()
    best = trainer.run.checkpoint("dense", 0, "best")
    error = trainer.validation.error(load_model(best, trainer.machine)[0], trainer.machine)
    assert error.mean == pytest.approx(load_checkpoint(best)["val_MAE"], abs=1e-9)


def test_every_epoch_has_batches_of_its_own(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other images together, and each of them changed in another way."""
    seen: list[Batch] = []

    def no_step(self: train.Trainer, batch: Batch) -> tuple:
        seen.append(batch)
        return torch.tensor(1.0), {}

    monkeypatch.setattr(train.Trainer, "step", no_step)
    train.Trainer(config_of(tiny), "dense", 0).fit()
    order = torch.cat([batch.indices for batch in seen]).chunk(2)
    images = torch.cat([batch.images for batch in seen]).chunk(2)
    assert all(len(set(indices.tolist())) == len(indices) for indices in order)
    assert not torch.equal(*order)
    places = [int((indices == order[0][0]).nonzero()) for indices in order]
    assert not torch.equal(*(epoch[place] for epoch, place in zip(images, places, strict=True)))


def test_augmentation_is_as_strong_as_the_settings_say(tiny: list[str]) -> None:
    how = {"flip": 0.25, "crop": 0.6, "rotate": 7.0, "colour": 0.3, "pepper": 0.01}
    flags = [word for name, value in how.items() for word in (f"--{name}", str(value))]
    trainer = train.Trainer(config_of([*tiny, *flags]), "dense", 0)
    assert trainer.loader.dataset.augmentation == Augmentation(**how)


@pytest.mark.parametrize("arm", ["points", "random"])
def test_a_round_between_is_asked_and_not_trained(
    tiny: list[str], capsys: pytest.CaptureFixture[str], arm: str
) -> None:
    """The next one goes on from the snapshots and the weights that there are."""
    flags = [*tiny, "--rounds", "3", "--points_per_image", "6", "--train_every", "2"]
    flags += ["--warm_start", "--arm", arm]
    for index in range(3):
        asking.main(flag(flags, "round", index))
        train.main(flag(flags, "round", index))
    run = run_of(flags)
    assert "round 1: not trained (--train_every 2)" in capsys.readouterr().out
    assert run.points(arm, 1).exists()
    assert [run.trained(arm, index).exists() for index in range(3)] == [True, False, True]
    trainer = train.Trainer(config_of(flags), arm, 2)
    assert trainer.teacher.earlier == run.snapshots("points", 0)


def test_a_deep_ensemble_is_trained_only_where_it_is_asked(tiny: list[str]) -> None:
    config = config_of([*flag(tiny, "retrain", 2), "--ensemble", "deep"])
    counts = [train.member_count(config, "points", index) for index in range(4)]
    assert counts == [config.snapshots, 1, 1, 1]


def test_warm_start_begins_where_the_last_round_ended(tiny: list[str]) -> None:
    flags = [*tiny, "--warm_start", "--lr", "0", "--weight_decay", "0"]
    run = run_rounds(flags)
    first, second = (weights(run.checkpoint("points", r, "last")) for r in range(2))
    changed = {key for key in first if not torch.equal(first[key], second[key])}
    assert all("running_" in key or "num_batches" in key for key in changed)


def test_the_network_learns_its_training_images(tiny: list[str]) -> None:
    """Overfit: with masks, and without augmentation, the error falls far below the prior's."""
    plain = "--flip 0 --crop 1 --rotate 0 --colour 0 --pepper 0 --epochs 15 --snapshots 1".split()
    flags = [*tiny, *plain, "--width", "32", "--size", "64", "--backbone", "resnet18"]
    trainer = train.Trainer(config_of(flags), "dense", 0)
    trainer.fit()
    losses = [row["bce"] for row in trainer.rows]
    assert losses[-1] < 0.4 * losses[0]


def test_a_loss_that_is_not_finite_stops_with_advice(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: object) -> tuple[torch.Tensor, dict]:
        return torch.full((), float("nan"), requires_grad=True), {}

    monkeypatch.setattr(objective, "total_loss", diverge)
    with pytest.raises(
        UserError, match=r"loss is nan.* in epoch 1, batch 1 \(tr_.*last good .*: none yet"
    ):
        train.main(flag(tiny, "arm", "dense"))


def test_a_training_that_fails_ends_its_loader_processes_and_itself(tiny: list[str]) -> None:
    command = [sys.executable, "train.py", *tiny, "--arm", "dense", "--workers", "1"]
    command += ["--lr", "1e30", "--clip", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            told = process.communicate(timeout=300)[1]
        finally:
            process.kill()
    assert process.returncode == 2
    assert "lower --lr" in told.splitlines()[-1]


def test_maps_that_are_never_finite_are_told_and_the_training_is_not_called_done(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train.Validation, "error", lambda *_: Estimate(np.nan, np.nan))
        for _ in range(2):
            with pytest.raises(UserError, match=r"dense: after no epoch .* --precision fp32"):
                train.main(flag(tiny, "arm", "dense"))
    assert not run_of(tiny).trained("dense", 0).exists()


def test_every_member_draws_its_own_in_every_process(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of([*tiny, "--ensemble", "deep", "--arm", "dense"])
    drawn: list[int] = []
    trainers = [train.Trainer(config, "dense", 0, member) for member in (0, 1)]
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(torch, "manual_seed", drawn.append)
    batch = Batch(torch.empty(4), torch.empty(4), torch.arange(4), torch.zeros(4))
    for trainer in trainers:
        trainer._placed(batch, [(0, index) for index in range(4)])
    assert len(set(drawn)) == 2


def test_train_refuses_a_damaged_set_and_names_the_file(
    tiny: list[str], sample_root: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(sample_root, broken)
    image = sorted((broken / "images/SAMPLE-TR").iterdir())[7]
    image.write_bytes(image.read_bytes()[:600])
    with pytest.raises(UserError, match=image.name):
        train.main(flag(flag(tiny, "data_root", broken), "arm", "dense"))


def test_validation_error_is_the_mean_absolute_error(tiny: list[str]) -> None:
    asking.main(tiny)
    trainer = train.Trainer(config_of(tiny), "dense", 0)

    class Constant(torch.nn.Module):
        parts = NO_PARTS

        def forward(self, images: torch.Tensor, consensus: None) -> object:
            logits = torch.full((len(images), 1, *images.shape[-2:]), float(np.log(0.3 / 0.7)))
            return Prediction(logits, logits)

    held_out = range(len(trainer.validation.images))
    labels = [trainer.validation.labels.at(index, np.eye(3))[1] for index in held_out]
    share = float(np.mean(labels))
    error = trainer.validation.error(Constant(), trainer.machine)
    assert error.mean == pytest.approx(share * 0.7 + (1 - share) * 0.3, abs=1e-6)


def test_asked_points_count_as_random_ones_would(tiny: list[str]) -> None:
    run = run_of(tiny)
    first = [Point("a", x, 0, int(x < 2), 0) for x in range(10)]  # two of ten are foreground
    second = [Point("a", x, 1, int(x < 8), 1) for x in range(10)]  # eight of ten
    for index, points in enumerate((first, second)):
        write_points(run.points("points", index), points)
        write_points(run.points("random", index), points)
    background, foreground = class_weights(run, "points", 1)
    assert background * 10 == pytest.approx(0.8 * 20)
    assert foreground * 10 == pytest.approx(0.2 * 20)
    assert class_weights(run, "points", 0) == (1.0, 1.0)
    assert class_weights(run, "random", 1) == (1.0, 1.0)
    assert class_weights(run, "dense", 0) == (1.0, 1.0)
    write_points(run.points("points", 0), [])  # nobody could tell any of its pixels
    assert class_weights(run, "points", 1) == (1.0, 1.0)


def test_points_on_objects_are_not_weighted(tiny: list[str]) -> None:
    one = flag(flag(tiny, "rounds", 1), "first_points", "object")
    asking.main(one)
    labels = [point.label for point in read_points(run_of(one).points("points", 0))]
    assert 0.4 < sum(labels) / len(labels) < 0.8  # by area it would be a fifth or so
    trainer = train.Trainer(config_of(one), "points", 0)
    assert trainer.config.match_classes
    assert trainer.class_weights.tolist() == [[[[1.0]], [[1.0]]]]


def test_class_weights_reach_the_losses(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run_rounds([*tiny, "--match_classes"])
    trainer = train.Trainer(config_of(tiny), "points", 1)
    found = class_weights(run_of(tiny), "points", 1)
    assert abs(found[0] - found[1]) > 0.01
    assert trainer.class_weights.flatten().tolist() == pytest.approx(found)
    trainer.class_weights = torch.tensor([3.0, 0.5]).view(1, 2, 1, 1)
    seen: list[torch.Tensor] = []
    losses = objective.total_loss

    def spy(logits: torch.Tensor, supervision: train.Supervision, weights: dict) -> tuple:
        seen.append(supervision.labels)
        return losses(logits, supervision, weights)

    monkeypatch.setattr(objective, "total_loss", spy)
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    labels = torch.zeros(2, 2, 32, 32, dtype=torch.uint8)
    labels[:, :, 4, 4] = 1
    trainer.step(Batch(images, labels, torch.arange(2), torch.zeros(2, dtype=torch.int64)))
    assert seen[0][:, 0].sum() == 6.0
    assert seen[0][:, 1].sum() == 1.0
