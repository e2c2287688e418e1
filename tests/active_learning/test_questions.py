"""Questions files hold what was chosen, and tell damage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_learning.answers import Answer, progress, standing
from active_learning.questions import (
    Question,
    question_files,
    read_questions,
    untold,
    write_questions,
)
from datasets.points import Point
from utils.errors import UserError
from utils.run_folder import RunFolder

TIME = "2026-01-31T12:00:00Z"


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "round_02" / "questions.csv"
    asked = [Question('g/ö "1".png', 3, 4, 2, False), Question("b, c.png", 0, 0, 2, True)]
    write_questions(path, asked)
    assert path.read_text(encoding="utf-8").splitlines()[0] == "image,x,y,round,reserve"
    found = read_questions(path)
    assert found == asked
    assert [type(value) for value in found[0]] == [str, int, int, int, bool]
    assert found[0].pixel == ('g/ö "1".png', 3, 4)


def test_a_name_that_no_journal_could_keep_is_told(tmp_path):
    path = tmp_path / "questions.csv"
    with pytest.raises(UserError, match=r"image 'a\\nb.png': its name has a line break"):
        write_questions(path, [Question("a\nb.png", 1, 1, 0, False)])
    assert not path.exists()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("a.png,1,1,0,2\n", "line 2: reserve 2: must be 1 or 0"),
        ("a.png,1,1,0,0\na.png,1,1.5,0,0\n", "line 3: x, y, round, reserve must be integers"),
        ("a.png,1,1,0,0\na.png,1,1,0,1\n", r"line 3: pixel \(1, 1\) is asked twice"),
        ("a.png,1,1,0\n", "line 2: 5 values are needed"),
    ],
)
def test_damage_is_told(tmp_path, rows, told):
    path = tmp_path / "questions.csv"
    path.write_text("image,x,y,round,reserve\n" + rows)
    with pytest.raises(UserError, match=rf"questions\.csv, {told}"):
        read_questions(path)


def test_the_files_come_in_the_order_of_answering(tmp_path):
    run = RunFolder(tmp_path)
    assert question_files(run) == []
    paths = [
        run.validation_questions,
        run.questions("points", 0),
        run.questions("points", 1),
        run.questions("random", 1),
        run.questions("points", 2),
        run.questions("random", 99),
        run.questions("points", 100),
    ]
    for path in reversed(paths):
        write_questions(path, [])
    # A copy that somebody has put aside is none of the trial's.
    write_questions(tmp_path / "round_01 old" / "questions.csv", [])
    assert question_files(run) == paths


@given(
    st.integers(0, 4),
    st.integers(0, 4),
    st.lists(st.sampled_from("fbs"), min_size=8, max_size=8),
)
def test_what_nobody_could_tell_follows_from_the_points(asked, reserve, told):
    own = [Question("a.png", x, 0, 0, x >= asked) for x in range(asked + reserve)]
    answers = []
    while True:  # a person answers whatever is open, and skips some
        stands = progress(own, standing(answers)).get("a.png")
        if stands is None or stands.complete:
            break
        x = stands.open[0].x
        answers.append(Answer("a.png", x, 0, told[x], 0, "ann", 1.0, TIME))
    points = [Point("a.png", q.x, 0, 1, 0) for q in (stands.told if stands else [])]
    skipped = {answer.x for answer in answers if answer.answer == "s"}
    assert {question.x for question in untold(own, points)} == skipped
