"""The labels that rounds leave, where answers are spread over their superpixels."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest

import datasets.round_labels as round_labels
import utils.background as background
from datasets.index import Sample
from datasets.training import PointLabels
from utils.run_folder import RunFolder

COUNT, SIZE, OWN = 24, 4, (9, 7)


@pytest.mark.parametrize("mode", ["region", "region_mask"])
def test_of_label_maps_a_few_at_a_time_are_as_large_as_their_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    alive: weakref.WeakSet[Whole] = weakref.WeakSet()
    most = 0

    class Whole:
        """A label map that tells when it is gone."""

        def __init__(self, index: int) -> None:
            nonlocal most
            self.pixels = np.full(OWN[::-1], 255 * (index % 2), np.uint8)
            alive.add(self)
            most = max(most, len(alive))

    for module in (round_labels, background):
        monkeypatch.setattr(module, "core_count", lambda: 2)
    monkeypatch.setattr(round_labels, "SuperpixelCache", lambda *args: lambda sample: sample.name)
    monkeypatch.setattr(round_labels, "spread", lambda found, name: Whole(int(name)))
    monkeypatch.setattr(round_labels, "read_label_map", lambda path, shape: Whole(int(path.stem)))
    monkeypatch.setattr("datasets.training.sample_grid", lambda whole, size: whole.pixels[:4, :4])
    samples = [Sample(str(index), tmp_path, tmp_path, "S", "") for index in range(COUNT)]
    known = PointLabels([np.empty((0, 3), np.int64)] * COUNT, [OWN] * COUNT, 2 * SIZE)
    run = RunFolder(tmp_path)
    labels = round_labels.read_point_labels(run, "points", 0, samples, SIZE, mode, 30, known)
    for index in range(COUNT):
        background_labels, foreground = labels.at(index, np.eye(3))
        assert (background_labels == (index + 1) % 2).all()
        assert (foreground == index % 2).all()
    assert most <= 8
    assert not alive
