"""The journal keeps every answer it has taken, and what follows from answers is what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_learning.answers import (
    HEADER,
    Answer,
    Journal,
    check_annotator,
    counting,
    label_of,
    now,
    progress,
    standing,
)
from active_learning.questions import Question
from utils.errors import UserError
from utils.line_log import whole_lines

ROOT = Path(__file__).resolve().parents[2]
TIME = "2026-01-31T12:00:00Z"


def said(answer, pixel=0, who="ann", image="a.png", seconds=1.5):
    return Answer(image, pixel, 0, answer, 0, who, seconds, TIME)


NAMES = st.sampled_from(["ann", "bob", "review:eve", "review:jo"])
SAID = st.builds(said, st.sampled_from("fbsu"), st.integers(0, 4), NAMES)


def test_what_is_appended_is_read_back(tmp_path):
    journal = Journal(tmp_path / "oracle" / "answers.csv")
    assert journal.answers() == []
    odd = [
        said("f", image='gro"ß, 1.png', who="Zoë, the 2nd", seconds=0.1 + 0.2),
        said("s", image="\u2028 \x85.png", seconds=0.0),
        Answer("g/b.png", 70000, 3, "u", 12, "x" * 64, 1e-7, now()),
    ]
    for count, answer in enumerate(odd, start=1):
        journal.append(answer)
        assert journal.answers() == odd[:count]
    assert Journal(journal.path).answers() == odd
    assert journal.path.read_text(encoding="utf-8").startswith(HEADER)
    # One that another process adds is seen, too, and a file begun anew is read anew.
    Journal(journal.path).append(said("b"))
    assert journal.answers() == [*odd, said("b")]
    journal.path.unlink()
    assert journal.answers() == []
    journal.append(said("b"))
    assert journal.answers() == [said("b")]


def test_a_file_cut_anywhere_keeps_its_whole_lines(tmp_path):
    answers = [said("f", image="é.png"), said("b", 1, "Zoë"), said("s", 2)]
    path = tmp_path / "answers.csv"
    for answer in answers:
        Journal(path).append(answer)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        # The header is no answer; an answer is whole without its newline, too.
        lines = max(0, whole[: cut + 1].count(b"\n") - 1)
        journal = Journal(path)
        assert journal.answers() == answers[:lines]
        assert path.read_bytes() == whole[:cut]
        journal.append(said("f", 9))
        assert journal.answers() == [*answers[:lines], said("f", 9)]
        assert Journal(path).answers() == [*answers[:lines], said("f", 9)]


def test_the_last_line_needs_no_newline(tmp_path):
    """Some editors leave none; nor is it lost by whoever writes, or reads, next."""
    path = tmp_path / "answers.csv"
    reader, writer = Journal(path), Journal(path)
    for count in range(3):
        writer.append(said("f", count))
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    found = [said("f", count) for count in range(3)]
    assert reader.answers() == reader.answers() == found
    writer.append(said("b", 3))
    assert reader.answers() == Journal(path).answers() == [*found, said("b", 3)]
    assert path.read_bytes().count(b"\n") == 5
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert reader.answers() == [*found, said("b", 3)]  # which it had read before


def test_reading_goes_on_behind_what_was_read(tmp_path):
    read = partial(whole_lines, tmp_path, is_whole=lambda text: text in "bd")
    assert read(b"a\nb") == (["a", "b"], 3)
    assert read(b"a\nb", 3) == ([], 3)
    for newline in (b"\n", b"\r\n"):
        found = b"a\nb" + newline + b"c\nd"
        assert read(found, 3) == (["c", "d"], len(found))
        assert read(found, 3 + len(newline)) == (["c", "d"], len(found))
    assert read(b"a\nb\nc\nd\nx", 7) == ([], 8)
    assert whole_lines(tmp_path, b"a\nb\nc\nd", 4) == (["c"], 6)
    with pytest.raises(UserError, match="byte 4: not UTF-8"):
        read(b"a\nb\n\xff\n", 3)


@pytest.mark.parametrize("change", ["other", "spreadsheet", "fewer", "one letter"])
def test_a_file_that_somebody_changed_is_read_anew(tmp_path, change):
    """Also by who had read it before; else he might go on in the middle of another line."""
    path = tmp_path / "answers.csv"
    for count in range(1, 40):
        path.unlink(missing_ok=True)
        Journal(path).extend([said("f", x, image=f"{x:04d}.jpg") for x in range(count)])
        reader = Journal(path)
        edits, found = reader.read()
        assert (edits, len(found)) == (0, count)
        text = path.read_text()
        if change == "other":
            text = HEADER + "".join(sorted(text.splitlines(True)[1:], reverse=True)) * 2
        elif change == "spreadsheet":
            text = "\ufeff" + text.replace("\n", "\r\n")
        elif change == "fewer":
            text = "".join(text.splitlines(True)[:-1])
        else:
            text = text.replace(",f,", ",b,", 1)
        later = path.stat().st_mtime_ns + 10**9  # a clock that counts in steps may stand still
        path.write_text(text, newline="")
        os.utime(path, ns=(later, later))
        expected = Journal(path).answers()
        grown = change == "other" and count == 1  # the same line twice
        assert reader.read() == reader.read() == (0 if grown else 1, expected)
        assert len(expected) == {"other": 2 * count, "fewer": count - 1}.get(change, count)
        assert (expected[:1] == [said("b", image="0000.jpg")]) == (change == "one letter")


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("last", [b"", b"\r", b"\r\n"])
def test_spreadsheets_end_lines_otherwise(tmp_path, bom, last):
    path = tmp_path / "answers.csv"
    for count in range(2):
        Journal(path).append(said("f", count))
    text = path.read_text().strip().replace("\n", "\r\n")
    path.write_bytes((bom + text).encode() + last)
    found = [said("f", count) for count in range(2)]
    reader = Journal(path)
    assert reader.answers() == found
    Journal(path).append(said("s", 2))
    assert reader.answers() == Journal(path).answers() == [*found, said("s", 2)]


def test_a_file_that_was_damaged_for_a_while_is_read_again(tmp_path):
    """Put back as it was, number, size and time included, it is not taken for read."""
    path, aside = tmp_path / "answers.csv", tmp_path / "aside"
    reader = Journal(path)
    reader.append(said("f"))
    assert reader.answers() == [said("f")]
    path.rename(aside)
    path.write_text("of another program\n")
    with pytest.raises(UserError, match="the first line must be"):
        reader.answers()
    aside.rename(path)
    assert reader.answers() == [said("f")]


def test_what_was_appended_is_not_read_again(tmp_path, monkeypatch):
    """A thousand answers cost their own lines, not a thousand files."""
    read = []
    whole, part = Path.read_bytes, os.pread

    def counted(found):
        read.append(len(found))
        return found

    monkeypatch.setattr(Path, "read_bytes", lambda path: counted(whole(path)))
    monkeypatch.setattr(os, "pread", lambda *place: counted(part(*place)))
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    journal = Journal(tmp_path / "answers.csv")
    for count in range(1000):
        journal.append(said("f", count))
        assert journal.read(0, count) == (0, [said("f", count)])
    assert sum(read) < 2 * journal.path.stat().st_size
    assert journal.answers() == Journal(journal.path).answers()


def set_time(path, written):
    """Set when a file was written, once the clock that tells of it in steps has moved on."""
    changed = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == changed:
        os.utime(path, ns=(written, written))


@pytest.mark.parametrize(
    "change", ["in place", "time set back", "other file", "grown", "no newline", "part of a line"]
)
def test_what_others_do_between_two_answers_is_noticed(tmp_path, change):
    path, aside = tmp_path / "answers.csv", tmp_path / "aside"
    journal = Journal(path)
    for count in range(3):
        journal.append(said("f", count))
        assert len(journal.answers()) == count + 1
    text, written = path.read_text(), path.stat().st_mtime_ns
    edited = text.replace(",f,", ",b,", 1)
    if change == "in place":
        path.write_text(edited)
        set_time(path, written + 10**9)
    elif change == "time set back":
        path.write_text(edited)
        set_time(path, written)
    elif change == "other file":
        aside.write_text(edited)
        os.utime(aside, ns=(written, written))
        aside.rename(path)
    elif change == "grown":
        Journal(path).append(said("s", 9))
    else:
        path.write_text(text[:-1] if change == "no newline" else text + "a.png,5")
        assert len(journal.answers()) == 3
    journal.append(said("f", 3))
    expected = [said("b" if edited in path.read_text() else "f"), said("f", 1), said("f", 2)]
    expected += [said("s", 9)] * (change == "grown") + [said("f", 3)]
    edits = int(change not in ("grown", "part of a line"))
    assert journal.read() == journal.read() == (edits, expected)
    Journal(path).append(said("f", 4))  # after which all is compared with what was read
    assert journal.read() == (edits, [*expected, said("f", 4)])
    assert journal.read(0, 4)[1] == ([*expected, said("f", 4)] if edits else journal.answers()[4:])


WRITER = """
import sys
from pathlib import Path
from active_learning.answers import Answer, Journal
journal = Journal(Path(sys.argv[1]))
for x in range(10**9):
    journal.append(Answer("a.png", x, 0, "f", 0, "ann", 1.0, "2026-01-31T12:00:00Z"))
    print(x, flush=True)
