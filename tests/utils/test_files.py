"""Files are whole or not there, and faults of the disk are told by path."""

import errno
import json
import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

import utils.files
from utils.errors import UserError
from utils.files import append_bytes, atomic_path, read_json, write_json, write_text


def names(folder):
    return sorted(os.listdir(folder))


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "folder" / "é.txt"
    write_text(path, "one\n")
    write_text(str(path), "zwei ü\n")
    assert path.read_bytes() == "zwei ü\n".encode()
    assert names(path.parent) == ["é.txt"]


@pytest.mark.parametrize("path", ["", ".", "..", "/"])
def test_a_name_is_needed(path):
    with pytest.raises(UserError, match=r"a folder where a file should be: name the file"):
        write_text(path, "x")


def test_the_temporary_name_keeps_the_suffix(tmp_path):
    # Image writers choose the format by it.
    with atomic_path(tmp_path / "a.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        temporary.write_text("x")


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    temporary.write_text("a much longer half of something")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_files_that_differ_in_the_extension_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "a.txt") as one, atomic_path(tmp_path / "a.csv") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a.txt").read_text() == "one"
    assert (tmp_path / "a.csv").read_text() == "other"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("exists", [False, True])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error, exists):
    path = tmp_path / "a.txt"
    if exists:
        path.write_text("old")

    def fail_halfway():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            assert not exists or path.read_text() == "old"
            raise error

    with pytest.raises(error):
        fail_halfway()
    assert names(tmp_path) == ["a.txt"] * exists
    assert not exists or path.read_text() == "old"


def test_nothing_is_visible_before_the_end(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
        assert os.umask(0o027) == 0o027, "the umask was changed"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "read-only"),
    ],
)
def test_a_full_or_closed_disk_is_told_by_path(tmp_path, monkeypatch, call, number, told):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(*_):
        raise OSError(number, os.strerror(number), str(tmp_path / ".a-hidden"))

    with monkeypatch.context() as patch:
        patch.setattr(utils.files.os, call, fail)
        with pytest.raises(UserError, match=told) as raised:
            write_text(path, "new")
    assert str(path) in str(raised.value)
    assert ".a-hidden" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert names(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_other_faults_of_the_disk_are_not_disguised(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(utils.files.os, "replace", fail)
        with pytest.raises(OSError, match="broken"):
            write_text(tmp_path / "a", "x")
    assert names(tmp_path) == []


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "runs").write_text("a file")
    for path in (tmp_path / "runs" / "a.txt", tmp_path / "runs" / "b" / "a.txt"):
        with pytest.raises(UserError, match="a file stands where a folder is needed") as raised:
            write_text(path, "x")
        assert str(path) in str(raised.value)


def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small file system cannot be mounted here")
    try:
        write_text(disk / "a.txt", "old")
        with pytest.raises(UserError, match="the disk is full"):
            write_text(disk / "a.txt", "x" * 10**6)
        assert names(disk) == ["a.txt"]
        assert (disk / "a.txt").read_text() == "old"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_json_round_trip_is_readable(tmp_path):
    value = {"name": "Zürich, 東京", "numbers": [1, 2.5, None, True], "empty": {}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "東京" in text
    assert text.endswith("}\n")


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert read_json(tmp_path / "a.json") == 1
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe\x00", b"nope"])
def test_damaged_json_is_told_by_path(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not readable as JSON") as raised:
        read_json(path)
    assert str(path) in str(raised.value)


def test_missing_json(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")


def test_json_whole_at_every_length(tmp_path):
    value = {"a": [1, 2], "b": "c"}
    whole = json.dumps(value)
    for length in range(len(whole)):
        (tmp_path / "a.json").write_text(whole[:length])
        with pytest.raises(UserError, match="JSON"):
            read_json(tmp_path / "a.json")


def test_processes_that_write_one_file_wait_for_each_other(tmp_path):
    path = tmp_path / "a.txt"
    begun = os.pipe()
    if (child := os.fork()) == 0:
        with atomic_path(path) as temporary:
            os.write(begun[1], b"x")
            for _ in range(20):
                with open(temporary, "a") as file:
                    file.write("theirs ")
                time.sleep(0.01)
        os._exit(0)
    os.read(begun[0], 1)
    write_text(path, "ours")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_text() == "ours"
    assert names(tmp_path) == ["a.txt"]


def test_a_link_that_a_killed_process_left_is_not_written_through(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    temporary.symlink_to("kept.txt")
    write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == ["a.txt"]


def test_text_that_is_not_utf_8_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"note\.json: not UTF-8, in '.*\\udce4\.png.*rename"):
        write_json(tmp_path / "note.json", {"picture": "b\udce4.png"})
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_added_is_told_with_the_file(tmp_path):
    path = tmp_path / "maps"
    append_bytes(path, b"a")
    append_bytes(path, b"bc")
    assert path.read_bytes() == b"abc"
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(UserError, match=f"cannot write {full}: the disk is full"):
        append_bytes(full, b"d")
