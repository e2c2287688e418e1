"""Which checkpoint is best: the order and its ties, patterns of trials, sets that compare."""

import random
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.metrics import METRICS
from utils.ranking import (
    Candidate,
    candidates,
    check_numbers,
    common_sets,
    explain_ties,
    find_trials,
    rank,
    ranking_rows,
    restrict,
    scores_of,
)


def candidate(name, value, second=0.5, points=10.0, index=1, trial="t"):
    return Candidate(trial, name, "points", index, points, value, second)


def row(checkpoint, where, images="4", **scores):
    about = {"checkpoint": checkpoint, "set": where, "images": images, "arm": "points"}
    budget = {"round": "1", "points": "10", "labelled_percent": "0.1"}
    return {**about, **dict.fromkeys(METRICS, ""), **budget, **scores}


# Each differs from the one before in the rule that parts them, and all later rules say otherwise.
ORDERED = [
    candidate("z", 0.1, 0.2, 20, 3),
    candidate("y", 0.2, 0.7, 30, 4),
    candidate("x", 0.2, 0.6, 8, 4),
    candidate("w", 0.2, 0.6, 9, 2),
    candidate("v", 0.2, 0.6, 9, 3, trial="a"),
    candidate("u", 0.2, 0.6, 9, 3, trial="b"),
    candidate("t", 0.2, 0.6, None, 0),
    candidate("s", 0.2, None, 1, 0),
]


def test_each_rule_decides_where_those_before_are_equal():
    for seed in range(20):
        shuffled = random.Random(seed).sample(ORDERED, len(ORDERED))
        assert rank(shuffled, "MAE") == ORDERED


def test_the_rule_that_parted_neighbours_is_told():
    assert explain_ties(ORDERED, "MAE") == [
        "tie in MAE: t/y before t/x by higher maxF",
        "tie in MAE: t/x before t/w by fewer points",
        "tie in MAE: t/w before a/v by the earlier round",
        "tie in MAE: a/v before b/u by the name",
        "tie in MAE: b/u before t/t by fewer points",
        "tie in MAE: t/t before t/s by higher maxF",
    ]


def test_a_metric_that_rises_is_ranked_from_above_and_mae_breaks_its_ties():
    found = [candidate("low", 0.3), candidate("dim", 0.9, 0.2), candidate("sharp", 0.9, 0.1)]
    assert [one.checkpoint for one in rank(found, "maxF")] == ["sharp", "dim", "low"]
    assert explain_ties(rank(found, "maxF"), "maxF") == [
        "tie in maxF: t/sharp before t/dim by lower MAE"
    ]
    assert [one.checkpoint for one in rank(found, "BER")] == ["low", "sharp", "dim"]


def test_means_of_equal_digits_tie_though_arithmetic_differs():
    # In floating point 0.1 + 0.2 is above 0.3 + 0.
    rows = [row("b", "X", MAE="0.1", maxF="0.5"), row("b", "Y", MAE="0.2", maxF="0.5")]
    rows += [row("a", "X", MAE="0.3", maxF="0.4"), row("a", "Y", MAE="0", maxF="0.4")]
    ranked = rank(candidates(rows, "t", "MAE", on_test=True), "MAE")
    assert [one.checkpoint for one in ranked] == ["b", "a"]
    near = [candidate("a", 0.2000005), candidate("b", 0.2)]
    assert [one.checkpoint for one in rank(near, "MAE")] == ["b", "a"]


def test_candidates_have_the_score_where_they_are_chosen():
    rows = [
        row("one", "validation", MAE="0.3", maxF="0.8"),
        row("one", "X", MAE="0.1", maxF="0.9", S="0.7"),
        row("one", "Y", MAE="0.2", maxF="0.5", S="0.5"),
        row("two", "X", MAE="0.4", S="0.7"),
        row("two", "Y", MAE="0.4", S=""),
    ]
    (held_out,) = candidates(rows, "t", "MAE", on_test=False)
    assert held_out == Candidate("t", "one", "points", 1, 10.0, 0.3, 0.8)
    tested = candidates(rows, "t", "MAE", on_test=True)
    assert [one.value for one in tested] == pytest.approx([0.15, 0.4])
    assert [one.second for one in tested] == [pytest.approx(0.7), None]
    # A mean over one set does not compare with a mean over two.
    assert [one.checkpoint for one in candidates(rows, "t", "S", on_test=True)] == ["one"]
    assert candidates(rows, "t", "S", on_test=False) == []


