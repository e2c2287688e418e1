"""A signal stops a stage with all that it has done saved; a step that cannot be taken is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from torch.nn.functional import dropout

import active_learning.__main__ as asking
import test as testing
import train
from active_learning import validation
from active_learning.learner import NotFinite
from active_learning.query import Pool
from active_learning.validation import Estimate, Validation
from models.mean_maps import mean_maps
from tests.test_train import assert_same_training, config_of, flag, run_of, weights
from utils import stopping
from utils.checkpoints import load_checkpoint
from utils.errors import UserError
from utils.files import atomic_path
from utils.run_folder import RunFolder
from utils.stopping import Stopped
from utils.tables import read_rows

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _listening() -> Iterator[None]:
    """Take the signals in this process, as a stage does."""
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    stopping.listen()
    yield
    stopping._State.asked = None
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("more", "at"),
    [
        ("--arm points --losses_points bce=1+coherence=0.3 --adversarial 0.1", 5),
        ("--arm dense", 3),
        ("--arm dense --workers 1", 4),
    ],
)
def test_a_training_stopped_in_an_epoch_ends_as_an_undisturbed_one(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, at: int
) -> None:
    """Also where its layers are left out by chance, and after the last batch of an epoch."""
    new_network = train.Trainer.new_network

    def with_chance(*args: object) -> tuple:
        network, report = new_network(*args)
        network.encoder.register_forward_hook(
            lambda encoder, _, maps: [dropout(found, 0.1, encoder.training) for found in maps]
        )
        return network, report

    monkeypatch.setattr(train.Trainer, "new_network", with_chance)
    flags = [*tiny, *more.split()]
    arm = flags[flags.index("--arm") + 1]
    asked = [word for word in flags if word not in ("--arm", "dense", "points")]
    asking.main(asked)
    train.main(flags)
    stopped = flag(flags, "runs", tmp_path / "stopped")
    asking.main(flag(asked, "runs", tmp_path / "stopped"))
    step, count = train.Trainer.step, 0

    def signals(self: train.Trainer, *args: object) -> tuple:
        nonlocal count
        count += 1
        if count == at:  # all processes of a group, as a cluster does
            for number in (*(child.pid for child in active_children()), os.getpid()):
                os.kill(number, signal.SIGTERM)
        return step(self, *args)

    monkeypatch.setattr(train.Trainer, "step", signals)
    with pytest.raises(Stopped):
        train.main(stopped)
    assert count == at
    stopping._State.asked = None
    training = load_checkpoint(run_of(stopped).checkpoint(arm, 0, "last"))["training"]
    assert training["epoch"] == (at - 1) // 3
    assert training["sums"]["batches"] == (at - 1) % 3 + 1
    train.main(stopped)
    assert count == 6
    assert_same_training(run_of(flags).training(arm, 0), run_of(stopped).training(arm, 0))


def test_a_training_stopped_while_it_validates_ends_as_an_undisturbed_one(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*tiny, "--arm", "dense"]
    train.main(flags)
    looked = []

    def maps(*args: object) -> Iterator[tuple]:
        for found in mean_maps(*args):
            if not looked:
                os.kill(os.getpid(), signal.SIGTERM)
            looked.append(found)
            yield found
        looked.append("all")

    stopped = flag(flags, "runs", tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(validation, "mean_maps", maps)
        with pytest.raises(Stopped):
            train.main(stopped)
    assert len(looked) == 1
    stopping._State.asked = None
    training = load_checkpoint(run_of(stopped).checkpoint("dense", 0, "last"))["training"]
    assert (training["epoch"], training["sums"]["batches"]) == (0, 3)
    train.main(stopped)
    assert_same_training(run_of(flags).training("dense", 0), run_of(stopped).training("dense", 0))


def test_a_signal_while_nothing_is_at_stake_ends_the_stage_at_once() -> None:
    with pytest.raises(Stopped):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_is_noted_while_something_is_finished() -> None:
    done = []

    def finish() -> None:
        with stopping.finishing():
            with stopping.finishing():
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)  # a launcher hands on what came to all
                assert stopping.stop_requested()
            done.append("inner")
        done.append("outer")

    with pytest.raises(Stopped):
        finish()
    assert done == ["inner"]


def test_a_signal_while_a_file_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            os.kill(os.getpid(), signal.SIGTERM)
            temporary.write_text("new")

    with pytest.raises(Stopped):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


STAGE = """
import signal, sys, time
from utils.stages import run_stage
from utils.stopping import finishing
def main():
    with finishing():
        print("ready", flush=True)
        time.sleep({first})
        print("saved", flush=True)
    time.sleep(60)
