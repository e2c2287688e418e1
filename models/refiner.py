"""The refiner: a small U-Net that mends a saliency map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.binarise import Binarise, conv_block

_LEVELS = 4


class Refiner(nn.Module):
    """The residual refinement module of BASNet (Qin et al., CVPR 2019, section 3.3).

    An input convolution; four levels of a 3x3 convolution with batch norm and ReLU, each followed
    by 2x2 max pooling; one such convolution as bridge; and four levels upwards, each taking the
    upsampled features beside those of its own size. A last 3x3 convolution gives the residual,
    which is added to the logits that came in.

    Two things differ from the published codes. The U-Net sees the sigmoid of the logits, not the
    logits: like the image it is bounded, also where binarised logits reach hundreds. And with the
    image, the residual is added to the logits alone; GCoNet+ adds it to image and logits, and so
    returns four channels.

    With ``binarise``, a `Binarise` head reads the map anew from the last features, without
    residual, as in GCoNet+. Call ``refiner.head(refiner.features(logits, image))`` for its soft
    logits.

    Parameters at width 64: 481 601, with the image 483 329; `Binarise` in place of the last
    convolution adds 147 521.

    Args:
        channels_in: 1 to refine from the map alone, 4 from map and image.
        width: channels of every level.
        binarise: slope k of the binarisation, or None for the residual.

    Raises:
        UserError: the slope is too small or not finite.
    """

    def __init__(
        self, channels_in: int = 1, width: int = 64, binarise: float | None = None
    ) -> None:
        super().__init__()
        self.with_image = channels_in > 1
        self.stem = nn.Conv2d(channels_in, width, 3, padding=1)
        self.down = nn.ModuleList(conv_block(width, width) for _ in range(_LEVELS))
        self.bridge = conv_block(width, width)
        self.up = nn.ModuleList(conv_block(2 * width, width) for _ in range(_LEVELS))
        self.head = (
            nn.Conv2d(width, 1, 3, padding=1) if binarise is None else Binarise(width, binarise)
        )

    def forward(self, logits: Tensor, image: Tensor | None = None) -> Tensor:
        """Refine logits (B, 1, H, W) of any size.

        Args:
            logits: what the network said, before the sigmoid.
            image: (B, 3, H, W), as the encoder takes it or in [0, 1]; needed with
                ``channels_in=4``, unused otherwise.

        Returns:
            Refined logits (B, 1, H, W).
        """
        found = self.head(self.features(logits, image))
        return logits + found if isinstance(found, Tensor) else found.logits

    def features(self, logits: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the U-Net's last features, (B, width, H, W) and non-negative; see `forward`."""
        saliency = logits.sigmoid()
        x = self.stem(torch.cat((saliency, image), dim=1) if self.with_image else saliency)
        skips = []
        for block in self.down:
            skips.append(block(x))
            # Rounding up leaves no pixel out of odd sizes, and never a map without pixels.
            x = F.max_pool2d(skips[-1], 2, ceil_mode=True)
        x = self.bridge(x)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat((x, skip), dim=1))
        return x
