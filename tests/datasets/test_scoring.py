"""Scoring map files: each once, whatever happens in between, with any number of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import datasets.scoring as scoring
from datasets.maps import Pair
from datasets.scoring import WORTH_SHARING, mark_of, score_set
from utils.errors import UserError
from utils.metrics import METRICS, PARTS, SetScores, tally
from utils.metrics.conventions import CONVENTIONS
from utils.tallies import read_tallies

OURS = CONVENTIONS["pysodmetrics"]


def make_pairs(folder: Path, number: int, height: int = 20) -> list[Pair]:
    """Write maps and masks of growing width; return the pairs in order of name."""
    pairs = []
    for index in range(number):
        rng = np.random.default_rng(index)
        mask = np.zeros((height, 24 + index % 9), np.uint8)
        mask[4 : 12 + index % 5, 5:17] = 255
        noise = rng.integers(-80, 80, mask.shape)
        saliency = np.clip(mask * 0.6 + 50 + noise, 0, 255).astype(np.uint8)
        names = [folder / kind / f"{index:04d}.png" for kind in ("maps", "masks")]
        for path, values in zip(names, (saliency, mask), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), values)
        pairs.append(Pair(names[0].name, *names))
    return pairs


def scored(pairs: list[Pair], log: Path, pool: ProcessPoolExecutor | None = None):
    return score_set(pairs, log, "pysodmetrics", PARTS, pool, "test")


def test_scores_are_those_of_the_arrays(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, 5)
    found = scored(pairs, tmp_path / "S.tally").scores(METRICS).result()
    expected = SetScores(OURS, METRICS)
    expected.add(
        np.array(
            [
                tally(np.array(Image.open(p.saliency)), np.array(Image.open(p.mask)), OURS, PARTS)
                for p in pairs
            ]
        )
    )
    assert found == expected.result()


def test_the_number_of_processes_does_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = make_pairs(tmp_path, WORTH_SHARING + 30)
    alone = scored(pairs, tmp_path / "alone.tally")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        shared = scored(pairs, tmp_path / "shared.tally", pool)
        monkeypatch.setattr(scoring, "score_task", refuse)
        again = scored(pairs, tmp_path / "shared.tally", pool)
    assert alone.tallies.tobytes() == shared.tallies.tobytes() == again.tallies.tobytes()
    assert alone.names == shared.names == [pair.name for pair in pairs]
    one, other = (kept.scores(METRICS) for kept in (alone, shared))
    assert one.result() == other.result()
    for name, curve in one.curves().items():
        np.testing.assert_array_equal(curve, other.curves()[name])


def refuse(*_: object) -> None:
    raise AssertionError("scored again")


def test_only_what_changed_is_scored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = make_pairs(tmp_path, 40)
    log = tmp_path / "S.tally"
    before = scored(pairs[:-2], log).tallies
    Image.open(pairs[7].mask).save(pairs[3].saliency)
    os.utime(pairs[9].mask, ns=(1, 1))
    done = []
    real = scoring.score_pair

    def noted(pair: Pair, *rest: object):
        done.append(pair.name)
        return real(pair, *rest)

    monkeypatch.setattr(scoring, "score_pair", noted)
    after = scored(pairs, log).tallies
    assert sorted(done) == [pairs[i].name for i in (3, 9, 38, 39)]
    same = [index for index in range(38) if index != 3]
    assert after[same].tobytes() == before[same].tobytes()
    assert after[3] != before[3]
    done.clear()
    fewer = scored(pairs[5:], log)
    assert done == []
    assert fewer.tallies.tobytes() == after[5:].tobytes()


def test_what_could_be_scored_is_kept_when_some_cannot(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, 40)
    log = tmp_path / "S.tally"
    sound = {index: pairs[index].saliency.read_bytes() for index in (4, 30)}
    for index in sound:
        pairs[index].saliency.write_bytes(b"\x89PNG no picture")
    with pytest.raises(UserError, match=r"2 of 40 maps could not be scored .*0004\.png"):
        scored(pairs, log)
    for index, data in sound.items():
        pairs[index].saliency.write_bytes(data)
    size = log.stat().st_size
    kept = scored(pairs, log)
    assert log.stat().st_size == size + 2 * kept.records.itemsize


def test_maps_of_another_size_are_resized_and_counted(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, 3)
    mask = cv2.imread(str(pairs[1].mask), cv2.IMREAD_GRAYSCALE)
    small = np.random.default_rng(5).integers(0, 256, (9, 13), np.uint8)
    cv2.imwrite(str(pairs[1].saliency), small)
    kept = scored(pairs, tmp_path / "S.tally")
    assert kept.resized == 1
    grown = cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    assert kept.tallies[1] == tally(grown, mask, OURS, PARTS)


def test_an_image_is_marked_by_its_name_and_both_its_files(tmp_path: Path) -> None:
    (pair,) = make_pairs(tmp_path, 1)
    marks = {mark_of(pair), mark_of(Pair("other", pair.saliency, pair.mask))}
    for path in (pair.saliency, pair.mask):
        os.utime(path, ns=(5, 5))
        marks.add(mark_of(pair))
        path.write_bytes(path.read_bytes() + b"x")
        marks.add(mark_of(pair))
    assert len(marks) == 6
    assert mark_of(pair) in marks


SLOW = """
import sys, time
from pathlib import Path
import datasets.scoring as scoring
sys.path.insert(0, {tests!r})
from test_scoring import make_pairs, scored
real = scoring.score_pair
def slow(*args):
    time.sleep(0.01)
    return real(*args)
scoring.score_pair = slow
folder = Path({folder!r})
scored(make_pairs(folder, 64), folder / "S.tally")
"""


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path: Path) -> None:
    log = tmp_path / "S.tally"
    code = SLOW.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.stat().st_size > 40_000:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    held = log.stat().st_size
    pairs = [
        Pair(path.name, path, tmp_path / "masks" / path.name)
        for path in sorted((tmp_path / "maps").iterdir())
    ]
    undisturbed = scored(pairs, tmp_path / "other.tally")
    kept = scored(pairs, log)
    assert 0 < held < log.stat().st_size
    assert kept.tallies.tobytes() == undisturbed.tallies.tobytes()
    assert read_tallies(log).tallies.tobytes() == kept.tallies.tobytes()
