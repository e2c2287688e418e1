"""Saliency maps brought into agreement with the answers, beyond the pixels that were asked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

LIKENESS = 0.2
"""Length scale of the kernel over features: one minus their cosine."""

NEARNESS = 0.4
"""Length scale of the kernel over places, as a share of the image's side."""

COLOUR = 0.35
"""Length scale of the kernel over colours, where a channel reaches from 0 to 1."""

NOISE = 0.1
"""Variance of an answer's logit, where the kernel's own is one."""

CERTAINTY = 4.0
"""Logit of a pixel that was answered: a saliency of .98, or .02."""

_EDGE = 1e-3
_NO_ANSWER = 1e6


@torch.no_grad()
def agree(maps: Tensor, features: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Correct saliency maps where answers contradict them, and what is like those pixels, too.

    Gaussian process regression with the map's logits as the prior mean (Rasmussen and Williams,
    2006, eq. 2.38): how far the map falls short of each answer is carried over to the pixels whose
    features, colours and places are near to the answered one's. An answer that the map already
    knows, with `CERTAINTY`, pulls it nowhere. It is solved on the features' grid, each cell of the
    mean colour of its pixels; answers of one cell count as one, by their majority.

    Args:
        maps: (..., B, H, W), saliency in [0, 1]; one or several maps of each image.
        features: (B, C, h, w), of any length; what is alike has a large cosine.
        images: (B, 3, H', W'), RGB in [0, 1]; H' and W' are best whole multiples of h and w.
        labels: (B, 2, H, W), counts of background and foreground answers at each pixel.

    Returns:
        float32 (..., B, H, W) in [0, 1].
    """
    grid = features.shape[-2:]
    logits = maps.float().clamp(_EDGE, 1 - _EDGE).logit()
    each = logits.reshape(-1, *logits.shape[-3:]).transpose(0, 1)  # (B, K, H, W)
    answers = gathered(labels, grid)
    votes = (answers[:, 1] - answers[:, 0]).flatten(1)
    told = _at_answers(each, labels, grid).flatten(2)
    count = max(1, int((votes != 0).sum(1).max()))
    # The answered cells come first; an image with fewer than others fills up with cells that
    # hold no answer, whose noise keeps them out.
    cells = (votes != 0).int().argsort(dim=1, descending=True, stable=True)[:, None, :count]
    side = votes[:, None].gather(2, cells).sign()
    said = told.gather(2, cells.expand(-1, told.shape[1], -1))
    short = side * (CERTAINTY - side * said).clamp_min(0)
    noise = torch.where(side[:, 0] == 0, _NO_ANSWER, NOISE)
    everywhere = _cells_of(features, images)
    asked = Described(*(x.gather(2, cells.expand(-1, x.shape[1], -1)) for x in everywhere))
    among = covariance(asked, asked) + torch.diag_embed(noise)
    weights = torch.linalg.solve(among, short.transpose(1, 2)).transpose(1, 2)
    change = (weights @ covariance(asked, everywhere)).unflatten(2, grid)
    change = functional.interpolate(change, size=maps.shape[-2:], mode="bilinear")
    return (logits + change.transpose(0, 1).reshape(logits.shape)).sigmoid()


def gathered(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Sum (..., H, W) over the cells, float32 (..., h, w), in which the pixels' centres lie."""
    sides = zip(values.shape[-2:], grid, strict=True)
    rows, columns = (_in_cells(side, count, values.device) for side, count in sides)
    return rows.T @ values.float() @ columns


def _in_cells(side: int, count: int, device: torch.device) -> Tensor:
    """Return (side, count), 1 where a line's centre lies in one of ``count`` cells, else 0."""
    cells = (2 * torch.arange(side, device=device) + 1) * count // (2 * side)
    return functional.one_hot(cells, count).float()


def _at_answers(logits: Tensor, labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the mean logit (B, K, h, w) of each cell's answered pixels, 0 where there are none."""
    answered = labels.sum(1, keepdim=True).float()
    return gathered(logits * answered, grid) / gathered(answered, grid).clamp_min(1)


class Described(NamedTuple):
    """Some pixels, or cells of the features' grid, as `covariance` compares them.

    Attributes:
        features: (B, C, n), of unit length.
        where: (B, 5, n), their colours and their places, in units of the kernel's scales.
    """

    features: Tensor
    where: Tensor


def describe(features: Tensor, colours: Tensor, places: Tensor) -> Described:
    """Return what `covariance` compares.

    Args:
        features: (B, C, n), of any length.
        colours: (B, 3, n), RGB in [0, 1].
        places: (B, 2, n), y and x as shares of the image's height and width.
    """
    where = torch.cat([colours / COLOUR, places / NEARNESS], dim=1)
    return Described(functional.normalize(features, dim=1), where)


def covariance(some: Described, others: Described) -> Tensor:
    """Return the covariance (B, n, m) of the logits of n pixels with those of m others."""
    cosine = some.features.transpose(1, 2) @ others.features
    apart = torch.cdist(some.where.transpose(1, 2), others.where.transpose(1, 2))
    return torch.exp((cosine - 1) / LIKENESS - apart.square() / 2)


def _cells_of(features: Tensor, images: Tensor) -> Described:
    """Return all cells of the features' grid, row after row."""
    grid = features.shape[-2:]
    rows, columns = ((torch.arange(n, device=features.device) + 0.5) / n for n in grid)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    colours = functional.interpolate(images.float(), size=grid, mode="area")
    places = places.expand(len(features), -1, -1, -1)
    return describe(*(values.flatten(2) for values in (features.float(), colours, places)))
