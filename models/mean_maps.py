"""The mean saliency maps of some networks, as an ensemble or alone, group by group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from models.group_view import view_group_by
from models.saliency_net import SaliencyNet
from utils.device import Machine


class Images(Protocol):
    """Images of one size that are read by their places."""

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Return uint8 (B, 3, S, S)."""


@torch.no_grad()
def mean_maps(
    models: Sequence[SaliencyNet],
    images: Images,
    groups: Sequence[Sequence[int]],
    batch_size: int,
    machine: Machine,
    mirrored: bool = False,
    soft: bool = False,
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Predict images, batch by batch; images of two groups are never in one batch.

    Args:
        models: in eval mode, on the machine's device; at least one.
        images: where they are read.
        groups: places of each group's images; images without groups are one group.
        batch_size: most images looked at at a time; the maps do not depend on it.
        machine: where and how to compute.
        mirrored: average with the maps of the mirrored images, mirrored back.
        soft: of networks that binarise, take the maps before that.

    Yields:
        Places of a batch's images, and float32 (B, S, S) in [0, 1], the mean over models.
    """
    sides = (False, True) if mirrored else (False,)
    for group in groups:
        batches = [group[at : at + batch_size] for at in range(0, len(group), batch_size)]
        views = []
        for side in sides:
            pieces = (_turned(_read(images, batch, machine), side) for batch in batches)
            with machine.autocast():
                views += [(view, side) for view in view_group_by(models, pieces, soft)]
        for batch in batches:
            pixels, maps = _read(images, batch, machine), []
            for view, side in views:
                with machine.autocast():
                    logits = view(_turned(pixels, side)).logits
                maps.append(_turned(logits.float().sigmoid()[:, 0], side))
            yield batch, torch.stack(maps).mean(0)


def _read(images: Images, batch: Sequence[int], machine: Machine) -> Tensor:
    return machine.images(images.batch(batch))


def _turned(x: Tensor, mirrored: bool) -> Tensor:
    return x.flip(-1) if mirrored else x