run_stage(main)
"""


@pytest.mark.parametrize(
    ("wait", "signals", "code", "told"),
    [
        (1, [signal.SIGTERM], 75, "saved\n"),
        (1, [signal.SIGUSR1], 75, "saved\n"),
        (60, [signal.SIGTERM, signal.SIGTERM], -signal.SIGTERM, ""),
    ],
)
def test_a_stage_leaves_with_75_and_a_second_signal_kills_it(
    wait: float, signals: list[int], code: int, told: str
) -> None:
    command = [sys.executable, "-c", STAGE.format(first=wait)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        for number in signals:
            process.send_signal(number)
            time.sleep(1.1 if len(signals) > 1 else 0)
        out, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == told
    if code == 75:
        assert error == "stopped by a signal: run the same command again to go on\n"


def spoil(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> list[int]:
    """Make what some steps (counted from 1) compute no number; return the list of the steps."""
    losses, seen = train.Trainer._losses, []

    def spoilt(self: train.Trainer, *args: object) -> tuple:
        total, *rest = losses(self, *args)
        seen.append(len(seen) + 1)
        if seen[-1] in bad:
            for buffer in self.model.buffers():
                if buffer.is_floating_point():
                    buffer.data.fill_(float("nan"))
            total = total * float("nan")
        return total, *rest

    monkeypatch.setattr(train.Trainer, "_losses", spoilt)
    return seen


def test_a_step_without_a_number_is_skipped_and_counted(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, {2})
    train.main([*tiny, "--arm", "dense", "--on_nan", "skip"])
    run = run_of(tiny)
    rows = read_rows(run.root / "dense/log.csv", ("skipped", "loss"))
    assert [float(row["skipped"]) for row in rows] == [1, 0]
    assert all(0 < float(row["loss"]) < 5 for row in rows)
    assert all(
        value.isfinite().all() for value in weights(run.checkpoint("dense", 0, "last")).values()
    )


def test_the_only_step_of_an_epoch_may_be_skipped(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spoil(monkeypatch, {1})
    flags = [*tiny, "--on_nan", "skip", "--batch_size", "64"]
    train.main([*flags, "--arm", "dense"])
    rows = read_rows(run_of(flags).root / "dense/log.csv", ("skipped", "loss", "bce"))
    assert seen == [1, 2]
    assert [(float(row["skipped"]), row["loss"] == "nan") for row in rows] == [
        (1, True),
        (0, False),
    ]
    assert [row["bce"] == "" for row in rows] == [True, False]


def test_steps_skipped_in_a_row_are_counted_from_epoch_to_epoch(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spoil(monkeypatch, set(range(2, 99)))
    flags = [*tiny, "--arm", "dense", "--on_nan", "skip", "--batch_size", "64", "--epochs", "20"]
    with pytest.raises(UserError, match=r"epoch 12, batch 1 .* the 1\. step .* the 11\. in a row"):
        train.main(flags)
    assert len(seen) == 12


def test_a_skipped_step_in_half_precision_is_followed_by_others(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = train.Trainer(config_of([*tiny, "--on_nan", "skip"]), "dense", 0)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    batch = next(iter(trainer.loader))
    spoil(monkeypatch, {1})
    with pytest.raises(NotFinite):
        trainer.step(batch)
    before = [value.clone() for value in trainer.model.parameters()]
    assert trainer.step(batch)[0].isfinite()
    pairs = zip(before, trainer.model.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in pairs)


def test_gradients_that_are_no_numbers_at_any_scale_are_told_in_half_precision(
    tiny: list[str],
) -> None:
    """While the scaler searches, an overflow leaves out the step, and leaves the average alone."""
    trainer = train.Trainer(config_of([*tiny, "--average", "1"]), "dense", 0)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    batch = next(iter(trainer.loader))
    hook = next(trainer.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    for scale in (4, 2, 1):
        assert trainer.step(batch)[0].isfinite()
        assert trainer.scaler.get_scale() == scale
    assert trainer.average.n_averaged == 0
    with pytest.raises(NotFinite, match="norm nan"):
        trainer.step(batch)
    hook.remove()
    trainer.step(batch)
    assert trainer.average.n_averaged == 1


def test_too_many_skipped_steps_stop_the_training(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spoil(monkeypatch, {4, 5})
    with pytest.raises(UserError, match=r"epoch 2, batch 2 .* 2\. step skipped .*last.pth, after"):
        train.main([*tiny, "--arm", "dense", "--on_nan", "skip"])
    assert seen == [1, 2, 3, 4, 5]


def test_an_infinite_gradient_stops_and_names_the_images(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = train.Trainer(config_of([*tiny, "--clip", "0"]), "dense", 0)
    parameter = next(trainer.model.parameters())
    parameter.register_hook(lambda gradient: gradient / 0)
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    with pytest.raises(UserError, match=r"norm (nan|inf) in epoch 1, batch 1 \(tr_0\d+"):
        trainer.fit()
    assert all(torch.equal(before[key], value) for key, value in trainer.model.named_parameters())


OUT_OF_MEMORY = [
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "on the GPU"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "of the machine"),
    (MemoryError(), "of the machine"),
]


@pytest.mark.parametrize(("error", "where"), OUT_OF_MEMORY)
def test_a_lack_of_memory_says_what_to_change(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(train.Trainer, "step", fail)
    told = (
        f"out of memory {where}, training on 4 .*: give --accumulate 2, or --size 32(, or --cac|$)"
    )
    with pytest.raises(UserError, match=told):
        train.main([*tiny, "--arm", "dense", "--size", "64"])
    monkeypatch.setattr(Pool, "choose_uncertain", fail)
    with pytest.raises(UserError, match=f"{where}, asking .*: give --device cpu($|, or --cac)"):
        asking.main([*tiny, "--size", "64", "--round", "1"])
    monkeypatch.setattr(testing.Segmenter, "__init__", lambda *_: None)
    monkeypatch.setattr(testing.Segmenter, "run", fail)
    config = config_of([*tiny, "--size", "64"])
    checkpoint = RunFolder(config.run_folder).checkpoint("dense", 0, "best")
    trainer = train.Trainer(config, "dense", 0)
    trainer.save(Estimate(0.5, 0.1))
    told = f"{where}, training .*: give --accumulate 2 in a new trial, or --size 32 in a new trial"
    with pytest.raises(UserError, match=told):
        train.main([*tiny, "--arm", "dense", "--size", "64"])
    with pytest.raises(UserError, match=f"{where}, making maps of 4 pictures at a time: give"):
        testing.test_trial(config, [checkpoint], testing.Segmenter)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        *((train.Trainer, "weigh"), (train.Trainer, "take")),
        *((train.TrainingSet, "__getitem__"), (Validation, "error")),
    ],
)
def test_memory_may_lack_before_a_step_and_after_the_last(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    def fail(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(UserError, match="out of memory on the GPU, training on 4 images"):
        train.main([*tiny, "--arm", "dense"])


def test_memory_may_lack_when_a_network_is_loaded(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    train.main([*tiny, "--arm", "dense"])

    def fail(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(testing, "load_model", fail)
    source = Path(tiny[tiny.index("--data_root") + 1]) / "images"
    checkpoint = run_of(tiny).checkpoint("dense", 0, "best")
    where = ["--input", str(source), "--checkpoint", str(checkpoint), "--output"]
    for flags in (tiny, [*where, str(tmp_path / "maps"), "--device", "cpu"]):
        with pytest.raises(UserError, match="out of memory on the GPU, making maps of"):
            testing.main(flags)


def test_another_runtime_error_is_left_alone(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(train.Trainer, "step", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        train.main([*tiny, "--arm", "dense"])


def test_parts_of_a_batch_teach_what_the_whole_does(tiny: list[str], tmp_path: Path) -> None:
    """Without batch statistics; the parts differ in size and in their answers."""
    gradients = []
    for count in ("1", "2"):
        flags = [*tiny, "--batch_size", "5", "--accumulate", count]
        asking.main([*flags, "--runs", str(tmp_path / count)])
        trainer = train.Trainer(config_of([*flags, "--runs", str(tmp_path / count)]), "points", 0)
        trainer.model.eval()
        batch = next(iter(trainer.loader))
        batch.labels[:3] = 0  # most answers are in one part
        trainer.step(batch)
        gradients.append([p.grad for p in trainer.model.parameters()])
    for one, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, one, rtol=1e-3, atol=1e-5 * float(one.abs().max() + 1e-3))


def test_a_deterministic_training_uses_repeatable_algorithms(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points, and pseudo labels in the second epoch: nothing in it refuses, on a CPU."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        asking.main([*tiny, "--deterministic"])
        train.main([*tiny, "--deterministic"])
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
