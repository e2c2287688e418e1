"""How sure a difference is: spread over seeds, Holm's correction, the bootstrap over images."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import UserError
from utils.metrics import CONVENTIONS, SetScores, tally
from utils.significance import (
    RESAMPLES,
    Group,
    check_same_images,
    compare,
    comparison_notes,
    comparison_rows,
    describe,
    group_trials,
    holm,
    notes,
    ratio_to_dense,
    sets_in_both,
    spread_of,
    spread_rows,
    tally_folder,
)
from utils.tallies import TallyLog, log_path, make_record


def test_mean_and_sample_standard_deviation_of_what_is_known():
    # Deviations -2, 0, 2: the squares sum to 8; divided by n - 1 = 2, the root is 2.
    assert spread_of([3.0, None, 5.0, 7.0]) == (5.0, 2.0, 3)
    assert spread_of([0.25]) == (0.25, None, 1)
    assert spread_of([None]) is None


def test_a_ratio_needs_both_and_a_divisor():
    arms = {"points": {"MAE": 0.3, "S": 0.5}, "dense": {"MAE": 0.2, "S": 0.0}, "random": {}}
    assert ratio_to_dense(arms, "points", "MAE") == pytest.approx(1.5)
    assert ratio_to_dense(arms, "points", "S") is None
    assert ratio_to_dense(arms, "random", "MAE") is None
    assert ratio_to_dense({"points": {"MAE": 0.3}}, "points", "MAE") is None
    assert ratio_to_dense({"points": {"MAE": 0.0}, "dense": {"MAE": 0.2}}, "points", "MAE") == 0


def test_ratios_are_taken_within_a_trial_before_they_are_averaged():
    trials = [
        {"points": {"MAE": 0.10}, "dense": {"MAE": 0.05}},
        {"points": {"MAE": 0.12}, "dense": {"MAE": 0.08}},
        {"points": {"MAE": 0.14}},
    ]
    header, lines = spread_rows(trials)
    assert header == ["points", "dense", "points/dense"]
    # Ratios 2 and 1.5; 0.12 / 0.065, the ratio of the means, would be 1.846.
    assert lines == [
        ["MAE", "0.1200 ± 0.0200 (3)", "0.0650 ± 0.0212 (2)", "1.750 ± 0.354 (2)"],
    ]
    assert spread_rows(trials[2:]) == (["points"], [["MAE", "0.1400 (1)"]])
    only_points = [{"points": {"MAE": 0.1, "S": 0.6}, "dense": {"MAE": 0.1}}]
    assert spread_rows(only_points)[1][0] == ["S", "0.6000 (1)", "-", "-"]


def settings(seed, **others):
    where = {"data_root": "D", "trainset": "T", "validation_fraction": 0.1, "grouped": False}
    losses = {"bce": 1.0, "iou": 1.0}
    return {"seed": seed, "lr": 0.1, "losses": losses, "device": "cpu", **where, **others}


def test_trials_are_grouped_by_what_is_not_ignored():
    values = {
        "a": settings(0),
        "b": settings(1, lr=0.2),
        "c": settings(2, device="cuda"),
        "d": settings(3, lr=0.2, losses={"iou": 1.0, "bce": 1.0}),
    }
    groups = group_trials(values, {"seed", "device"})
    assert groups == [(["a", "c"], {"lr": 0.1}), (["b", "d"], {"lr": 0.2})]
    assert describe(groups[1], values) == "b (seed 1), d (seed 3): lr = 0.2"
    (alone,) = group_trials({"a": values["a"], "c": values["c"]}, {"seed", "device"})
    assert alone == (["a", "c"], {})
    assert describe(alone, values) == "a (seed 0), c (seed 2)"
    assert len(group_trials({**values, "e": settings(4, losses={"bce": 2.0})}, {"seed"})) == 4


def test_what_weakens_a_spread_is_told():
    def told(values, on_test=False):
        return notes(group_trials(values, {"seed"}), values, on_test)[1:]

    two = {"a": settings(0), "b": settings(1)}
    assert "hold out different images" in told(two)[0]
    assert told(two, on_test=True) == []
    grouped = {name: settings(0, grouped=name == "b") for name in "ab"}
    assert "hold out different images" in notes([Group(["a", "b"], {})], grouped, False)[-1]
    again = {"a": settings(0), "b": settings(0)}
    (warning,) = told(again)
    assert "a, b repeat a seed" in warning
    assert told({"a": settings(0), "b": settings(0, lr=0.3)}) == []  # of two groups


def test_holm_by_hand():
    # Ordered: .005 x 4, .01 x 3, .03 x 2, .04 x 1 raised to the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_stepping_down_rejects(p_values, alpha):
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    rejected = set()
    for step, index in enumerate(order):
        if (len(p_values) - step) * p_values[index] > alpha:
            break
        rejected.add(index)
    assert {i for i, p in enumerate(holm(p_values)) if p <= alpha} == rejected


NAMES = [f"{index}.png" for index in range(24)]


def keep(folder, set_name, noise, names=NAMES, convention="pysodmetrics", flip=0):
    """Keep tallies of maps that are their masks plus noise; ``flip`` maps are inverted."""
    log = TallyLog(
        log_path(folder, set_name, convention),
        convention,
        frozenset({"S", "wF", "BIoU"}),
        np.arange(len(names), dtype=np.uint64),
    )
    rng = np.random.default_rng(5)
    tallies = []
    for index in range(len(names)):
        mask = np.zeros((16, 20), bool)
        mask[4:12, 3 + index % 5 : 12] = True
        unsure = rng.integers(0, 256, mask.shape)
        saliency = ((1 - noise) * 255 * (mask ^ (index < flip)) + noise * unsure).astype(np.uint8)
        tallies.append(tally(saliency, mask, CONVENTIONS[convention]))
        log.append(make_record(index, tallies[-1], False))
    log.close(names, np.arange(len(names), dtype=np.uint64))
    return np.array(tallies)


def test_a_better_checkpoint_is_told_from_a_worse_and_from_itself(tmp_path):
    good, bad = tmp_path / "a", tmp_path / "b"
    scores = {}
    for folder, noise in ((good, 0.1), (bad, 0.4)):
        for set_name in ("Y", "X"):
            tallies = keep(folder, set_name, noise)
        added = SetScores(CONVENTIONS["pysodmetrics"], ("S", "MAE"))
        added.add(tallies)
        scores[folder] = added.result()
    keep(good, "only-here", 0.1)
    found = compare(good, bad, ("S", "MAE"))
    assert [(one.set_name, one.metric) for one in found] == [
        *(("X", "S"), ("X", "MAE"), ("Y", "S"), ("Y", "MAE")),
    ]
    for set_name, metric, result, convention in found:
        assert convention == "pysodmetrics"
        assert set_name in "XY"
        assert result.a == pytest.approx(scores[good][metric], abs=1e-12)
        assert result.b == pytest.approx(scores[bad][metric], abs=1e-12)
        assert result.p <= 2.1 / RESAMPLES
        assert result.low <= result.difference <= result.high
        assert (result.low > 0) == (metric == "S")
    header, lines = comparison_rows(found, ["good", "bad"])
    assert header[1:3] == ["good", "bad"]
    assert lines[1][:2] == ["X MAE", f"{scores[good]['MAE']:.4f}"]
    assert lines[1][3].startswith("-")
    smallest = 2 / (RESAMPLES + 1)
    assert [line[-2:] for line in lines] == [[f"{smallest:.4f}", f"{4 * smallest:.4f}"]] * 4
    assert comparison_notes(found)[0] == "convention: pysodmetrics"
    assert "in MAE the lower is the better" in comparison_notes(found)[1]
    assert "the lower" not in comparison_notes(found[:1])[1]
    (same,) = compare(good, good, ("MAE",), ["X"])
    assert (same.set_name, same.result.difference, same.result.p) == ("X", 0, 1)


def test_a_difference_of_one_image_is_not_sure(tmp_path):
    keep(tmp_path / "a", "X", 0.2)
    keep(tmp_path / "b", "X", 0.2, flip=1)
    (one,) = compare(tmp_path / "a", tmp_path / "b", ("MAE",))
    assert one.result.difference < -0.02
    # The image is in no draw with the chance (23/24)^24, about .36, which gives 0: no difference.
    assert one.result.p == pytest.approx(2 * math.pow(23 / 24, 24), abs=0.06)


def test_other_images_and_other_conventions_are_refused(tmp_path):
    keep(tmp_path / "a", "X", 0.2)
    keep(tmp_path / "b", "X", 0.2, names=[*NAMES[:-1], "new.png"])
    with pytest.raises(
        UserError, match=r"not the same images: .*a/X\.pysodmetrics\.tally alone has 23.png, .*b"
    ):
        compare(tmp_path / "a", tmp_path / "b", ("MAE",))
    keep(tmp_path / "c", "X", 0.2, convention="raw")
    with pytest.raises(UserError, match=r"in the convention pysodmetrics, .* in raw: run evaluate"):
        compare(tmp_path / "a", tmp_path / "c", ("MAE",))
    paths = (Path("a"), Path("b"))
    check_same_images(["x", "y"], ["x", "y"], paths)
    with pytest.raises(UserError, match="images: b alone has z: "):
        check_same_images(["x"], ["x", "z"], paths)
    with pytest.raises(UserError, match="another order"):
        check_same_images(["x", "y"], ["y", "x"], paths)


def test_a_checkpoint_is_found_by_its_name_or_that_of_its_trial_too(tmp_path):
    for name in ("t/tallies/dense-best", "u/tallies/round_01-best", "v"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name.split("/")[0] / "config.json").write_text("{}")
    assert tally_folder(tmp_path, "dense-best", "t") == tmp_path / "t/tallies/dense-best"
    assert tally_folder(tmp_path, "u/round_01-best", "t") == tmp_path / "u/tallies/round_01-best"
    with pytest.raises(
        UserError, match=r"no checkpoint 'dense-bets' .*; did you mean 'dense-best'"
    ):
        tally_folder(tmp_path, "dense-bets", "t")
    with pytest.raises(UserError, match=r"no trial 'uu' in .*; did you mean 'u'"):
        tally_folder(tmp_path, "uu/round_01-best", "t")
    with pytest.raises(UserError, match=r"v/tallies: no such folder: run evaluate.py --trial v"):
        tally_folder(tmp_path, "v/round_01-best", "t")


def test_sets_are_those_of_both(tmp_path):
    logs = (
        "a/X.raw",
        "a/X.pysodmetrics",
        "a/Y.1.raw",
        "b/Y.1.raw",
        "b/X.raw",
        "b/Z.raw",
        "a/W.raw",
    )
    for name in (*logs, "b/X.pysodmetrics", "b/W.eval-co-sod", "a/old", "b/old"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.tally").touch()
        (tmp_path / f"{name}.index").touch()
    a, b = tmp_path / "a", tmp_path / "b"
    assert sets_in_both(a, b, ["Y.1", "X"], None) == {"Y.1": "raw", "X": "pysodmetrics"}
    assert sets_in_both(a, b, ["X"], "raw") == {"X": "raw"}
    with pytest.raises(UserError, match=r"on W in the convention raw, .*/b in eval-co-sod: run"):
        sets_in_both(a, b, [], None)
    with pytest.raises(UserError, match=r"on Y.1 .* in raw, not both in pysodmetrics: run"):
        sets_in_both(a, b, ["Y.1"], "pysodmetrics")
    with pytest.raises(UserError, match=r"a: no scores on 'Z'"):
        sets_in_both(a, b, ["X", "Z"], None)
    with pytest.raises(UserError, match="no test set was scored for both"):
        sets_in_both(a, tmp_path / "none", [], None)
