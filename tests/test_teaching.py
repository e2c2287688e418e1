"""What a training learns from where snapshots teach it, and how its learning rate falls then."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import active_learning.__main__ as asking
import active_learning.self_training as self_training
import train
from active_learning.self_training import Taught, Teacher
from datasets.cache import ResizedImages
from datasets.images import native_sizes
from datasets.training import Batch
from losses.objective import Objective
from losses.supervision import Supervision
from tests.small_trials import ask_round, config_of, flag, run_of, run_rounds, weights
from utils.errors import UserError
from utils.schedule import cyclic_cosine
from utils.settings import training_images


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_carry_the_pseudo_labels_of_the_newest_snapshots(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """None in the first cycle of all; workers, too, see them change from epoch to epoch."""
    looks = itertools.count()

    def stripes(
        image: np.ndarray, prob: np.ndarray, labels: np.ndarray, by: str, seed: int
    ) -> np.ndarray:
        return np.uint8(255) * (np.indices(prob.shape)[1] // 2 % 3 == (look + seed) % 3)

    def watched_look(self: Teacher, *args: object) -> None:
        nonlocal look
        look = next(looks)
        look_anew(self, *args)

    def watched_step(self: train.Trainer, batch: Batch) -> tuple:
        total, parts = step(self, batch)
        assert any(name.startswith("pseudo/") for name in parts) == bool(self.teacher.seen)
        steps.append((self.round, self.epoch, bool(self.teacher.seen)))
        for index, found in zip(batch.indices.tolist(), batch.pseudo, strict=True):
            expected = stripes(None, found.numpy(), None, "", index) if self.teacher.seen else 0
            assert np.array_equal(found.numpy(), expected + np.zeros(found.shape))
        return total, parts

    look, steps = 0, []
    step, look_anew = train.Trainer.step, Teacher.look
    monkeypatch.setattr(self_training, "cut", stripes)
    monkeypatch.setattr(Teacher, "look", watched_look)
    monkeypatch.setattr(train.Trainer, "step", watched_step)
    plain = "--flip 0 --crop 1 --rotate 0 --pseudo_trust 0 --no-pseudo_finer".split()
    run_rounds(flag([*tiny, *plain], "workers", workers))
    assert set(steps) == {(0, 0, False), (0, 1, True), (1, 0, True), (1, 1, True)}


@pytest.mark.parametrize(
    ("flags", "how"),
    [
        ("", Taught(2, 32, True, True, 0.5)),
        ("--snapshots 1 --pseudo_scale 1.5 --no-pseudo_agree", Taught(1, 64, False, True, 0.5)),
        ("--no-pseudo_cut --pseudo_trust 0.7", Taught(2, 32, True, False, 0.7)),
        ("--no-pseudo_colours", Taught(2, 32, True, True, 0.5, colours=False)),
        ("--pseudo_cut_by smoothing", Taught(2, 32, True, True, 0.5, cut_by="smoothing")),
    ],
)
def test_pseudo_labels_are_made_as_the_settings_say(
    tiny: list[str], flags: str, how: Taught
) -> None:
    told = [*tiny, *flags.split()]
    asking.main(told)
    assert train.Trainer(config_of(told), "points", 0).teacher.how == how


def test_the_teacher_sees_the_pictures_own_detail(tiny: list[str]) -> None:
    """They are larger than the network's 32 pixels; their answers lie on a grid as fine."""
    asking.main(tiny)
    trainer = train.Trainer(config_of(tiny), "points", 0)
    teacher, own = trainer.teacher, trainer.images
    largest = max(map(max, native_sizes(own.samples)))
    assert teacher.images.size == teacher.size == largest > own.size
    assert teacher.images.samples == own.samples
    assert torch.equal(
        teacher.images.batch([3]), ResizedImages(own.samples, largest, 64, "all").batch([3])
    )
    labels = teacher.labels.at(3, np.eye(3))
    assert labels.shape == (2, largest, largest)
    assert labels.sum() == 2
    coarse = [*tiny, "--no-pseudo_finer", "--trial", "coarse"]
    asking.main(coarse)
    trainer = train.Trainer(config_of(coarse), "points", 0)
    assert trainer.teacher.images is trainer.images


