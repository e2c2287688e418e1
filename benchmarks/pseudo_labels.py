"""How wrong are the pseudo labels, and what does each of their parts do about it?

    python benchmarks/pseudo_labels.py --trial T --round 1 --images 180

Of a trial whose round is asked: the pseudo labels that its training begins with, made by the
snapshots of the round before and the answers so far, with more and more of their parts, cut in
either way, and without each part, beside the masks. In the last line the images whose map and cut
have little in common have grey labels (``--pseudo_trust``), which are counted at one half: the last
columns tell how many have cut ones, and the IoU of either kind. Masks are opened to count wrong
pixels; no training sees the result.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from active_learning.cutting import can_smooth
from active_learning.self_training import Taught, Teacher, look_size
from datasets.augment import resize
from datasets.cache import ResizedImages, ResizedMasks
from datasets.groups import images_together
from datasets.images import native_sizes
from datasets.round_labels import read_point_labels
from datasets.training import Labels
from utils import settings
from utils.device import choose_machine
from utils.errors import run_script
from utils.run_folder import RunFolder
from utils.tables import text_table

FAR = 4
"""Pixels from the mask's outline beyond which a wrong pixel is no matter of where the edge runs."""

COLUMNS = (
    "pseudo labels",
    "wrong %",
    f"wrong {FAR} px off the outline %",
    "IoU",
    "cut %",
    "IoU of cut",
    "IoU of grey",
)


class Some:
    """The labels of some of the images.

    Args:
        labels: of all.
        indices: places of these images.
    """

    def __init__(self, labels: Labels, indices: Sequence[int]) -> None:
        self.labels, self.indices = labels, indices

    def at(self, index: int, matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
        """See `datasets.training.Labels`."""
        return self.labels.at(self.indices[index], matrix)


def ways_of(taught: Taught, size: int) -> dict[str, Taught]:
    """Return how pseudo labels are made, by name: part after part, then without each part.

    Args:
        taught: all parts.
        size: side of the images that are not enlarged.
    """
    taught, trusting = dataclasses.replace(taught, trust=0.0), taught
    other = "smoothing" if taught.cut_by == "grabcut" else "grabcut"
    others = {f"... by {other}": dataclasses.replace(taught, cut_by=other)}
    uncut = dataclasses.replace(taught, cut=False)
    agreed = dataclasses.replace(uncut, colours=False)
    plain = dataclasses.replace(agreed, side=size, agree=False)
    return {
        "the snapshots' map at one half": plain,
        "+ of enlarged images": dataclasses.replace(plain, side=taught.side),
        "+ in agreement with the answers": agreed,
        "+ corrected by colours": uncut,
        f"+ cut ({taught.cut_by})": taught,
        **(others if other == "grabcut" or can_smooth() else {}),
        "all but enlarging": dataclasses.replace(taught, side=size),
        "all but agreement": dataclasses.replace(taught, agree=False),
        "all but colours": dataclasses.replace(taught, colours=False),
        "all, of the newest snapshot alone": dataclasses.replace(taught, snapshots=1),
        "all, grey where map and cut differ": trusting,
    }


def faults(found: NDArray[np.bool_], mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return the share of wrong pixels, that of those far from the outline, and the IoU.

    Args:
        found: (S, S), the pseudo label.
        mask: (S, S).
    """
    wrong = found != mask
    off = off_outline(mask)
    either = (found | mask).sum()
    overlap = (found & mask).sum() / either if either else 1.0
    return float(wrong.mean()), float((wrong & (off > FAR)).mean()), float(overlap)


def off_outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how far each pixel is from the mask's outline, in pixels; infinite without one."""
    off = np.full(mask.shape, np.inf)
    for side in (mask, ~mask):
        if not side.all():
            distance = cv2.distanceTransform(side.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
            off[side] = distance[side]
    return off


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return ``count`` places of ``total``, all if there are no more, from first to last."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()


def faults_of(teacher: Teacher, masks: ResizedMasks) -> NDArray[np.float64]:
    """Return the `faults` of each image's pseudo label, (N, 3), beside its mask."""
    size = masks[0].shape[0]
    labels = teacher.maps.numpy()
    maps = (resize(label, size) if teacher.size != size else label for label in labels)
    return np.array([faults(label >= 128, masks[at] >= 128) for at, label in enumerate(maps)])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; see the module's text."""

    def extend(parser: Any) -> None:
        parser.add_argument("--round", type=int, default=1, help="round that is to be trained")
        parser.add_argument("--images", type=int, default=180, help="images, evenly spaced")

    config, args = settings.parse(argv, __doc__, extend)
    settings.check_round(config, args.round, first=1)
    machine = choose_machine(config.device, config.precision)
    run = RunFolder(config.run_folder)
    samples = settings.training_images(config)[0]
    taught = dataclasses.replace(Taught.of(config), agree=True, colours=True, cut=True)
    size = look_size(native_sizes(samples), config)
    points = read_point_labels(
        run, "points", args.round, samples, size, config.label_mode, config.superpixels
    )
    chosen = evenly_spaced(len(samples), args.images)
    samples = [samples[index] for index in chosen]
    images = ResizedImages(samples, size, config.cache_mb, "training")
    masks = ResizedMasks(samples, config.size, config.cache_mb, "training")
    together = images_together(samples, config.grouped)
    own = run.snapshots("points", args.round)
    earlier = run.snapshots("points", config.trained_before(args.round))
    lines = []
    for name, how in ways_of(taught, config.size).items():
        labels = Some(points, chosen)
        teacher = Teacher(images, labels, together, config.batch_size, own, earlier, how)
        teacher.look(0, machine)
        found = faults_of(teacher, masks)
        wrong, far, overlap = found.mean(axis=0)
        trusted = teacher.trusted.numpy()
        line = [name, f"{100 * wrong:.2f}", f"{100 * far:.2f}", f"{overlap:.4f}"]
        line.append(f"{100 * trusted.mean():.1f}")
        for some in (trusted, ~trusted):
            line.append(f"{found[some, 2].mean():.4f}" if some.any() else "-")
        lines.append(line)
    print(text_table(COLUMNS, lines))
    return 0


if __name__ == "__main__":
    run_script(main)
