"""The metrics of images and sets: names, averages, and sums in bounded memory."""

import runpy
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from utils.errors import UserError
from utils.metrics.conventions import CONVENTIONS
from utils.metrics.summary import (
    CHUNK,
    CURVES,
    LOWER_IS_BETTER,
    METRICS,
    PARTS,
    SetScores,
    each_image,
    parts_of,
)
from utils.metrics.thresholds import curves

HERE = Path(__file__).parent
plain = SimpleNamespace(**runpy.run_path(str(HERE / "plain.py")))
golden = SimpleNamespace(**runpy.run_path(str(HERE.parents[1] / "golden" / "pairs.py")))
PAIRS, GOLDEN = golden.golden_pairs(), golden.read_golden()
PYSODMETRICS = CONVENTIONS["pysodmetrics"]
HALF_TIES = ("half tie", "disc, all but 0", "one pixel")  # see test_thresholds.py


def set_of(tallies, convention=PYSODMETRICS, metrics=METRICS):
    scores = SetScores(convention, metrics)
    scores.add(tallies)
    return scores


def test_names():
    assert METRICS[:9] == ("maxF", "meanF", "adpF", "wF", "S", "maxE", "meanE", "adpE", "MAE")
    assert METRICS[9:] == ("AP", "AUC", "IoU", "maxIoU", "Dice", "maxDice", "BER", "BIoU")
    assert set(METRICS) >= LOWER_IS_BETTER == {"MAE", "BER"}
    assert set(METRICS) >= PARTS
    assert parts_of(METRICS) == PARTS
    assert parts_of(["maxF", "S", "BIoU"]) == {"S", "BIoU"}
    assert parts_of(["MAE", "AP", "IoU"]) == frozenset()
    with pytest.raises(UserError, match="unknown metric 'maxf'; did you mean 'maxF'"):
        parts_of(["S", "maxf"])
    with pytest.raises(UserError, match="unknown metric 'iou'"):
        SetScores(PYSODMETRICS, ["iou"])


def test_every_pair_has_its_golden_scores():
    assert set(GOLDEN["images"]) == set(PAIRS)
    assert len(GOLDEN["set"]["names"]) >= 50


def test_set_equal_to_pysodmetrics_classes():
    theirs = {key: golden.unpacked(value) for key, value in GOLDEN["set"].items() if key != "names"}
    scores = SetScores(PYSODMETRICS)
    half = dict.fromkeys(("IoU", "Dice", "BER"), 0.0)  # what ties at one half add to ours
    for name in GOLDEN["set"]["names"]:
        of_image = GOLDEN["images"][name]
        parts = {"S": of_image["s"], "wF": of_image["wf"], "BIoU": 0.25}
        tally = plain.tally_of(*PAIRS[name], **parts)
        scores.add(tally)
        if name in HALF_TIES:
            for metric, own in each_image(tally, PYSODMETRICS, list(half)).items():
                half[metric] += (own[0] - of_image[metric.lower()]) / len(GOLDEN["set"]["names"])
    expected = {
        "maxF": theirs["f_curve"].max(),
        "meanF": theirs["f_curve"].mean(),
        "adpF": theirs["adp_f"],
        "wF": theirs["wf"],
        "S": theirs["s"],
        "maxE": theirs["e_curve"].max(),
        "meanE": theirs["e_curve"].mean(),
        "adpE": theirs["adp_e"],
        "MAE": theirs["mae"],
        "IoU": theirs["iou"] + half["IoU"],
        "maxIoU": theirs["iou_curve"].max(),
        "Dice": theirs["dice"] + half["Dice"],
        "maxDice": theirs["dice_curve"].max(),
        "BER": theirs["ber"] + half["BER"],
        "BIoU": 0.25,
    }
    found = scores.result()
    assert tuple(found) == METRICS
    assert all(type(value) is float for value in found.values())
    assert scores.images == len(GOLDEN["set"]["names"])
    without_areas = {name: found[name] for name in expected}
    assert without_areas == pytest.approx(expected, rel=0, abs=2e-9)
    averaged = scores.curves()
    assert set(averaged) == {*CURVES, "thresholds"}
    for name in set(CURVES) - {"fpr", "precision", "recall"}:
        np.testing.assert_allclose(averaged[name], theirs[f"{name}_curve"], rtol=0, atol=2e-9)
    for name in ("precision", "recall"):
        np.testing.assert_allclose(averaged[name], theirs[name], rtol=0, atol=2e-9)
    np.testing.assert_array_equal(averaged["thresholds"], np.arange(255, -1, -1))


def test_max_is_of_the_averaged_curve():
    # Perfect at high thresholds only, and perfect at low thresholds only: no threshold suits both.
    mask = np.array([[0, 0, 255, 255]], np.uint8)
    scores = SetScores(PYSODMETRICS, ["maxF"])
    scores.add(plain.tally_of(np.array([[0, 200, 255, 255]], np.uint8), mask))
    scores.add(plain.tally_of(np.array([[0, 0, 20, 255]], np.uint8), mask))
    low_first, high_second = 1.3 * 0.5 / (0.3 * 2 / 3 + 1) / 0.75, 1.3 * 0.5 / (0.3 + 0.5)
    expected = max(1 + high_second, low_first + 1) / 2
    assert scores.result()["maxF"] == pytest.approx(expected)
    assert expected < 1