def test_each_picture_is_measured_once_for_all_rounds_and_both_grids(
    tiny: list[str], measured: list[str]
) -> None:
    flags = [*tiny, "--rounds", "4", "--points_per_image", "8", "--no-warm_start"]
    config = config_of(flags)
    for index in range(4):
        ask_round(config, "random", index)
    measured.clear()
    trainer = train.Trainer(config, "random", 3)
    assert trainer.teacher.images.size > trainer.images.size
    own, held_out = training_images(config)
    assert sorted(measured) == sorted(sample.name for sample in [*own, *held_out])


@pytest.mark.parametrize("alone", [True, False])
def test_points_have_losses_of_their_own_but_in_a_last_training(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    """There the teacher alone labels, every pixel once, in all losses, as the settings say."""
    found: dict[tuple[int, int], set[frozenset]] = {}
    everywhere: dict[tuple[int, int], set[bool]] = {}

    def watched_step(self: train.Trainer, batch: Batch) -> tuple:
        nonlocal at
        at = self.round, self.epoch
        total, parts = step(self, batch)
        weights = {f"pseudo/{name}": w for name, w in self.config.losses_pseudo.items()}
        weights |= self.config.losses_points | {"others/mse": 1.0}
        expected = sum(weights[name] * float(value) for name, value in parts.items())
        assert float(total) == pytest.approx(expected, rel=1e-5)
        found.setdefault(at, set()).add(frozenset(parts))
        return total, parts

    def watched_losses(self: Objective, outputs: object, supervision: Supervision, *more) -> tuple:
        covered = bool((supervision.labels.sum(1) == 1).all())
        everywhere.setdefault(at, set()).add(covered)
        return call(self, outputs, supervision, *more)

    at, step, call = (0, 0), train.Trainer.step, Objective.__call__
    monkeypatch.setattr(train.Trainer, "step", watched_step)
    monkeypatch.setattr(Objective, "__call__", watched_losses)
    flags = [*tiny, "--losses_points", "bce=2", "--losses_pseudo", "bce=3+iou=0.5"]
    flags += ["--losses_others", "mse=1", f"--{'' if alone else 'no-'}pseudo_alone"]
    flags = flag(flags, "retrain", 1)
    for index in range(3):
        asking.main(flag(flags, "round", index))
        train.main(flag(flags, "round", index))
    points, taught, others = {"bce"}, {"pseudo/bce", "pseudo/iou"}, {"others/mse"}
    expected = {(0, 0): points, (0, 1): points | taught, (1, 0): points | taught}
    last = taught if alone else points | taught
    expected |= {(1, 1): points | taught, (2, 0): last, (2, 1): last}
    assert found == {key: {frozenset(names | others)} for key, names in expected.items()}
    assert everywhere == {key: {names == taught} for key, names in expected.items()}


def test_halves_of_a_batch_add_up_in_a_last_training(tiny: list[str]) -> None:
    """What the teacher labels is counted over the whole batch."""
    flags = [*tiny, "--retrain", "1", "--losses_others", "iou=1"]
    for index in range(2):
        asking.main(flag(flags, "round", index))
        train.main(flag(flags, "round", index))
    asking.main(flag(flags, "round", 2))
    found = []
    for parts in (1, 2):
        config = dataclasses.replace(config_of(flags), accumulate=parts)
        trainer = train.Trainer(config, "points", 2)
        trainer.teacher.look(0, trainer.machine)
        trainer.model.eval()  # batch norm would see other images
        trainer.model.training = True
        total, values = trainer.step(next(iter(trainer.loader)))
        found.append({"total": float(total)} | {name: float(v) for name, v in values.items()})
    assert found[0].keys() == {"total", "pseudo/bce", "pseudo/iou", "pseudo/ssim", "others/iou"}
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_each_image_is_trusted_for_itself() -> None:
    """By its place in the set, not in the batch."""
    teacher = SimpleNamespace(trusted=torch.tensor([False, True, False, True, True]))
    learner = SimpleNamespace(machine=SimpleNamespace(device="cpu"), teacher=teacher)
    order = torch.tensor([3, 0, 2])
    nothing, grey = torch.zeros(3, 2, 4, 4), torch.full((3, 4, 4), 153, dtype=torch.uint8)
    batch = Batch(torch.empty(0), nothing, order, order, pseudo=grey)
    found = train.Learner._pseudo(learner, batch, nothing)
    assert found[:, 1].amax((1, 2)).tolist() == pytest.approx([1, 0.6, 0.6])
    assert found[:, 1].amin((1, 2)).tolist() == pytest.approx([1, 0.6, 0.6])


@pytest.mark.parametrize("arm", ["points", "random"])
def test_a_round_that_asks_nothing_trains_again_taught_by_the_last(
    tiny: list[str], arm: str
) -> None:
    flags = flag([*tiny, "--arm", arm, "--no-reseed"], "retrain", 1)
    for index in range(3):
        asking.main(flag(flags, "round", index))
        train.main(flag(flags, "round", index))
    run = run_of(flags)
    first = run.snapshots("points", 0)
    last, again = (train.Trainer(config_of(flags), arm, index) for index in (1, 2))
    assert (again.teacher.own, again.teacher.earlier) == (None, run.snapshots(arm, 1))
    assert (last.teacher.own, last.teacher.earlier) == (run.snapshots(arm, 1), first)
    points = [trainer.loader.dataset.labels.at(0, np.eye(3)) for trainer in (last, again)]
    assert points[0].sum() == 4
    assert np.array_equal(*points)
    first, second = (weights(run.checkpoint(arm, index, "last")) for index in (1, 2))
    assert not all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(UserError, match="the trial's rounds are 0 to 2"):
        train.main(flag(flags, "round", 3))


@pytest.mark.parametrize("reseed", [True, False])
def test_later_trainings_draw_otherwise_than_their_teachers(tiny: list[str], reseed: bool) -> None:
    """Initial weights, order and augmentation; the first one as the twin, of each arm alike."""
    flags = [*tiny, "--rounds", "3", "--points_per_image", "3", "--train_every", "2"]
    flags += [f"--{'' if reseed else 'no-'}reseed", "--retrain", "1", "--arm", "random"]
    for index in range(4):
        asking.main(flag(flags, "round", index))
    run, config, drawn = run_of(flags), config_of(flags), []
    assert config.trained_rounds == [0, 2, 3]
    for index in range(4):  # as if they had been asked of networks
        path = run.points("points", index)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(run.points("random", index), path)
    for arm, *which in [("dense", 0), *itertools.product(("points", "random"), (0, 2, 3), (0, 1))]:
        trainer = train.Trainer(config, arm, *which)
        image = trainer.loader.dataset[0, 0][0]
        drawn.append((trainer.model.head.weight, torch.tensor(list(trainer.sampler)), image))
    alike = [[all(map(torch.equal, one, other)) for other in drawn] for one in drawn]
    apart = [[not any(map(torch.equal, one, other)) for other in drawn] for one in drawn]
    groups = [0, *([0, 1, 2, 3, 4, 5] if reseed else [0, 1] * 3) * 2]
    assert alike == [[one == other for other in groups] for one in groups]
    assert apart == [[one != other for other in groups] for one in groups]


def test_the_learning_rate_rises_again_only_where_snapshots_teach_their_own_training(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the twin and of a last training falls once, to nothing, over all epochs."""
    factors: dict[str, list[float]] = {}

    def watched(self: train.Trainer, factor: float) -> None:
        factors.setdefault(f"{self.arm}_{self.round}", []).append(factor)
        set_rates(self, factor)

    set_rates = train.Trainer.set_rates
    monkeypatch.setattr(train.Trainer, "set_rates", watched)
    flags = [*tiny, "--retrain", "1", "--epochs", "3"]
    train.main([*flags, "--arm", "dense"])
    for arm in ("points", "random"):
        for index in range(3):
            asking.main([*flags, "--arm", arm, "--round", str(index)])
            train.main([*flags, "--arm", arm, "--round", str(index)])
    # After two epochs of three the second of two cycles begins.
    in_cycles = {"points_0", "points_1", "random_1"}
    assert factors.keys() == in_cycles | {"dense_0", "points_2", "random_2"}
    for name, found in factors.items():
        steps = len(found)
        assert steps % 3 == 0 < steps
        ends = [steps * 2 // 3, steps] if name in in_cycles else [steps]
        assert found == [cyclic_cosine(step, steps, ends) for step in range(steps)]


def test_snapshots_that_neither_teach_nor_are_asked_need_no_cycles(tiny: list[str]) -> None:
    flags = [*tiny, "--losses_pseudo", ""]
    asking.main(flags)
    assert train.Trainer(config_of(flags), "points", 0).in_cycles
    asking.main([*flags, "--arm", "random", "--round", "1"])
    assert not train.Trainer(config_of(flags), "random", 1).in_cycles
    once = [*flags, "--rounds", "1", "--trial", "once"]
    asking.main(once)
    assert not train.Trainer(config_of(once), "points", 0).in_cycles
