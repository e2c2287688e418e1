"""The log of a training: both files hold every epoch, and a full disk is told in one line."""

import csv
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import utils.logs
from utils.errors import UserError
from utils.logs import TrainingLog

ROOT = Path(__file__).resolve().parents[2]


def epochs(folder, first, last):
    """The log of a training that stands before epoch ``first``, up to epoch ``last``."""
    rows = [{"epoch": number, "loss": 1 / number} for number in range(1, first)]
    with TrainingLog(folder, rows) as log:
        for number in range(first, last + 1):
            log.add({"epoch": number, "loss": 1 / number, "mae": 10 * number})


def on_the_board(folder, tag):
    found = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(scalar.step, pytest.approx(scalar.value)) for scalar in found.Scalars(tag)]


def in_the_csv(folder):
    with open(folder / "log.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_both_hold_every_epoch(tmp_path):
    epochs(tmp_path, 1, 3)
    assert on_the_board(tmp_path, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert on_the_board(tmp_path, "mae") == [(1, 10.0), (2, 20.0), (3, 30.0)]
    assert in_the_csv(tmp_path)[2] == {"epoch": "3", "loss": "0.333333", "mae": "30"}


def test_a_resumed_training_hides_the_epochs_done_again_and_no_others(tmp_path):
    epochs(tmp_path, 1, 5)
    # The checkpoint was of epoch 3.
    epochs(tmp_path, 4, 4)
    assert [step for step, _ in on_the_board(tmp_path, "loss")] == [1, 2, 3, 4]
    assert [row["epoch"] for row in in_the_csv(tmp_path)] == ["1", "2", "3", "4"]


def test_a_training_begun_anew_purges_nothing(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(utils.logs, "_Board", lambda folder, purge_step: seen.append(purge_step))
    TrainingLog(tmp_path, [])
    TrainingLog(tmp_path, [{"epoch": 1}, {"epoch": 2}])
    assert seen == [None, 3]


def test_an_epoch_is_on_the_disk_once_added_and_no_thread_writes(tmp_path):
    before = threading.active_count()
    with TrainingLog(tmp_path, []) as log:
        log.add({"epoch": 1, "loss": 0.5})
        assert threading.active_count() == before, "a thread of its own may fail beside us"
        assert on_the_board(tmp_path, "loss") == [(1, 0.5)]


def test_a_board_that_cannot_be_opened_is_told_once(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("no folder")
    epochs(tmp_path, 1, 3)
    told = capsys.readouterr().err
    assert told.startswith(f"warning: {tmp_path / 'tensorboard'}: File exists: TensorBoard")
    assert told.count("\n") == 1
    assert len(in_the_csv(tmp_path)) == 3


# The largest size of a file stands for a full disk: log.csv stays below it, the board does not.
FULL = """
import resource, sys
from pathlib import Path
from utils.logs import TrainingLog
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
with TrainingLog(Path(sys.argv[1]), []) as log:
    for number in range(1, 31):
        log.add({"epoch": number, "loss": 0.5})
"""


@pytest.mark.parametrize("limit", [400, 10_000])
def test_a_full_disk_is_one_line_and_the_csv_goes_on(tmp_path, limit):
    command = [sys.executable, "-c", FULL, str(tmp_path), str(limit)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert len(in_the_csv(tmp_path)) == 30
    assert [step for step, _ in on_the_board(tmp_path, "loss")][:2] == [1, 2]
    if limit == 400:
        assert done.stderr.startswith(f"warning: {tmp_path / 'tensorboard'}: File too large")
        assert done.stderr.count("\n") == 1
    else:
        assert done.stderr == ""


def test_a_csv_that_cannot_be_written_stops_the_training(tmp_path):
    (tmp_path / "log.csv").mkdir()
    (tmp_path / "log.csv" / "x").touch()
    with TrainingLog(tmp_path, []) as log, pytest.raises((UserError, OSError)):
        log.add({"epoch": 1, "loss": 0.5})