def test_areas_are_of_the_averaged_curves():
    tallies = plain.random_tallies(6, seed=1)
    mean = {k: v.mean(axis=0) for k, v in curves(tallies["counts"], PYSODMETRICS)._asdict().items()}
    best, ap, auc, before = 0.0, 0.0, 0.0, (0.0, 0.0)
    ranks = list(zip(mean["precision"], mean["recall"], mean["fpr"], strict=True))
    for index, (_, recall, fpr) in enumerate(ranks):
        best = max(precision for precision, _, _ in ranks[index:])
        ap += (recall - before[0]) * best
        auc += (fpr - before[1]) * (recall + before[0]) / 2
        before = recall, fpr
    found = set_of(tallies).result()
    assert found["AP"] == pytest.approx(ap, abs=1e-12)
    assert found["AUC"] == pytest.approx(auc, abs=1e-12)
    assert found["AUC"] != pytest.approx(each_image(tallies, PYSODMETRICS)["AUC"].mean(), abs=1e-6)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_each_image_is_a_set_of_one(name):
    tallies = plain.random_tallies(CHUNK + 3, seed=2)
    found = each_image(tallies, CONVENTIONS[name])
    assert tuple(found) == METRICS
    for index in (0, CHUNK - 1, CHUNK, CHUNK + 2):
        alone = set_of(tallies[index : index + 1], CONVENTIONS[name]).result()
        assert {m: found[m][index] for m in METRICS} == pytest.approx(alone, abs=1e-12)
    for metric, values in found.items():
        assert values.shape == (CHUNK + 3,), metric
        assert values.dtype == np.float64
    assert each_image(tallies[:0], CONVENTIONS[name])["maxF"].shape == (0,)
    few = each_image(tallies, CONVENTIONS[name], ["MAE", "maxE"])
    assert tuple(few) == ("MAE", "maxE")
    np.testing.assert_array_equal(few["maxE"], found["maxE"])


@pytest.mark.parametrize("name", CONVENTIONS)
def test_plain_scores_are_means_over_images(name):
    tallies = plain.random_tallies(20, seed=3)
    each = each_image(tallies, CONVENTIONS[name])
    found = set_of(tallies, CONVENTIONS[name]).result()
    curved = ("maxF", "maxE", "maxIoU", "maxDice", "AP", "AUC")
    for metric in set(METRICS) - set(curved):
        assert found[metric] == pytest.approx(each[metric].mean(), abs=1e-12), metric
    for metric in curved[:4]:
        assert found[metric] < each[metric].mean(), metric


def test_same_parts_same_bits_and_other_parts_nearly():
    tallies = plain.random_tallies(3 * CHUNK + 40, seed=4)
    whole = set_of(tallies)
    by_chunk = SetScores(PYSODMETRICS)
    for start in range(0, len(tallies), CHUNK):
        by_chunk.add(tallies[start : start + CHUNK])
    assert by_chunk.result() == whole.result() == set_of(tallies.copy()).result()
    for name, curve in whole.curves().items():
        np.testing.assert_array_equal(by_chunk.curves()[name], curve)
    one_by_one = SetScores(PYSODMETRICS)
    for start in range(0, len(tallies), 7):
        one_by_one.add(tallies[start : start + 7])
    assert one_by_one.images == whole.images == len(tallies)
    assert one_by_one.result() == pytest.approx(whole.result(), rel=0, abs=1e-12)


def test_parts_are_asked_for_only_where_needed():
    tallies = plain.random_tallies(4, seed=5)
    tallies["wF"][1:3] = np.nan
    assert "wF" not in set_of(tallies, metrics=["S", "maxF"]).result()
    with pytest.raises(UserError, match="2 of 4 maps were scored without wF"):
        set_of(tallies)
    with pytest.raises(UserError, match="scored without wF"):
        each_image(tallies, PYSODMETRICS, ["MAE", "wF"])


def test_no_image_is_told():
    scores = set_of(plain.random_tallies(0, seed=6))
    assert scores.images == 0
    for told in (scores.result, scores.curves):
        with pytest.raises(UserError, match="no saliency map was scored"):
            told()


def test_memory_does_not_grow_with_the_images():
    chunk = plain.random_tallies(CHUNK, seed=7)
    scores = SetScores(PYSODMETRICS)
    scores.add(chunk)
    tracemalloc.start()
    scores.add(chunk)
    _, few = tracemalloc.get_traced_memory()
    for _ in range(40):
        scores.add(chunk)
    left, many = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert many < 1.1 * few + 1e5
    assert left < 1e5
    assert few < 60e6
    assert scores.images == 42 * CHUNK


def test_memory_of_a_large_set_at_once():
    # 100,000 tallies that share their memory, added in one call.
    tallies = np.broadcast_to(plain.random_tallies(1, seed=8), 100_000)
    scores = SetScores(PYSODMETRICS, ["maxF", "MAE"])
    tracemalloc.start()
    scores.add(tallies)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 60e6
    assert scores.images == 100_000
    alone = set_of(tallies[:1], metrics=["maxF", "MAE"]).result()
    assert scores.result() == pytest.approx(alone, rel=1e-10)
