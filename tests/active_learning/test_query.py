"""One round of questions, from images and snapshots to the points file."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import active_learning.maps as looked
import active_learning.query as query
import datasets.masks as masks
from active_learning.__main__ import main
from active_learning.agreement import agree
from active_learning.attacks import ATTACKS, AttackSettings
from active_learning.diversity import DIVERSITY
from active_learning.ensembles import neighbour_vote
from active_learning.maps import pool_maps
from active_learning.query import Pool
from active_learning.rounds import answer_round, ask_round, choose_round
from active_learning.selection import grid_pixels
from active_learning.spending import shares
from active_learning.uncertainty import ACQUISITIONS
from config import Config
from datasets.augment import move, resize_map
from datasets.cache import ResizedImages
from datasets.index import list_sets, split_train_validation
from datasets.label_budget import label_budget
from datasets.points import Point, count_labels, read_points
from datasets.round_labels import read_point_labels
from datasets.round_sheet import read_sheet
from datasets.superpixels import superpixels
from models import Prediction, SaliencyNet
from models.stored import load_model
from utils.checkpoints import save_checkpoint
from utils.device import choose_machine
from utils.errors import UserError
from utils.pictures import draw_sheet
from utils.run_folder import RunFolder
from utils.settings import to_dict

CPU = choose_machine("cpu", "fp32")
EXIF_QUARTER_TURN = 6

# Name: (width, height) as seen. In the pool:
POOL = {
    "empty mask.png": (36, 36),
    "flat.png": (40, 40),
    "große Wiese 2.png": (50, 33),
    "group/landscape.jpg": (70, 41),
    "portrait.png": (30, 64),
    "tiny.png": (3, 3),
    "turned.jpg": (45, 30),
}
SPARE = {"spare 1.png": (20, 20), "spare 2.png": (33, 20), "spare 3.png": (5, 5)}
SIZES = POOL | SPARE


@dataclass(frozen=True)
class World:
    """A data root, its masks as arrays, settings, and snapshot files."""

    root: Path
    masks: dict[str, np.ndarray]
    config: Config
    snapshots: list[Path]


def paint(name, size, rng):
    """Return an image (a disc on noise) and its mask."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    radius = 0.33 * min(size) + 0.7
    mask = (x - 0.45 * width) ** 2 + (y - 0.55 * height) ** 2 < radius**2
    image = rng.integers(0, 90, (height, width, 3)) + 130 * mask[..., None]
    if name == "flat.png":
        image[:] = 77
    if name == "empty mask.png":
        mask = np.zeros_like(mask)
    return image.astype(np.uint8), mask


