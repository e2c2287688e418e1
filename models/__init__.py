"""The saliency network and its backbones."""

from __future__ import annotations

import os

from models.backbones import BACKBONES, WeightReport, load_weights, require_weights
from models.saliency_net import NO_PARTS, Parts, Prediction, SaliencyNet

__all__ = [
    "BACKBONES",
    "Parts",
    "Prediction",
    "SaliencyNet",
    "WeightReport",
    "build_model",
    "load_weights",
    "require_weights",
]


def build_model(
    backbone: str,
    width: int = 64,
    weights: str | os.PathLike[str] = "none",
    parts: Parts = NO_PARTS,
) -> tuple[SaliencyNet, WeightReport]:
    """Build a saliency network and load its backbone's weights.

    Args:
        backbone: a name in `BACKBONES`.
        width: channels of the decoder.
        weights: ``"none"``, ``"default"`` or a file, see `load_weights`.
        parts: what it has beside encoder, decoder and head.

    Raises:
        UserError: no backbone has this name, or its weights could not be had.
    """
    model = SaliencyNet(backbone, width, parts)
    return model, load_weights(model.encoder, weights, backbone)
