"""What the images of a co-salient group have in common, and features weighted by it.

A batch holds the images of one or more groups, stacked along its first axis; ``groups`` gives
their sizes in order. Nothing of one group reaches another one but through `GroupConsensus.cross`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.registry import look_up

_HEADS = 8


class GroupAffinity(nn.Module):
    """The group affinity module, GAM (Fan et al., GCoNet, CVPR 2021, eq. 1-4).

    Every pixel of the group is compared with every pixel of every image of the group:
    ``s_ij = query(x_i) . key(x_j) / sqrt(C)``. A pixel's score is the mean over images of the
    largest s_ij to that image; the softmax of the scores over the pixels of an image weights its
    features, and a 1x1 convolution follows.

    The weights of an image sum to one, so the output and the consensus are smaller than the input
    by about P, as published: a consensus of maps twice the size is a quarter.

    Multiply-adds for n images of P = h w pixels: ``3 n P C^2 + (n P)^2 C``; memory for affinities:
    ``min((n P)^2, limit)`` numbers, in training too, as each piece leaves only its maxima behind.

    Args:
        channels: C.
        limit: most affinities computed at a time; the result does not depend on it.
    """

    def __init__(self, channels: int, limit: int = 2**24) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)
        self.scale = channels**-0.5
        self.limit = limit
        for layer in (self.query, self.key, self.output):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to what the images (n, C, h, w) of one group share; (n, C, h, w) again."""
        weights = self.scores(x).flatten(1).softmax(dim=1)
        return self.output((x * weights.view(x.shape[0], 1, *x.shape[2:])).to(x.dtype))

    def scores(self, x: Tensor) -> Tensor:
        """Return each pixel's mean over images of its largest affinity to one, (n, h, w).

        In full precision: affinities grow with the square of the features, so that half precision
        would overflow, or round by steps that the softmax turns into factors.
        """
        queries, keys = self.query(x), self.key(x)
        with torch.autocast(x.device.type, enabled=False):
            queries = _full_precision(queries).flatten(2).transpose(1, 2).flatten(0, 1) * self.scale
            keys = _full_precision(keys).flatten(2).transpose(0, 1).flatten(1)  # (C, n h w)
            pixels = keys.shape[1]
            # Asked, not left to split, so that an exported module takes any number of images.
            whole = pixels * pixels <= self.limit
            pieces = (queries,) if whole else queries.split(max(1, self.limit // pixels))
            scores = [
                # Not amax: its backward pass would keep every affinity, this one the indices.
                (piece @ keys).unflatten(1, (x.shape[0], -1)).max(dim=-1).values.mean(dim=-1)
                for piece in pieces
            ]
        return torch.cat(scores).view(x.shape[0], *x.shape[2:])


class NonLocal(nn.Module):
    """A non-local block, embedded Gaussian, of each image by itself (Wang et al., CVPR 2018, 3.2).

    ``x + norm(out(softmax(query . key) value))`` with C/2 channels inside, keys and values halved
    in height and width by max pooling, and the norm's scale zero at first, so that the block starts
    as the identity. Unlike GCoNet+'s, an odd last row or column counts too.

    Multiply-adds for n images of P = h w pixels: ``2 n P C^2 + n P^2 C / 4``.

    Args:
        channels: C, at least 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.query = nn.Conv2d(channels, inner, 1)
        # A key's bias would cancel in the softmax, the value's and the output's in the norm.
        self.key = nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, inner, 1, bias=False)
        self.output = nn.Conv2d(inner, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Let every pixel of images (n, C, h, w) look at its own image; (n, C, h, w) again."""
        key, value = (F.max_pool2d(layer(x), 2, ceil_mode=True) for layer in (self.key, self.value))
        seen = _attend(self.query(x), key, value, heads=1, scale=1.0)
        return x + self.norm(self.output(seen.to(x.dtype)))


class MultiHeadAttention(nn.Module):
    """Multi-head self-attention of each image by itself (Vaswani et al., NeurIPS 2017, 3.2.2).

    Eight heads of C/8 channels; no residual, no position. GCoNet+'s module of this name differs:
    it reads (C, h w) maps as (h w, C) without transposing, which mixes channels with pixels; makes
    keys and values with the query's convolution; projects twice in a row without anything between;
    gives each head 512 channels, whatever C; drops a tenth of the attention weights; and starts at
    weights of .001, with which the consensus is next to nothing. Here projections start as in
    `torch.nn.MultiheadAttention`.

    Multiply-adds for n images of P = h w pixels: ``4 n P C^2 + 2 n P^2 C``.

    Args:
        channels: C, a multiple of 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % _HEADS:
            raise ValueError(f"{channels} channels cannot be shared by {_HEADS} heads")
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)  # it would cancel in the softmax
        self.value = nn.Conv2d(channels, channels, 1)
        self.output = nn.Conv2d(channels, channels, 1)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.query, self.value, self.output):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Let every pixel of images (n, C, h, w) look at its own image; (n, C, h, w) again."""
        seen = _attend(self.query(x), self.key(x), self.value(x), heads=_HEADS)
        return self.output(seen.to(x.dtype))


RELATIONS: dict[str, type[nn.Module]] = {
    "gam": GroupAffinity,
    "nonlocal": NonLocal,
    "mha": MultiHeadAttention,
}
"""Modules that attend to the features of one group: (n, C, h, w) -> (n, C, h, w)."""


class GroupConsensus(nn.Module):
    """Weights the top features of each group by the group's consensus (GCoNet, section 3.2).

    The consensus of a group is the mean of the relation module's output over its images and
    pixels, one number a channel. It depends on nothing but the group's top features. A group too
    large for one pass is encoded in pieces, its consensus computed from the top features of all of
    them, and each piece is then weighted by it.

    Args:
        channels: C, of the top features.
        relation: a name in `RELATIONS`.

    Raises:
        UserError: no relation module has this name.
    """

    def __init__(self, channels: int, relation: str) -> None:
        super().__init__()
        self.relation = look_up(RELATIONS, relation, "relation module")(channels)

    def consensus(self, x: Tensor, groups: Sequence[int] | None = None) -> Tensor:
        """Return the consensus (G, C) of each group, in full precision.

        Args:
            x: (B, C, h, w), the groups one after the other.
            groups: size of each of the G groups, each at least 1; None: x is one group.
        """
        parts = x.split(_sizes(x, groups))
        return torch.stack([_full_precision(self.relation(part)).mean((0, 2, 3)) for part in parts])

    def forward(
        self,
        x: Tensor,
        groups: Sequence[int] | None = None,
        consensus: Tensor | None = None,
    ) -> Tensor:
        """Multiply each image's features by the consensus of its group; (B, C, h, w) again.

        Args:
            x: (B, C, h, w), the groups one after the other.
            groups: size of each of the G groups, each at least 1; None: x is one group.
            consensus: (G, C), where it is known already; x may then be part of the group.
        """
        if consensus is None:
            consensus = self.consensus(x, groups)
        return _weight(x, groups, consensus)

    def cross(self, x: Tensor, groups: Sequence[int], consensus: Tensor) -> Tensor:
        """Multiply each image's features by the consensus of another group, the next in order.

        The last group takes that of the first. Such features hold nothing that should be found
        (the group collaborating module, GCoNet, section 3.3).

        Args:
            x: (B, C, h, w), the groups one after the other.
            groups: size of each group, two groups or more.
            consensus: (G, C).

        Returns:
            (B, C, h, w).
        """
        if len(groups) < 2:
            raise ValueError("a single group has no other group to be crossed with")
        return _weight(x, groups, consensus.roll(-1, dims=0))


class ContrastHead(nn.Module):
    """Predicts what the weighted top features show, for GCoNet's group collaborating module.

    Args:
        channels: C, of the top features, at least 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels // 4, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 4, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C, h, w) to logits (B, 1, h, w)."""
        return self.layers(x)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, scale: float | None = None
) -> Tensor:
    """Attend from each pixel of (n, C, h, w) to those of its image, in full precision."""
    with torch.autocast(query.device.type, enabled=False):
        tokens = (
            _full_precision(x).flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)
            for x in (query, key, value)
        )
        seen = F.scaled_dot_product_attention(*tokens, scale=scale)  # (n, heads, h w, C / heads)
        return seen.transpose(2, 3).reshape(query.shape)


def _weight(x: Tensor, groups: Sequence[int] | None, consensus: Tensor) -> Tensor:
    parts = zip(x.split(_sizes(x, groups)), consensus, strict=True)
    return torch.cat([(part * row[:, None, None]).to(x.dtype) for part, row in parts])


def _sizes(x: Tensor, groups: Sequence[int] | None) -> list[int]:
    return [x.shape[0]] if groups is None else list(groups)


def _full_precision(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
