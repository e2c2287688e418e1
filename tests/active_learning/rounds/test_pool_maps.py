"""The look at the pool: predictions, attacks, agreement with answers, and noise."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional

import active_learning.maps as looked
import active_learning.query as query
from active_learning.agreement import agree
from active_learning.attacks import ATTACKS, AttackSettings
from active_learning.ensembles import neighbour_vote
from active_learning.maps import pool_maps
from active_learning.query import Pool
from active_learning.uncertainty import ACQUISITIONS
from config import PRESETS
from datasets.augment import move, resize_map
from datasets.cache import ResizedImages
from datasets.index import list_sets
from datasets.points import count_labels
from models.saliency_net import SaliencyNet
from models.stored import parts_of
from tests.active_learning.rounds.world import (
    CPU,
    POOL,
    SPARE,
    give_snapshots,
    kept_net,
    make_net,
    run_of,
    trial,
)
from tests.small_trials import ask_round
from utils.errors import UserError
from utils.settings import to_dict


def attacking(world, **changes):
    """Return the settings of a look that attacks, and asks by what that shifts."""
    return dataclasses.replace(world.config, **{**PRESETS["aste"], **changes})


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


def test_attacks_are_as_strong_as_the_settings_say(world, monkeypatch):
    told = []

    def attack(net, pixels, settings, *_):
        told.append(settings)
        return pixels

    monkeypatch.setitem(ATTACKS, "pgd", attack)
    how = {"eps": 3.0, "step": 2.0, "steps": 7, "patches": 5}
    changes = {f"attack_{name}": value for name, value in how.items()}
    maps_of(world, pool_images(world, ["tiny.png"]), attacking(world, attack="pgd", **changes))
    assert told == [AttackSettings(**how)]


@pytest.mark.parametrize("kernel", [1, 5])
def test_maps_hold_what_they_say(world, kernel):
    """Against the plain formulas, an image at a time."""
    config = attacking(world, attack="fgsm", attack_eps=4.0, vote_kernel=kernel, vote_sigma=0.2)
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


def test_maps_of_networks_that_binarise_are_those_before_that(world):
    changes = {"attack": "none", "acquisition": "entropy", "vote_kernel": 1}
    config = dataclasses.replace(world.config, binarise="decoder", **changes)
    torch.manual_seed(0)
    net = SaliencyNet("resnet18", 8, parts_of(to_dict(config), 0)).eval()
    images = pool_images(world)
    for index, maps in pool_maps(images, [net], config, CPU, "round 1"):
        with torch.no_grad():
            found = net(images.batch([index]).float() / 255)
        soft, hard = (logits.sigmoid()[0, 0] for logits in (found.soft_logits, found.logits))
        torch.testing.assert_close(maps.clean, soft, rtol=1e-3, atol=1e-5)
        assert (soft - hard).abs().mean() > 0.1


def test_images_are_looked_at_enlarged(world):
    """Maps are of the images' size again; features and colours of what was looked at."""
    config = dataclasses.replace(world.config, attack="none", acquisition="entropy", ask_scale=2.0)
    nets, images = [kept_net(0), kept_net(1)], pool_images(world)
    for index, found in enumerate(maps_of(world, images, config)):
        pixels = images.batch([index]).float() / 255
        large = functional.interpolate(pixels, size=(64, 64), mode="bilinear")
        with torch.no_grad():
            each = [net(large) for net in nets]
        maps = torch.stack([one.logits.sigmoid() for one in each])
        maps = neighbour_vote(maps[:, :, 0], large, config.vote_kernel, config.vote_sigma)
        clean = functional.interpolate(maps, size=(32, 32), mode="bilinear").mean(0)[0]
        torch.testing.assert_close(found.clean, clean, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.features, each[1].features[0], rtol=1e-3, atol=1e-5)
        means = large[0].reshape(3, 32, 2, 32, 2).mean((2, 4))
        torch.testing.assert_close(found.colours, means, rtol=1e-4, atol=1e-6)