def save_pair(root, name, image, mask):
    image_path = root / "images" / "TR" / name
    mask_path = (root / "gts" / "TR" / name).with_suffix(".png")
    for path in (image_path, mask_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(mask_path)
    if name == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = EXIF_QUARTER_TURN  # stored a quarter turn to the left of what is seen
        Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(image_path, exif=exif)
    else:
        Image.fromarray(image).save(image_path)


def seed_that_holds_out_spares(root):
    samples = list_sets(root, "TR")
    for seed in range(200):
        _, held_out = split_train_validation(samples, 0.1, seed)
        if {sample.name for sample in held_out} <= set(SPARE):
            return seed
    raise AssertionError("no seed holds out spare images only")


def make_net(seed):
    """A network whose batch norm statistics are not the initial ones."""
    torch.manual_seed(seed)
    net = SaliencyNet("resnet18", 8)
    net.head.weight.data *= 5
    with torch.no_grad():
        net.train()(torch.rand(4, 3, 64, 64))
    return net.eval()


kept_net = functools.cache(make_net)
"""For tests that do not change it."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(1)
    masks = {}
    for name, size in SIZES.items():
        image, masks[name] = paint(name, size, rng)
        save_pair(root / "data", name, image, masks[name])
    config = Config(
        trial="t",
        runs=str(root / "runs"),
        data_root=str(root / "data"),
        trainset="TR",
        seed=seed_that_holds_out_spares(root / "data"),
        backbone="resnet18",
        backbone_weights="none",
        width=8,
        size=32,
        epochs=2,
        snapshots=2,
        rounds=3,
        points_per_image=12,
        points_per_round="4+3+5",
        superpixels=20,
        attack_steps=2,
        device="cpu",
        precision="fp32",
    )
    snapshots = [root / f"epoch_{epoch:04d}.pth" for epoch in (1, 2)]
    for seed, path in enumerate(snapshots):
        state = {"model": make_net(seed).state_dict(), "config": to_dict(config)}
        state |= {"arm": "points", "round": 0, "epoch": seed + 1, "val_MAE": 0.5}
        save_checkpoint(path, state)
    return World(root, masks, config, snapshots)


@pytest.fixture(scope="module")
def asked(world):
    """A run folder in which rounds 0 and 1 were asked, at random; do not write into it."""
    config = dataclasses.replace(world.config, acquisition="random")
    give_snapshots(world, config, 0)
    for index in (0, 1):
        ask_round(config, "points", index)
    return config.run_folder


@pytest.fixture(scope="module")
def loaded():
    """Networks of snapshots read so far, by file name: all trials here have the same files."""
    return {}


@pytest.fixture
def fast(monkeypatch, loaded):
    """Read each snapshot file once, not once a trial."""

    def load(path, machine):
        if path.name not in loaded:
            loaded[path.name] = load_model(path, machine)
        return loaded[path.name]

    monkeypatch.setattr(query, "load_model", load)


class SmallNet(nn.Module):
    """Stands for a snapshot where only speed matters."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 5, 4, 2), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, image):
        features = self.body(image)
        logits = nn.functional.interpolate(5 * self.head(features), image.shape[-2:])
        return Prediction(logits, features)


@pytest.fixture
def small(monkeypatch):
    """Put a small network in the place of every snapshot."""
    nets = functools.cache(lambda name: SmallNet(int(name[-5:-4])).eval())
    monkeypatch.setattr(query, "load_model", lambda path, machine: (nets(path.name), {}))


@pytest.fixture
def opened(monkeypatch):
    """The masks that the oracle opens, in order."""
    paths = []
    read_mask = masks.read_mask

    def spy(path):
        paths.append(Path(path))
        return read_mask(path)

    monkeypatch.setattr(masks, "read_mask", spy)
    return paths


def trial(world, runs, **changes):
    return dataclasses.replace(world.config, runs=str(runs), **changes)


def give_snapshots(world, config, *rounds):
    for index in rounds:
        folder = RunFolder(config.run_folder).snapshots("points", index)
        folder.mkdir(parents=True)
        for path in world.snapshots:
            os.link(path, folder / path.name)
        RunFolder(config.run_folder).trained("points", index).write_text("{}")


def ask_rounds(config, count, arm="points"):
    return [ask_round(config, arm, index) for index in range(count)]


def run_of(config):
    return RunFolder(config.run_folder)


def files_below(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_answers(world, config, paths):
    """The budget, no repeats, true labels, for the rounds whose files are given in order."""
    samples = list_sets(config.data_root, config.trainset)
    train, _ = split_train_validation(samples, config.validation_fraction, config.seed)
    taken = {sample.name: set() for sample in train}
    for index, path in enumerate(paths):
        before = {name: len(pixels) for name, pixels in taken.items()}
        points = read_points(path)
        for point in points:
            assert (point.x, point.y) not in taken[point.image], "asked twice"
            taken[point.image].add((point.x, point.y))
            assert point.round == index
            assert 0 <= point.x < SIZES[point.image][0]
            assert 0 <= point.y < SIZES[point.image][1]
            assert point.label == world.masks[point.image][point.y, point.x]
        for name, count in before.items():
            left = SIZES[name][0] * SIZES[name][1] - count
            assert len(taken[name]) - count == min(config.schedule[index], left)
    labels = {point.label for path in paths for point in read_points(path)}
    assert labels == {0, 1}
    ledger = {(p.image, p.x, p.y) for p in read_points(run_of(config).ledger)}
    answered = {(name, *pixel) for name, pixels in taken.items() for pixel in pixels}
    validation = read_points(run_of(config).validation_points)
    assert ledger == answered | {(p.image, p.x, p.y) for p in validation}
    assert len(ledger) == len(read_points(run_of(config).ledger))


PAIRS = [
    (attack, name)
    for attack in ATTACKS
    for name, acquisition in ACQUISITIONS.items()
    if not (acquisition.needs_attack and attack == "none")
]


@pytest.mark.parametrize(("attack", "acquisition"), PAIRS)
def test_contract_of_every_combination(world, asked, small, tmp_path, attack, acquisition):
    for rule in DIVERSITY:
        config = trial(
            world, tmp_path / rule, attack=attack, acquisition=acquisition, diversity=rule
        )
        shutil.copytree(asked, config.run_folder)
        give_snapshots(world, config, 1)
        paths = [run_of(config).points("points", index) for index in range(3)]
        assert not paths[2].exists()
        assert ask_round(config, "points", 2) == paths[2]
        assert_answers(world, config, paths)


@pytest.mark.parametrize("rule", DIVERSITY)
def test_all_rounds_and_the_same_seed_the_same_choice(world, fast, tmp_path, rule):
    found = []
    attacks = list(ATTACKS)[1:]
    attack = attacks[list(DIVERSITY).index(rule) % len(attacks)]
    for number in ("1", "2"):
        config = trial(world, tmp_path / number, diversity=rule, attack=attack)
        give_snapshots(world, config, 0, 1)
        paths = ask_rounds(config, 3)
        assert_answers(world, config, paths)
        paths += [run_of(config).validation_points, run_of(config).ledger]
        found.append([path.read_bytes() for path in paths])
    assert found[0] == found[1]


def test_another_seed_another_choice(world, tmp_path):
    config = trial(world, tmp_path / "a", acquisition="random")
    other = trial(world, tmp_path / "b", acquisition="random", seed=world.config.seed + 1)
    common = set(POOL) - {sample.name for sample in Pool(other).validation}

    def pixels(chosen):
        points = read_points(ask_round(chosen, "points", 0))
        return {(p.image, p.x, p.y) for p in points if p.image in common - {"tiny.png"}}

    assert not len(pixels(config) & pixels(other)) > len(common)


def test_snapshot_files_are_read_and_not_changed(world, tmp_path):
    config = trial(world, tmp_path)
    give_snapshots(world, config, 0)
    folder = run_of(config).snapshots("points", 0)

    def state():
        files = sorted(folder.iterdir())
        return [
            (f.name, hashlib.sha256(f.read_bytes()).digest(), f.stat().st_mtime_ns) for f in files
        ]

    before = state()
    assert len(before) == 2
    ask_rounds(config, 2)
    assert state() == before


def pool_images(world, names=None):
    samples = [s for s in list_sets(world.config.data_root, "TR") if s.name in (names or POOL)]
    return ResizedImages(samples, 32, 100, "pool")


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_network_is_left_as_it_was(world, attack):
    config = dataclasses.replace(world.config, attack=attack, acquisition="entropy")
    nets = [make_net(0), make_net(1).train()]
    nets[1].encoder.requires_grad_(False)
    nets[1].decoder.refiners[0].eval()

    def state(net):
        flags = [module.training for module in net.modules()]
        flags += [parameter.requires_grad for parameter in net.parameters()]
        return {name: value.clone() for name, value in net.state_dict().items()}, flags

    before = [state(net) for net in nets]
    maps = [maps for _, maps in pool_maps(pool_images(world), nets, config, CPU, "round 1")]
    assert len(maps) == len(POOL)
    for net, (values, flags) in zip(nets, before, strict=True):
        now, now_flags = state(net)
        assert now_flags == flags
        assert all(torch.equal(now[name], value) for name, value in values.items())
        assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("kernel", [1, 5])
def test_maps_hold_what_they_say(world, kernel):
    """Against the plain formulas, an image at a time."""
    config = dataclasses.replace(
        world.config, attack="fgsm", attack_eps=4.0, vote_kernel=kernel, vote_sigma=0.2
    )
    nets, images = [kept_net(0), kept_net(1)], pool_images(world)
    maps = maps_of(world, images, config)
    for index, found in enumerate(maps):
        pixels = images.batch([index]).float() / 255

        def voted(image, pixels=pixels):
            with torch.no_grad():
                prob = torch.stack([net(image).logits[:, 0].sigmoid() for net in nets])
            return neighbour_vote(prob, pixels, kernel, 0.2).mean(0)[0]

        torch.testing.assert_close(found.clean, voted(pixels), rtol=1e-3, atol=1e-5)
        with torch.no_grad():
            features = nets[1](pixels).features[0]
        torch.testing.assert_close(found.features, features, rtol=1e-3, atol=1e-5)
        assert found.scores.shape == (32, 32)
        torch.testing.assert_close(found.scores, (found.clean - found.attacked).abs())
        # The newest snapshot is attacked. A sign may turn where the gradient is next to nothing.
        attacked = [
            voted(ATTACKS["fgsm"](net, pixels, AttackSettings(eps=4.0, step=1.0), pixels))
            for net in nets
        ]
        old, new = ((found.attacked - other).abs().mean() for other in attacked)
        assert new < 0.02 * old


def test_maps_are_brought_into_agreement_with_the_answers(world):
    """Each snapshot's, clean and attacked; an image without answers is left as it is."""
    config = dataclasses.replace(world.config, attack="fgsm", attack_eps=4.0, vote_kernel=3)
    images = pool_images(world)
    nets = [kept_net(0), kept_net(1)]
    told = np.zeros((len(images), 2, 32, 32), np.uint8)
    told[1, 1, 4, 5] = told[1, 0, 20, 20] = told[2, 0, 9, 9] = 1
    known = pool_maps(images, nets, config, CPU, "round 1", answers=told.__getitem__)
    for (index, found), plain in zip(known, maps_of(world, images, config), strict=True):
        labels, features = torch.from_numpy(told[index])[None], plain.features[None]
        pixels = images.batch([index]).float() / 255
        with torch.no_grad():
            each = [net(pixels).logits[:, 0].sigmoid() for net in nets]
        voted = [neighbour_vote(one, pixels, 3, config.vote_sigma) for one in each]
        expected = torch.stack([agree(one, features, pixels, labels) for one in voted]).mean(0)[0]
        torch.testing.assert_close(found.clean, expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.scores, (found.clean - found.attacked).abs())
        moved = [
            (getattr(found, row) - getattr(plain, row)).abs().max() for row in ("clean", "attacked")
        ]
        assert (min(moved) > 0.05) == (index in (1, 2))
        assert (max(moved) > 2e-3) == (index in (1, 2))


def test_the_attacked_map_is_corrected_by_the_clean_image(world):
    """Its features and its colours, which an attack would change."""
    config = dataclasses.replace(world.config, attack="fgsm", attack_eps=60.0, attack_step=60.0)
    images = pool_images(world)
    told = np.zeros((len(images), 2, 32, 32), np.uint8)
    told[:, 1, 4, 5] = told[:, 0, 20, 20] = 1
    looks = (
        pool_maps(images, [kept_net(0)], config, CPU, "round 1", answers=answers)
        for answers in (told.__getitem__, None)
    )
    for (index, found), (_, plain) in zip(*looks, strict=True):
        pixels, labels = images.batch([index]).float() / 255, torch.from_numpy(told[index])[None]
        expected = agree(plain.attacked[None], plain.features[None], pixels, labels)[0]
        torch.testing.assert_close(found.attacked, expected, rtol=1e-3, atol=1e-3)


def test_what_was_answered_reaches_the_look_at_the_pool(world, asked, tmp_path, monkeypatch):
    seen = {}

    def watched(*args, answers):
        seen["answers"] = answers
        return pool_maps(*args, answers=answers)

    monkeypatch.setattr(query, "pool_maps", watched)
    for agreed in (True, False):
        config = trial(world, tmp_path / str(agreed), ask_agree=agreed)
        shutil.copytree(asked, config.run_folder)
        give_snapshots(world, config, 1)
        ask_round(config, "points", 2)
        if not agreed:
            assert seen["answers"] is None
            continue
        pool = Pool(config)
        for index, points in enumerate(pool.known("points", 2)):
            width, height = {**POOL, **SPARE}[pool.samples[index].name]
            pixels = move(points[:, :2], resize_map(width, height, config.size))
            expected = count_labels(points, pixels, config.size)
            assert expected.sum() == len(points) > 0
            assert np.array_equal(seen["answers"](index), expected)


def maps_of(world, images, config):
    nets = [kept_net(0), kept_net(1)]
    return [maps for _, maps in pool_maps(images, nets, config, CPU, "round 1")]


@pytest.mark.parametrize("acquisition", ["adversarial_shift", "bald", "random"])
def test_maps_depend_neither_on_the_batch_nor_on_the_pool(world, acquisition):
    # With steps of no length the attack is its noise, and rounding cannot turn a gradient's sign.
    config = dataclasses.replace(
        world.config, acquisition=acquisition, attack_eps=20.0, attack_step=0.0
    )
    images = pool_images(world)
    whole = maps_of(world, images, config)
    single = maps_of(world, images, dataclasses.replace(config, batch_size=2))
    some = ["portrait.png", "group/landscape.jpg"]
    fewer = maps_of(world, pool_images(world, some), config)
    places = [place for place, sample in enumerate(images.samples) if sample.name in some]
    pairs = [*zip(whole, single, strict=True)]
    pairs += [*zip([whole[place] for place in places], fewer, strict=True)]
    assert len(pairs) == len(POOL) + 2
    for one, other in pairs:
        for field in ("clean", "attacked", "scores", "features"):
            torch.testing.assert_close(
                getattr(one, field), getattr(other, field), rtol=1e-3, atol=1e-5
            )


def test_the_attack_of_an_image_does_not_depend_on_its_batch(world):
    # Steps of some length: a sign may turn where the gradient is next to nothing.
    config = dataclasses.replace(world.config, attack="patch_pgd", attack_eps=4.0)
    images = pool_images(world)
    whole = maps_of(world, images, config)
    single = maps_of(world, images, dataclasses.replace(config, batch_size=2))
    for one, other in zip(whole, single, strict=True):
        difference = (one.scores - other.scores).abs().mean()
        assert difference < 0.02 * one.scores.mean()


def test_every_image_and_round_has_noise_of_its_own(world):
    config = dataclasses.replace(world.config, acquisition="random")
    nets, images = [make_net(0)], pool_images(world)
    first, second = (
        [maps.scores for _, maps in pool_maps(images, nets, config, CPU, f"round {index}")]
        for index in (1, 2)
    )
    different = [*first, *second]
    for index, one in enumerate(different):
        assert all(not torch.equal(one, other) for other in different[:index])


@pytest.mark.parametrize("place", [0, 1])
def test_a_diverged_snapshot_is_told(world, asked, tmp_path, monkeypatch, place):
    config = trial(world, tmp_path, acquisition="entropy")
    shutil.copytree(asked, config.run_folder)
    give_snapshots(world, config, 1)
    nets = [make_net(0), make_net(1)]
    nets[place].head.bias.data[:] = float("nan")
    supply = iter(nets)
    monkeypatch.setattr(query, "load_model", lambda path, machine: (next(supply), {}))
    ledger = run_of(config).ledger.read_bytes()
    folder = run_of(config).snapshots("points", 1)
    with pytest.raises(UserError, match=rf"{folder}: .*not finite.*--lr"):
        ask_round(config, "points", 2)
    assert not run_of(config).points("points", 2).exists()
    assert run_of(config).ledger.read_bytes() == ledger


def test_missing_snapshots_are_told(world, asked, tmp_path):
    config = trial(world, tmp_path)
    shutil.copytree(asked, config.run_folder)
    run_of(config).trained("points", 1).write_text("{}")
    with pytest.raises(UserError, match=r"round_01/snapshots: no snapshots: train round 1 first"):
        ask_round(config, "points", 2)


@pytest.mark.parametrize("arm", ["points", "random"])
def test_missing_or_foreign_points_of_an_earlier_round_are_told(world, tmp_path, arm):
    config = trial(world, tmp_path)
    give_snapshots(world, config, 0)
    with pytest.raises(UserError, match=r"round_00/points\.csv: no such file"):
        ask_round(config, arm, 1)
    path = ask_round(config, "points", 0)
    text = path.read_text(encoding="utf-8")
    for line, told in [
        ("tiny.png,3,0,0,0\n", r"points\.csv.*: point \(3, 0\) lies outside tiny\.png"),
        ("tinny.png,0,0,0,0\n", r"points\.csv.*: image 'tinny\.png' .* did you mean 'tiny\.png'"),
    ]:
        path.write_text(text + line, encoding="utf-8")
        with pytest.raises(UserError, match=told):
            ask_round(config, arm, 1)


def test_random_acquisition_neither_attacks_nor_asks_the_ensemble(
    world, fast, tmp_path, monkeypatch
):
    def fail(*args):
        raise AssertionError("not needed to ask at random")

    sizes = []
    predict = looked.predict_snapshots

    def spy(models, images):
        sizes.append(len(models))
        return predict(models, images)

    monkeypatch.setattr(looked, "predict_snapshots", spy)
    monkeypatch.setitem(looked.ATTACKS, "pgd", fail)
    config = trial(world, tmp_path, acquisition="random", attack="pgd")
    give_snapshots(world, config, 0)
    assert_answers(world, config, ask_rounds(config, 2))
    assert set(sizes) == {1}


def test_a_round_is_not_asked_from_an_unfinished_training(world, fast, tmp_path):
    config = trial(world, tmp_path)
    give_snapshots(world, config, 0)
    run_of(config).trained("points", 0).unlink()
    ask_round(config, "points", 0)
    with pytest.raises(UserError, match=r"round_00: not trained to its end: run train\.py"):
        ask_round(config, "points", 1)
    assert not run_of(config).points("points", 1).exists()


def test_a_round_that_is_not_trained_is_asked_of_the_networks_there_are(world, fast, tmp_path):
    """Told of its answers; without them the same maps would choose other pixels."""
    found = {}
    for agreed in (True, False):
        config = trial(world, tmp_path / str(agreed), train_every=2, ask_agree=agreed)
        give_snapshots(world, config, 0)
        found[agreed] = ask_rounds(config, 3)
        assert_answers(world, config, found[agreed])
        assert not run_of(config).snapshots("points", 1).exists()
    told, untold = ([read_points(paths[index]) for paths in found.values()] for index in (1, 2))
    assert told[0] != told[1]
    assert untold[0] != untold[1]


def test_the_random_arm_shares_the_first_round(world, tmp_path):
    config = trial(world, tmp_path)
    first, *others = ask_rounds(config, 3, "random")
    assert first == run_of(config).points("points", 0)
    assert [path.parent.parent.name for path in others] == ["random", "random"]
    assert_answers(world, config, [first, *others])
    assert not run_of(config).points("points", 1).exists()


def test_validation_is_asked_once_and_apart(world, tmp_path, opened):
    config = trial(world, tmp_path)
    ask_round(config, "points", 0)
    path = run_of(config).validation_points
    points = read_points(path)
    pool = Pool(config)
    held_out = {sample.name for sample in pool.validation}
    assert held_out
    assert not held_out & {sample.name for sample in pool.samples}
    assert held_out | {sample.name for sample in pool.samples} == set(SIZES)
    assert {point.image for point in points} == held_out
    for name in held_out:
        total = SIZES[name][0] * SIZES[name][1]
        mine = [point for point in points if point.image == name]
        assert len({(p.x, p.y) for p in mine}) == len(mine) == min(12, total)
        assert all(p.label == world.masks[name][p.y, p.x] for p in mine)
    before = path.read_bytes().replace(b"\n", b"\r\n")  # as a person's editor may leave it
    path.write_bytes(before)
    opened.clear()
    Pool(config).answer_validation()
    ask_rounds(config, 2, "random")
    assert path.read_bytes() == before
    assert not {mask.stem for mask in opened} & {Path(name).stem for name in held_out}


@pytest.mark.parametrize("index", [0, 1])
def test_a_round_that_was_asked_is_left_alone(world, fast, tmp_path, opened, index):
    config = trial(world, tmp_path)
    give_snapshots(world, config, 0)
    *_, path = ask_rounds(config, index + 1)
    edited = path.read_bytes() + b"tiny.png,2,2,1,9\n"
    path.write_bytes(edited)
    before = files_below(config.run_folder)
    opened.clear()
    assert ask_round(config, "points", index) == path
    assert files_below(config.run_folder) == before
    assert opened == []


@pytest.mark.parametrize(("index", "spend"), [(0, "image"), (1, "image"), (1, "pool")])
def test_killed_between_ledger_and_points(world, fast, tmp_path, opened, index, spend):
    config = trial(world, tmp_path, spend=spend)
    give_snapshots(world, config, 0)
    *_, path = ask_rounds(config, index + 1)
    before = files_below(config.run_folder)
    path.unlink()
    run_of(config).validation_points.unlink()
    opened.clear()
    # Round 0 makes the validation points, also where its own points are there.
    for again in range(index + 1):
        ask_round(config, "points", again)
    after = files_below(config.run_folder)
    assert after.keys() == before.keys()
    same = [name for name in before if name.suffix == ".csv"]
    assert len(same) == 2 * (index + 2) + 1  # questions and points, validation's too; the ledger
    assert all(after[name] == before[name] for name in same)
    assert opened == []


def test_a_fault_in_one_mask_leaves_no_answers(world, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(world.root / "data", data)
    (data / "gts" / "TR" / "tiny.png").unlink()
    config = trial(world, tmp_path, data_root=str(data))
    with pytest.raises(UserError, match=r"gts/TR/tiny\.png: no such file"):
        ask_round(config, "points", 0)
    assert not run_of(config).points("points", 0).exists()
    Image.fromarray(world.masks["tiny.png"].astype(np.uint8) * 255).save(
        data / "gts" / "TR" / "tiny.png"
    )
    assert_answers(world, config, [ask_round(config, "points", 0)])


@pytest.mark.parametrize("changes", [{}, {"first_points": "grid"}, {"spend": "pool"}])
def test_masks_that_were_not_asked_do_not_matter(world, fast, tmp_path, changes):
    """Turn every mask pixel round that no ledger holds: the same questions, bit for bit."""
    data = tmp_path / "data"
    shutil.copytree(world.root / "data", data)
    config = trial(world, tmp_path / "a", **changes)
    give_snapshots(world, config, 0, 1)
    paths = ask_rounds(config, 3)
    told = {name: np.zeros(mask.shape, bool) for name, mask in world.masks.items()}
    for point in read_points(run_of(config).ledger):
        told[point.image][point.y, point.x] = True
    for name, mask in world.masks.items():
        path = (data / "gts" / "TR" / name).with_suffix(".png")
        assert path.exists()
        Image.fromarray((mask ^ ~told[name]).astype(np.uint8) * 255).save(path)

    other = trial(world, tmp_path / "b", data_root=str(data), **changes)
    give_snapshots(world, other, 0, 1)
    paths += [run_of(config).validation_points, run_of(config).ledger]
    again = [*ask_rounds(other, 3), run_of(other).validation_points, run_of(other).ledger]
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_a_grid_is_asked_first_and_all_arms_share_it(world, fast, tmp_path):
    config = trial(world, tmp_path, first_points="grid")
    give_snapshots(world, config, 0)
    first, second = ask_rounds(config, 2)
    assert_answers(world, config, [first, second])
    points = read_points(first)
    for sample in Pool(config).samples:
        mine = [(p.x, p.y) for p in points if p.image == sample.name]
        assert mine == [tuple(pair) for pair in grid_pixels(*SIZES[sample.name], 4).tolist()]
    random = read_points(ask_round(config, "random", 1))
    asked = {(p.image, p.x, p.y) for p in [*points, *random]}
    assert len(asked) == len(points) + len(random)
    # The validation images are asked at random, as they always are.
    plain = trial(world, tmp_path / "plain")
    ask_round(plain, "points", 0)
    held_out = [run_of(one).validation_points.read_bytes() for one in (config, plain)]
    assert held_out[0] == held_out[1]


def of_objects(world, runs, **changes):
    changes = {"rounds": 1, "points_per_round": "", "first_points": "object"} | changes
    return trial(world, runs, **changes)


def test_objects_are_pointed_out(world, tmp_path):
    config = of_objects(world, tmp_path)
    path = ask_round(config, "points", 0)
    points = read_points(path)
    pool = Pool(config)
    for sample in pool.samples:
        mine = [p for p in points if p.image == sample.name]
        # One disc an image at most, so one point on it and one beside.
        assert [p.label for p in mine] == [1] * bool(world.masks[sample.name].any()) + [0]
        assert all(p.label == world.masks[p.image][p.y, p.x] for p in mine)
    held_out = read_points(run_of(config).validation_points)
    assert sorted(read_points(run_of(config).ledger)) == sorted([*points, *held_out])
    assert len(held_out) == config.points_per_image * len(pool.validation)
    budget = label_budget(pool.samples, [path], pool.regions, "pixel")
    count = 2 * len(pool.samples) - 1  # one mask is empty
    assert budget["points"] == pytest.approx(count / len(pool.samples), abs=1e-4)
    area = sum(SIZES[sample.name][0] * SIZES[sample.name][1] for sample in pool.samples)
    assert budget["labelled_percent"] == pytest.approx(100 * count / area, abs=1e-4)

    # Asked again after an interruption: the same pixels, and nothing is counted twice.
    before = files_below(config.run_folder)
    path.unlink()
    ask_round(config, "points", 0)
    after = files_below(config.run_folder)
    assert all(after[name] == before[name] for name in before if name.suffix == ".csv")


def test_an_image_s_points_depend_on_its_own_mask_alone(world, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(world.root / "data", data)
    path = data / "gts" / "TR" / "flat.png"
    Image.fromarray(~np.asarray(Image.open(path))).save(path)
    one, other = (
        read_points(ask_round(config, "points", 0))
        for config in (
            of_objects(world, tmp_path / "a"),
            of_objects(world, tmp_path / "b", data_root=str(data)),
        )
    )
    assert [p for p in one if p.image != "flat.png"] == [p for p in other if p.image != "flat.png"]
    assert one != other


@pytest.mark.parametrize(
    ("rule", "mode"), [("facility_location", "region_mask"), ("random_top", "region")]
)
def test_the_pool_shares_a_round_s_points(world, asked, small, tmp_path, monkeypatch, rule, mode):
    even, pooled = (
        trial(world, tmp_path / spend, spend=spend, diversity=rule, label_mode=mode)
        for spend in ("image", "pool")
    )
    chosen = {}
    real = Pool._choose

    def note(pool, *args):
        *_, index, _ = args
        chosen[index] = real(pool, *args)
        return chosen[index]

    monkeypatch.setattr(Pool, "_choose", note)
    for config in (even, pooled):
        chosen.clear()
        shutil.copytree(asked, config.run_folder)
        give_snapshots(world, config, 1)
        ask_round(config, "points", 2)
    pool, paths = Pool(pooled), run_of(pooled).answers("points", 3)
    points = read_points(paths[2])
    assert len(points) == len(read_points(run_of(even).points("points", 2)))

    choices = [chosen[index] for index in range(len(pool.samples))]
    most = [len(choice.pixels) for choice in choices]
    known = pool.known("points", 2)
    for sample, size, points_before in zip(pool.samples, most, known, strict=True):
        left = np.prod(SIZES[sample.name]) - len(points_before)
        assert size == min(3 * 5, left)  # three times the round's five
    given_out = shares([choice.worth for choice in choices], most, len(points))
    assert len(set(given_out.tolist())) > 2
    for sample, choice, size in zip(pool.samples, choices, given_out, strict=True):
        mine = [(p.x, p.y) for p in points if p.image == sample.name]
        assert mine == [tuple(pair) for pair in choice.pixels[:size].tolist()]
    budget = label_budget(pool.samples, paths, pool.regions, "pixel")
    counted = sum(len(read_points(path)) for path in paths)
    assert budget["points"] == pytest.approx(counted / len(pool.samples), abs=1e-4)
    ledger = read_points(run_of(pooled).ledger)
    assert len(ledger) == counted + len(read_points(run_of(pooled).validation_points))


def test_an_image_without_points_in_a_round(world, small, tmp_path, monkeypatch):
    config = trial(world, tmp_path, spend="pool", label_mode="region_mask")
    give_snapshots(world, config, 0)
    samples = Pool(config).samples
    real = query.spend

    def to_others(chosen, worth, count):
        return real(chosen, [0.0, *[1.0] * (len(worth) - 1)], count)

    monkeypatch.setattr(query, "spend", to_others)
    paths = ask_rounds(config, 2)
    assert samples[0].name not in {point.image for point in read_points(paths[1])}
    rows = read_sheet(samples, paths[1].parent / "sheet.npz", paths[1])
    assert rows[0].new.shape == (0, 3)
    draw_sheet(rows, tmp_path / "sheet.png")
    maps = [run_of(config).region_labels("points", index) for index in (0, 1)]
    labels = [(folder / f"{samples[0].name}.png").read_bytes() for folder in maps]
    assert labels[0] == labels[1]
    labels = read_point_labels(
        run_of(config), "points", 1, samples, config.size, config.label_mode, config.superpixels
    )
    assert labels.at(0, np.eye(3)).sum() > 0


class Person:
    """An oracle without masks, who calls everything foreground."""

    people = None

    def __init__(self, folder):
        self.folder = folder
        self.events = []

    def ask(self, sample, pixels, round_index):
        self.events.append(sample.name)
        return [Point(sample.name, int(x), int(y), 1, round_index) for x, y in pixels]

    def save(self):
        # Told apart by how many points files there are: a ledger is saved before its answers.
        self.events.append(len(list(self.folder.rglob("points.csv"))))


def test_without_masks_a_person_can_answer(world, fast, tmp_path):
    shutil.copytree(world.root / "data" / "images", tmp_path / "data" / "images")
    config = trial(world, tmp_path, data_root=str(tmp_path / "data"))
    give_snapshots(world, config, 0)
    person = Person(config.run_folder)
    pool = Pool(config, person)
    choose_round(pool, "points", 0)
    answer_round(pool, "points", 0)
    pool.choose_uncertain(1, CPU)
    pool.answer("points", 1)
    names = [sample.name for sample in pool.samples]
    held_out = [sample.name for sample in pool.validation]
    assert person.events == [*held_out, 0, *names, 1, *names, 2]
    points = read_points(pool.run.points("points", 1))
    assert len(points) == 3 * len(names)
    assert {point.label for point in points} == {1}
    assert not pool.run.ledger.exists()


@pytest.mark.parametrize("mode", ["pixel", "region", "region_mask"])
def test_label_maps_are_stored_by_the_mode_that_leaks_alone(world, fast, tmp_path, mode):
    config = trial(world, tmp_path, label_mode=mode, acquisition="entropy", attack="none")
    give_snapshots(world, config, 0)
    paths = ask_rounds(config, 2)
    random_path = ask_round(config, "random", 1)
    maps = [path for path in config.run_folder.rglob("*") if "region_labels" in path.parts]
    if mode != "region_mask":
        assert maps == []
        return
    for arm, index, files in [
        ("points", 0, paths[:1]),
        ("points", 1, paths),
        ("random", 1, [paths[0], random_path]),
    ]:
        points = [point for path in files for point in read_points(path)]
        for sample in Pool(config).samples:
            folder = run_of(config).region_labels(arm, index)
            stored = np.asarray(Image.open(folder / f"{sample.name}.png"))
            regions = superpixels(query_image(sample), config.superpixels)
            mine = {int(regions[p.y, p.x]) for p in points if p.image == sample.name}
            expected = np.where(world.masks[sample.name], 255, 0)
            expected[~np.isin(regions, list(mine))] = 128
            assert (stored == expected).all()


def query_image(sample):
    image = np.asarray(Image.open(sample.image))
    return np.rot90(image, -1).copy() if sample.name == "turned.jpg" else image


def test_the_sheet_holds_a_few_images_numbers(world, fast, tmp_path):
    config = trial(world, tmp_path)
    give_snapshots(world, config, 0)
    _, path = ask_rounds(config, 2)
    with np.load(path.parent / "sheet.npz", allow_pickle=False) as sheet:
        names = [str(sheet[f"name_{row}"]) for row in range(query.SHEET_IMAGES)]
        assert len(set(names)) == query.SHEET_IMAGES
        for row, name in enumerate(names):
            width, height = SIZES[name]
            assert sheet[f"regions_{row}"].shape == (height, width)
            assert sheet[f"scores_{row}"].shape == (32, 32)
            assert len(sheet[f"known_{row}"]) == 4
            chosen = {(p.x, p.y) for p in read_points(path) if p.image == name}
            candidates = {tuple(pair) for pair in sheet[f"candidates_{row}"].tolist()}
            assert name == "tiny.png" or chosen <= candidates


def flags(config):
    names = ("trial", "runs", "data_root", "trainset", "seed", "backbone", "backbone_weights")
    names += ("rounds", "points_per_image", "points_per_round", "size", "width", "device")
    return [part for name in names for part in (f"--{name}", str(getattr(config, name)))]


def test_the_command_asks_a_round(world, tmp_path, capsys):
    config = trial(world, tmp_path)
    assert main(flags(config)) == 0
    path = run_of(config).points("points", 0)
    assert f"{path}: answered" in capsys.readouterr().out
    assert main([*flags(config), "--arm", "random", "--round", "1"]) == 0
    assert_answers(world, config, [path, run_of(config).points("random", 1)])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--round", "3"], r"--round 3: the trial's rounds are 0 to 2"),
        (["--round", "-1"], r"--round -1: "),
        (["--acquisition", "entrpy"], r"did you mean 'entropy'"),
        (["--diversity", "topk"], r"did you mean 'top_k'"),
        (["--attack", "none"], r"--attack is none"),
        (["--spend", "pool", "--acquisition", "random"], r"--spend pool .* --acquisition random"),
        (["--arm", "dense"], r"--arm"),
    ],
)
def test_the_command_tells_what_cannot_be_meant(world, tmp_path, more, told):
    config = trial(world, tmp_path)
    with pytest.raises(UserError, match=told):
        main([*flags(config), *more])
    assert not config.run_folder.exists()
