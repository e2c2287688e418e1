"""How far a loop has come, on a terminal and in a log."""

from __future__ import annotations

import io
import re
import sys

import pytest

from utils import progress
from utils.progress import track


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def written_to(monkeypatch, terminal, seconds=60.0):
    # Not in a fixture: pytest sets sys.stderr anew between that and the test.
    monkeypatch.setattr(progress, "SECONDS", seconds)
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_log_gets_whole_lines_now_and_then(monkeypatch):
    log = written_to(monkeypatch, terminal=False, seconds=1e-9)
    assert list(track(range(3), "looking")) == [0, 1, 2]
    lines = log.getvalue().splitlines()
    assert len(lines) == 3
    for count, line in enumerate(lines, 1):
        assert line.startswith(f"looking: {count}/3 images, 00:00, ")
        assert line.endswith(" to go")
    assert "\r" not in log.getvalue()


def test_a_log_gets_a_line_a_minute(monkeypatch):
    log = written_to(monkeypatch, terminal=False)
    now = 0
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    for second in track(range(200), "looking", unit="batch"):
        now = second
    told = [int(re.search(r"(\d+)/200 batches", line)[1]) for line in log.getvalue().splitlines()]
    assert told == pytest.approx([60, 120, 180], abs=3)


def test_a_log_gets_nothing_of_what_is_soon_done(monkeypatch):
    log = written_to(monkeypatch, terminal=False)
    for _ in track(range(1000), "looking", unit="batch"):
        pass
    with track(None, "scoring", 10) as bar:
        bar.update(10)
    assert log.getvalue() == ""


def test_a_log_tells_what_was_done_before_and_what_has_no_end(monkeypatch):
    log = written_to(monkeypatch, terminal=False, seconds=1e-9)
    list(track(range(2, 4), "going on", 4, unit="batch", done=2))
    assert "going on: 4/4 batches" in log.getvalue()
    list(track(iter("ab"), "endless"))
    assert "endless: 2/? images" in log.getvalue()


def test_a_terminal_sees_a_bar_that_is_gone_in_the_end(monkeypatch):
    stream = written_to(monkeypatch, terminal=True)
    list(track(range(3), "looking"))
    drawn = stream.getvalue()
    assert "looking:   0%" in drawn
    assert "image/s" in drawn
    assert "\n" not in drawn
    assert drawn.split("\r")[-2].strip() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_not_shown_writes_nothing(terminal, monkeypatch):
    stream = written_to(monkeypatch, terminal, seconds=1e-9)
    assert list(track(range(3), "looking", shown=False)) == [0, 1, 2]
    assert stream.getvalue() == ""
