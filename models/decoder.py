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

    A deep one has a second such convolution at every level but the finest, where it would cost most
    and tell least; and the coarsest map, which has most channels by far, comes to ``width`` of them
    by way of four times as many: a 1x1 and a 3x3 convolution with batch norm and ReLU go before.

    Args:
        channels: channels of the encoder's maps, fine to coarse.
        width: channels of every decoder level.
        deep: see above.
    """

    def __init__(self, channels: Sequence[int], width: int, deep: bool = False) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.refiners = nn.ModuleList(_refiner(width, width) for _ in channels)
        if deep:
            wide = 4 * width
            narrowed = (_refiner(channels[-1], wide, 1), _refiner(wide, wide))
            self.laterals[-1] = nn.Sequential(*narrowed, nn.Conv2d(wide, width, 1))
            for refiner in self.refiners[1:]:
                refiner.extend(_refiner(width, width))

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


class Detail(nn.Module):
    """A last level of the decoder, of the image's own size.

    The finest encoder map has a pixel for two by two of the image (for four by four with some
    backbones), too few to say where an outline runs. Here the decoder's features, brought to a
    few channels by a 1x1 convolution and upsampled, are added to what a 3x3 convolution sees in the
    image, and refined by two more; all three with batch norm and ReLU.

    Args:
        width: channels of the decoder's features.
    """

    CHANNELS = 16
    """Channels of the level: at the image's size each of them is dear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        count = self.CHANNELS
        self.lateral = nn.Conv2d(width, count, 1, bias=False)
        self.stem = _refiner(3, count)
        self.refiner = nn.Sequential(_refiner(count, count), _refiner(count, count))

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        """Return features (B, CHANNELS, H, W), non-negative.

        Args:
            features: (B, width, h, w), those of the decoder.
            image: (B, 3, H, W), normalised.
        """
        seen = self.stem(image)
        return self.refiner(_grow(self.lateral(features), seen) + seen)


def _grow(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _refiner(channels: int, width: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