def test_an_enlarged_image_is_attacked_and_corrected(world):
    """Attack, agreement and enlarging go together: only answered images move, all are finite."""
    config = attacking(world, attack="fgsm", attack_eps=4.0, ask_scale=2.0)
    images = pool_images(world)
    told = np.zeros((len(images), 2, 32, 32), np.uint8)
    told[1, 1, 4, 5] = told[1, 0, 20, 20] = 1
    nets = [kept_net(0), kept_net(1)]
    known = pool_maps(images, nets, config, CPU, "round 1", answers=told.__getitem__)
    for (index, found), plain in zip(known, maps_of(world, images, config), strict=True):
        for row in ("clean", "attacked"):
            values = getattr(found, row)
            assert values.shape == (32, 32)
            assert values.isfinite().all()
            assert ((values - getattr(plain, row)).abs().max() > 0.05) == (index == 1)
        # The enlarged image is what is attacked, through the newest network.
        pixels = images.batch([index]).float() / 255
        large = functional.interpolate(pixels, size=(64, 64), mode="bilinear")
        moved = ATTACKS["fgsm"](kept_net(1), large, AttackSettings(eps=4.0, step=1.0), large)
        with torch.no_grad():
            each = torch.stack([net(moved).logits[:, 0].sigmoid() for net in nets])
        maps = neighbour_vote(each, large, config.vote_kernel, config.vote_sigma)
        expected = functional.interpolate(maps, size=(32, 32), mode="bilinear").mean(0)[0]
        unattacked = (plain.attacked - plain.clean).abs().mean()
        assert (plain.attacked - expected).abs().mean() < 0.05 * unattacked


def test_maps_are_brought_into_agreement_with_the_answers(world):
    """Each snapshot's, clean and attacked; an image without answers is left as it is."""
    config = attacking(world, attack="fgsm", attack_eps=4.0, vote_kernel=3)
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
    config = attacking(world, attack="fgsm", attack_eps=60.0, attack_step=60.0)
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


def test_who_asks_at_random_looks_at_no_group(world, monkeypatch):
    """But with the newest network, whose features the diversity rules want."""
    networks, seen = [object(), object()], []
    monkeypatch.setattr(looked, "_view", lambda network, *_: seen.append(network))
    monkeypatch.setattr(looked, "_batch_maps", lambda images, views, batch, *_: [None] * len(batch))
    for acquisition, wanted in (("random", networks[1:]), ("entropy", networks)):
        config = dataclasses.replace(world.config, binarise="decoder", acquisition=acquisition)
        seen.clear()
        list(pool_maps(pool_images(world, ["tiny.png"]), networks, config, CPU, "key"))
        assert seen == wanted


def maps_of(world, images, config):
    nets = [kept_net(0), kept_net(1)]
    return [maps for _, maps in pool_maps(images, nets, config, CPU, "round 1")]


@pytest.mark.parametrize("acquisition", ["adversarial_shift", "bald", "random"])
def test_maps_depend_neither_on_the_batch_nor_on_the_pool(world, acquisition):
    # With steps of no length the attack is its noise, and rounding cannot turn a gradient's sign.
    config = attacking(world, acquisition=acquisition, attack_eps=20.0, attack_step=0.0)
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
        fields = ["clean", "scores", "features", "colours"]
        fields += ["attacked"] if acquisition != "random" else []
        for field in fields:
            torch.testing.assert_close(
                getattr(one, field), getattr(other, field), rtol=1e-3, atol=1e-5
            )


def test_the_attack_of_an_image_does_not_depend_on_its_batch(world):
    # Steps of some length: a sign may turn where the gradient is next to nothing.
    config = attacking(world, attack="patch_pgd", attack_eps=4.0)
    images = pool_images(world)
    whole = maps_of(world, images, config)
    single = maps_of(world, images, dataclasses.replace(config, batch_size=2))
    for one, other in zip(whole, single, strict=True):
        difference = (one.scores - other.scores).abs().mean()
        assert difference < 0.02 * one.scores.mean()


def test_every_seed_image_and_round_has_noise_of_its_own(world):
    config = dataclasses.replace(world.config, acquisition="random")
    nets, images = [make_net(0)], pool_images(world)
    seeds = config, dataclasses.replace(config, seed=config.seed + 1)
    different = [
        maps.scores
        for of_seed in seeds
        for index in (1, 2)
        for _, maps in pool_maps(images, nets, of_seed, CPU, f"round {index}")
    ]
    for index, one in enumerate(different):
        assert all(not torch.equal(one, other) for other in different[:index])


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("acquisition", [name for name, a in ACQUISITIONS.items() if a.needs_model])
def test_a_diverged_snapshot_is_told(world, asked, tmp_path, monkeypatch, acquisition, place):
    attack = "fgsm" if ACQUISITIONS[acquisition].needs_attack else "none"
    config = trial(world, tmp_path, acquisition=acquisition, attack=attack)
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
