"""Which images of the pool a round reads, and when."""

from __future__ import annotations

import dataclasses
import shutil
import threading

import pytest

import active_learning.query as query
from active_learning.maps import pool_maps
from active_learning.query import Pool
from datasets.cache import ResizedImages
from tests.active_learning.rounds.world import CPU, SmallNet, give_snapshots, run_of, trial
from utils import distributed
from utils.errors import UserError

IMAGES = 9
"""In the pool of `world`."""


@pytest.fixture
def read(monkeypatch):
    """The places of the images that were decoded, as they were."""
    places, decode = [], ResizedImages.decode

    def spy(self, index):
        places.append(index)
        return decode(self, index)

    monkeypatch.setattr(ResizedImages, "decode", spy)
    return places


@pytest.fixture
def config(world, asked, small, tmp_path, monkeypatch):
    """Settings of a trial that is to be asked its round 2, two images at a time; one is shown."""
    config = trial(world, tmp_path, batch_size=2)
    shutil.copytree(asked, config.run_folder)
    give_snapshots(world, config, 1)
    monkeypatch.setattr(query, "SHEET_IMAGES", 1)
    return config


def test_what_a_draft_holds_is_not_read_again(config, read, monkeypatch):
    monkeypatch.setattr(query, "forget", lambda folder: None)
    Pool(config).choose_uncertain(2, CPU)
    assert sorted(read) == list(range(IMAGES))
    questions = run_of(config).questions("points", 2)
    whole = questions.read_bytes()
    questions.unlink()
    draft = questions.parent / "choosing_0.jsonl"
    lines = draft.read_bytes().splitlines(keepends=True)
    draft.write_bytes(b"".join(line for line in lines if b"portrait.png" not in line))
    read.clear()
    Pool(config).choose_uncertain(2, CPU)
    assert questions.read_bytes() == whole
    # Image 0 is shown, and 4 was lacking.
    assert sorted(read) == [0, 1, 4, 5]


def test_a_process_reads_its_own_share(config, read, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(query, "gather_objects", lambda value: [value])
    Pool(config).choose_uncertain(2, CPU)
    assert sorted(read) == [2, 3, 6, 7]


def test_only_what_is_read_more_than_once_is_kept(config):
    kept = dataclasses.replace(config, grouped=True, relation="gam")
    assert (Pool(config).cache_mb, Pool(kept).cache_mb) == (0, config.cache_mb)


def test_the_next_batch_is_read_while_this_one_is_looked_at(world, config, monkeypatch):
    """And no more than that; what cannot be read is told where it would be looked at."""
    begun, third = [], threading.Event()
    samples, decode = Pool(config).samples, ResizedImages.decode

    def spy(self, index):
        begun.append(index)
        if index == 3:
            third.set()
        if index == 4:
            raise UserError("the fifth cannot be read")
        return decode(self, index)

    monkeypatch.setattr(ResizedImages, "decode", spy)
    images = ResizedImages(samples, config.size, 0, "pool")
    maps_of = pool_maps(images, [SmallNet(0).eval()], config, CPU, "round 2")
    assert next(maps_of)[0] == 0
    assert third.wait(20)
    assert sorted(begun) == [0, 1, 2, 3]
    assert [next(maps_of)[0] for _ in range(3)] == [1, 2, 3]
    with pytest.raises(UserError, match="the fifth"):
        next(maps_of)