def test_a_ranking_is_told():
    header, lines = ranking_rows(rank(ORDERED, "MAE")[-2:], "MAE")
    assert header[-2:] == ["MAE", "maxF"]
    assert lines == [
        ["1", "t/t", "points", "-", "0.200000", "0.600000"],
        ["2", "t/s", "points", "1", "0.200000", "-"],
    ]


def test_the_mean_is_of_metrics_that_every_set_has():
    rows = [row("a", "X", MAE="0.1", S="0.5"), row("a", "Y", MAE="0.3"), row("a", "validation")]
    scores = scores_of(rows, "a")
    assert list(scores) == ["mean", "X", "Y"]
    assert scores["mean"] == {"MAE": pytest.approx(0.2)}
    assert scores["X"] == {"MAE": 0.1, "S": 0.5}
    assert list(scores_of(rows[:1], "a")) == ["X"]


@pytest.mark.parametrize(
    ("column", "text", "told"),
    [
        ("MAE", "nan", "MAE = 'nan' is not a finite number"),
        ("S", "-inf", "S = '-inf' is not a finite number"),
        ("maxF", "good", "maxF = 'good' is not a finite number"),
        ("points", "ten", "points = 'ten' is not a finite number"),
        ("round", "1.5", "round = '1.5' is not a whole number"),
        ("images", "x", "images = 'x' is not a whole number"),
    ],
)
def test_what_is_no_number_is_told_with_file_and_line(column, text, told):
    rows = [row("a", "X"), row("b", "X", **{column: text}), row("c", "X", MAE="nan")]
    with pytest.raises(UserError, match=rf"^f\.csv, line 3: {told}"):
        check_numbers(rows, Path("f.csv"))
    check_numbers([row("a", "X", MAE="1e-3")], Path("f.csv"))


def test_names_and_patterns_of_trials():
    known = {"seed_10", "seed_2", "other", "a[1]"}
    assert find_trials(known, ["other", "seed_*", "seed_2"], "runs") == [
        *("other", "seed_10", "seed_2"),
    ]
    assert find_trials(known, ["a[1]"], "runs") == ["a[1]"]  # a name before it is a pattern
    assert find_trials(known, ["seed_?"], "runs") == ["seed_2"]
    with pytest.raises(UserError, match="no trial 'sed_2' in runs; did you mean 'seed_2'"):
        find_trials(known, ["other", "sed_2"], "runs")
    with pytest.raises(UserError, match=r"no trial matches 'z\*' in runs \(there are: a\[1\], oth"):
        find_trials(known, ["z*"], "runs")
    with pytest.raises(UserError, match=r"no trial 'a' in runs \(there are: none\)"):
        find_trials([], ["a"], "runs")


def test_sets_compare_if_every_checkpoint_has_them_on_as_many_images():
    same = [row("a", "X"), row("a", "Y"), row("a", "validation", images="9")]
    assert common_sets({"t": same, "u": [row("b", "Y"), row("b", "X")]}) == (["X", "Y"], "")
    sets, fault = common_sets({"t": same, "u": [row("b", "X")]})
    assert sets == ["X"]
    assert fault == "Y is scored on 4 images by t/a, not scored by u/b"
    sets, fault = common_sets({"t": [row("b", "X")], "u": same})
    assert sets == ["X"]
    assert fault == "Y is scored on 4 images by u/a, not scored by t/b"
    sets, fault = common_sets({"t": same, "u": [row("b", "X"), row("b", "Y", images="3")]})
    assert sets == ["X"]
    assert fault == "Y is scored on 4 images by t/a, scored on 3 images by u/b"
    sets, fault = common_sets({"t": [*same, row("c", "X")]})
    assert sets == ["X"]
    assert "t/c" in fault


def test_scores_in_two_conventions_are_refused():
    def made(by, where="X"):
        return [row("a", where) | {"convention": by}]

    assert common_sets({"t": made("raw"), "u": made("raw")}) == (["X"], "")
    assert common_sets({"t": made("raw"), "u": made("raw") + made("", "validation")})[1] == ""
    with pytest.raises(UserError, match=r"raw \(t\), eval-co-sod \(u\)"):
        common_sets({"t": made("raw"), "u": made("eval-co-sod")})


def test_a_set_without_scores_is_named():
    rows = [row("a", "ECSSD"), row("a", "SOD"), row("a", "validation")]
    assert restrict(rows, ["SOD"], Path("f")) == rows[1:]
    with pytest.raises(UserError, match=r"f: no .* set 'ECSD'; did you mean 'ECSSD'\? \(known: EC"):
        restrict(rows, ["SOD", "ECSD"], Path("f"))
