"""The sheet of a round: what was asked and why, beside images and masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.images import read_image, read_mask
from datasets.index import Sample
from datasets.points import by_image, read_points
from datasets.superpixels import spread
from utils.pictures import SheetRow


def read_sheet(samples: Sequence[Sample], numbers: Path, answers: Path) -> list[SheetRow]:
    """Return the rows of a round's sheet.

    Args:
        samples: the images of the training sets.
        numbers: what the round stored of some images (``sheet.npz``).
        answers: the points that it asked.

    Raises:
        UserError: an image, or a mask that is there, or the points cannot be read.
    """
    by_name = {sample.name: sample for sample in samples}
    points = read_points(answers)
    rows = []
    with np.load(numbers, allow_pickle=False) as stored:
        for row in range(sum(1 for key in stored.files if key.startswith("name_"))):
            shown = {
                name: stored[f"{name}_{row}"]
                for name in ("clean", "attacked", "scores", "candidates", "known")
                if f"{name}_{row}" in stored.files
            }
            sample = by_name[str(stored[f"name_{row}"])]
            new = by_image(points, [sample.name])[0]
            labels = spread(np.concatenate([shown["known"], new]), stored[f"regions_{row}"])
            mask = read_mask(sample.mask) if sample.mask.exists() else None
            image = read_image(sample.image)
            rows.append(SheetRow(image=image, mask=mask, new=new, labels=labels, **shown))
    return rows
