"""People as the oracle: their answers become points, and a round waits for them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

import active_learning.__main__ as asking
import active_learning.people as people
from active_learning.answers import Answer, Journal, standing
from active_learning.people import HumanOracle, OpenQuestions, wait_for_answers
from active_learning.questions import Question, question_files, read_questions, write_questions
from config import Config
from datasets.images import read_mask
from datasets.index import Sample, list_sets
from datasets.points import Point, read_points
from utils.errors import UserError
from utils.files import read_json
from utils.locks import held
from utils.run_folder import RunFolder
from utils.stopping import EXIT_WAITING

TIME = "2026-01-31T12:00:00Z"


def said(answer, x=0, who="ann", image="a.png", y=0, seconds=1.5):
    return Answer(image, x, y, answer, 0, who, seconds, TIME)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "t" / "oracle" / "answers.csv")


@pytest.fixture
def config(tmp_path):
    return Config(runs=str(tmp_path), trial="t", oracle="human", trainset="TR", data_root="D")


def make_oracle(tmp_path, journal):
    return HumanOracle(tmp_path / "ledger.csv", journal.path)


def test_answers_become_points_and_stand_in_the_ledger(tmp_path, journal):
    sample = Sample("a.png", tmp_path / "a.png", tmp_path / "m.png", "TR", "")
    for answer in (said("f", 0), said("b", 1, "bob", seconds=2.5), said("s", 2), said("f", 3)):
        journal.append(answer)
    journal.append(said("b", 3, "review:eve", seconds=9.0))
    oracle = make_oracle(tmp_path, journal)
    pixels = np.array([[3, 0], [2, 0], [0, 0], [1, 0]])
    found = oracle.ask(sample, pixels, 4)
    assert found == [Point("a.png", x, 0, label, 4) for x, label in ((3, 0), (0, 1), (1, 0))]
    assert oracle.people["a.png", 3, 0] == ("review:eve", 9.0)
    assert oracle.people["a.png", 1, 0] == ("bob", 2.5)
    oracle.save()
    assert read_points(oracle.path) == found
    # Told anew, the ledger has the new label and still the round of the question.
    journal.append(said("f", 3, "review:eve"))
    again = make_oracle(tmp_path, journal)
    assert again.ask(sample, pixels[:1], 5) == [Point("a.png", 3, 0, 1, 5)]
    again.save()
    assert read_points(oracle.path)[0] == Point("a.png", 3, 0, 1, 4)


def test_an_answer_may_be_changed_until_the_first_is_used(tmp_path, journal):
    sample = Sample("a.png", tmp_path / "a.png", tmp_path / "m.png", "TR", "")
    journal.append(said("f"))
    oracle = make_oracle(tmp_path, journal)
    journal.append(said("b"))
    assert oracle.ask(sample, np.array([[0, 0]]), 0) == [Point("a.png", 0, 0, 0, 0)]
    journal.append(said("f"))
    assert oracle.ask(sample, np.array([[0, 0]]), 0) == [Point("a.png", 0, 0, 0, 0)]


def test_nobody_answers_for_people(tmp_path, journal):
    sample = Sample("a.png", tmp_path / "a.png", tmp_path / "m.png", "TR", "")
    journal.append(said("f", 0))
    journal.append(said("u", 0))
    oracle = make_oracle(tmp_path, journal)
    with pytest.raises(UserError, match=r"answers\.csv: no answer for pixel \(0, 0\) of a\.png"):
        oracle.ask(sample, np.array([[0, 0]]), 0)
    with pytest.raises(UserError, match="people are shown pixels"):
        oracle.point_out(sample, np.random.default_rng(0))


def questions_of(run):
    """Two files of questions: one of two images, a reserve each; one of another image."""
    files = run.validation_questions, run.questions("points", 0)
    write_questions(files[0], [Question(i, x, 0, 0, x > 1) for i in "ab" for x in range(3)])
    write_questions(files[1], [Question("c", x, 0, 0, False) for x in range(2)])
    return list(files)


def test_open_questions_are_counted_as_answers_come(config, journal):
    paths = questions_of(RunFolder(config.run_folder))
    still = OpenQuestions(paths, journal)
    chance = np.random.default_rng(0)
    for _ in range(3000):
        open_now = OpenQuestions(paths, journal).list()
        assert still.none() == (not open_now)
        if not open_now:
            break
        image, x = str(chance.choice(list("abc"))), int(chance.integers(3))
        journal.append(said(str(chance.choice(list("fbsu"))), x, image=image))
    assert still.none()
    # An answer taken back opens its question again.
    done = next(q for q in read_questions(paths[1]) if q.pixel in standing(journal.answers()))
    journal.append(said("u", done.x, image=done.image))
    assert not still.none()


@pytest.mark.parametrize("change", ["can't say", "deleted", "undo deleted"])
def test_an_edited_journal_is_counted_through(config, journal, change):
    """What was edited is of another image than the last question that was seen to be open."""
    still = OpenQuestions(questions_of(RunFolder(config.run_folder)), journal)
    for image in "abc":
        for x in range(2):
            journal.append(said("f", x, image=image))
    if change == "undo deleted":
        journal.append(said("u", 1, image="c"))
    assert still.none() == (change != "undo deleted")
    lines = journal.path.read_text().splitlines(True)
    if change == "can't say":
        lines[1] = lines[1].replace(",f,", ",s,")
    else:
        lines.pop(1 if change == "deleted" else -1)
    later = journal.path.stat().st_mtime_ns + 10**9
    journal.path.write_text("".join(lines))
    os.utime(journal.path, ns=(later, later))
    assert still.none() == (change == "undo deleted")
    if change == "can't say":
        journal.append(said("b", 2, image="a"))
        assert still.none()


def test_the_answers_of_other_images_are_not_counted_through(config, journal, monkeypatch):
    still = OpenQuestions(questions_of(RunFolder(config.run_folder)), journal)
    assert len(still.list()) == 6
    monkeypatch.setattr(people, "progress", None)  # nothing is counted
    for image in "ab":
        journal.append(said("f", image=image))
        assert not still.none()
    journal.append(said("f", image="c"))
    with pytest.raises(TypeError):
        still.none()


def test_nobody_waits_where_nobody_is_to(config, capsys):
    leaves = Config(**{**vars(config), "wait": False, "trial": "my t"})
    paths = questions_of(RunFolder(leaves.run_folder))
    assert not wait_for_answers(leaves, paths)
    assert capsys.readouterr().out == (
        f"6 questions about 3 images wait for answers: {sys.executable} -m "
        f"active_learning.annotate --trial 'my t' --runs {config.runs}\n"
    )
    answers = Journal(RunFolder(leaves.run_folder).journal)
    for image in "abc":
        for x in range(2):
            answers.append(said("b", x, image=image))
    assert wait_for_answers(leaves, paths)
    assert capsys.readouterr().out == ""


@pytest.fixture
def server(monkeypatch):
    """Stands for the annotation server: answers are given by ``answer`` as it serves."""
    module = types.ModuleType("active_learning.annotate.server")
    module.calls = []

    def serve_until(config, done, journal):
        run = RunFolder(config.run_folder)
        module.journal = journal
        module.calls.append(config)
        with held(run.lock("annotate"), "questions"):
            while not done():
                module.answer(run)

    module.serve_until = serve_until
    package = types.ModuleType("active_learning.annotate")
    package.server = module
    monkeypatch.setitem(sys.modules, "active_learning.annotate", package)
    monkeypatch.setitem(sys.modules, "active_learning.annotate.server", module)
    return module


def test_a_server_is_started_and_ends_when_all_is_answered(config, journal, server):
    paths = questions_of(RunFolder(config.run_folder))

    def answer(run):
        asked = OpenQuestions(question_files(run), journal).list()[0]
        journal.append(said("s" if asked.x == 0 else "f", asked.x, image=asked.image))

    server.answer = answer
    assert wait_for_answers(config, paths)
    assert server.calls == [config]
    assert len(journal.answers()) == 8
    assert wait_for_answers(config, paths)
    assert server.calls == [config]


def test_what_the_server_wrote_itself_is_not_read_again(config, server, monkeypatch):
    """Whoever waits asks twice a second whether all is answered."""
    paths, read = questions_of(RunFolder(config.run_folder)), []
    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or whole(path))

    def answer(run):
        said_of = {one.pixel for one in server.journal.answers()}
        asked = next(q for f in paths for q in read_questions(f) if q.pixel not in said_of)
        server.journal.append(said("f", asked.x, image=asked.image))

    server.answer = answer
    assert wait_for_answers(config, paths)
    assert len(server.journal.answers()) > 4
    assert len(read) <= 1


def test_a_server_that_runs_already_is_waited_for(config, journal, monkeypatch, server, capsys):
    run = RunFolder(config.run_folder)
    paths = questions_of(run)
    monkeypatch.setattr(people, "GRACE", 1.0)
    looks = threading.Semaphore(0)

    def elsewhere():
        looks.acquire(timeout=10)
        for image in "abc":
            for x in range(2):
                journal.append(said("f", x, image=image))
        while looks.acquire(blocking=False):
            pass
        # All is answered, and that has been seen: then the last answer is taken back.
        for _ in range(3):
            looks.acquire(timeout=2)
        journal.append(said("u", 1, image="c"))
        time.sleep(0.1)
        journal.append(said("b", 1, image="c"))

    def sleep(seconds):
        looks.release()
        time.sleep(0.02)

    clock = types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    monkeypatch.setattr(people, "time", clock)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    with held(run.lock("annotate"), "questions"):
        assert wait_for_answers(config, paths)
        assert journal.answers()[-1].answer == "b"
    thread.join()
    assert server.calls == []
    assert capsys.readouterr().out == "6 questions wait for answers; a server runs already\n"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_journal_that_is_damaged_meanwhile_is_waited_for(
    config, journal, monkeypatch, server, capsys, elsewhere
):
    run = RunFolder(config.run_folder)
    paths = questions_of(run)
    for image in "abc":
        journal.append(said("f", image=image))
    sound, looks = journal.path.read_text(), iter(range(9))
    monkeypatch.setattr(people, "GRACE", 0.0)

    def look(*_):
        turn = next(looks)
        if turn in (0, 1):
            journal.path.write_text(sound + "not,an,answer\n" * (turn + 1))
        elif turn == 3:
            journal.path.write_text(sound)
            for image in "abc":
                journal.append(said("b", 1, image=image))

    server.answer = look
    clock = types.SimpleNamespace(sleep=look, monotonic=time.monotonic)
    monkeypatch.setattr(people, "time", clock)
    with held(run.lock("annotate"), "questions") if elsewhere else contextlib.nullcontext():
        assert wait_for_answers(config, paths)
    assert len(server.calls) == (not elsewhere)
    told = capsys.readouterr().out
    assert told.count(f"the round waits: {journal.path}, line 5: 8 values are needed") == 1


def command(sample_root, tmp_path, *more):
    return [
        *("--trial", "t", "--runs", str(tmp_path / "runs"), "--data_root", str(sample_root)),
        *("--trainset", "SAMPLE-TR", "--size", "32", "--rounds", "2", "--points_per_image", "4"),
        *("--backbone_weights", "none", "--device", "cpu", *more),
    ]


def answer_by_masks(run, samples):
    """Answer all that is open, in haste, as a careful person would."""
    masks = {sample.name: sample.mask for sample in samples}
    own = Journal(run.journal)
    for asked in OpenQuestions(question_files(run), own).list():
        label = read_mask(masks[asked.image])[asked.y, asked.x]
        own.append(said("bf"[int(label)], asked.x, "ann", asked.image, asked.y, 0.5))


def test_weights_that_cannot_be_had_are_told_before_anyone_answers(
    sample_root, tmp_path, server, capsys
):
    flags = command(sample_root, tmp_path, "--oracle", "human", "--no_wait")
    with pytest.raises(UserError, match=r"lost\.pth: no such file"):
        asking.main([*flags, "--backbone_weights", str(tmp_path / "lost.pth")])
    assert "wait for answers" not in capsys.readouterr().out
    assert asking.main(flags) == EXIT_WAITING
    assert "wait for answers" in capsys.readouterr().out
    assert server.calls == []


def test_the_stage_asks_people_and_gets_what_masks_say(sample_root, tmp_path, server, capsys):
    samples = list_sets(sample_root, "SAMPLE-TR")
    flags = command(sample_root, tmp_path, "--oracle", "human")
    run = RunFolder(tmp_path / "runs" / "t")
    assert asking.main([*flags, "--no_wait"]) == EXIT_WAITING
    told = capsys.readouterr().out
    assert f"annotate --trial t --runs {tmp_path}/runs" in told
    assert server.calls == []
    before = {path: path.read_bytes() for path in question_files(run)}
    assert list(before) == [run.validation_questions, run.questions("points", 0)]
    assert not run.validation_points.exists()

    server.answer = lambda run: answer_by_masks(run, samples)
    assert asking.main([*flags, "--wait"]) == 0
    assert {path: path.read_bytes() for path in question_files(run)} == before
    masks = RunFolder(tmp_path / "masks" / "t")
    plain = command(sample_root, tmp_path)
    plain[plain.index("--runs") + 1] = str(tmp_path / "masks")
    assert asking.main(plain) == 0
    for mine, theirs in (
        (run.validation_points, masks.validation_points),
        (run.points("points", 0), masks.points("points", 0)),
        (run.ledger, masks.ledger),
    ):
        assert read_points(mine) == read_points(theirs)
    head, line, *_ = run.points("points", 0).read_text().splitlines()
    assert head == "image,x,y,label,round,annotator,seconds"
    assert line.endswith(",ann,0.5")
    assert read_json(run.agreement)["overall"]["pixels"] == 0
    # It is over: asked again, nothing happens, nor is a server started.
    server.calls.clear()
    assert asking.main(flags) == 0
    assert server.calls == []


@pytest.mark.parametrize("part", ["samples", "validation"])
def test_nobody_is_asked_about_a_picture_that_has_gone(
    sample_root, tmp_path, server, monkeypatch, part
):
    flags = command(sample_root, tmp_path, "--oracle", "human")
    assert asking.main([*flags, "--no_wait"]) == EXIT_WAITING
    made = asking.Pool.__init__

    def without_one(pool, config):
        made(pool, config)
        getattr(pool, part).pop()

    monkeypatch.setattr(asking.Pool, "__init__", without_one)
    with pytest.raises(UserError, match=r"questions\.csv, line \d+: image .* is not among"):
        asking.main(flags)
    assert server.calls == []


def test_an_answer_taken_back_at_the_last_moment_is_waited_for(
    sample_root, tmp_path, server, monkeypatch
):
    samples, waits = list_sets(sample_root, "SAMPLE-TR"), []
    run = RunFolder(tmp_path / "runs" / "t")
    server.answer = lambda run: answer_by_masks(run, samples)

    def wait(config, paths):
        found = wait_for_answers(config, paths)
        waits.append(paths)
        if len(waits) == 1:
            own = Journal(run.journal)
            own.append(own.answers()[-1]._replace(answer="u"))
        return found

    monkeypatch.setattr(asking, "wait_for_answers", wait)
    assert asking.main(command(sample_root, tmp_path, "--oracle", "human")) == 0
    # The validation images' answers were not touched, and are not waited for again.
    assert [len(paths) for paths in waits] == [2, 1]
    assert run.points("points", 0).exists()


def test_people_need_no_masks(sample_root, tmp_path, server):
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "images" / "SAMPLE-TR").symlink_to(sample_root / "images" / "SAMPLE-TR")
    samples = list_sets(sample_root, "SAMPLE-TR")
    server.answer = lambda run: answer_by_masks(run, samples)
    assert asking.main(command(root, tmp_path, "--oracle", "human")) == 0
    with pytest.raises(UserError, match="gts"):
        asking.main(command(root, tmp_path / "again"))


def test_validation_answered_earlier_is_not_waited_for(sample_root, tmp_path, server):
    samples = list_sets(sample_root, "SAMPLE-TR")
    flags = command(sample_root, tmp_path, "--oracle", "human")
    server.answer = lambda run: answer_by_masks(run, samples)
    assert asking.main(flags) == 0
    run = RunFolder(tmp_path / "runs" / "t")
    # Somebody takes back an answer on which the trial has been built.
    journal = Journal(run.journal)
    journal.append(journal.answers()[0]._replace(answer="u"))
    server.calls.clear()
    assert asking.main(flags) == 0
    assert server.calls == []


def test_several_processes_choose_and_one_asks(sample_root, tmp_path, server, monkeypatch, capsys):
    flags = command(sample_root, tmp_path, "--oracle", "human")
    with monkeypatch.context() as patch:
        patch.setattr(asking, "world", lambda: 2)
        assert asking.main(flags) == 0
    assert server.calls == []
    told = capsys.readouterr().out
    assert told == "the questions are chosen: run this in one process to have them answered\n"
    run = RunFolder(tmp_path / "runs" / "t")
    assert not run.points("points", 0).exists()
    before = run.questions("points", 0).read_bytes()
    server.answer = lambda run: answer_by_masks(run, list_sets(sample_root, "SAMPLE-TR"))
    assert asking.main(flags) == 0
    assert run.questions("points", 0).read_bytes() == before
    assert len(read_points(run.points("points", 0))) == len(before.splitlines()) - 1 - 5 * 15
