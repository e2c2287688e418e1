"""The discriminator: does a map look like a true mask?"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

_CHANNELS = (1, 16, 32, 64, 128)


class Discriminator(nn.Module):
    """Strided convolutions in the manner of DCGAN (Radford et al., ICLR 2016), of any map size.

    Four 4x4 convolutions of stride 2 with leaky ReLU, the mean over the pixels and a linear layer.
    The published discriminator (GCoNet+'s code, off by default) flattens instead, which ties it to
    one size.

    There is no norm layer. Batch norm sees masks and predicted maps in batches of one kind, and
    makes a map's score depend on the others of its batch. Spectral norm would change the state in
    every forward pass, and told discs from blurred discs more slowly, while the gradient it handed
    to a map was of the same size.

    Parameters: 172 657.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(_CHANNELS):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(_CHANNELS[-1], 1)

    def forward(self, saliency: Tensor) -> Tensor:
        """Return logits (B, 1) that maps (B, 1, H, W) in [0, 1] are masks; H and W at least 32."""
        return self.linear(self.layers(saliency).mean((2, 3)))
