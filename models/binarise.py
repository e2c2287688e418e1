"""Differentiable binarisation: a head whose map is nearly black and white, yet can learn."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.errors import UserError

_PRIOR = 0.2


class Binarised(NamedTuple):
    """Two readings of one map; they have the same sign wherever neither is lost to rounding.

    Attributes:
        logits: (B, 1, h, w), at least float32, within [-k, k]; their sigmoid is the binarised map.
        soft_logits: (B, 1, h, w), at least float32, unbounded; their sigmoid is a map of the same
            objects that still has grey levels.
    """

    logits: Tensor
    soft_logits: Tensor


class Binarise(nn.Module):
    """Learned saliency p, its learned threshold t, and the step ``1 / (1 + exp(-k (p - t)))``.

    Liao et al., AAAI 2020, equation 2 (DBNet, k = 50); the confidence enhancement of GCoNet+
    (TPAMI 2023, k = 300). The step is the sigmoid of ``k (p - t)``, so these logits are all that is
    computed here: a loss on logits is then right and finite where the exponential of the formula
    overflows in single precision (300 x 0.3 is enough), for which the published code lowers k to 50
    for the whole batch.

    p = sigmoid(a) and t = sigmoid(b); a and b come from a branch each, as in GCoNet+: two 3x3
    convolutions with batch norm and ReLU, then a 1x1 convolution. Both work at the resolution of
    the features (DBNet's upsample by four).

    The soft logits are a - b, not a: a step on p - t says nothing of p alone, so its level is
    arbitrary, while a > b exactly where p > t.

    Parameters: 36 width^2 + 10 width + 2; 148 098 at width 64.

    Args:
        width: channels of the features.
        k: slope of the step, at least 2.

    Raises:
        UserError: k is too small or not finite.
    """

    def __init__(self, width: int, k: float = 300.0) -> None:
        super().__init__()
        if not 2 <= k < math.inf:
            raise UserError(f"binarisation slope k={k}: give a finite number of at least 2")
        self.k = float(k)
        self.saliency = _branch(width)
        self.threshold = _branch(width)
        self._start_as_an_ordinary_head()

    def forward(self, features: Tensor) -> Binarised:
        """Read maps from features (B, width, h, w)."""
        # Steps of k x 0.004 are all that bfloat16 can tell apart near p = 1.
        a, b = (_widen(branch(features)) for branch in (self.saliency, self.threshold))
        return Binarised(self.k * (a.sigmoid() - b.sigmoid()), a - b)

    @torch.no_grad()
    def _start_as_an_ordinary_head(self) -> None:
        # Where p = 1/2, the logits rise k/4 times as fast as a: at the usual weights the first map
        # would be black and white at random. The biases start it at the usual share of salient
        # pixels, as in the network's plain head.
        offset = math.log(_PRIOR / (1 - _PRIOR)) / self.k  # of p - t
        for branch, sign in ((self.saliency, 1), (self.threshold, -1)):
            last = branch[-1]
            last.weight.mul_(4 / self.k)
            last.bias.fill_(math.log((1 + sign * offset) / (1 - sign * offset)))


def conv_block(channels_in: int, channels_out: int) -> nn.Sequential:
    """3x3 convolution, batch norm and ReLU: (B, channels_in, h, w) -> (B, channels_out, h, w)."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def _branch(width: int) -> nn.Sequential:
    return nn.Sequential(conv_block(width, width), conv_block(width, width), nn.Conv2d(width, 1, 1))


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
