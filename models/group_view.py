"""A network that looks at the images of one group, in pieces of any size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def view_group(model: SaliencyNet, pieces: Iterable[Tensor], soft: bool = False) -> GroupView:
    """Learn the consensus of a group from all its images, and return the network that knows it.

    Only the encoder runs, and only its coarsest maps are kept: some hundred kB an image.

    Args:
        model: in eval mode.
        pieces: the group's images, (B, 3, H, W) floats in [0, 1] each; not looked at when the
            network relates no images.
        soft: see `GroupView`.
    """
    return view_group_by([model], pieces, soft)[0]


@torch.no_grad()
def view_group_by(
    models: Sequence[SaliencyNet], pieces: Iterable[Tensor], soft: bool = False
) -> list[GroupView]:
    """Do as `view_group` for several networks, looking at each piece once."""
    tops: list[list[Tensor]] = [[] for _ in models]
    related = [model.parts.relation != "none" for model in models]
    for piece in pieces if any(related) else ():
        for model, kept, on in zip(models, tops, related, strict=True):
            if on:
                kept.append(model.top_features(piece))
    # A group none of whose pictures can be read has no consensus, and nothing to be shown.
    return [
        GroupView(model, model.group_consensus(torch.cat(kept)) if kept else None, soft)
        for model, kept in zip(models, tops, strict=True)
    ]
