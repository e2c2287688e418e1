"""What do questions do for pseudo labels? Points asked in several ways, from the same networks.

    python benchmarks/asked_labels.py --trial T --images 90

Of a trial whose first round is trained: as many more points as its second round asks are chosen in
each way of `WAYS` (fields of config.py, and how many points at a time), answered by the masks, and
the pseudo labels that follow are counted as in pseudo_labels.py. Points asked at a time know the
answers before them. A way costs a look at the images for each time, not a training: it tells ways
of asking apart where scores, in which trainings differ by chance, cannot. Masks are opened to
answer and to count; no training sees the result.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from active_learning.choosing import choose_by
from active_learning.ensembles import ensemble_files
from active_learning.maps import Maps, pool_maps
from active_learning.selection import random_pixels
from active_learning.self_training import Taught, Teacher, look_size
from benchmarks.label_arms import ARMS
from benchmarks.pseudo_labels import FAR, evenly_spaced, faults_of
from config import Config
from datasets.cache import ResizedImages, ResizedMasks
from datasets.groups import images_together
from datasets.images import native_sizes, read_mask
from datasets.index import Sample
from datasets.points import read_answers
from datasets.superpixels import SuperpixelCache
from datasets.training import PointLabels
from models.saliency_net import SaliencyNet
from models.stored import load_model
from utils import settings
from utils.device import Machine, choose_machine
from utils.errors import UserError, run_script
from utils.run_folder import RunFolder
from utils.seeding import generator_for
from utils.tables import text_table


@dataclass(frozen=True)
class Way:
    """A way of asking.

    Attributes:
        fields: of `Config`, that differ from the trial's; None: random pixels.
        at_a_time: points of an image that are asked before their answers are looked at; 0: all.
    """

    fields: dict[str, Any] | None
    at_a_time: int = 0


WAYS: dict[str, Way] = {
    "random": Way(None),
    "entropy's top": Way(ARMS["entropy"].settings),
    "balanced entropy's top": Way(ARMS["balent"].settings),
    "aste": Way(ARMS["aste"].settings),
    "ours, cells that cover by features": Way(ARMS["facility"].settings),
    "ours, most uncertain cells": Way({"diversity": "top_k"}),
    "ours, superpixels": Way({"candidates": "superpixels"}),
    "ours, images as they are": Way(ARMS["not_enlarged"].settings),
    "ours, whatever was answered": Way(ARMS["no_ask_agree"].settings),
    "ours, attacked images, too": Way(ARMS["attacked"].settings),
    "ours by shift under attack": Way({"attack": "pgd", "acquisition": "adversarial_shift"}),
    "ours by entropy": Way({"acquisition": "entropy"}),
    "ours": Way({}),
    "ours, two at a time": Way({}, 2),
    "ours, one at a time": Way({}, 1),
}

COLUMNS = ("asked by", "wrong %", f"wrong {FAR} px off the outline %", "IoU", "foreground %")
COLUMNS += ("without an answer on the object %",)


class Asked:
    """Some training images, and what is known of them.

    Args:
        config: the trial's settings.
        count: how many images, evenly spaced.
        machine: where to compute.

    Raises:
        UserError: the first round is not there, or not trained.
    """

    def __init__(self, config: Config, count: int, machine: Machine) -> None:
        self.config, self.machine, self.run = config, machine, RunFolder(config.run_folder)
        samples = settings.training_images(config)[0]
        known = read_answers(self.run.answers("points", 1), samples, self.run.ledger)
        chosen = evenly_spaced(len(samples), count)
        self.samples: list[Sample] = [samples[at] for at in chosen]
        self.known = [known[at] for at in chosen]
        self.sizes = native_sizes(self.samples)
        self.images = ResizedImages(self.samples, config.size, config.cache_mb, "training")
        self.masks = ResizedMasks(self.samples, config.size, config.cache_mb, "training")
        self.regions = SuperpixelCache(self.run.superpixels, config.superpixels)
        files = ensemble_files(self.run, 0, "snapshots", config.snapshots)
        self.networks: list[SaliencyNet] = [
            load_model(path, machine)[0].requires_grad_(False) for path in files
        ]

    def more(self, way: Way, count: int) -> list[np.ndarray]:
        """Return the known points and ``count`` more of each image, asked in a way."""
        points, left = list(self.known), count
        while left:
            now = min(left, way.at_a_time or left)
            key, left = f"{left} points left", left - now
            chosen = self._random(points, now, key)
            if way.fields is not None:
                config = dataclasses.replace(self.config, **way.fields)
                chosen = self._asked(config, points, now, key)
            for index, pixels in chosen:
                points[index] = np.concatenate([points[index], self._answered(index, pixels)])
        return points

    def labels(self, points: Sequence[np.ndarray], size: int) -> PointLabels:
        """Return the points as labels of the images, on a grid of a size."""
        return PointLabels(points, self.sizes, size)

    def _random(
        self, points: Sequence[np.ndarray], count: int, key: str
    ) -> Iterator[tuple[int, np.ndarray]]:
        for index, sample in enumerate(self.samples):
            rng = generator_for(self.config.seed, key, sample.name)
            taken = map(tuple, points[index][:, :2].tolist())
            yield index, random_pixels(*self.sizes[index], taken, count, rng)

    def _asked(
        self, config: Config, points: Sequence[np.ndarray], count: int, key: str
    ) -> Iterator[tuple[int, np.ndarray]]:
        labels = self.labels(list(points), self.config.size)
        answers = partial(labels.at, affine=np.eye(3)) if config.ask_agree else None
        found = pool_maps(self.images, self.networks, config, self.machine, key, answers=answers)
        for index, maps in found:
            yield index, self._chosen(config, index, maps, points[index], count, key)

    def _chosen(
        self, config: Config, index: int, maps: Maps, points: np.ndarray, count: int, key: str
    ) -> np.ndarray:
        sample = self.samples[index]
        rng = generator_for(config.seed, key, sample.name)
        return choose_by(config, maps, self.regions(sample), points, count, rng).pixels

    def _answered(self, index: int, pixels: np.ndarray) -> np.ndarray:
        mask = read_mask(self.samples[index].mask)
        return np.column_stack([pixels, mask[pixels[:, 1], pixels[:, 0]].astype(np.int64)])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; see the module's text."""

    def extend(parser: Any) -> None:
        """Add the benchmark's own arguments."""
        parser.add_argument("--images", type=int, default=90, help="images, evenly spaced")

    config, args = settings.parse(argv, __doc__, extend)
    if config.rounds < 2 or config.label_mode != "pixel":
        raise UserError("give a trial of two rounds or more, whose answers label pixels")
    asked = Asked(config, args.images, choose_machine(config.device, config.precision))
    together = images_together(asked.samples, config.grouped)
    taught = dataclasses.replace(Taught.of(config), trust=0.0)
    size = look_size(asked.sizes, config)
    images = ResizedImages(asked.samples, size, config.cache_mb, "training")
    no_folder = asked.run.root / "no such folder"
    lines = []
    for name, way in WAYS.items():
        points = asked.more(way, config.schedule[1])
        teacher = Teacher(
            images,
            asked.labels(points, images.size),
            together,
            config.batch_size,
            own=no_folder,
            earlier=asked.run.snapshots("points", 0),
            how=taught,
        )
        teacher.look(0, asked.machine)
        wrong, far, overlap = faults_of(teacher, asked.masks).mean(axis=0)
        new = np.concatenate(
            [of[len(known) :, 2] for of, known in zip(points, asked.known, strict=True)]
        )
        missed = np.mean([not of[:, 2].any() for of in points])
        shares = [f"{100 * share:.2f}" for share in (wrong, far)]
        lines.append(
            [name, *shares, f"{overlap:.4f}", f"{100 * new.mean():.0f}", f"{100 * missed:.1f}"]
        )
    print(text_table(COLUMNS, lines))
    return 0


if __name__ == "__main__":
    run_script(main)
