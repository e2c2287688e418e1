"""Spatio-temporal ensembles: snapshots of one training run, and neighbouring pixels that vote.

Their rival, several trainings from different seeds, is the deep ensemble of Lakshminarayanan et
al., "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from active_learning.attacks import frozen
from utils.errors import UserError
from utils.run_folder import RunFolder, list_snapshots


def ensemble_files(run: RunFolder, round_index: int, kind: str, count: int) -> list[Path]:
    """Return the weights of the networks to ask, the newest (which is attacked) last.

    Args:
        run: the trial's folder.
        round_index: the round of the points arm that trained them.
        kind: ``snapshots``, those along the round's own training; ``newest``, the last of these
            alone; or ``deep``, the last weights of ``count`` trainings from different seeds, the
            newest of which is the round's own.
        count: snapshots of a training, or members of a deep ensemble.

    Raises:
        UserError: there are no snapshots, or some or a member are missing; names it.
    """
    if kind == "deep":
        members = reversed(range(count))
        files = [run.checkpoint("points", round_index, "last", member) for member in members]
        if missing := [path for path in files if not path.exists()]:
            raise UserError(
                f"{missing[0]}: a member of the ensemble is missing: delete "
                f"{run.trained('points', round_index)} and train round {round_index} again"
            )
        return files
    folder = run.snapshots("points", round_index)
    files = list_snapshots(folder)
    if not files:
        raise UserError(f"{folder}: no snapshots: train round {round_index} first")
    if len(files) < count:
        raise UserError(
            f"{folder}: only {len(files)} of {count} snapshots: delete "
            f"{run.checkpoint('points', round_index, 'best')} and train round {round_index} again"
        )
    return files[-1:] if kind == "newest" else files


class Predicted(NamedTuple):
    """What some networks say of a batch.

    Attributes:
        maps: (T, B, H, W) float32 probabilities of the salient class.
        last: all that the last of them says, as it returned it.
    """

    maps: Tensor
    last: Any


def predict_snapshots(models: Iterable[nn.Module], images: Tensor) -> Predicted:
    """Predict the saliency maps of every snapshot, in eval mode and without gradients.

    Args:
        models: T snapshots or members; an iterator that loads one at a time keeps only one in
            memory. Each maps RGB (B, 3, H, W) in [0, 1] to an object with ``logits`` (B, 1, H, W),
            and is left as it was found.
        images: (B, 3, H, W) float in [0, 1].

    Raises:
        ValueError: there is no snapshot.
    """
    maps, last = [], None
    for model in models:
        with torch.no_grad(), frozen(model):
            last = model(images)
        maps.append(last.logits.float().squeeze(1).sigmoid())
    if not maps:
        raise ValueError("an ensemble needs at least one snapshot")
    return Predicted(torch.stack(maps), last)


def neighbour_vote(
    prob: Tensor, image: Tensor | None, kernel: int, colour_sigma: float = 0.1
) -> Tensor:
    """Average every pixel with its kernel x kernel neighbours, weighted by likeness of colour.

    Pixel j votes for pixel i with weight ``exp(-|rgb_i - rgb_j|^2 / (2 colour_sigma^2))``, so that
    votes do not cross the border of an object. At the image's border only the neighbours inside
    the image vote.

    Args:
        prob: (..., H, W) float, for instance (T, B, H, W).
        image: (B, 3, H, W) RGB in [0, 1], B broadcasting against the last leading dimension of
            ``prob``; None weighs all neighbours alike.
        kernel: odd side of the neighbourhood; 1 returns ``prob`` unchanged.
        colour_sigma: scale of the colour distance, in units of the [0, 1] range.

    Returns:
        Shape and dtype of ``prob``; every value lies, up to rounding, between the smallest and the
        largest of its neighbourhood.

    Raises:
        UserError: ``kernel`` is even or below 1, or ``colour_sigma`` is not above 0.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise UserError(f"neighbourhood of {kernel} pixels: give an odd number, 1 for none")
    if image is not None and not colour_sigma > 0:
        raise UserError(f"colour sigma {colour_sigma}: give a number above 0")
    if kernel == 1:
        return prob
    height, width = prob.shape[-2:]
    # Differences to the pixel's own value are summed, so that a constant map is kept exactly.
    change = torch.zeros_like(prob)
    weights = torch.ones_like(prob if image is None else image[:, 0])
    for down in _offsets(kernel, height):
        for right in _offsets(kernel, width):
            if down == right == 0:
                continue  # the pixel's own vote: no change, and the weight of 1 set above
            here = (..., _inside(-down, height), _inside(-right, width))
            there = (..., _inside(down, height), _inside(right, width))
            weight = 1.0
            if image is not None:
                distance = (image[here] - image[there]).square().sum(1)
                weight = torch.exp(-distance / (2 * colour_sigma**2))
            change[here] += weight * (prob[there] - prob[here])
            weights[here] += weight
    return prob + change / weights


def _offsets(kernel: int, size: int) -> range:
    reach = min(kernel // 2, size - 1)
    return range(-reach, reach + 1)


def _inside(offset: int, size: int) -> slice:
    """Return the indices i of an axis for which ``i - offset`` lies inside too."""
    return slice(max(offset, 0), size + min(offset, 0))
