"""Images and masks in memory as far as they fit, and read from disk where they do not."""

import numpy as np
import pytest
import torch

from datasets import cache
from datasets.cache import ResizedImages, ResizedMasks
from datasets.index import list_set
from utils.cores import core_count
from utils.stopping import Stopped

SIZE = 256
FIT = 5
"""Images of this size that a MiB holds."""


@pytest.fixture(scope="module")
def samples(sample_root):
    """Twice as many as fit."""
    return list_set(sample_root, "SAMPLE-TR")[: 2 * FIT]


@pytest.mark.parametrize("cache_mb", [1, 64])
def test_what_is_in_memory_equals_what_is_on_the_disk(samples, cache_mb):
    for kind in (ResizedImages, ResizedMasks):
        slow, fast = kind(samples, SIZE, 0, "test"), kind(samples, SIZE, cache_mb, "test")
        assert len(slow.cache) == 0 < len(fast.cache)
        for index in range(len(samples)):
            assert np.array_equal(slow[index], fast[index])
    slow, fast = (ResizedImages(samples, SIZE, size, "test") for size in (0, cache_mb))
    batch = fast.batch([6, 1])
    assert np.array_equal(batch[0].permute(1, 2, 0).numpy(), fast[6])
    assert torch.equal(batch, slow.batch([6, 1]))


def test_the_first_images_that_fit_are_decoded_once(samples, monkeypatch):
    read, decode = [], ResizedImages.decode

    def spy(self, index):
        read.append(index)
        return decode(self, index)

    monkeypatch.setattr(ResizedImages, "decode", spy)
    images = ResizedImages(samples, SIZE, 1, "test")
    assert sorted(read) == list(range(FIT))
    for _ in range(2):
        read.clear()
        for _ in images.batches([range(4), range(4, 2 * FIT)]):
            pass
        assert sorted(read) == list(range(FIT, 2 * FIT))


def test_a_signal_does_not_wait_until_all_images_are_decoded(samples, monkeypatch):
    begun = []

    def decode(self, index):
        begun.append(index)
        return np.zeros((8, 8, 3), np.uint8)

    def bar(work, *_):
        yield next(iter(work))
        raise Stopped

    monkeypatch.setattr(ResizedImages, "decode", decode)
    monkeypatch.setattr(cache, "track", bar)
    with pytest.raises(Stopped):
        ResizedImages(samples * 500, 8, 1, "test")
    assert len(begun) < 50 * core_count()
