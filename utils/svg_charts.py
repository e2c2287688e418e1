"""Small charts as SVG, to stand in a page.

They have no colours of their own: the classes ``series-0`` ..., ``level``, ``axis``, ``grid`` and
``bar`` are the style sheet's, so that a chart follows the page from light to dark. Lines are told
apart by dashes and marks, too. Every mark tells its value when it is pointed at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from utils.markup import Html, join, tag

WIDTH, HEIGHT = 340, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 42
DASHES = (None, "2 3", "7 3")


def line_chart(
    series: Mapping[str, Mapping[float, float]],
    levels: Mapping[str, float],
    x_label: str,
    y_label: str,
) -> Html:
    """Draw lines of marked points, and dashed levels across.

    Args:
        series: of each line its values by place on the horizontal axis.
        levels: values that are no line's, by name.
        x_label, y_label: what the axes say.

    Returns:
        The drawing; all values must be finite, and one at least there.
    """
    x = [place for line in series.values() for place in line]
    y = [value for line in series.values() for value in line.values()] + [*levels.values()]
    x_ticks, y_ticks = ticks(min(x, default=0), max(x, default=1)), ticks(min(y), max(y))
    across = _scale(x_ticks, LEFT, WIDTH - RIGHT)
    up = _scale(y_ticks, HEIGHT - BOTTOM, TOP)
    parts = [_axes(x_ticks, y_ticks, across, up, x_label, y_label)]
    for name, value in levels.items():
        line = tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=up(value), y2=up(value))
        parts.append(tag("g", _title(f"{name}: {value:.4f}"), line, class_="level"))
    for number, (name, line) in enumerate(series.items()):
        places = " ".join(f"{across(place)},{up(value)}" for place, value in line.items())
        dash = DASHES[number % len(DASHES)]
        marks = [
            tag("g", _title(f"{name}, {at:g}: {value:.4f}"), _mark(number, across(at), up(value)))
            for at, value in line.items()
        ]
        drawn = tag("polyline", points=places, stroke_dasharray=dash)
        parts.append(tag("g", drawn, *marks, class_=f"series-{number}"))
    return _svg(parts, WIDTH, HEIGHT, f"{y_label} against {x_label}")


def legend(series: Sequence[str], levels: Sequence[str]) -> Html:
    """Return what the lines of a `line_chart` with these names look like."""
    entries = []
    for number, name in enumerate(series):
        line = tag("line", x1=0, x2=34, y1=7, y2=7, stroke_dasharray=DASHES[number % len(DASHES)])
        drawn = tag("g", line, _mark(number, 17, 7), class_=f"series-{number}")
        entries.append(tag("li", _svg([drawn], 34, 14, ""), " ", name))
    for name in levels:
        line = tag("g", tag("line", x1=0, x2=34, y1=7, y2=7), class_="level")
        entries.append(tag("li", _svg([line], 34, 14, ""), " ", name))
    return tag("ul", *entries, class_="legend")


def bar_chart(title: str, bars: Mapping[str, float], most: float) -> Html:
    """Draw upright bars of percentages.

    Args:
        title: what it shows.
        bars: of each bar its height, 0 to ``most``.
        most: the height of the chart, above 0.
    """
    width, height, bottom, top = 300, 180, 34, 38
    step = width / max(len(bars), 1)
    parts = [tag("text", title, x=width / 2, y=14, text_anchor="middle", class_="title")]
    for number, (name, value) in enumerate(bars.items()):
        tall = (height - bottom - top) * value / most
        at = number * step
        rect = tag(
            "rect", x=_short(at + 3), y=_short(height - bottom - tall), width=_short(step - 6),
            height=_short(tall),
        )  # fmt: skip
        centre = {"x": _short(at + step / 2), "text_anchor": "middle"}
        told = tag("text", f"{value:.0f}", y=_short(height - bottom - tall - 3), **centre)
        below = tag("text", name, y=height - bottom + 14, **centre)
        parts.append(tag("g", _title(f"{name}: {value:.1f} %"), rect, told, below, class_="bar"))
    return _svg(parts, width, height, title)


def share_bar(parts: Mapping[str, int]) -> Html:
    """Draw counts as the parts of one flat bar; they are told to who points at it."""
    whole, at, drawn = max(sum(parts.values()), 1), 0.0, []
    for number, (name, count) in enumerate(parts.items()):
        wide = 120 * count / whole
        rect = tag("rect", x=_short(at), y=0, width=_short(wide), height=12)
        drawn.append(tag("g", _title(f"{name}: {count}"), rect, class_=f"share-{number}"))
        at += wide
    return _svg(drawn, 120, 12, ", ".join(f"{name} {count}" for name, count in parts.items()))


def ticks(low: float, high: float) -> list[float]:
    """Return four to nine round numbers, evenly spaced, from ``low`` or below to ``high`` or above.

    Values that are all alike get room on both sides.
    """
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-3):
        room = abs(low) * 0.05 or 0.5
        low, high = low - room, high + room
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _scale(marks: Sequence[float], start: float, end: float):
    low, high = marks[0], marks[-1]
    return lambda value: _short(start + (value - low) / (high - low) * (end - start))


def _short(value: float) -> str:
    return f"{value:.1f}"


def _title(text: str) -> Html:
    return tag("title", text)


def _mark(number: int, x: object, y: object) -> Html:
    """Return the mark of a line: a disc, a square or a diamond."""
    if number % 3 == 0:
        return tag("circle", cx=x, cy=y, r=4)
    turn = f"rotate(45 {x} {y})" if number % 3 == 2 else None
    left, above = _short(float(str(x)) - 3.5), _short(float(str(y)) - 3.5)
    return tag("rect", x=left, y=above, width=7, height=7, transform=turn)


def _axes(x_ticks, y_ticks, across, up, x_label: str, y_label: str) -> Html:
    parts = []
    for value in y_ticks:
        parts.append(
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=up(value), y2=up(value), class_="grid")
        )
        at = {"x": LEFT - 6, "y": up(value), "text_anchor": "end", "dominant_baseline": "central"}
        parts.append(tag("text", f"{value:g}", **at))
    for value in x_ticks:
        at = {"x": across(value), "y": HEIGHT - BOTTOM + 16, "text_anchor": "middle"}
        parts.append(tag("text", f"{value:g}", **at))
    corner = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": HEIGHT - BOTTOM, "y2": HEIGHT - BOTTOM}
    parts.append(tag("line", class_="line", **corner))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(tag("text", x_label, x=middle, y=HEIGHT - 6, text_anchor="middle"))
    turned = {"transform": f"translate(10 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"}
    parts.append(tag("text", y_label, text_anchor="middle", **turned))
    return tag("g", *parts, class_="axis")


def _svg(parts: Sequence[Html], width: int, height: int, told: str) -> Html:
    size = {"viewBox": f"0 0 {width} {height}", "width": width, "height": height}
    if not told:
        return tag("svg", join(parts), aria_hidden="true", **size)
    return tag("svg", join(parts), role="img", aria_label=told, **size)
