"""Recurrent auxiliary classification: the group's class, from the image and from it masked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.registry import look_up


class ClassHead(nn.Module):
    """A linear classifier of pooled top features (GCoNet, CVPR 2021, auxiliary classification).

    Parameters: channels x classes + classes; 149 283 for 512 channels and the 291 classes of
    DUTS_class.

    Args:
        channels: channels of the top features.
        classes: classes to tell apart.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    @staticmethod
    def pool(x: Tensor) -> Tensor:
        """Average features (B, C, h, w) over their pixels: (B, C), of the same dtype."""
        return x.mean((2, 3))

    def forward(self, pooled: Tensor) -> Tensor:
        """Return class logits (B, classes) of pooled features (B, channels)."""
        return self.linear(pooled)


class _Times(nn.Module):
    def forward(self, image: Tensor, saliency: Tensor) -> Tensor:
        return image * saliency


class _Plus(nn.Module):
    def forward(self, image: Tensor, saliency: Tensor) -> Tensor:
        return image + saliency


class _Concatenate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(4, 3, 1)

    def forward(self, image: Tensor, saliency: Tensor) -> Tensor:
        return self.mix(torch.cat((image, saliency), dim=1))


MASK_OPERATIONS: dict[str, type[nn.Module]] = {"x": _Times, "+": _Plus, "c": _Concatenate}
"""Ways to show the encoder an image with its saliency map: product, sum, learned 1x1 mixture."""


class MaskedImage(nn.Module):
    """An image with its saliency map, to be encoded and classified again (GCoNet+, TPAMI 2023).

    The gradient reaches the map: a map that hides the object, or shows another, makes the class
    harder to tell.

    As published, the operation is meant for the image as the encoder takes it, less ImageNet's
    mean and over its deviation. What the product hides is then zero, the mean colour; before that
    normalisation it would be black, which is a colour of its own. The sum is not clamped, for a
    normalised image has no bounds to clamp to.

    Parameters: none for ``x`` and ``+``, 15 for ``c``.

    Args:
        operation: a name in `MASK_OPERATIONS`.

    Raises:
        UserError: no operation has this name.
    """

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation = look_up(MASK_OPERATIONS, operation, "mask operation")()

    def forward(self, image: Tensor, saliency: Tensor) -> Tensor:
        """Combine images (B, 3, H, W) with maps (B, 1, H, W) in [0, 1] into (B, 3, H, W)."""
        return self.operation(image, saliency)
