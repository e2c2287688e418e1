"""The oracle: the only part of active learning that may open a mask.

It answers for one pixel at a time and writes every question into a ledger, so that anyone can
count what a label budget bought. What it is not asked about, it does not tell. (People answer
elsewhere: `active_learning.people`.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from active_learning.mistakes import Mistakes
from datasets.images import image_size, write_png
from datasets.index import Sample
from datasets.masks import mask_of_image
from datasets.points import Pixel, Point, read_points, write_points
from datasets.superpixels import UNLABELLED

SPECK = 0.0005
"""A part of a mask with a smaller share of the image's pixels is no object that a person sees."""


class Oracle(Protocol):
    """Anyone who can label pixels: a simulation that reads masks, or people."""

    @property
    def people(self) -> Mapping[Pixel, tuple[str, float]] | None:
        """Who answered for an image, x and y, and the seconds it took; None: no people."""

    def prepare(self, sample: Sample, pixels: np.ndarray) -> None:
        """Do what can be done before these pixels are asked; many threads may, image by image."""

    def ask(self, sample: Sample, pixels: np.ndarray, round_index: int) -> list[Point]:
        """Return the labels of the asked pixels, (K, 2) of x and y in the image's own pixels.

        Those that cannot be told are left out.
        """

    def point_out(self, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        """Return pixels of the annotator's own choice, to be asked: on each object, and beside."""

    def save(self) -> None:
        """Put the ledger on disk."""


class MaskOracle:
    """Answers from masks, as a careful person would, or one who makes mistakes.

    The ledger has the form of a points file, in the order of the questions. A pixel that stands
    in it is answered from it, and not counted again: a round that was interrupted and begun anew
    costs nothing twice.
    """

    people = None

    def __init__(self, ledger: Path, mistakes: Mistakes | None = None) -> None:
        self.path, self.mistakes = ledger, mistakes
        answered = read_points(ledger) if ledger.exists() else []
        self.ledger = {(point.image, point.x, point.y): point for point in answered}
        self._prepared: dict[str, np.ndarray] = {}

    def prepare(self, sample: Sample, pixels: np.ndarray) -> None:
        """Read the mask, which is kept until the image is asked about, unless the ledger has all.

        Raises:
            UserError: as for `ask`.
        """
        if any(key not in self.ledger for key in _keys(sample, pixels)):
            self._prepared[sample.name] = _mask(sample)

    def ask(self, sample: Sample, pixels: np.ndarray, round_index: int) -> list[Point]:
        """See `Oracle.ask`.

        Raises:
            UserError: the mask is missing, unreadable, or of another size than its image.
        """
        keys = _keys(sample, pixels)
        new = [key for key in keys if key not in self.ledger]
        if new:
            mask = self._prepared.pop(sample.name, None)
            mask = _mask(sample) if mask is None else mask
            for key, said in zip(new, self._say(mask, sample.name, new), strict=True):
                if said is not None:
                    self.ledger[key] = Point(*key, int(said), round_index)
        told = (key for key in keys if key in self.ledger)
        return [self.ledger[key]._replace(round=round_index) for key in told]

    def _say(self, mask: np.ndarray, image: str, keys: Sequence[Pixel]) -> Sequence[bool | None]:
        if self.mistakes:
            return self.mistakes.say(image, mask, [(x, y) for _, x, y in keys])
        return [mask[y, x] for _, x, y in keys]

    def point_out(self, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        """Choose a pixel on each salient object, and one on the background.

        So a person annotates for PSOD (Gao et al., "Weakly-Supervised Salient Object Detection
        Using Point Supervision", AAAI 2022), and so the places themselves tell of the mask: how
        many objects there are, and where. An object is a connected part of the mask (its pixels
        touch, also by their corners); parts below `SPECK` of the image are left out, but for the
        largest where there are no others. Each pixel is drawn uniformly.

        Args:
            sample: the image.
            rng: the image's own generator: the same one leads to the same pixels.

        Returns:
            int64 (K, 2) of x and y, the background's last; K is at least 1. Not in the ledger
            before they are asked.

        Raises:
            UserError: as for `ask`.
        """
        mask = _mask(sample)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        area = stats[1:, cv2.CC_STAT_AREA]
        seen = area >= min(SPECK * mask.size, area.max(initial=0))
        groups = [parts == part for part in 1 + np.flatnonzero(seen)]
        groups += [] if mask.all() else [~mask]
        flat = np.array([rng.choice(np.flatnonzero(group)) for group in groups], np.int64)
        return np.stack([flat % mask.shape[1], flat // mask.shape[1]], axis=1)

    def save(self) -> None:
        """Write the ledger, whole or not at all."""
        write_points(self.path, self.ledger.values())


def _keys(sample: Sample, pixels: np.ndarray) -> list[Pixel]:
    return [(sample.name, int(x), int(y)) for x, y in pixels]


def _mask(sample: Sample) -> np.ndarray:
    return mask_of_image(sample.mask, sample.image, image_size(sample.image))


def leak_regions(
    sample: Sample, points: np.ndarray, regions: np.ndarray, folder: Path
) -> np.ndarray:
    """Label every pixel of the asked superpixels with the true mask, and store the label map.

    This is the protocol of the published code (label mode ``region_mask``). It leaks the mask, far
    more than ten answers, and is here only to compare with published numbers.

    Args:
        sample: the image.
        points: int (K, 2) of x and y, more columns are not looked at: all its points so far.
        regions: int (H, W) superpixels.
        folder: where the map is stored, as ``<image>.png``.

    Returns:
        uint8 (H, W): 255 foreground, 0 background, 128 unlabelled.

    Raises:
        UserError: the mask is missing, unreadable, or of another size than its image.
    """
    mask = mask_of_image(sample.mask, sample.image, (regions.shape[1], regions.shape[0]))
    asked = np.isin(regions, regions[points[:, 1], points[:, 0]])
    label_map = np.where(asked, mask.astype(np.uint8) * 255, np.uint8(UNLABELLED))
    write_png(folder / f"{sample.name}.png", label_map)
    return label_map
