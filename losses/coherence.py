"""Local saliency coherence: neighbours of like colour get like saliency."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.supervision import Supervision, full_precision

_COLOUR_UNIT = (0.229, 0.224, 0.225)
"""Standard deviation of R, G and B in [0, 1] over ImageNet: one unit of a colour distance."""


def coherence(
    logits: Tensor,
    supervision: Supervision,
    kernel: int = 5,
    colour_sigma: float = 0.5,
    place_sigma: float = 6.0,
    scale: float = 0.5,
) -> Tensor:
    """Local saliency coherence of SCWSSOD (Yu et al., AAAI 2021).

    The mean over pixels i of the sum over the other pixels j of its kernel of ``w_ij |p_i - p_j|``
    with ``w_ij = exp(-|x_i - x_j|^2 / (2 place_sigma^2) - |c_i - c_j|^2 / (2 colour_sigma^2))``, a
    gated-CRF term (Obukhov et al. 2019). Image and saliency map are shrunk first. Needs no labels.

    Args:
        logits: (B, 1, H, W), float of any precision.
        supervision: its ``image`` is used; no gradient flows to it.
        kernel: odd side of the neighbourhood, in pixels of the shrunk grid.
        colour_sigma: in ImageNet standard deviations a channel, so .5 is about 29 of 255 grey
            levels.
        place_sigma: in pixels of the shrunk grid.
        scale: side of the shrunk grid over the side of the map.

    Returns:
        A scalar in [0, kernel^2 - 1]; zero for a map of one pixel.
    """
    saliency = _shrink(full_precision(logits).sigmoid(), scale)
    image = supervision.image.detach().to(saliency.dtype)
    colours = _shrink(image / _colour_unit(image.device, image.dtype), scale)
    total = (saliency * 0).sum()
    for dy, dx in _half_kernel(kernel // 2):
        here, there = _overlap(saliency, dy, dx)
        here_colour, there_colour = _overlap(colours, dy, dx)
        distance = (here_colour - there_colour).square().sum(dim=1, keepdim=True)
        place = (dy * dy + dx * dx) / (2 * place_sigma**2)
        affinity = torch.exp(-distance / (2 * colour_sigma**2) - place)
        total = total + (affinity * (here - there).abs()).sum()
    total = total * supervision.share
    return 2 * total / saliency.numel()  # each pair was met once, and counts for both its pixels


@functools.cache  # copied to a GPU once, for which it need not wait at every step
def _colour_unit(device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(_COLOUR_UNIT, dtype=dtype, device=device).view(1, 3, 1, 1)


def _shrink(x: Tensor, scale: float) -> Tensor:
    # Bilinear at one half is the mean of 2 x 2 pixels; the area mode's backward pass has no
    # deterministic way on CUDA.
    size = [max(1, round(side * scale)) for side in x.shape[-2:]]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _half_kernel(radius: int) -> Iterator[tuple[int, int]]:
    """Yield one of each two opposite shifts, so that every pair is met once."""
    for dy in range(radius + 1):
        for dx in range(-radius, radius + 1):
            if dy > 0 or dx > 0:
                yield dy, dx


def _overlap(x: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """Return views of the pixels that have a neighbour at (dy, dx), and of these neighbours."""
    height, width = x.shape[-2:]
    rows, columns = max(height - dy, 0), max(width - abs(dx), 0)
    left, right = max(-dx, 0), max(dx, 0)
    if rows == 0 or columns == 0:
        return x[..., :0, :0], x[..., :0, :0]
    here = x[..., :rows, left : left + columns]
    there = x[..., dy:, right : right + columns]
    return here, there