"""


def test_a_killed_writer_has_lost_nothing_it_told_of(tmp_path):
    path = tmp_path / "answers.csv"
    for wanted in (1, 40):
        path.unlink(missing_ok=True)
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(wanted):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
            told = wanted + len([line for line in process.stdout.read().split("\n") if line])
        found = Journal(path).answers()
        assert told <= len(found) <= told + 1
        assert [answer.x for answer in found] == list(range(len(found)))


def test_each_line_is_on_the_disk_before_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    journal = Journal(tmp_path / "answers.csv")
    for count in range(1, 4):
        journal.append(said("f", count))
        assert journal.path.stat().st_size in synced
    assert len(synced) == 3 + 1  # the file's name in its folder


@pytest.mark.parametrize("newline", [True, False])
def test_what_the_disk_refused_is_not_there(tmp_path, monkeypatch, newline):
    journal = Journal(tmp_path / "answers.csv")
    journal.append(said("f"))
    before = journal.path.read_bytes()[: None if newline else -1]
    journal.path.write_bytes(before)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        journal.append(said("b", 1))
    assert journal.path.read_bytes() == before


def test_threads_and_processes_do_not_mix_their_lines(tmp_path):
    path = tmp_path / "answers.csv"
    shared = Journal(path)

    def work(who):
        own = shared if who < 2 else Journal(path)
        for x in range(25):
            own.append(said("f", x, f"a{who}"))

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = shared.answers()
    assert len(found) == 100
    for who in range(4):
        assert [a.x for a in found if a.annotator == f"a{who}"] == list(range(25))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("a.png,1,2,f,0,ann,1.0", "line 3: 8 values are needed"),
        ("", "line 3: 8 values"),
        ('a.png,1,2,f,0,"ann,1.0,' + TIME, "line 3: "),
        ("a.png,1,two,f,0,ann,1.0," + TIME, "line 3: invalid literal"),
        ("a.png,1,2,g,0,ann,1.0," + TIME, "line 3: answer 'g': must be f, b, s or u"),
        ("a.png,1,-2,f,0,ann,1.0," + TIME, "line 3: x, y, round must be 0 or more"),
        ("a.png,1,2,f,0,ann,nan," + TIME, "line 3: seconds nan"),
        ("a.png,1,2,f,0,ann,-1," + TIME, "line 3: seconds -1"),
        ("a.png,1,2,f,0,ann,1.0,yesterday", "line 3: time 'yesterday'"),
        ("a.png,1,2,f,0,,1.0," + TIME, "line 3: annotator ''"),
        (",1,2,f,0,ann,1.0," + TIME, "line 3: no image's name"),
    ],
)
def test_damage_is_told_by_its_line(tmp_path, line, told):
    journal = Journal(tmp_path / "answers.csv")
    journal.append(said("f"))
    with open(journal.path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
    for reader in (journal, Journal(journal.path)):
        with pytest.raises(UserError, match=rf"answers\.csv, {told}") as raised:
            reader.answers()
        assert "\n" not in str(raised.value)


def test_other_files_are_no_journal(tmp_path):
    path = tmp_path / "answers.csv"
    path.write_text("image,x,y,label,round\n")
    with pytest.raises(UserError, match="the first line must be image,x,y,answer"):
        Journal(path).answers()
    path.write_bytes(HEADER.encode() + b"\xff\n")
    with pytest.raises(UserError, match=f"byte {len(HEADER)}: not UTF-8"):
        Journal(path).answers()
    path.write_bytes(b"x" * 70_000)
    with pytest.raises(UserError, match="holds no line"):
        Journal(path).append(said("f"))
    assert path.stat().st_size == 70_000


@pytest.mark.parametrize(
    "answer",
    [
        said("x"),
        said("f", who="a\nb"),
        said("f", who=""),
        said("f", who="x" * 65),
        said("f", who=" ann"),
        said("f", image="a\nb.png"),
        said("f", -1),
        said("f", seconds=float("inf")),
    ],
)
def test_answers_that_cannot_be_meant_are_not_kept(tmp_path, answer):
    journal = Journal(tmp_path / "answers.csv")
    with pytest.raises(UserError) as raised:
        journal.append(answer)
    assert "\n" not in str(raised.value)
    assert not journal.path.exists()


def test_names_of_annotators():
    for name in ("a", "Zoë, the 2nd", "review:eve", "x" * 64):
        check_annotator(name)
    for name in ("", "\x00", "a\u202eb", "x" * 65):
        with pytest.raises(UserError, match="annotator"):
            check_annotator(name)


def test_the_latest_answer_of_each_annotator_stands():
    answers = [said("f"), said("b", who="bob"), said("f", 1), said("s"), said("u", 1)]
    assert standing(answers) == {("a.png", 0, 0): [said("s"), said("b", who="bob")]}
    # Who takes back his answer and answers again is still the first.
    answers = [said("f"), said("b", who="bob"), said("u")]
    assert label_of(standing(answers)["a.png", 0, 0]) == "b"
    assert label_of(standing([*answers, said("s")])["a.png", 0, 0]) == "s"
    # Who takes back what he has not said is not.
    answers = [said("u"), said("b", who="bob"), said("f")]
    assert label_of(standing(answers)["a.png", 0, 0]) == "b"


def test_the_last_reviewer_counts():
    answers = [
        said("f", who="review:eve"),
        said("b"),
        said("s", who="review:jo"),
        said("b", who="review:eve"),
    ]
    want = ["s", "f", "s", "b"]
    assert want[1] == label_of(standing(answers[:2])["a.png", 0, 0])
    assert want[2] == label_of(standing(answers[:3])["a.png", 0, 0])
    assert want[3] == label_of(standing(answers)["a.png", 0, 0])
    undone = [*answers, said("u", who="review:eve")]
    assert label_of(standing(undone)["a.png", 0, 0]) == "s"
    undone.append(said("u", who="review:jo"))
    assert label_of(standing(undone)["a.png", 0, 0]) == "b"
    assert label_of([]) is None


@given(st.lists(SAID, max_size=40))
def test_standing_is_what_a_plain_reading_gives(answers):
    found = standing(answers)
    for pixel in {answer.pixel for answer in answers}:
        own = [answer for answer in answers if answer.pixel == pixel]
        latest = {name: [a for a in own if a.annotator == name][-1] for name in {a[5] for a in own}}
        want = {name: a for name, a in latest.items() if a.answer != "u"}
        assert {a.annotator: a for a in found.get(pixel, [])} == want
        assert (pixel in found) == bool(want)
        if not want:
            continue
        reviews = [a for a in own if a.annotator.startswith("review:")]
        if spoke := [a for a in reviews if want.get(a.annotator) is a]:
            assert counting(found[pixel]) is spoke[-1]
        else:
            first = [a.annotator for a in own if a.answer != "u" and a.annotator in want]
            assert counting(found[pixel]).annotator == first[0]


def questions(asked, reserve, image="a.png"):
    places = [*range(asked), *range(asked, asked + reserve)]
    return [Question(image, x, 0, 0, x >= asked) for x in places]


def test_the_reserve_takes_the_place_of_what_nobody_can_tell():
    own = questions(2, 2)
    other = questions(1, 0, "b.png")
    both = [*own, *other]
    start = progress(both, {})
    assert list(start) == ["a.png", "b.png"]
    assert start["a.png"].wanted == start["a.png"].open == own[:2]
    assert not start["a.png"].complete
    answers = [said("s", 1)]
    now_wanted = progress(both, standing(answers))["a.png"]
    assert now_wanted.wanted == [own[0], own[2]]
    answers += [said("f", 0), said("s", 2)]
    found = progress(both, standing(answers))["a.png"]
    assert (found.wanted, found.open, found.short) == ([own[0], own[3]], [own[3]], 0)
    assert found.told == {own[0]: answers[1]}
    answers.append(said("s", 3))
    found = progress(both, standing(answers))["a.png"]
    assert (found.wanted, found.open, found.short) == ([own[0]], [], 1)
    assert found.complete
    # The other image is not touched by all this, and a skip taken back is asked again.
    assert progress(both, standing(answers))["b.png"].open == other
    answers.append(said("u", 1))
    found = progress(both, standing(answers))["a.png"]
    assert (found.wanted, found.open, found.short) == (own[:2], [own[1]], 0)


@given(st.integers(0, 4), st.integers(0, 4), st.lists(SAID, max_size=30))
def test_progress_counts_up(asked, reserve, answers):
    own = questions(asked, reserve)
    found = progress(own, standing(answers)).get("a.png")
    if found is None:
        assert not own
        return
    stands = standing(answers)
    skipped = {q for q in own if label_of(stands.get(q.pixel, [])) == "s"}
    assert len(found.wanted) + found.short == asked
    assert not skipped & set(found.wanted)
    assert found.wanted == [q for q in own if q in found.wanted]
    assert set(found.told) | set(found.open) == set(found.wanted)
    assert not set(found.told) & set(found.open)
    assert all(label_of(stands[q.pixel]) in ("f", "b") for q in found.told)
    # No more of the reserve than there are places, and short only where all of it is used up.
    used = [q for q in found.wanted if q.reserve]
    assert len(used) <= sum(q in skipped for q in own[:asked])
    if found.short:
        assert set(own) == skipped | set(found.wanted)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=30))
def test_whoever_answers_what_is_open_comes_to_an_end(draws):
    own = questions(3, 3)
    answers = []
    for skips, _ in [*draws, *[(False, 0)] * 6]:
        still = progress(own, standing(answers))["a.png"].open
        if not still:
            break
        answers.append(said("s" if skips else "f", still[0].x))
    end = progress(own, standing(answers))["a.png"]
    assert end.complete
    assert len(answers) == len({answer.x for answer in answers}) <= 6
    assert len(end.told) == min(3, 6 - sum(answer.answer == "s" for answer in answers))
