"""The sheet of a round: what was asked and why, beside images and masks."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.images import read_image, read_mask
from datasets.index import Sample, list_sets
from datasets.points import Point, by_image, check_points, named_sizes, read_points
from datasets.superpixels import spread
from utils.errors import UserError
from utils.pictures import SheetRow, draw_sheet
from utils.run_folder import RunFolder

SHOWN = ("clean", "attacked", "scores", "candidates", "known")
PARTS = ("name", "regions", *SHOWN)
MOST_BYTES = 2**30
"""Bytes that the numbers of a sheet's images may unpack to."""


def draw_round(run: RunFolder, index: int, data_root: str, trainset: str) -> Path | None:
    """Draw the sheet of a round of the points arm, unless it is there.

    Args:
        run: the trial's folder.
        index: the round.
        data_root, trainset: where its images are.

    Returns:
        The PNG; None where the round stored no numbers, or is not answered yet.

    Raises:
        UserError: as for `read_sheet`.
    """
    folder = run.training("points", index)
    numbers, sheet, asked = folder / "sheet.npz", folder / "sheet.png", run.points("points", index)
    if sheet.exists():
        return sheet
    if not (numbers.exists() and asked.exists()):
        return None
    draw_sheet(read_sheet(list_sets(data_root, trainset), numbers, asked), sheet)
    return sheet


def read_sheet(samples: Sequence[Sample], numbers: Path, answers: Path) -> list[SheetRow]:
    """Return the rows of a round's sheet.

    Args:
        samples: the images of the training sets.
        numbers: what the round stored of some images (``sheet.npz``).
        answers: the points that it asked.

    Raises:
        UserError: an image, or a mask that is there, or the points or numbers cannot be read.
    """
    by_name = {sample.name: sample for sample in samples}
    points = read_points(answers)
    try:
        rows = _stored_rows(numbers)
        shown = [by_name[str(stored["name"])] for stored in rows]
        check_points(points, dict.fromkeys(by_name) | named_sizes(shown), answers)
        return [_row(*row, points) for row in zip(rows, shown, strict=True)]
    except (UserError, MemoryError):
        raise
    except Exception as error:
        # What a damaged archive holds may be of any shape, and makes NumPy raise nearly anything.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{numbers}: damaged ({reason}): delete it; its round is then shown by no sheet"
        ) from None


def _stored_rows(numbers: Path) -> list[dict[str, np.ndarray]]:
    """Return the arrays of each image in a file of numbers."""
    with zipfile.ZipFile(numbers) as archive:
        if sum(part.file_size for part in archive.infolist()) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
    with np.load(numbers, allow_pickle=False) as stored:
        rows = sum(1 for key in stored.files if key.startswith("name_"))
        return [
            {part: stored[f"{part}_{row}"] for part in PARTS if f"{part}_{row}" in stored.files}
            for row in range(rows)
        ]


def _row(stored: dict[str, np.ndarray], sample: Sample, points: Sequence[Point]) -> SheetRow:
    new = by_image(points, [sample.name])[0]
    labels = spread(np.concatenate([stored["known"], new]), stored["regions"])
    mask = read_mask(sample.mask) if sample.mask.exists() else None
    shown = {name: stored[name] for name in SHOWN if name in stored}
    image = read_image(sample.image)
    if labels.shape != image.shape[:2]:
        raise ValueError(f"of another size than {sample.name}")
    return SheetRow(image=image, mask=mask, new=new, labels=labels, **shown)
