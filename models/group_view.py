"""A network that looks at the images of one group, in pieces of any size."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.saliency_net import Prediction, SaliencyNet


class GroupView(nn.Module):
    """A network with the consensus of a group: its maps do not depend on how the group is cut.

    Args:
        model: the network.
        consensus: of the whole group, see `view_group`; None: images know nothing of each other.
        soft: show the soft logits of a binarised map as its logits. The binarised ones are all but
            black and white, so there is little uncertainty in them to be found.
    """

    def __init__(self, model: SaliencyNet, consensus: Tensor | None, soft: bool = False) -> None:
        super().__init__()
        self.model = model
        self.consensus = consensus
        self.soft = soft

    def forward(self, image: Tensor) -> Prediction:
        """Predict for some images of the group; see `SaliencyNet.forward`."""
        found = self.model(image, consensus=self.consensus)
        if self.soft and found.soft_logits is not None:
            found = found._replace(logits=found.soft_logits)
        return found


@torch.no_grad()
def view_group(model: SaliencyNet, pieces: Iterable[Tensor], soft: bool = False) -> GroupView:
    """Learn the consensus of a group from all its images, and return the network that knows it.

    Only the encoder runs, and only its coarsest maps are kept: some hundred kB an image.

    Args:
        model: in eval mode.
        pieces: the group's images, (B, 3, H, W) floats in [0, 1] each; not looked at when the
            network relates no images.
        soft: see `GroupView`.
    """
    if model.parts.relation == "none":
        return GroupView(model, None, soft)
    tops = [model.top_features(piece) for piece in pieces]
    # A group none of whose pictures can be read has no consensus, and nothing to be shown.
    return GroupView(model, model.group_consensus(torch.cat(tops)) if tops else None, soft)
