"""Cohen's kappa of annotators."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_learning.kappa import (
    CLASSES,
    agreement_of,
    kappas,
    overall,
    pairwise,
    write_agreement,
)
from utils.files import read_json


class Said(NamedTuple):
    annotator: str
    answer: str


def plain_kappa(pairs: list[tuple[str, str]]) -> float | None:
    """Kappa straight from its definition, in shares."""
    n = len(pairs)
    observed = sum(one == other for one, other in pairs) / n
    shares = [[[pair[i] for pair in pairs].count(c) / n for c in CLASSES] for i in (0, 1)]
    expected = sum(p * q for p, q in zip(*shares, strict=True))
    return None if abs(1 - expected) < 1e-12 else (observed - expected) / (1 - expected)


def test_known_answers() -> None:
    # A common textbook table: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no; kappa is 0.4.
    pairs = [("f", "f")] * 20 + [("f", "b")] * 5 + [("b", "f")] * 10 + [("b", "b")] * 15
    found = agreement_of("ann", "bob", pairs)
    assert found.kappa == pytest.approx(0.4)
    assert found.table == ((20, 5, 0), (10, 15, 0), (0, 0, 0))
    assert (found.pixels, found.alike) == (50, 35)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.4 < found.high
    # The large-sample standard error is about .127.
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.127, rel=0.2)
    assert agreement_of("a", "b", [("f", "b"), ("b", "f")]).kappa == pytest.approx(-1)
    assert agreement_of("a", "b", [("f", "f"), ("s", "s")]).kappa == 1


@pytest.mark.parametrize("pairs", [[], [("b", "b")] * 3])
def test_undefined_is_said(pairs: list[tuple[str, str]]) -> None:
    found = agreement_of("a", "b", pairs)
    assert found.kappa is found.low is found.high is None
    assert found.why_undefined() == (
        "both gave one and the same answer throughout" if pairs else "no pixel"
    )
    assert agreement_of("a", "b", [("b", "f")]).why_undefined() == ""


@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1))
def test_as_the_definition_has_it(pairs: list[tuple[str, str]]) -> None:
    found, wanted = agreement_of("a", "b", pairs), plain_kappa(pairs)
    assert found.kappa == (None if wanted is None else pytest.approx(wanted))
    mirrored = agreement_of("b", "a", [(other, one) for one, other in pairs])
    assert mirrored.kappa == found.kappa
    if found.low is not None:
        assert -1 <= found.low < found.high <= 1
    assert (found.low is None) == (found.high is None)


@pytest.mark.parametrize("pairs", [[("f", "f"), ("b", "b")] * 9, [("f", "b")]])
def test_what_every_draw_would_say_has_no_interval(pairs: list[tuple[str, str]]) -> None:
    found = agreement_of("a", "b", pairs)
    assert found.kappa is not None
    assert found.low is found.high is None


def test_many_tables_at_once() -> None:
    tables = np.array([[[20, 5], [10, 15]], [[0, 0], [0, 0]], [[3, 0], [0, 0]]], float)
    assert kappas(tables) == pytest.approx([0.4, np.nan, np.nan], nan_ok=True)


def test_agreement_is_stored(tmp_path: Path) -> None:
    standing = {("x", x, 0): [Said("ann", one), Said("bob", "f")] for x, one in enumerate("ffb")}
    write_agreement(tmp_path / "agreement.json", standing)
    found = read_json(tmp_path / "agreement.json")
    assert (found["overall"]["pixels"], found["overall"]["alike"]) == (3, 2)
    assert found["overall"]["kappa"] == 0
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"]) == ("ann", "bob")
    assert pair["table"] == [[2, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_pairs_of_annotators() -> None:
    standing = {
        ("x", 0, 0): [Said("bob", "f"), Said("ann", "b")],
        ("x", 1, 0): [Said("ann", "f"), Said("bob", "f"), Said("cy", "s")],
        ("x", 2, 0): [Said("ann", "f")],
        ("x", 3, 0): [Said("review:zoe", "f"), Said("ann", "b"), Said("review:bob", "b")],
    }
    found = {(one.first, one.second): one.table for one in pairwise(standing)}
    assert found == {
        ("ann", "bob"): ((1, 0, 0), (1, 0, 0), (0, 0, 0)),
        ("ann", "cy"): ((0, 0, 1), (0, 0, 0), (0, 0, 0)),
        ("bob", "cy"): ((0, 0, 1), (0, 0, 0), (0, 0, 0)),
    }
    assert [(one.first, one.second) for one in pairwise(standing, 2)] == [
        ("ann", "bob"),
        ("ann", "cy"),
    ]
    # Answers against the one that counts: b after f, then f and s after f.
    assert overall(standing).table == ((1, 1, 1), (0, 0, 0), (0, 0, 0))
    assert overall({}).why_undefined() == "no pixel"
    nobody = {("x", 4, 0): [Said("unreadable", "s"), Said("ann", "f")]}
    assert pairwise(nobody) == []
    only_reviewed = {("x", 3, 0): [Said("review:zoe", "f")]}
    assert pairwise(only_reviewed) == []
    assert overall(only_reviewed).pixels == 0
