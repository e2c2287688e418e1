"""A set's images at the network's size, decoded once as far as they fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from datasets.augment import resize
from datasets.images import read_image, read_mask
from datasets.index import Sample
from utils.background import in_background
from utils.cores import core_count
from utils.progress import track


class ResizedImages:
    """Images of a set as uint8 RGB (size, size, 3), by index.

    As many of the first as fit into ``cache_mb`` are decoded once, by several threads, into memory
    that loader processes share; the others are decoded at each access.
    """

    def __init__(self, samples: Sequence[Sample], size: int, cache_mb: int, what: str) -> None:
        self.samples = samples
        self.size = size
        shape = (len(samples), size, size, 3)
        self.cache = _decode_first(self.decode, shape, cache_mb, f"decoding {what} images")

    def decode(self, index: int) -> np.ndarray:
        """Read one image from disk."""
        return resize(read_image(self.samples[index].image), self.size)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.cache[index].numpy() if index < len(self.cache) else self.decode(index)

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Return images as uint8 (B, 3, size, size)."""
        (found,) = self.batches([indices])
        return found

    def batches(self, pieces: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """Yield each piece's images as `batch` does.

        While a network looks at them as many of the next ones are read as the largest piece has: no
        loader's process reads ahead for whoever asks for whole batches.
        """
        if len(self.cache) == len(self):
            for piece in pieces:
                yield self.cache[list(piece)].permute(0, 3, 1, 2)
            return
        indices = ((index,) for piece in pieces for index in piece)
        coming = in_background(self.__getitem__, indices, max(map(len, pieces), default=0))
        for piece in pieces:
            stack = np.stack([image for _, image in islice(coming, len(piece))])
            yield torch.from_numpy(stack).permute(0, 3, 1, 2)


class ResizedMasks:
    """Masks of a set as uint8 (size, size): the share of foreground in each pixel, 0 to 255."""

    def __init__(self, samples: Sequence[Sample], size: int, cache_mb: int, what: str) -> None:
        self.samples = samples
        self.size = size
        shape = (len(samples), size, size)
        self.cache = _decode_first(self.decode, shape, cache_mb, f"decoding {what} masks")

    def decode(self, index: int) -> np.ndarray:
        """Read one mask from disk."""
        return resize(read_mask(self.samples[index].mask).astype(np.uint8) * 255, self.size)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.cache[index].numpy() if index < len(self.cache) else self.decode(index)


def _decode_first(
    decode: Callable[[int], np.ndarray], shape: tuple[int, ...], cache_mb: int, what: str
) -> torch.Tensor:
    """Return as many of the first pictures, uint8, of a set of this shape as fit."""
    count, *each = shape
    count = min(count, cache_mb * 2**20 // math.prod(each))
    cache = torch.empty((count, *each), dtype=torch.uint8).share_memory_()
    target = cache.numpy()

    def fill(index: int) -> None:
        target[index] = decode(index)

    # Few are begun ahead of the bar: a signal need not wait for all.
    work = in_background(fill, zip(range(count)), 4 * core_count())
    for _ in track(work, what, count):
        pass
    return cache
