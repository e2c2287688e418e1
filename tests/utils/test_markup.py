"""Markup in which nothing can break out, and charts that stand in it."""

from __future__ import annotations

import itertools
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.markup import LONGEST, Html, escape, join, name_of, page, table, tag
from utils.svg_charts import bar_chart, legend, line_chart, share_bar, ticks


class Read(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.values: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=())))
def test_any_text_stays_text(text: str) -> None:
    made = tag("p", text, title=text)
    made.encode()  # no lone surrogate is left
    found = Read(made)
    shown = re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "�", text)
    assert found.tags == ["p"]
    assert found.values == [("title", shown)]
    assert found.text == shown


def test_markup_is_not_escaped_twice() -> None:
    inner = tag("b", "<&>")
    assert inner == "<b>&lt;&amp;&gt;</b>"
    assert tag("p", inner, " & ", 3) == "<p><b>&lt;&amp;&gt;</b> &amp; 3</p>"
    assert escape(inner) is inner
    assert join(["<", inner], " & ") == "&lt; &amp; <b>&lt;&amp;&gt;</b>"
    assert tag("img", src="a", class_="x", text_anchor=None) == '<img src="a" class="x">'


def test_names_are_cut_and_kept_apart() -> None:
    assert name_of("a") == "<bdi>a</bdi>"
    assert len(Read(name_of("x" * 1000)).text) == LONGEST


def test_a_table_and_a_page() -> None:
    made = page("<t>", "p { color: red }", table(["a", "<b>"], [["x", 1.5]], "told"))
    found = Read(made)
    assert found.tags[:3] == ["html", "head", "meta"]
    assert found.tags.count("th") == 3
    assert found.tags.count("td") == 1
    assert "<t>" in found.text
    # The digest of this very style, by OpenSSL.
    assert "sha256-ngewhhP73WDIbgwseeu52VAAJgKdGUsu1IUQQsAm8m4=" in made


@given(
    st.floats(-100, 100).map(lambda value: round(value, 6)),
    st.one_of(st.just(0.0), st.floats(1e-3, 1e4)),
)
def test_ticks_hold_all_values(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert 3 <= len(found) <= 9
    step = found[1] - found[0]
    assert step > 0
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert all(math.isclose(one, step, rel_tol=1e-3) for one in steps)
    room = step * 1e-6
    assert found[0] <= low + room
    assert low + width <= found[-1] + room
    # No room is wasted either.
    assert found[1] > low - room or width == 0


def test_known_ticks() -> None:
    assert ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    assert ticks(0.81, 0.93) == [0.8, 0.85, 0.9, 0.95]
    assert ticks(2, 10) == [2, 4, 6, 8, 10]


def coordinates(svg: str, element: str, name: str) -> list[float]:
    return [float(v) for v in re.findall(rf'<{element}[^>]* {name}="([-\d.]+)"', svg)]


def test_a_line_lies_where_its_values_are() -> None:
    made = line_chart({"<a>": {0: 0.0, 5: 0.5, 10: 1.0}}, {"level": 0.5}, "x", "y")
    (places,) = re.findall('points="([^"]*)"', made)
    x, y = zip(*(map(float, pair.split(",")) for pair in places.split()), strict=True)
    assert x[1] == pytest.approx((x[0] + x[2]) / 2)
    assert y[1] == pytest.approx((y[0] + y[2]) / 2)
    assert x[0] < x[2]
    assert y[0] > y[2]  # upwards
    level = re.search(r'class="level"', made)
    assert level is not None
    assert f'y1="{y[1]:.1f}"' in made
    assert "<title>&lt;a&gt;, 5: 0.5000</title>" in made
    assert coordinates(made, "circle", "cy") == [pytest.approx(value) for value in y]
    assert "<title>level: 0.5000</title>" in line_chart({}, {"level": 0.5}, "x", "y")


def test_bars_are_as_high_as_their_values() -> None:
    made = bar_chart("t", {"a": 10.0, "b": 40.0, "c": 0.0}, 40.0)
    low, high, none = coordinates(made, "rect", "height")
    assert high == pytest.approx(4 * low)
    assert none == 0
    tops = coordinates(made, "rect", "y")
    (bottom,) = {round(y + tall, 1) for y, tall in zip(tops, (low, high, none), strict=True)}
    assert max(coordinates(made, "text", "y")) > bottom  # the names of the bars
    assert min(tops) > coordinates(made, "text", "y")[0] + 12  # the highest bar leaves the title
    made = share_bar({"a": 1, "b": 3, "c": 0})
    assert coordinates(made, "rect", "width") == [30, 90, 0]
    assert coordinates(made, "rect", "x") == [0, 30, 120]
    assert coordinates(share_bar({"a": 0}), "rect", "width") == [0]


def test_a_legend_names_every_line() -> None:
    found = Read(legend(["<a>", "b", "c"], ["level"]))
    assert found.text.split() == ["<a>", "b", "c", "level"]
    assert found.tags.count("svg") == 4
    assert isinstance(legend([], []), Html)
