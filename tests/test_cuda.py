"""What only a GPU can show; skipped where there is none (`benchmarks/gpu.sh` runs these)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import active_learning.__main__ as asking
import test as testing
import train
from active_learning.maps import pool_maps
from config import PRESETS
from datasets.cache import ResizedImages
from datasets.points import read_points
from models.stored import load_model
from utils import settings
from utils.checkpoints import load_checkpoint
from utils.device import choose_machine
from utils.run_folder import RunFolder, list_snapshots
from utils.stopping import Stopped

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def cuda(tiny: list[str]) -> list[str]:
    return [*tiny, "--device", "cuda"]


@pytest.fixture
def repeatable(cuda: list[str]) -> Iterator[list[str]]:
    """Flags of a trial that gives the same twice; PyTorch is put back after it."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    yield [*cuda, "--deterministic"]
    torch.use_deterministic_algorithms(False)
    cudnn.benchmark, cudnn.deterministic = before


def run_round(flags: list[str], index: int) -> RunFolder:
    asking.main([*flags, "--round", str(index)])
    train.main([*flags, "--round", str(index)])
    return RunFolder(Path(flags[flags.index("--runs") + 1]) / "tiny")


@pytest.mark.parametrize("how", ["fp32", "bf16", "bf16 --accumulate 2"])
def test_two_rounds_on_cuda(cuda: list[str], how: str) -> None:
    flags = [*cuda, "--precision", *how.split()]
    for index in range(2):
        run = run_round(flags, index)
        assert run.trained("points", index).exists()
    points = [len(read_points(run.points("points", index))) for index in range(2)]
    assert points[0] == points[1] > 0
    state = load_checkpoint(run.checkpoint("points", 1, "last"))["model"]
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


def test_what_snapshots_say_is_the_same_on_cuda_and_cpu(cuda: list[str]) -> None:
    run = run_round(cuda, 0)
    config = settings.from_dict(settings.read_json(run.config), "config")
    # Steps of no length: rounding cannot turn a gradient's sign.
    changes = {**PRESETS["aste"], "attack_eps": 20.0, "attack_step": 0.0, "ask_scale": 1.25}
    config = dataclasses.replace(config, **changes)
    samples = settings.training_images(config)[0]
    images = ResizedImages(samples, config.size, 100, "pool")
    found = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for device in ("cpu", "cuda"):
            machine = choose_machine(device, "fp32")
            files = list_snapshots(run.snapshots("points", 0))
            networks = [load_model(path, machine)[0] for path in files]
            found.append([maps for _, maps in pool_maps(images, networks, config, machine, "r")])
    for one, other in zip(*found, strict=True):
        for field in ("clean", "attacked", "scores", "features", "colours"):
            a, b = getattr(one, field), getattr(other, field)
            assert a.device == b.device == torch.device("cpu")
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


def test_a_training_goes_on_on_cuda(cuda: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asking.main([*cuda, "--round", "0"])
    save = train.Trainer.save

    def stop(trainer: train.Trainer, error: float) -> None:
        save(trainer, error)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train.main([*cuda, "--round", "0"])
    train.main([*cuda, "--round", "0"])
    run = RunFolder(Path(cuda[cuda.index("--runs") + 1]) / "tiny")
    state = load_checkpoint(run.checkpoint("points", 0, "last"))
    assert state["epoch"] == 2
    assert run.trained("points", 0).exists()


def test_stopped_within_an_epoch_it_ends_as_undisturbed(
    repeatable: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for stopped in (False, True):
        flags = [*repeatable, "--runs", str(tmp_path / f"stopped {stopped}")]
        asking.main([*flags, "--round", "0"])
        if stopped:
            asked = itertools.count(1)
            with monkeypatch.context() as patch:
                patch.setattr(train, "stop_requested", lambda asked=asked: next(asked) == 3)
                with pytest.raises(Stopped):
                    train.main([*flags, "--round", "0"])
        train.main([*flags, "--round", "0"])
        run = RunFolder(tmp_path / f"stopped {stopped}" / "tiny")
        found.append(load_checkpoint(run.checkpoint("points", 0, "last"))["model"])
    for name, weights in found[0].items():
        torch.testing.assert_close(found[1][name], weights, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("more", "arm"),
    [
        ("--preset gconet_plus --precision fp16 --label_mode region", "points"),
        ("--relation mha --classify 0.1 --classify_masked 0.1 --adversarial 0.1", "dense"),
    ],
)
def test_groups_losses_and_maps_on_cuda(cuda: list[str], more: str, arm: str) -> None:
    """All parts and losses put what they make themselves where the network is."""
    parts = "--mask_operation c --triplet 0.1 --triplet_of both --binarise both --refiner image"
    losses = "--losses_points bce=1+balanced_bce=1+iou=1+mse=1+coherence=1+consistency=1+reg=1"
    flags = [*cuda, "--trainset", "SAMPLE-CO-TR", "--testsets", "SAMPLE-CO-TE", "--grouped"]
    flags += [*parts.split(), *losses.split(), *more.split(), "--batch_size", "6", "--epochs", "1"]
    flags += ["--snapshots", "1", "--losses_others", "bce=1+iou=0.5", "--label_smoothing"]
    asking.main(flags)
    train.main([*flags, "--arm", arm])
    testing.main(flags)
    run = RunFolder(Path(flags[flags.index("--runs") + 1]) / "tiny")
    assert len(list(run.predictions.rglob("*.png"))) > 0
