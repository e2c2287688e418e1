"""One look at the pool: what the snapshots say of every image, clean and attacked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from active_learning.agreement import agree
from active_learning.attacks import (
    ATTACKS,
    AttackSettings,
    frozen,
    hard_prediction,
    image_noise,
)
from active_learning.ensembles import neighbour_vote, predict_snapshots
from active_learning.selection import CELLS
from active_learning.uncertainty import ACQUISITIONS, random_map
from config import Config
from datasets.cache import ResizedImages
from datasets.groups import images_apart
from models.group_view import GroupView, view_group
from models.mean_maps import as_seen, enlarged
from models.saliency_net import SaliencyNet
from utils.device import Machine
from utils.distributed import shard
from utils.registry import look_up
from utils.seeding import seed_for

AnswersOf = Callable[[int], NDArray[np.uint8]]
"""Gives the answers (2, S, S) to an image, by its place; see `agreement.agree`."""


@dataclass(frozen=True)
class Maps:
    """What the snapshots say of one image, on the CPU, on the network's size x size grid.

    All of it lies on the CPU.

    Attributes:
        clean: float (S, S), mean saliency of the snapshots, after the neighbours' vote where there
            is one, in agreement with the answers where they are given.
        attacked: the same on the attacked image, or None where no attack is made.
        scores: float (S, S) >= 0, the acquisition function.
        features: float (C, h, w), decoder features of the newest snapshot.
        colours: float (3, `CELLS`, `CELLS`), the mean colours of the image's cells, RGB in [0, 1].
    """

    clean: Tensor
    attacked: Tensor | None
    scores: Tensor
    features: Tensor
    colours: Tensor

    def kept(self) -> Maps:
        """Return the maps without the features, which take most of the memory."""
        return replace(self, features=torch.empty(0))


def pool_maps(
    images: ResizedImages,
    snapshots: Sequence[SaliencyNet],
    config: Config,
    machine: Machine,
    key: str,
    done: Collection[int] = (),
    answers: AnswersOf | None = None,
) -> Iterator[tuple[int, Maps]]:
    """Yield place and `Maps` of every image of the pool, group by group where it has groups.

    The attack is made once, on the newest (last) snapshot, and serves them all; its target and the
    features are of the pass that predicts the clean image, too. An acquisition that
    looks at no prediction (random) costs neither attack nor ensemble. ``key`` tells the round; with
    the seed and an image's name it fixes the image's random numbers. Everything is computed in
    full precision: half of it would turn the signs of small gradients. (A GPU's convolutions are
    what PyTorch is told to take for it, by itself TF32.) Images are looked at, attacked and voted
    on enlarged by ``ask_scale``; maps have the images' own size again.

    A group is never mixed with another. What its images have in common is taken from the clean
    images of the whole group, attacked or not, so an image's maps depend on its group alone and
    not on how it was cut into batches. Of several processes each looks at its own share. Groups,
    and batches of images without groups, all of which are ``done`` are left out. The next batch is
    read while this one is looked at.

    With ``answers`` each snapshot's maps, clean and attacked alike, are brought into agreement with
    what was answered of the image (`agreement.agree`, by the features and colours of the clean
    image for both); not for an acquisition that looks at none.
    """
    if not look_up(ACQUISITIONS, config.acquisition, "acquisition function").needs_model:
        snapshots = snapshots[-1:]
    groups = shard(images_apart(images.samples, config.grouped, config.at_a_time))
    wanted = [
        _batches(group, config.at_a_time)
        for group in groups
        if not all(index in done for index in group)
    ]
    side = enlarged(images.size, config.ask_scale)
    coming = images.batches(list(chain.from_iterable(wanted)))
    for batches in wanted:
        views: Sequence[nn.Module] = snapshots
        if config.grouped or config.binarise != "none":
            views = [_view(snapshot, images, batches, machine, side) for snapshot in snapshots]
        for batch in batches:
            pixels = as_seen(next(coming), machine, side)
            maps = _batch_maps(images, views, batch, pixels, config, machine, key, answers)
            yield from zip(batch, maps, strict=True)


def _view(
    snapshot: SaliencyNet,
    images: ResizedImages,
    batches: Sequence[Sequence[int]],
    machine: Machine,
    side: int,
) -> GroupView:
    with frozen(snapshot):
        pieces = (as_seen(pixels, machine, side) for pixels in images.batches(batches))
        return view_group(snapshot, pieces, soft=True)


def _batches(indices: Sequence[int], size: int) -> list[Sequence[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _batch_maps(
    images: ResizedImages,
    snapshots: Sequence[nn.Module],
    indices: Sequence[int],
    pixels: Tensor,
    config: Config,
    machine: Machine,
    key: str,
    answers: AnswersOf | None,
) -> Iterator[Maps]:
    """Yield the `Maps` of some images, (B, 3, side, side) as networks see them; see `pool_maps`."""
    attack = look_up(ATTACKS, config.attack, "attack")
    acquisition = look_up(ACQUISITIONS, config.acquisition, "acquisition function")
    newest = snapshots[-1]
    attacks = config.attack != "none" and acquisition.needs_model
    settings = AttackSettings(
        eps=config.attack_eps,
        step=config.attack_step,
        steps=config.attack_steps,
        patches=config.attack_patches,
    )
    seeds = [seed_for(config.seed, key, images.samples[i].name) for i in indices]
    maps, found = predict_snapshots(snapshots, pixels)
    attacked = chance = None
    if attacks:
        noise = image_noise(seeds, tuple(pixels.shape[1:])).to(machine.device)
        moved = attack(newest, pixels, settings, noise, hard_prediction(found.logits))
        maps = torch.cat([maps, predict_snapshots(snapshots, moved).maps])
    # One vote for both: the weights depend on the clean image alone.
    maps = neighbour_vote(maps, pixels, config.vote_kernel, config.vote_sigma)
    size = images.size
    if pixels.shape[-1] != size:
        maps = functional.interpolate(maps, size=(size, size), mode="bilinear")
    if answers is not None and acquisition.needs_model:
        labels = torch.from_numpy(np.stack([answers(index) for index in indices]))
        labels = labels.to(machine.device)
        maps = agree(maps, found.features, pixels, labels)
    clean = maps[: len(snapshots)]
    if attacks:
        attacked = maps[len(snapshots) :]
    if not acquisition.needs_model:
        chance = random_map(seeds, size, size).to(machine.device)
    scores = acquisition(clean, attacked, chance).cpu()
    mean, features = clean.mean(0).cpu(), found.features.cpu()
    colours = functional.adaptive_avg_pool2d(pixels, CELLS).cpu()
    mean_attacked = None if attacked is None else attacked.mean(0).cpu()
    for b in range(len(indices)):
        moved_map = None if mean_attacked is None else mean_attacked[b]
        yield Maps(mean[b], moved_map, scores[b], features[b], colours[b])
