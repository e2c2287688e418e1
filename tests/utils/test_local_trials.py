"""How GPUs are shared out among trials that run side by side; the rest: tests/test_sub_by_id.py."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from config import Config
from utils import settings
from utils.files import write_json
from utils.local_trials import Trials, share, visible_devices


@pytest.mark.parametrize(
    ("devices", "places", "expected"),
    [
        ("0 1 2 3", 2, ["0 2", "1 3"]),
        ("5 7 9", 2, ["5 9", "7"]),
        ("5 7", 3, ["5", "7", "5"]),
        ("", 2, ["", ""]),
    ],
)
def test_devices_are_shared_out_or_shared(devices: str, places: int, expected: list[str]) -> None:
    shares = [share(devices.split(), place, places) for place in range(places)]
    assert [" ".join(mine) for mine in shares] == expected


def test_the_environment_names_the_devices_else_all_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for named, expected in (("4,GPU-a", ["4", "GPU-a"]), ("", []), (None, ["0", "1", "2"])):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if named is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert visible_devices() == expected


def test_a_trial_that_ended_just_before_the_signal_is_not_waited_for_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    trials = Trials(tmp_path, 1, [])
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    trials.running[process.pid] = ("t1", 0, process)
    while "\nState:\tZ" not in Path(f"/proc/{process.pid}/status").read_text():
        pass
    trials._stop(signal.SIGTERM, None)
    trials._wait_for_one()
    assert trials.status == {"t1": 7}


def test_a_trial_that_ended_with_questions_for_people_is_not_called_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "t1").mkdir()
    write_json(tmp_path / "t1" / "config.json", settings.to_dict(Config()))
    trials = Trials(tmp_path, 1, [])
    for trial in ("t1", "t2"):
        process = subprocess.Popen([sys.executable, "-c", ""])
        trials.running[process.pid] = (trial, 0, process)
        trials._wait_for_one()
    assert trials._tell([]) == 0
    *each, summary = capsys.readouterr().out.splitlines()
    assert each == [f"t1: waiting for answers, see {trials.log('t1')}", "t2: finished"]
    assert summary == "finished: t2; waiting for answers: t1"


def test_a_trial_that_cannot_be_started_leaves_no_other_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have sessions of their own: nobody else would end them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    trials = Trials(tmp_path, 2, [])
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    trials.running[process.pid] = ("t1", 0, process)
    trials.log("t2").mkdir()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        with pytest.raises(IsADirectoryError):
            trials.run([2])
    finally:
        for number, handler in handlers.items():
            if number not in (signal.SIGKILL, signal.SIGSTOP) and handler is not None:
                signal.signal(number, handler)
    assert process.returncode == -signal.SIGTERM
