"""The top-down decoder: from an encoder's feature maps to one fine feature map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class Decoder(nn.Module):
    """A feature pyramid (Lin et al., CVPR 2017, section 3), refined at every level.

    Each encoder map is brought to ``width`` channels by a 1x1 convolution; from the coarsest to
    the finest, the result so far is upsampled to the next map's size, added to it and refined by
    a 3x3 convolution with batch norm and ReLU. What is read is the sum of all levels (as in the
    panoptic FPN, Kirillov et al., CVPR 2019, section 3.1): so the coarse levels, which know what is
    salient, are a short way from the loss.

    Args:
        channels: channels of the encoder's maps, fine to coarse.
        width: channels of every decoder level.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.refiners = nn.ModuleList(_refiner(width) for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse maps, fine to coarse, into features (B, width, h, w) of the finest map's size."""
        return self.joined(self.levels(maps))

    @staticmethod
    def joined(levels: Sequence[Tensor]) -> Tensor:
        """Add levels, coarse to fine, up to features (B, width, h, w) of the finest one's size."""
        total = levels[0]
        for level in levels[1:]:
            total = _grow(total, level) + level
        return total

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the features (B, width, h, w) of every level, coarse to fine.

        They are non-negative (they leave a ReLU), each of the size of its encoder map.
        """
        laterals = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        fused = [self.refiners[-1](laterals[-1])]
        for lateral, refine in zip(laterals[-2::-1], self.refiners[-2::-1], strict=True):
            fused.append(refine(_grow(fused[-1], lateral) + lateral))
        return fused


def _grow(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _refiner(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
