"""Scoring map files: each once, whatever happens in between, with any number of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import datasets.scoring as scoring
from datasets.maps import Pair
from datasets.scoring import WORTH_SHARING, make_pool, mark_of, run_tasks, score_set
from utils.errors import UserError
from utils.metrics import METRICS, PARTS, SetScores, tally
from utils.metrics.conventions import CONVENTIONS
from utils.tallies import TallyLog, read_tallies

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
    with make_pool(2) as pool:
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


def test_masks_count_above_128_and_maps_are_read_beside_them(tmp_path: Path) -> None:
    mask = np.array([[0, 127, 128, 129, 255]], np.uint8)
    saliency = np.array([[10, 20, 30, 40, 50]], np.uint8)
    deep = (mask.astype(np.uint16) * 256).clip(0, 65535)
    deep[0, 2:4] = 32767, 32768
    for name, values in (("8.png", mask), ("16.png", deep)):
        Image.fromarray(values).save(tmp_path / name)
        Image.fromarray(saliency).save(tmp_path / "map.png")
        pair = Pair("x", tmp_path / "map.png", tmp_path / name)
        found, _ = scoring.score_pair(pair, OURS, frozenset())
        assert np.flatnonzero(found["counts"][1]).tolist() == [40, 50]
        assert np.flatnonzero(found["counts"][0]).tolist() == [10, 20, 30]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_of_zeros_and_ones_are_refused_by_name(tmp_path: Path, dtype: type) -> None:
    pairs = make_pairs(tmp_path, 2)
    mask = cv2.imread(str(pairs[1].mask), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(pairs[1].mask), (mask // 255).astype(dtype))
    white = np.iinfo(dtype).max
    told = rf"masks/0001\.png: its values are 0 and 1, .* save the object as {white}"
    with pytest.raises(UserError, match=told):
        scored(pairs, tmp_path / "S.tally")


def test_an_image_is_marked_by_its_name_and_both_its_files(tmp_path: Path) -> None:
    (pair,) = make_pairs(tmp_path, 1)
    marks = {mark_of(pair), mark_of(Pair("other", pair.saliency, pair.mask))}
    assert mark_of(pair) in marks
    for path in (pair.saliency, pair.mask):
        os.utime(path, ns=(5, 5))
        marks.add(mark_of(pair))
        path.write_bytes(path.read_bytes() + b"x")
        marks.add(mark_of(pair))
    assert len(marks) == 6


def test_a_change_behind_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    """As by ``rsync -t`` of arrays: the time is the original's, the size is the shape's."""
    (pair,) = make_pairs(tmp_path, 1)
    for path in (pair.saliency, pair.mask):
        before, stat, data = mark_of(pair), path.stat(), bytearray(path.read_bytes())
        data[-20] ^= 1
        time.sleep(0.02)  # the clock of a file system may tick each hundredth of a second
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
        assert mark_of(pair) != before


def test_few_results_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "WINDOW", 3)
    started = []

    class Pool:
        def submit(self, work: object, task: object, *rest: object) -> Future:
            future = Future()
            future.set_result(task)
            started.append(task)
            return future

    tasks = [([], [number]) for number in range(20)]
    found = []
    for result in run_tasks(Pool(), tasks, "raw", frozenset()):
        assert len(started) - len(found) <= 2 * 3
        found.append(result)
    assert started == tasks
    assert sorted(found) == tasks


def test_a_killed_process_is_told_in_one_line() -> None:
    with make_pool(1) as pool:
        pool.submit(os._exit, 1)
        with pytest.raises(UserError, match=r"killed, most likely .* fewer --workers"):
            list(run_tasks(pool, [([], [])] * 600, "raw", frozenset()))


def test_two_conventions_at_a_time_keep_apart_and_lose_nothing(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, 4)
    logs = {name: tmp_path / f"S.{name}.tally" for name in ("pysodmetrics", "eval-co-sod")}
    for name in (*logs, *logs):
        for parts in (frozenset({"S"}), frozenset({"wF"}), PARTS):
            kept = score_set(pairs, logs[name], name, parts, None, "test")
            assert kept.convention == name
    for name, log in logs.items():
        expected = [scoring.score_pair(pair, CONVENTIONS[name], PARTS)[0] for pair in pairs]
        assert read_tallies(log).tallies.tobytes() == np.array(expected).tobytes()


TWICE = """
import sys
from pathlib import Path
import datasets.scoring as scoring
sys.path.insert(0, {tests!r})
from test_scoring import pairs_in, score_set
folder, done = Path({folder!r}), []
real = scoring.score_pair
scoring.score_pair = lambda *args: done.append(0) or real(*args)
for part in ({{"S"}}, {{"wF"}}):
    score_set(pairs_in(folder), folder / "S.tally", "pysodmetrics", frozenset(part), None, "test")
print("scored", len(done))
"""


def test_two_processes_on_one_log_share_the_work(tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path, 60, height=64)
    code = TWICE.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    command, root = [sys.executable, "-c", code], Path(__file__).parents[2]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": root}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    done = [int(out.rsplit("scored ", 1)[1]) for out, _ in told]
    assert sum(done) == 120  # each map once a part, whoever did it
    kept = read_tallies(tmp_path / "S.tally")
    expected = [scoring.score_pair(pair, OURS, frozenset({"S", "wF"}))[0] for pair in pairs]
    assert kept.tallies.tobytes() == np.array(expected).tobytes()


def pairs_in(folder: Path) -> list[Pair]:
    maps = sorted((folder / "maps").iterdir())
    return [Pair(path.name, path, folder / "masks" / path.name) for path in maps]


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


def test_a_killed_evaluation_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    pairs = pairs_in(tmp_path)
    marks = np.array([mark_of(pair) for pair in pairs], np.uint64)
    held = set(TallyLog(log, "pysodmetrics", PARTS, marks).marks.tolist())
    assert 0 < len(held) < len(pairs)
    undisturbed = scored(pairs, tmp_path / "other.tally")
    done, real = [], scoring.score_pair

    def noted(pair: Pair, *rest: object):
        done.append(mark_of(pair))
        return real(pair, *rest)

    monkeypatch.setattr(scoring, "score_pair", noted)
    kept = scored(pairs, log)
    assert sorted(done) == sorted(set(marks.tolist()) - held)
    assert kept.tallies.tobytes() == undisturbed.tallies.tobytes()
    assert read_tallies(log).tallies.tobytes() == kept.tallies.tobytes()


ORPHANS = """
import sys
sys.path.insert(0, {tests!r})
from datasets.scoring import make_pool
from test_scoring import pause
if __name__ == "__main__":
    with make_pool(2) as pool:
        working = [pool.submit(pause, {folder!r}) for _ in range(2)]
        working[0].result()
"""


def pause(folder: str) -> None:
    """Note this process, and work for long."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(120)


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_no_process_outlives_a_killed_evaluation(tmp_path: Path) -> None:
    noted = tmp_path / "pids"
    noted.mkdir()
    script = tmp_path / "main.py"
    script.write_text(ORPHANS.format(tests=str(Path(__file__).parent), folder=str(noted)))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, str(script)], cwd=root, env=environment)
    deadline = time.monotonic() + 60
    while len(list(noted.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    workers = [int(path.name) for path in noted.iterdir()]
    assert len(workers) == 2
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, workers))
