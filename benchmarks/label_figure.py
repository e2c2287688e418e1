"""The figure of the label-efficiency experiment: score against points an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.label_arms import BUDGETS, ROUNDS
from benchmarks.label_scores import Block, Entry, by_arm
from benchmarks.label_table import label_of
from utils.pictures import make_figure, save_figure
from utils.score_pictures import COLOURS, STYLES
from utils.significance import Spread, spread_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS = ("maxF", "S", "MAE")
MARKERS = "osD^vP*X"


class Line(NamedTuple):
    """A line of the figure: its name, and where (points an image, entries and their round)."""

    name: str
    places: Sequence[tuple[float, Sequence[tuple[Entry, int]]]]


def budget_lines(entries: Sequence[Entry]) -> list[Line]:
    """Return the lines of one experiment a label budget: each place is an arm's last round."""
    arms = by_arm(entries)
    lines = []
    for name, of_budget in BUDGETS.items():
        found = [list(arms[arm].values()) for arm in of_budget if arm in arms]
        places = [(float(mine[0].points or 0), [(e, -1) for e in mine]) for mine in found]
        lines += [Line(name, places)] if len(places) > 1 else []
    return lines


def round_lines(entries: Sequence[Entry]) -> list[Line]:
    """Return the lines of one experiment each, from its first budget to its last."""
    arms = by_arm(entries)
    lines = []
    for arm in ROUNDS:
        mine = list(arms.get(arm, {}).values())
        if mine and len(mine[0].budgets) > 1:
            places = [
                (float(mine[0].rounds[index][0] or 0), [(entry, index) for entry in mine])
                for index in mine[0].budgets
            ]
            lines.append(Line(label_of(mine[0]), places))
    return lines


def draw(entries: Sequence[Entry], block: Block, path: Path) -> None:
    """Draw the scores of a block: one row by label budget, one by round, as far as arms were run.

    Lines are means over seeds, bands their standard deviation; the dense twin is a level.

    Args:
        entries: all arms and seeds.
        block: whose mean scores are drawn.
        path: PNG to write; without a line, none is.
    """
    parts = {"by label budget": budget_lines(entries), "by round": round_lines(entries)}
    draw_lines(parts, entries, block, path, "points an image")


def draw_lines(
    parts: Mapping[str, Sequence[Line]],
    entries: Sequence[Entry],
    block: Block,
    path: Path,
    x_label: str,
) -> None:
    """Draw lines in rows of panels, one a metric; without a line, nothing is drawn.

    Args:
        parts: title of each row, and its lines.
        entries: all arms and seeds, for the level of the dense twin.
        block: whose mean scores are drawn.
        path: PNG to write.
        x_label: what the places of the lines are.
    """
    parts = {title: lines for title, lines in parts.items() if lines}
    if not parts:
        return
    dense = by_arm(entries).get("dense", {})
    figure, axes = make_figure(len(METRICS), len(parts), 3.6, 3.2)
    for row, (title, lines) in zip(axes, parts.items(), strict=True):
        for axis, metric in zip(row, METRICS, strict=True):
            _draw_panel(axis, lines, dense, block, metric)
            axis.set_xlabel(x_label, fontsize=8)
            axis.set_title(title, fontsize=9)
        row[0].legend(fontsize=6, framealpha=0.6)
    figure.suptitle(block.title, fontsize=8, parse_math=False)
    save_figure(figure, path)


def _draw_panel(
    axis: Axes, lines: Sequence[Line], dense: Mapping[int, Entry], block: Block, metric: str
) -> None:
    for number, line in enumerate(lines):
        x = [points for points, _ in line.places]
        found = [
            _spread([e.means(block.sets, at)[metric] for e, at in of]) for _, of in line.places
        ]
        colour = COLOURS[number % len(COLOURS)]
        style = {"color": colour, "linestyle": STYLES[number % len(STYLES)]}
        means = [one.mean for one in found]
        axis.plot(x, means, marker=MARKERS[number % len(MARKERS)], label=line.name, ms=4, **style)
        widths = [one.spread or 0.0 for one in found]
        low, high = ([m + sign * w for m, w in zip(means, widths, strict=True)] for sign in (-1, 1))
        axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    if dense:
        level = _spread([entry.means(block.sets)[metric] for entry in dense.values()])
        axis.axhline(level.mean, color="black", linestyle="--", linewidth=1, label="dense masks")
        width = level.spread or 0.0
        axis.axhspan(level.mean - width, level.mean + width, color="black", alpha=0.1, linewidth=0)
    axis.set_ylabel(metric + " (lower is better)" * (metric == "MAE"), fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3, linewidth=0.5)


def _spread(values: Sequence[float]) -> Spread:
    found = spread_of(values)
    assert found is not None  # a line has an entry at every place
    return found
