"""Answers from a plain folder of masks, for questions that no person has answered yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from datasets.images import image_size
from datasets.index import Sample
from datasets.masks import mask_of_image
from datasets.points import Pixel
from utils.errors import UserError


def answers_of_masks(
    folder: Path, asked: Mapping[str, Iterable[tuple[int, int]]], samples: Iterable[Sample]
) -> Iterator[tuple[Pixel, bool]]:
    """Yield every asked pixel whose image has a mask, and whether it lies on the object.

    The mask of ``<name>.jpg`` is ``<name>.png`` in the folder, in its group's folder where the
    image is in one. Images without a mask are passed over.

    Args:
        folder: the masks.
        asked: (x, y) of the asked pixels of each image, by its name.
        samples: the images.

    Raises:
        UserError: the folder is none, a mask is damaged or of another size than its image, or a
            pixel lies outside.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: name the folder of the masks")
    known = {sample.name: sample for sample in samples}
    for image, pixels in asked.items():
        path = folder / PurePosixPath(image).with_suffix(".png")
        if image not in known or not path.exists():
            continue
        size = image_size(known[image].image)
        mask = mask_of_image(path, known[image].image, size)
        for x, y in pixels:
            if not (0 <= x < size[0] and 0 <= y < size[1]):
                raise UserError(
                    f"pixel ({x}, {y}) is asked about, outside {known[image].image} ({size[0]} x "
                    f"{size[1]}): put the picture of then back"
                )
            yield (image, x, y), bool(mask[y, x])
