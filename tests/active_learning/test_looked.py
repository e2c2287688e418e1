"""What a look keeps: whole records of that look alone, whatever has become of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import active_learning.looked as module
from active_learning.looked import MARK_BYTES, Looked, forget

SIZE = 3
LENGTH = MARK_BYTES + 4 + 1 + SIZE**2


def label(index: int) -> np.ndarray:
    return np.arange(SIZE**2, dtype=np.uint8).reshape(SIZE, SIZE) + np.uint8(60 * index)


def add(folder: Path, *places: int, about: bytes = b"x") -> Path:
    looked = Looked(folder, about, SIZE)
    for index in places:
        looked.add(index, index % 2 == 1, label(index))
    return looked.path


def places(folder: Path, about: bytes = b"x") -> list[int]:
    found = list(Looked(folder, about, SIZE).found())
    for index, trusted, made in found:
        assert trusted == (index % 2 == 1)
        assert np.array_equal(made, label(index))
        assert made.dtype == np.uint8
    return [index for index, _, _ in found]


def test_what_was_added_is_found_and_added_to(tmp_path: Path) -> None:
    assert places(tmp_path / "round") == []
    path = add(tmp_path / "round", 2, 0)
    assert places(tmp_path / "round") == [2, 0]
    add(tmp_path / "round", 1)
    assert places(tmp_path / "round") == [2, 0, 1]
    assert path.stat().st_size == 3 * LENGTH


def test_a_new_look_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = add(tmp_path, 0, 1)
    assert places(tmp_path, b"y") == []
    add(tmp_path, 2, about=b"y")
    assert (places(tmp_path), places(tmp_path, b"y")) == ([], [2])
    assert path.stat().st_size == LENGTH


def test_what_was_cut_anywhere_is_read_to_its_last_whole_record(tmp_path: Path) -> None:
    path = add(tmp_path, 0, 1)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        kept = list(range(cut // LENGTH))
        assert places(tmp_path) == kept
        add(tmp_path, 3)
        assert places(tmp_path) == [*kept, 3]


def test_no_bit_may_differ(tmp_path: Path) -> None:
    path = add(tmp_path, 0, 1)
    whole = path.read_bytes()
    for at in range(LENGTH, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert places(tmp_path) == [0]
    path.write_bytes(b"\0" * len(whole))
    assert places(tmp_path) == []


def test_what_other_processes_have_made_is_found_and_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, 0)
    monkeypatch.setattr(module, "rank", lambda: 1)
    add(tmp_path, 1)
    assert places(tmp_path) == [0, 1]
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "other").touch()
    forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
