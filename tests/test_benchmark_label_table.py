"""The table and figure of the label-efficiency experiment: means, ratios, areas, by hand."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import label_table
from benchmarks.label_figure import budget_lines, round_lines
from benchmarks.label_scores import Entry, area, blocks_of, mean_height, ratio
from benchmarks.label_table import csv_rows, markdown


def entry(arm: str, seed: int, rounds: Sequence[tuple[float | None, dict[str, Any]]]) -> Entry:
    scores = tuple((points, dict(of)) for points, of in rounds)
    images = dict.fromkeys(scores[0][1], 2)
    where = (Path("no") / arm / str(seed), "best")
    return Entry(arm, seed, arm, scores, 0.1, 2.0, "pixel", images, 1.0, 2.0, where, len(scores), 1)


def test_the_mean_height_of_a_curve() -> None:
    # Trapezia of 2 x (.2 + .4) / 2 and 5 x (.4 + .6) / 2 over a width of 7.
    assert mean_height([3, 5, 10], [0.2, 0.4, 0.6]) == pytest.approx(3.1 / 7)
    assert mean_height([5, 10], [0.5, 0.5]) == pytest.approx(0.5)


def test_areas_means_and_ratios_by_hand() -> None:
    first = {"A": {"maxF": 0.4, "MAE": 0.3}, "B": {"maxF": 0.6, "MAE": 0.1}}
    last = {"A": {"maxF": 0.6, "MAE": 0.2}, "B": {"maxF": 0.8, "MAE": 0.1}}
    asked = entry("default", 0, [(5.0, first), (10.0, last)])
    assert asked.means(["A", "B"])["maxF"] == pytest.approx(0.7)
    assert asked.area("maxF", ["A", "B"]) == pytest.approx((0.5 + 0.7) / 2)
    assert asked.area("MAE", ["A"]) == pytest.approx((0.7 + 0.8) / 2)
    dense = entry("dense", 0, [(None, {"A": {"maxF": 0.8}, "B": {"maxF": 0.9}})])
    assert dense.area("maxF", ["A"]) is None
    assert ratio(asked, {0: dense}, ["A", "B"], "maxF") == pytest.approx(0.7 / 0.85)
    assert ratio(asked, {1: dense}, ["A"], "maxF") is None


def test_a_ratio_is_taken_within_each_seed_and_spread_over_seeds() -> None:
    values = {0: (0.4, 0.8), 1: (0.9, 1.0)}
    entries = [
        entry(arm, seed, [(None, {"A": {"S": pair[column]}})])
        for seed, pair in values.items()
        for column, arm in enumerate(["random", "dense"])
    ]
    text = markdown(entries, blocks_of(["A"], []), [0, 1])
    # Of (.5, .9): mean .7, standard deviation .4 / sqrt 2; a ratio of means would be .722.
    assert "0.700 ± 0.283" in text
    assert "0.6500 ± 0.3536" in text
    rows = csv_rows(entries, ["A"])
    assert [row["S/dense"] for row in rows if row["arm"] == "random"] == [0.5, 0.9]


def test_areas_stand_beside_those_over_as_many_points() -> None:
    def curve(arm: str, *points: float) -> Entry:
        scores = {"A": {"maxF": 0.5, "MAE": 0.1}}
        return entry(arm, 0, [(number, scores) for number in points])

    entries = [
        curve("default", 5, 10.0),
        curve("margin", 5.01, 9.99),
        curve("ours_20", 10, 20),
        curve("rounds_5", 2, 4, 6, 8, 10),
        curve("rounds_1", 10),
    ]
    found = {row["arm"]: row["area maxF"] for row in csv_rows(entries, ["A"])}
    expected = {"default": 0.5, "margin": 0.5, "rounds_1": "", "rounds_5": "", "ours_20": ""}
    assert found == pytest.approx(expected)
    assert area(entries[0], {0: entries[1]}, "MAE", ["A"]) == pytest.approx(0.9)
    assert area(entries[0], {}, "MAE", ["A"]) is None
    text = markdown(entries[2:4], blocks_of(["A"], []), [0])
    assert [line.split("|")[-4:-2] for line in text.splitlines() if "s_5 | -" in line] == [
        [" - ", " - "]
    ]


def test_an_arm_without_some_seed_is_marked() -> None:
    scores = {"A": {"S": 0.5}}
    entries = [entry("random", seed, [(10.0, scores)]) for seed in (0, 1)]
    entries += [entry("dense", 1, [(None, scores)])]
    lines = markdown(entries, blocks_of(["A"], []), [0, 1, 2]).splitlines()
    assert any(line.startswith("| dense | 1 of 2 |") for line in lines)
    assert any(line.startswith("| random | 2 |") for line in lines)
    assert any(line.startswith("**Not of all seeds** (column seeds): dense.") for line in lines)
    assert "Not of all" not in markdown(entries[:2], blocks_of(["A"], []), [0, 1, 2])


def test_hard_sets_are_averaged_apart() -> None:
    assert [b.sets for b in blocks_of(["A", "B"], [])] == [("A", "B"), ("A",), ("B",)]
    found = [block.sets for block in blocks_of(["A", "B", "C", "D"], ["B", "D"])]
    assert found == [("A", "C"), ("B", "D"), ("A",), ("B",), ("C",), ("D",)]
    assert [block.sets for block in blocks_of(["A"], ["A"])] == [("A",)]


def test_p_values_stand_in_their_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    known = SimpleNamespace(
        p={("A", "margin", "S"): 0.1, ("A", "margin", "MAE"): 0.2},
        p_of_both={("A", "margin", "S"): 0.3, ("A", "margin", "MAE"): 0.4},
    )
    monkeypatch.setattr(label_table, "Compared", lambda *_: known)
    text = markdown([entry("margin", 0, [(10.0, {"A": {"S": 0.5}})])], blocks_of(["A"], []), [0])
    header, _, line = text[text.index("| arm") :].splitlines()[:3]
    assert header.endswith("| p S | p MAE | p S, seeds too | p MAE, seeds too |")
    assert line.endswith("| 0.100 | 0.200 | 0.300 | 0.400 |")


def test_the_leak_is_named_in_the_table() -> None:
    leaking = dataclasses.replace(
        entry("region_mask", 0, [(10.0, {"A": {"S": 0.5}})]), label_mode="region_mask"
    )
    lines = markdown([leaking], blocks_of(["A"], []), [0]).splitlines()
    assert [line for line in lines if line.startswith("| region_mask (LEAKS the mask) ")]


def test_the_notes_say_which_epochs_are_kept() -> None:
    older, newer = (
        dataclasses.replace(entry(arm, 0, [(10.0, {"A": {"S": 0.5}})]), keep_within=within)
        for arm, within in (("lowest_epoch", 0.0), ("margin", 1.0))
    )
    for entries, told in (([older], "0"), ([newer], "1"), ([newer, older], "0 or, as .* it, 1")):
        text = markdown(entries, blocks_of(["A"], []), [0])
        assert re.search(f"no more standard errors of it than {told}\\. Region", text)


def test_lines_of_the_figure() -> None:
    scores = {"A": {"S": 0.5}}
    entries = [entry("ours_10", s, [(5.0, scores), (10.0, scores)]) for s in (0, 1)]
    entries += [entry("ours_3", s, [(2.0, scores), (3.0, scores)]) for s in (0, 1)]
    entries += [entry("margin", 0, [(5.0, scores), (10.0, scores)])]
    (line,) = budget_lines(entries)
    assert [(points, len(of)) for points, of in line.places] == [(3.0, 2), (10.0, 2)]
    (line,) = round_lines(entries)
    assert [points for points, _ in line.places] == [5.0, 10.0]
    again = [entry("margin", 0, [(5.0, scores), (10.0, scores), (10.0, scores)])]
    (line,) = round_lines(again)
    assert [(points, of) for points, of in line.places] == [
        (5.0, [(again[0], 0)]),
        (10.0, [(again[0], 2)]),
    ]
