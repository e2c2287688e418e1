"""Training, asking and mapping co-salient groups, from end to end."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

import active_learning.__main__ as asking
import test as testing
import train
from active_learning.maps import Maps, pool_maps
from config import PRESETS, Config
from datasets.cache import ResizedImages
from datasets.groups import images_apart
from datasets.images import read_mask
from datasets.index import list_set
from datasets.points import read_points
from models import SaliencyNet
from models.group_view import view_group
from models.stored import load_model, parts_of
from tests.small_trials import config_of, run_of
from utils import settings
from utils.checkpoints import load_checkpoint, save_checkpoint
from utils.device import choose_machine
from utils.errors import UserError
from utils.run_folder import RunFolder
from utils.tables import read_rows

TRAIN, TEST = "SAMPLE-CO-TR", "SAMPLE-CO-TE"
CPU = choose_machine("cpu", "fp32")
EVERYTHING = (
    "--preset gconet_plus --mask_operation c --triplet_of both --binarise both --refiner image "
    "--losses_others bce=1+iou=0.5 --label_smoothing --adversarial 0.1 --workers 0"
).split()


@pytest.fixture
def grouped(tiny: list[str]) -> list[str]:
    """Flags of a tiny trial on the co-salient sets; the network's parts are left to the test."""
    return [*tiny, "--trainset", TRAIN, "--testsets", TEST, "--batch_size", "6"]


def assert_same_training(one: Path, other: Path) -> None:
    """Two training folders hold the same losses and states, the adversary's too, bit for bit."""
    states = [load_checkpoint(folder / "checkpoints/last.pth") for folder in (one, other)]
    for state in states:
        state["training"].pop("rows")  # they tell the seconds
        state.pop("config")
    assert_equal(*states)
    logs = [read_rows(folder / "log.csv", ("epoch", "loss")) for folder in (one, other)]
    for row in [row for log in logs for row in log]:
        row.pop("seconds")
    assert logs[0] == logs[1]
    assert logs[0]


