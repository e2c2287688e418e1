"""What a training reads: images with the labels that stand at their pixels."""

from __future__ import annotations

import atexit
import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice, pairwise
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from datasets.augment import (
    NONE,
    Augmentation,
    change_colours,
    move,
    random_map,
    resize,
    resize_map,
    warp,
)
from datasets.cache import ResizedImages, ResizedMasks
from datasets.groups import Groups, GroupSampler
from datasets.points import count_labels
from datasets.superpixels import UNLABELLED
from utils import stopping
from utils.distributed import rows
from utils.errors import UserError
from utils.seeding import generator_for


class Labels(Protocol):
    """Where labels come from: masks, points, or points with label maps."""

    def at(self, index: int, affine: np.ndarray) -> np.ndarray:
        """Return uint8 (2, size, size): background (0) and foreground (1) labels at each pixel.

        Args:
            index: image of the set.
            affine: the augmentation's map (3, 3) of the size x size grid.
        """


class MaskLabels:
    """Dense masks: every pixel is labelled once."""

    def __init__(self, masks: ResizedMasks) -> None:
        self.masks = masks

    def at(self, index: int, affine: np.ndarray) -> np.ndarray:
        """See `Labels.at`."""
        foreground = warp(self.masks[index], affine) >= 128
        return np.stack([~foreground, foreground]).astype(np.uint8)


class PointLabels:
    """Points, and optionally the label maps that spread them over their superpixels."""

    def __init__(
        self,
        points: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        size: int,
        label_maps: Iterable[np.ndarray] | None = None,
    ) -> None:
        """Keep the points (K, 3) of x, y, label and own (width, height) of each image.

        Label maps are uint8 at the images' own size: 255 foreground, 0 background, 128 unlabelled;
        they are sampled as they come, and not kept.
        """
        self.points = points
        self.sizes = sizes
        self.size = size
        # A label map covers areas, so it may be sampled at the grid's pixel centres; the points
        # themselves are never resized, but counted on top of it.
        self.maps = None
        if label_maps is not None:
            self.maps = [sample_grid(label_map, size) for label_map in label_maps]

    def at(self, index: int, affine: np.ndarray) -> np.ndarray:
        """See `Labels.at`."""
        points = self.points[index]
        width, height = self.sizes[index]
        pixels = move(points[:, :2], affine @ resize_map(width, height, self.size))
        labels = count_labels(points, pixels, self.size)
        if self.maps is not None:
            spread = warp(self.maps[index], affine, nearest=True)
            free = labels.sum(axis=0) == 0
            labels[1] += free & (spread > UNLABELLED)
            labels[0] += free & (spread < UNLABELLED)
        return labels


def sample_grid(pixels: np.ndarray, size: int) -> np.ndarray:
    """Take the pixel (H, W) that lies under the centre of each cell of the size x size grid."""
    height, width = pixels.shape[:2]
    centres = np.arange(size) + 0.5
    rows = np.minimum((centres * height / size).astype(np.int64), height - 1)
    columns = np.minimum((centres * width / size).astype(np.int64), width - 1)
    return pixels[rows[:, None], columns[None, :]]


