"""The mean saliency maps of some networks, as an ensemble or alone, group by group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from models.group_view import view_group_by
from models.saliency_net import SaliencyNet
from utils.device import Machine

CELL = 32
"""Side of the pixels that one cell of the coarsest feature map covers."""


class Images(Protocol):
    """Square images of one size that are read by their places."""

    size: int

    def batches(self, pieces: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Yield each piece's images, uint8 (B, 3, S, S), and read ahead by a piece at most."""


class MeanMaps(NamedTuple):
    """What some networks make of a batch of images.

    Attributes:
        indices: places of the images.
        pixels: uint8 (B, 3, S, S) RGB, the images as they were read.
        images: float32 (B, 3, H, W) RGB in [0, 1], as the networks saw them, unmirrored.
        maps: float32 (B, S, S) in [0, 1], the mean over networks, of the images' own size.
        features: float32 (B, C, h, w), the decoder features of all networks one after the other,
            each of unit length, where they are asked for.
    """

    indices: Sequence[int]
    pixels: Tensor
    images: Tensor
    maps: Tensor
    features: Tensor | None


@torch.no_grad()
def mean_maps(
    models: Sequence[SaliencyNet],
    images: Images,
    groups: Sequence[Sequence[int]],
    batch_size: int,
    machine: Machine,
    mirrored: bool = False,
    soft: bool = False,
    side: int | None = None,
    with_features: bool = False,
) -> Iterator[MeanMaps]:
    """Predict images, batch by batch; images of two groups are never in one batch.

    The next batch is read while this one is looked at, also where it is of another group.

    Args:
        models: in eval mode, on the machine's device; at least one.
        images: where they are read.
        groups: places of each group's images; images without groups are one group.
        batch_size: most images looked at at a time; the maps do not depend on it.
        machine: where and how to compute.
        mirrored: average with the maps of the mirrored images, mirrored back.
        soft: of networks that binarise, take the maps before that.
        side: look at the images resized to this side; None: as they are.
        with_features: yield features, too.
    """
    side = side or images.size
    ways = (False, True) if mirrored else (False,)
    cut = [[g[at : at + batch_size] for at in range(0, len(g), batch_size)] for g in groups]
    coming = images.batches(list(chain.from_iterable(cut)))
    for batches in cut:
        views = []
        for turned in ways:
            read = images.batches(batches)
            pieces = (_turned(as_seen(pixels, machine, side), turned) for pixels in read)
            with machine.autocast():
                views.append(view_group_by(models, pieces, soft))
        for batch in batches:
            pixels = next(coming)
            looked_at = as_seen(pixels, machine, side)
            maps: list[Tensor] = []
            features: list[Tensor] = []
            for of_model in zip(*views, strict=True):
                seen: list[Tensor] = []
                for view, turned in zip(of_model, ways, strict=True):
                    with machine.autocast():
                        found = view(_turned(looked_at, turned))
                    maps.append(_turned(found.logits.float().sigmoid(), turned))
                    if with_features:
                        seen.append(_turned(found.features.float(), turned))
                if with_features:
                    features.append(functional.normalize(torch.stack(seen).mean(0), dim=1))
            mean = torch.stack(maps).mean(0)
            if side != images.size:
                mean = functional.interpolate(mean, size=images.size, mode="bilinear")
            joined = torch.cat(features, 1) if features else None
            yield MeanMaps(batch, pixels, looked_at, mean[:, 0], joined)


def enlarged(size: int, scale: float) -> int:
    """Return the side, in whole coarsest cells of 32 pixels, nearest to ``scale`` times a size.

    With a scale of one it is the size itself, with more not below it.
    """
    if scale == 1:
        return size
    cells = math.floor(size * scale / CELL + 0.5)
    return CELL * max(cells, math.ceil(size / CELL) if scale > 1 else 1)


def as_seen(pixels: Tensor, machine: Machine, side: int) -> Tensor:
    """Return uint8 images (B, 3, S, S) as networks see them: float32 (B, 3, side, side) in [0, 1].

    They lie on the device. Where they shrink, what the smaller size cannot show is smoothed away.
    """
    images, size = machine.images(pixels), pixels.shape[-1]
    if side == size:
        return images
    shrinks = side < size
    return functional.interpolate(images, size=(side, side), mode="bilinear", antialias=shrinks)


def _turned(x: Tensor, mirrored: bool) -> Tensor:
    return x.flip(-1) if mirrored else x