def assert_equal(one: object, other: object) -> None:
    """Compare nested values, with tensors and arrays among them."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for value, counterpart in zip(one, other, strict=True):
            assert_equal(value, counterpart)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert np.array_equal(one, other)


# The losses of each preset that are not of maps.
LOGGED = {
    "gconet": {"contrast", "classify"},
    "gconet_plus": {"contrast", "classify", "classify_masked", "triplet"},
}


@pytest.mark.parametrize(("preset", "arm"), [("gconet", "dense"), ("gconet_plus", "points")])
def test_presets_train_in_groups(grouped: list[str], preset: str, arm: str) -> None:
    flags = [*grouped, "--preset", preset, "--epochs", "1", "--snapshots", "1"]
    if arm == "points":
        asking.main(flags)
    train.main([*flags, "--arm", arm])
    run, config = run_of(flags), config_of(flags)
    (row,) = read_rows(run.training(arm, 0) / "log.csv", ("loss",))
    losses = config.losses_dense if arm == "dense" else config.losses_points
    of_others = {f"others/{name}" for name in config.losses_others}
    told = {"epoch", "loss", "val_MAE", "seconds"}
    assert set(row) == {*losses, *of_others, *LOGGED[preset], *told}
    assert all(np.isfinite(float(value)) for value in row.values())
    assert float(row["classify"]) > 0
    network, _ = load_model(run.checkpoint(arm, 0, "best"), CPU)
    assert network.parts.classes == len(list((Path(config.data_root) / "images" / TRAIN).iterdir()))
    assert network.parts == parts_of(settings.to_dict(config), network.parts.classes)


def test_everything_resumed_ends_as_undisturbed(
    grouped: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [*grouped, *EVERYTHING, "--snapshots", "1"]
    flags = [*plain, "--arm", "dense"]
    train.main(flags)
    folder = run_of(plain).training("dense", 0)
    logged = read_rows(folder / "log.csv", ("adversarial", "discriminator"))
    assert all(float(row["discriminator"]) > 0 for row in logged)

    stopped = ["--runs", str(tmp_path / "stopped")]
    step, count = train.Trainer.step, 0

    def stops(self: train.Trainer, batch: object) -> tuple:
        nonlocal count
        count += 1
        if count == len(self.sampler) + 2:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(train.Trainer, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        train.main([*flags, *stopped])
    monkeypatch.undo()
    train.main([*flags, *stopped])
    assert_same_training(folder, run_of([*plain, *stopped]).training("dense", 0))


def test_the_adversary_learns_apart(grouped: list[str]) -> None:
    """The network's step moves no weight of the discriminator, nor its own the network's."""
    trainer = train.Trainer(config_of([*grouped, *EVERYTHING]), "dense", 0)
    network, adversary = trainer.model, trainer.adversary
    logits = torch.randn(2, 1, 32, 32, requires_grad=True)
    labels = torch.zeros(2, 2, 32, 32)
    labels[:, 0, :4] = 1
    adversary.judge(logits, labels).sum().backward()
    assert all(parameter.grad is None for parameter in adversary.network.parameters())
    # Only what is labelled is seen.
    assert logits.grad[:, :, :4].count_nonzero()
    assert not logits.grad[:, :, 4:].count_nonzero()
    before = [value.clone() for value in adversary.network.parameters()]
    adversary.learn(logits, labels)
    after = list(adversary.network.parameters())
    assert all(not torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())


def scramble_unasked(source: Path, target: Path, run: RunFolder) -> None:
    """Copy a data root; make every mask pixel that was not asked noise."""
    shutil.copytree(source, target)
    asked: dict[str, list] = {}
    for point in read_points(run.ledger):
        asked.setdefault(str(Path(point.image).with_suffix(".png")), []).append(point)
    rng = np.random.default_rng(0)
    for path in sorted((target / "gts" / TRAIN).rglob("*.png")):
        mask = read_mask(path)
        noise = rng.random(mask.shape) < 0.5
        for point in asked[str(path.relative_to(target / "gts" / TRAIN))]:
            noise[point.y, point.x] = mask[point.y, point.x]
        cv2.imwrite(str(path), noise.astype(np.uint8) * 255)


def test_nothing_but_the_asked_pixels_reaches_a_grouped_training(
    grouped: list[str], sample_root: Path, tmp_path: Path
) -> None:
    flags = [*grouped, *EVERYTHING, "--epochs", "1", "--snapshots", "1"]

    def run_rounds(flags: list[str]) -> RunFolder:
        for index in ("0", "1"):
            asking.main([*flags, "--round", index])
            train.main([*flags, "--round", index])
        return run_of(flags)

    run = run_rounds(flags)
    scramble_unasked(sample_root, tmp_path / "noise", run)
    again = run_rounds(
        [*flags, "--data_root", str(tmp_path / "noise"), "--runs", str(tmp_path / "again")]
    )
    for index in range(2):
        one, other = run.points("points", index), again.points("points", index)
        assert one.read_bytes() == other.read_bytes()
        assert_same_training(one.parent, other.parent)


def test_a_flat_set_is_not_trained_in_groups(tiny: list[str]) -> None:
    with pytest.raises(UserError, match="SAMPLE-TR: has images outside group folders"):
        train.main([*tiny, "--preset", "gconet", "--arm", "dense"])


@pytest.fixture(scope="module")
def network() -> SaliencyNet:
    """A network in eval mode that relates images, with grey maps; leave it as it is."""
    torch.manual_seed(0)
    preset = dataclasses.replace(Config(), grouped=True, relation="gam")
    found = SaliencyNet("mobilenet_v2", 8, parts_of(settings.to_dict(preset), 0)).train()
    for module in found.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        found(torch.rand(6, 3, 64, 64))
        found.head.weight.mul_(5)
    return found.eval()


@pytest.fixture
def checkpoint(network: SaliencyNet, grouped: list[str]) -> Path:
    """The network as a checkpoint of a trial."""
    config = config_of([*grouped, "--size", "64", "--grouped", "--relation", "gam"])
    settings.save(config)
    path = RunFolder(config.run_folder).checkpoint("dense", 0, "best")
    save_checkpoint(
        path,
        {"model": network.state_dict(), "config": settings.to_dict(config), "classes": 5},
    )
    return path


def maps_in(folder: Path) -> dict[str, np.ndarray]:
    paths = sorted(folder.rglob("*.png"))
    return {str(path.relative_to(folder)): cv2.imread(str(path), 0) for path in paths}


def assert_nearly(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """The same maps, but for a grey level where rounding goes the other way."""
    assert one.keys() == other.keys()
    assert one
    for name, values in one.items():
        assert np.abs(values.astype(int) - other[name]).max() <= 1


def test_maps_of_a_group_do_not_depend_on_how_it_is_cut(
    checkpoint: Path, sample_root: Path, tmp_path: Path
) -> None:
    pictures = sample_root / "images" / TEST
    flags = ["--input", str(pictures), "--checkpoint", str(checkpoint), "--output"]
    for size in ("2", "16"):
        testing.main([*flags, str(tmp_path / size), "--batch_size", size, "--device", "cpu"])
    two, many = maps_in(tmp_path / "2"), maps_in(tmp_path / "16")
    assert len(two) == len(list_set(sample_root, TEST))
    assert_nearly(two, many)

    # Made again alone, a map is the same, for all of its group is looked at.
    lost = sorted(two)[4]
    (tmp_path / "2" / lost).unlink()
    testing.main([*flags, str(tmp_path / "2"), "--batch_size", "2", "--device", "cpu"])
    assert_nearly(maps_in(tmp_path / "2"), two)

    # As one folder of all groups it is one group, and other maps.
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in pictures.rglob("*.jpg"):
        shutil.copy(path, mixed / f"{path.parent.name}-{path.name}")
    flags[1] = str(mixed)
    testing.main([*flags, str(tmp_path / "other"), "--batch_size", "16", "--device", "cpu"])
    other = maps_in(tmp_path / "other")[lost.replace("/", "-")]
    assert np.abs(other.astype(int) - two[lost]).max() > 1


def test_maps_of_a_trial_are_made_group_by_group(checkpoint: Path, tmp_path: Path) -> None:
    run = ["--trial", "tiny", "--runs", str(tmp_path / "runs"), "--checkpoint", str(checkpoint)]
    testing.main(run)
    (folder,) = (tmp_path / "runs/tiny/preds").iterdir()
    config = config_of(run[:4])
    target = tmp_path / "folder"
    pictures = Path(config.data_root) / "images" / TEST
    flags = ["--input", str(pictures), "--output", str(target), "--device", "cpu"]
    testing.main([*flags, "--checkpoint", str(checkpoint)])
    assert_nearly(maps_in(folder / TEST), maps_in(target))


def test_a_group_none_of_whose_pictures_can_be_read_is_told(
    checkpoint: Path, sample_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(sample_root / "images" / TEST / "fish", pictures / "fish")
    for name in ("fish/broken.jpg", "lost/broken.jpg"):
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).write_bytes(b"no picture")
    flags = ["--input", str(pictures), "--output", str(tmp_path / "maps"), "--device", "cpu"]
    assert testing.main([*flags, "--checkpoint", str(checkpoint)]) == 2
    told = capsys.readouterr().out
    assert told.count("left out: ") == 2
    assert "lost/broken.jpg" in told
    assert len(maps_in(tmp_path / "maps")) == len(
        list((sample_root / "images" / TEST / "fish").iterdir())
    )


def pool_config(sample_root: Path, **changes: object) -> Config:
    # With steps of no length the attack is its noise, and rounding cannot turn a gradient's sign.
    return Config(
        **{
            "data_root": str(sample_root),
            "trainset": TRAIN,
            "grouped": True,
            "relation": "gam",
            "size": 64,
            "batch_size": 16,
            **PRESETS["aste"],
            "attack_eps": 20.0,
            "attack_step": 0.0,
            "attack_steps": 1,
            "ask_scale": 1.25,
            **changes,
        }
    )


def maps_of(images: ResizedImages, network: SaliencyNet, config: Config) -> dict[str, Maps]:
    made = pool_maps(images, [network], config, CPU, "round 1")
    return {images.samples[place].name: maps for place, maps in made}


def pool_of(root: Path) -> ResizedImages:
    return ResizedImages(list_set(root, TRAIN), 64, 100, "pool")


FIELDS = ("clean", "attacked", "scores", "features", "colours")


def test_asked_maps_do_not_depend_on_how_a_group_is_cut(
    sample_root: Path, network: SaliencyNet
) -> None:
    images = pool_of(sample_root)
    whole, pieces = (
        maps_of(images, network, pool_config(sample_root, batch_size=size)) for size in (16, 3)
    )
    assert len(whole) == len(images) == len(pieces)
    for name, maps in whole.items():
        for field in FIELDS:
            one, other = getattr(maps, field), getattr(pieces[name], field)
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_groups_are_looked_at_enlarged(sample_root: Path, network: SaliencyNet) -> None:
    """What a group has in common is taken from its enlarged images, too."""
    images = pool_of(sample_root)
    changes = {"attack": "none", "acquisition": "entropy", "vote_kernel": 1, "ask_scale": 1.5}
    found = maps_of(images, network, pool_config(sample_root, **changes))
    for places in images_apart(images.samples, True, 16):
        pixels = images.batch(places).float() / 255
        large = functional.interpolate(pixels, size=(96, 96), mode="bilinear")
        with torch.no_grad():
            logits = view_group(network, [large], soft=True)(large).logits
        maps = functional.interpolate(logits.sigmoid(), size=(64, 64), mode="bilinear")
        for place, expected in zip(places, maps[:, 0], strict=True):
            clean = found[images.samples[place].name].clean
            torch.testing.assert_close(clean, expected, rtol=1e-3, atol=1e-4)


def test_asked_maps_depend_on_the_group_alone(
    sample_root: Path, tmp_path: Path, network: SaliencyNet
) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(sample_root / "images" / TRAIN, altered / "images" / TRAIN)
    first, *_ = sorted((altered / "images" / TRAIN / "fish").iterdir())
    cv2.imwrite(str(first), 255 - cv2.imread(str(first)))
    config = pool_config(sample_root)
    before, after = (maps_of(pool_of(root), network, config) for root in (sample_root, altered))
    for name, maps in before.items():
        same = [torch.equal(getattr(maps, f), getattr(after[name], f)) for f in FIELDS]
        # The image that was altered, and through the consensus the others of its group.
        assert all(same) != name.startswith("fish/")


def test_validation_sees_whole_groups(grouped: list[str], network: SaliencyNet) -> None:
    flags = [*grouped, "--size", "64", "--grouped", "--relation", "gam"]
    flags += ["--validation_fraction", "0.6"]
    errors = []
    for size in (2, 16):
        config = config_of([*flags, "--batch_size", str(size)])
        samples = list_set(config.data_root, TRAIN)
        validation = train.make_validation(config, RunFolder(config.run_folder), "dense", samples)
        errors.append(validation.error(network, CPU).mean)
    flat = dataclasses.replace(config, grouped=False, relation="none")
    mixed = train.make_validation(flat, RunFolder(config.run_folder), "dense", samples)
    assert errors[0] == pytest.approx(errors[1], abs=1e-6)
    assert abs(mixed.error(network, CPU).mean - errors[0]) > 1e-5


def test_groups_that_cannot_be_trained_on_are_told_before_anything_is_asked(
    sample_root: Path, tmp_path: Path
) -> None:
    where = [
        "--runs",
        str(tmp_path),
        "--data_root",
        str(sample_root),
        "--preset",
        "gconet",
        "--save",
    ]
    flat = ["--trial", "flat", "--trainset", "SAMPLE-TR"]
    few = ["--trial", "few", "--trainset", TRAIN, "--batch_size", "3"]
    for flags, told in (
        (flat, "outside group folders"),
        (few, "--batch_size 3: must be at least 4"),
    ):
        with pytest.raises(UserError, match=told):
            settings.main([*where, *flags])
    assert not list(tmp_path.iterdir())
