"""Choosing that was interrupted goes on with the images that it has not looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import active_learning.__main__ as asking
import active_learning.choosing as choosing
import active_learning.query as query
import train
from active_learning.draft import Draft, made_of
from active_learning.selection import Choice
from tests.small_trials import config_of, run_of
from utils.stopping import Stopped

NAMES = ["a.png", "b, c.png", 'd"ü.png', "e.png"]


def choice(place: int) -> Choice:
    pixels = np.array([(place, 2), (3, 4)], np.int64)
    return Choice(pixels, np.empty((0, 2), np.int64), np.float32(0.1) * place, pixels[:1] + 5)


def places(folder: Path, about: str = "x") -> list[int]:
    return sorted(Draft(folder, about, NAMES).found)


def test_what_was_added_is_found_and_added_to(tmp_path: Path) -> None:
    draft = Draft(tmp_path / "round", "x", NAMES)
    assert draft.found == {}
    for place in (2, 0):
        draft.add(place, choice(place))
    again = Draft(tmp_path / "round", "x", NAMES)
    assert sorted(again.found) == [0, 2]
    for place, found in again.found.items():
        assert np.array_equal(found.pixels, choice(place).pixels)
        assert np.array_equal(found.reserve, choice(place).reserve)
        assert found.worth == choice(place).worth
        assert found.pixels.dtype == found.reserve.dtype == np.int64
    again.add(1, choice(1))
    assert places(tmp_path / "round") == [0, 1, 2]


def test_what_was_made_of_something_else_is_no_use(tmp_path: Path) -> None:
    Draft(tmp_path, "x", NAMES).add(0, choice(0))
    assert places(tmp_path, "y") == []
    Draft(tmp_path, "y", NAMES).add(1, choice(1))
    assert (places(tmp_path, "x"), places(tmp_path, "y")) == ([], [1])


def test_a_draft_cut_anywhere_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    draft = Draft(tmp_path, "x", NAMES)
    for place in (0, 1):
        draft.add(place, choice(place))
    whole = draft.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [len(lines[0]) + len(lines[1]), len(whole)]
    for cut in range(len(whole) + 1):
        draft.path.write_bytes(whole[:cut])
        kept = [place for place, end in enumerate(ends) if cut >= end]
        assert places(tmp_path) == kept
        Draft(tmp_path, "x", NAMES).add(3, choice(3))
        assert places(tmp_path) == [*kept, 3]


@pytest.mark.parametrize("broken", [b"\0" * 40, b"", b"\n", b"[" * 9999, b"\xff \r"])
def test_a_line_that_is_none_ends_the_draft(tmp_path: Path, broken: bytes) -> None:
    draft = Draft(tmp_path, "x", NAMES)
    draft.add(0, choice(0))
    with open(draft.path, "ab") as file:
        file.write(broken + b"\n")
    draft.add(1, choice(1))
    assert places(tmp_path) == [0]


def test_no_bit_of_a_draft_may_differ(tmp_path: Path) -> None:
    draft = Draft(tmp_path, "x", NAMES)
    draft.add(3, choice(3))
    whole = draft.path.read_bytes()
    for at in range(len(whole)):
        draft.path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert places(tmp_path) == []
    draft.path.write_bytes(whole)
    assert places(tmp_path) == [3]
    assert Draft(tmp_path, "x", ["other.png", *NAMES]).found == {}


def test_settings_networks_and_answers_tell_drafts_apart(tiny: list[str], tmp_path: Path) -> None:
    net, points = tmp_path / "net.pth", [np.zeros((1, 3), np.int64)]
    net.write_bytes(b"1")
    base = made_of(config_of(tiny), [net], points)
    assert base == made_of(config_of([*tiny, "--workers", "3", "--device", "cpu"]), [net], points)
    others = [
        made_of(config_of([*tiny, "--attack_steps", "1"]), [net], points),
        made_of(config_of(tiny), [net], [points[0] + 1]),
        made_of(config_of(tiny), [net], [np.zeros((0, 3), np.int64), *points]),
    ]
    net.write_bytes(b"2")
    others.append(made_of(config_of(tiny), [net], points))
    assert len({base, *others}) == 5


def test_choosing_stopped_midway_goes_on_and_ends_as_an_undisturbed_one(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = [*tiny, "--answer_skips", "0.1", "--batch_size", "2"]
    asking.main(tiny)
    train.main(tiny)
    monkeypatch.setattr(query, "SHEET_IMAGES", 1)
    ask = [*tiny, "--round", "1"]
    choose, looked, last = choosing.choose_pixels, [], 0

    def counted(**kwargs: object) -> Choice:
        looked.append(1)
        if len(looked) == last:
            raise Stopped
        return choose(**kwargs)

    monkeypatch.setattr(choosing, "choose_pixels", counted)
    folder = run_of(tiny).training("points", 1)
    last = 13
    with pytest.raises(Stopped):
        asking.main(ask)
    assert [path.name for path in folder.iterdir()] == ["choosing_0.jsonl"]
    looked[:], last = [], 0
    asking.main(ask)
    resumed, found = len(looked), files_in(folder)
    assert found.keys() == {"questions.csv", "points.csv", "sheet.npz"}
    for name in found:
        (folder / name).unlink()
    looked[:] = []
    asking.main(ask)
    assert 0 < resumed < len(looked)
    assert files_in(folder) == found


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_a_kill_left_of_a_draft_goes_when_the_round_is_there(tiny: list[str]) -> None:
    asking.main(tiny)
    train.main(tiny)
    asking.main([*tiny, "--round", "1"])
    run = run_of(tiny)
    run.points("points", 1).unlink()  # killed between the questions and the answers
    Draft(run.training("points", 1), "x", NAMES).add(0, choice(0))
    asking.main([*tiny, "--round", "1"])
    assert run.points("points", 1).exists()
    assert not list(run.training("points", 1).glob("choosing_*"))