class Batch(NamedTuple):
    """What one step of a training gets, on the CPU.

    Attributes:
        images: uint8 (B, 3, size, size).
        labels: uint8 (B, 2, size, size).
        indices: int64 (B,), the images' places in the set.
        classes: int64 (B,), class ids (`datasets.groups.Groups`); 0 in training without groups.
        pseudo: uint8 (B, size, size), pseudo labels, 255 for foreground; None: there are none.
        place: which images of the step's batch these are, where other processes have the others;
            None: they are all.
        all_classes: (B',), classes of all images of the step's batch; None: as above.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    classes: torch.Tensor
    pseudo: torch.Tensor | None = None
    place: range | None = None
    all_classes: torch.Tensor | None = None

    @property
    def groups(self) -> tuple[int, ...]:
        """Images of each group of the step's batch in turn, e.g. (8, 6); without groups (B,)."""
        classes = self.classes if self.all_classes is None else self.all_classes
        return tuple(len(list(run)) for _, run in groupby(classes.tolist()))

    def parts(self, count: int) -> list[Batch]:
        """Cut the batch into at most ``count`` parts of nearly one size."""
        size = len(self.images)
        if count == 1:
            return [self]
        ends = [size * part // count for part in range(count + 1)]
        return [self._cut(slice(*pair)) for pair in pairwise(ends) if pair[0] < pair[1]]

    def _cut(self, piece: slice) -> Batch:
        tensors = (self.images, self.labels, self.indices, self.classes, self.pseudo)
        return Batch(*(None if whole is None else whole[piece] for whole in tensors))


class Item(NamedTuple):
    """One image as a training reads it; see `Batch`, of which it is a row."""

    image: torch.Tensor
    labels: torch.Tensor
    index: int
    pseudo: torch.Tensor | None


class TrainingSet(Dataset):
    """Augmented images with their labels; keyed by (epoch, index), and fixed by them alone.

    Args:
        images: the images.
        labels: their labels.
        augmentation: how both are changed.
        seed: another seed, other changes.
        pseudo: uint8 (N, s, s), pseudo labels of any size, 255 for foreground; may be changed
            between epochs where it lies in shared memory. None: none are read.
    """

    def __init__(
        self,
        images: ResizedImages,
        labels: Labels,
        augmentation: Augmentation,
        seed: int,
        pseudo: torch.Tensor | None = None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.augmentation = augmentation
        self.seed = seed
        self.pseudo = pseudo

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        rng = generator_for(self.seed, "augmentation", epoch, index)
        image, affine = self.images[index], np.eye(3)
        if self.augmentation != NONE:
            affine = random_map(self.augmentation, self.images.size, rng)
            image = change_colours(warp(image, affine), self.augmentation, rng)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        pseudo = None
        if self.pseudo is not None:
            grown = resize(self.pseudo[index].numpy(), self.images.size)
            pseudo = torch.from_numpy(warp(grown, affine))
        return Item(pixels, torch.from_numpy(self.labels.at(index, affine)), index, pseudo)


@contextlib.contextmanager
def loader_faults() -> Iterator[None]:
    """Tell in one line what a loader wants of the machine, whenever in the block it shows.

    Raises:
        UserError: shared memory is full, or a process of the loader was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if "shared memory" in str(error):
            raise UserError(
                "/dev/shm: no shared memory is left for decoded images and batches: run the same "
                "command again with --workers 0 and --cache_mb 0, or with more of it (docker run "
                "--shm-size 8g; the epochs before are kept)"
            ) from None
        # What a process itself raises is a fault of ours, and "Caught ... in DataLoader worker".
        if "DataLoader worker (pid" not in str(error):
            raise
        raise UserError(
            "a process that prepares batches was killed, most likely for want of memory: run the "
            "same command again with fewer --workers (the epochs before are kept)"
        ) from None


class EpochSampler(Sampler):
    """Batches of (epoch, index) keys in an order fixed by seed and epoch."""

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self.length = length
        self.batch_size = min(batch_size, length)
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.length // self.batch_size

    @property
    def smallest(self) -> int:
        """Images that every batch has."""
        return self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = generator_for(self.seed, "order", self.epoch).permutation(self.length)
        # The images of an incomplete last batch are left to other epochs, whose orders differ.
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield [(self.epoch, int(index)) for index in chosen]


class SharedSampler(Sampler):
    """The batches of an epoch from one of them on, and of each the images of this process.

    Attributes:
        plan: the sampler of whole batches.
        start: how many batches of the epoch are left out, being done.
    """

    def __init__(self, plan: EpochSampler | GroupSampler) -> None:
        self.plan = plan
        self.start = 0

    @property
    def epoch(self) -> int:
        """Whose batches these are; set before each epoch."""
        return self.plan.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.plan.epoch = epoch

    def __len__(self) -> int:
        return len(self.plan)

    def to_come(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the whole batches, those of all processes."""
        return islice(self.plan, self.start, None)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for keys in self.to_come():
            place = rows(len(keys))
            yield keys[place.start : place.stop]


def make_loader(
    dataset: TrainingSet,
    batch_size: int,
    seed: int,
    workers: int,
    pin_memory: bool,
    groups: Groups | None = None,
) -> tuple[DataLoader, SharedSampler]:
    """Return the loader of `Batch` and its sampler, whose ``epoch`` is set before each epoch.

    With the groups of the data set's images, each batch holds images of two groups.

    Raises:
        UserError: the groups cannot be trained on, see `datasets.groups.GroupSampler`.
    """
    plan: EpochSampler | GroupSampler
    if groups is None:
        plan = EpochSampler(len(dataset), batch_size, seed)
        classes = torch.zeros(len(dataset), dtype=torch.int64)
    else:
        plan = GroupSampler(groups, batch_size, seed)
        classes = torch.from_numpy(groups.classes)
    sampler = SharedSampler(plan)
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        collate_fn=partial(_collate, classes),
        worker_init_fn=stopping.ignore,
        # Its own: else how often it draws from the global one would depend on the workers.
        generator=torch.Generator().manual_seed(seed),
    )
    atexit.register(_end_workers, weakref.ref(loader))
    return loader, sampler


def _end_workers(loader: Callable[[], DataLoader | None]) -> None:
    """End a loader's processes at exit, where an error's traceback still holds the loader.

    Python would end them by SIGTERM, which they leave to this process, and wait for ever.
    """
    iterator = getattr(loader(), "_iterator", None)
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


def _collate(classes: torch.Tensor, items: list[Item]) -> Batch:
    images, labels, numbers, pseudo = zip(*items, strict=True)
    indices = torch.tensor(numbers)
    maps = None if pseudo[0] is None else torch.stack(pseudo)
    batch = Batch(torch.stack(images), torch.stack(labels), indices, classes[indices], maps)
    if get_worker_info() is not None:
        # Here, where it is raised if there is no more: the thread that hands batches on would drop
        # this one, and the training would wait for it for ever.
        for tensor in batch:
            if tensor is not None:
                tensor.share_memory_()
    return batch
