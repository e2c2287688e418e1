"""Locks between processes."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.locks import held, in_use, locked

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


def fork(work: Callable[[], None]) -> int:
    """Run something in a forked process; return its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def test_a_lock_in_use_is_refused_and_its_holder_named(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a.lock"
    assert not in_use(path)
    assert not path.exists()
    told, tell = os.pipe()

    def other() -> None:
        with held(path, "the trial"):
            os.write(tell, b"x")
            signal.pause()

    child = fork(other)
    os.read(told, 1)
    assert in_use(path)
    named = rf"^the trial is in use by process {child} on {socket.gethostname()} since 20\d\d-"
    with pytest.raises(UserError, match=named), held(path, "the trial"):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not in_use(path)
    with held(path, "the trial"):
        assert str(os.getpid()) in path.read_text()
        assert in_use(path)
    assert not in_use(path)


def test_a_killed_holder_leaves_no_lock_to_the_processes_it_forked(tmp_path: Path) -> None:
    path, (told, tell) = tmp_path / "a.lock", os.pipe()

    def holder() -> None:
        with held(path, "the trial"):
            worker = fork(signal.pause)  # as a loader's process, which outlives its parent a while
            os.write(tell, worker.to_bytes(4, "little"))
            signal.pause()

    child = fork(holder)
    worker = int.from_bytes(os.read(told, 4), "little")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        os.kill(worker, 0)  # it is there
        with held(path, "the trial"):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_lock_is_free_after_a_fault_and_its_damaged_file_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_bytes(b"\xff{" * 5000)
    with pytest.raises(KeyError), held(path, "the trial"):
        raise KeyError
    path.write_text("[1]")
    with (
        locked(path, "it works"),
        pytest.raises(UserError, match="in use by another process:"),
        held(path, "the trial"),
    ):
        pass


def test_where_there_are_no_locks_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with held(tmp_path / "a.lock", "the trial"):
        assert not in_use(tmp_path / "a.lock")
    assert "no locks there (No locks available)" in capsys.readouterr().out


def test_the_first_process_of_several_holds_the_lock_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.lock"
    with held(path, "the trial"):
        monkeypatch.setenv("RANK", "1")
        with held(path, "the trial"):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(UserError, match="in use"), held(path, "the trial"):
            pass
