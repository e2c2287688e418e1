"""Saliency maps brought into agreement with the answers, beyond the pixels that were asked."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LIKENESS = 0.2
"""Length scale of the kernel over features: one minus their cosine."""

NEARNESS = 0.4
"""Length scale of the kernel over places, as a share of the image's side."""

NOISE = 0.1
"""Variance of an answer's logit, where the kernel's own is one."""

CERTAINTY = 2.5
"""Logit of a pixel that was answered: a saliency of .92, or .08."""

_EDGE = 1e-3
_NO_ANSWER = 1e6


@torch.no_grad()
def agree(maps: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Correct saliency maps where answers contradict them, and what is like those pixels, too.

    Gaussian process regression with the map's logits as the prior mean (Rasmussen and Williams,
    2006, eq. 2.38): how far the map falls short of each answer is carried over to the pixels whose
    features and places are near to the answered one's. An answer that the map already knows, with
    `CERTAINTY`, pulls it nowhere. It is solved on the features' grid, cell by cell; answers of one
    cell count as one, by their majority.

    Args:
        maps: (B, H, W), saliency in [0, 1].
        features: (B, C, h, w), of any length; what is alike has a large cosine.
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
    like = functional.normalize(features.float().flatten(2), dim=1)
    places = _places(grid, maps.device).expand(len(maps), -1, -1)
    chosen = cells[:, None, :]
    like_there = like.gather(2, chosen.expand(-1, like.shape[1], -1))
    places_there = places.gather(2, chosen.expand(-1, 2, -1))
    among = _kernel(like_there, places_there, like_there, places_there)
    weights = torch.linalg.solve(among + torch.diag_embed(noise), short)
    change = (weights[:, None] @ _kernel(like_there, places_there, like, places)).view(-1, 1, *grid)
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


def _places(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return the centres (1, 2, h * w) of a grid's cells, as shares of its sides."""
    rows, columns = ((torch.arange(n, device=device) + 0.5) / n for n in grid)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)[None]


def _kernel(like: Tensor, places: Tensor, other_like: Tensor, other_places: Tensor) -> Tensor:
    """Return the covariance (B, n, m) of cells with unit features (B, C, n) and (B, C, m)."""
    cosine = like.transpose(1, 2) @ other_like
    apart = torch.cdist(places.transpose(1, 2), other_places.transpose(1, 2))
    return torch.exp((cosine - 1) / LIKENESS - apart.square() / (2 * NEARNESS**2))
