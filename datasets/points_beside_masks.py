"""Labelled points beside the masks, after the fact: what lies there, and how far the border is.

For reports alone: nothing that asks or trains reads any of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from datasets.images import read_mask
from datasets.index import Sample
from datasets.masks import border_distance
from datasets.points import Pixel


class Truth(NamedTuple):
    """What a mask says of a pixel.

    Attributes:
        on_object: whether it lies on the object.
        distance: from its centre to that of the nearest pixel of the other kind, in pixels (1 at
            the border); infinite where the mask has one kind alone.
    """

    on_object: bool
    distance: float


def with_masks(samples: Iterable[Sample]) -> list[Sample]:
    """Return the images that have a mask."""
    return [sample for sample in samples if sample.mask.exists()]


def truths(
    pixels: Mapping[str, Iterable[tuple[int, int]]], samples: Sequence[Sample]
) -> dict[Pixel, Truth]:
    """Return what the masks say of pixels, (x, y) by the name of their image.

    Images without a mask, or not among ``samples``, and pixels outside the mask are left out.

    Raises:
        UserError: a mask is damaged.
    """
    known = {sample.name: sample for sample in samples}
    found = {}
    for image, places in pixels.items():
        if image not in known or not known[image].mask.exists():
            continue
        mask = read_mask(known[image].mask)
        distances = border_distance(mask)
        for x, y in places:
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]:
                found[image, x, y] = Truth(bool(mask[y, x]), float(distances[y, x]))
    return found
