"""Locks between processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.locks import locked

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from utils.locks import locked
with locked(Path(sys.argv[1]), "it works"):
    print("held", flush=True)
    sys.stdin.readline()
    Path(sys.argv[2]).touch()
"""


def test_a_second_process_waits_and_says_so(tmp_path: Path) -> None:
    lock, done = tmp_path / "a" / ".lock", tmp_path / "done"
    command = [sys.executable, "-c", HOLD, str(lock), str(done)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as first, subprocess.Popen(command, **pipes) as second:
        told = first.stdout.readline()
        if told == "held\n":
            told = second.stdout.readline()
        else:  # the second was faster
            first, second = second, first
        assert told == "waiting for another process: it works\n"
        assert not done.exists()
        first.communicate("\n")
        assert done.exists()
        assert second.stdout.readline() == "held\n"
        second.kill()  # and a killed process holds nothing
    with locked(lock, "it works"):
        pass


def test_a_free_lock_is_silent_and_freed_by_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), locked(tmp_path / ".lock", "it works"):
            raise KeyError
    assert capsys.readouterr().out == ""


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with (
        pytest.raises(UserError, match="a file stands where a folder is needed"),
        locked(tmp_path / "a" / ".lock", "it works"),
    ):
        pass


def test_a_child_process_holds_the_lock_it_was_handed(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    wait = [sys.executable, "-c", "import sys; sys.stdin.readline()"]
    with locked(lock, "it works") as handle:
        child = subprocess.Popen(wait, stdin=subprocess.PIPE, pass_fds=[handle])
    command = [sys.executable, "-c", HOLD, str(lock), str(tmp_path / "done")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as second:
        assert second.stdout.readline() == "waiting for another process: it works\n"
        child.communicate(b"\n")
        assert second.stdout.readline() == "held\n"
        second.communicate("\n")
