"""Saliency maps brought into agreement with the answers, beyond the pixels that were asked."""

from __future__ import annotations

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
def agree(maps: Tensor, features: Tensor, pictures: Tensor, labels: Tensor) -> Tensor:
    """Correct saliency maps where answers contradict them, and what is like those pixels, too.

    Gaussian process regression with the map's logits as the prior mean (Rasmussen and Williams,
    2006, eq. 2.38): how far the map falls short of each answer is carried over to the pixels whose
    features, colours and places are near to the answered one's. An answer that the map already
    knows, with `CERTAINTY`, pulls it nowhere. It is solved on the features' grid, cell by cell, of
    mean colours; answers of one cell count as one, by their majority.

    Args:
        maps: (B, H, W), saliency in [0, 1].
        features: (B, C, h, w), of any length; what is alike has a large cosine.
        pictures: (B, 3, H', W'), RGB in [0, 1], of any size.
        labels: (B, 2, H, W), background and foreground answers at each pixel, 0 or more.

    Returns:
        float32 (B, H, W) in [0, 1].
    """
    grid = features.shape[-2:]
    logits = maps.float().clamp(_EDGE, 1 - _EDGE).logit()
    answers = gathered(labels, grid)
    votes = (answers[:, 1] - answers[:, 0]).flatten(1)
    told = _at_answers(logits, labels, grid).flatten(1)
    count = max(1, int((votes != 0).sum(1).max()))
    # The answered cells come first; an image with fewer than others fills up with cells that
    # hold no answer, whose noise keeps them out.
    cells = (votes != 0).int().argsort(dim=1, descending=True, stable=True)[:, :count]
    side, short = votes.gather(1, cells).sign(), told.gather(1, cells)
    short = side * (CERTAINTY - side * short).clamp_min(0)
    noise = torch.where(side == 0, _NO_ANSWER, NOISE)
    everywhere = _described(features, pictures)
    at_answers = tuple(
        part.gather(2, cells[:, None, :].expand(-1, part.shape[1], -1)) for part in everywhere
    )
    among = _kernel(at_answers, at_answers)
    weights = torch.linalg.solve(among + torch.diag_embed(noise), short)
    change = (weights[:, None] @ _kernel(at_answers, everywhere)).view(-1, 1, *grid)
    change = functional.interpolate(change, size=maps.shape[-2:], mode="bilinear")
    return (logits + change[:, 0]).sigmoid()


def gathered(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Sum (..., H, W) over the cells, float32 (..., h, w), in which the pixels' centres lie."""
    sides = zip(values.shape[-2:], grid, strict=True)
    rows, columns = (_cells(side, count, values.device) for side, count in sides)
    return rows.T @ values.float() @ columns


def _cells(side: int, count: int, device: torch.device) -> Tensor:
    """Return (side, count), 1 where a line's centre lies in one of ``count`` cells, else 0."""
    cells = (2 * torch.arange(side, device=device) + 1) * count // (2 * side)
    return functional.one_hot(cells, count).float()


def _at_answers(logits: Tensor, labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the mean logit (B, h, w) of each cell's answered pixels, 0 where there are none."""
    answered = labels.sum(1).float()
    return gathered(logits * answered, grid) / gathered(answered, grid).clamp_min(1)


Described = tuple[Tensor, Tensor]
"""Unit features (B, C, n) of some cells, and their colours and places (B, 5, n).

Those are in units of the kernel's length scales.
"""


def _described(features: Tensor, pictures: Tensor) -> Described:
    """Return all cells of the features' grid, row after row."""
    grid = features.shape[-2:]
    rows, columns = ((torch.arange(n, device=features.device) + 0.5) / n for n in grid)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij")) / NEARNESS
    colours = functional.interpolate(pictures.float(), size=grid, mode="area") / COLOUR
    where = torch.cat([colours, places.expand(len(features), -1, -1, -1)], dim=1)
    return functional.normalize(features.float().flatten(2), dim=1), where.flatten(2)


def _kernel(some: Described, others: Described) -> Tensor:
    """Return the covariance (B, n, m) of n cells with m others."""
    cosine = some[0].transpose(1, 2) @ others[0]
    apart = torch.cdist(some[1].transpose(1, 2), others[1].transpose(1, 2))
    return torch.exp((cosine - 1) / LIKENESS - apart.square() / 2)
