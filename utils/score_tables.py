"""Tables of scores as papers print them: Markdown and LaTeX, from the rows of ``scores.csv``.

Methods stand one below the other, test sets beside each other, each with its metrics. In every
column the best and the second best value are marked, as they are shown: values alike in the printed
digits are alike, and all of them are marked. A column of fewer than two values marks nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from utils.errors import UserError
from utils.metrics import LOWER_IS_BETTER, METRICS
from utils.registry import look_up

Row = Mapping[str, Any]

MISSING = "-"
"""What stands where a method has no value."""

FEWER = "†"
"""Stands behind a score of fewer images than other methods have: it is shown, not ranked."""

BEST, SECOND, OTHER = 1, 2, 0

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\`{}",
} | {character: "\\" + character for character in "&%$#_{}"}


@dataclass(frozen=True)
class Grid:
    """A table before its markup.

    Attributes:
        sets: number of images of each set, as text.
        metrics: names of the columns of each set.
        lines: (method, its cells set by set as (text, BEST, SECOND or OTHER)).
    """

    sets: Mapping[str, str]
    metrics: Sequence[str]
    lines: Sequence[tuple[str, Sequence[tuple[str, int]]]]


def markdown_table(
    rows: Sequence[Row], metrics: Sequence[str], convention: str, decimals: int = 3
) -> str:
    """Return a Markdown table below a line that names the convention and the images of each set.

    The best values are bold, the second best in italics. Markdown knows one line of headings, so
    the metrics stand in the first line of the body.

    Args:
        rows: rows of ``scores.csv`` (text or numbers), see `utils.scores`; methods and sets keep
            the order of their first appearance.
        metrics: columns of each set.
        convention: name of the conventions the scores were made with.
        decimals: digits after the point.

    Raises:
        UserError: there is no row or no metric, a metric is unknown, or a method has two rows for
            one set.
    """
    grid = lay_out(rows, metrics, decimals)
    marks = {BEST: "**", SECOND: "*", OTHER: ""}
    gap = [""] * (len(metrics) - 1)
    lines = [["method"], [""]]
    lines[0] += [cell for name in grid.sets for cell in (_markdown(name), *gap)]
    lines[1] += [f"{name} {_arrow(name)}" for name in metrics] * len(grid.sets)
    for method, cells in grid.lines:
        marked = [marks[rank] + text + marks[rank] for text, rank in cells]
        lines.append([_markdown(method), *marked])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        [line[0].ljust(widths[0])]
        + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        for line in lines
    ]
    text.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    images = ", ".join(f"{_markdown(name)} {number}" for name, number in grid.sets.items())
    caption = (
        f"Saliency scores, convention {_markdown(convention)}. Images: {images}. "
        "**Best**, *second best*; ↑ higher is better, ↓ lower is better."
        + f" {FEWER} of fewer images, not ranked."
        * _has_fewer(grid)
    )
    return "\n".join([caption, "", *(f"| {' | '.join(line)} |" for line in text)]) + "\n"


def plain_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, where `utils.tables.text_table` makes one for the terminal."""
    lines = [[_markdown(cell) for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(header))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex_table(
    rows: Sequence[Row], metrics: Sequence[str], convention: str, decimals: int = 3
) -> str:
    r"""Return a LaTeX ``table*`` in the manner of booktabs, shrunk to the line where it is wider.

    The best values are bold, the second best underlined. Names are escaped; letters outside the
    Latin alphabet need an engine and a font that know them.

    Args and errors: as `markdown_table`.
    """
    grid = lay_out(rows, metrics, decimals)
    marks = {BEST: r"\textbf{%s}", SECOND: r"\underline{%s}", OTHER: "%s"}
    span = len(metrics)
    first_columns = [2 + span * index for index in range(len(grid.sets))]
    above = [rf"\multicolumn{{{span}}}{{c}}{{{_latex(name)}}}" for name in grid.sets]
    rules = [rf"\cmidrule(lr){{{first}-{first + span - 1}}}" for first in first_columns]
    heads = [rf"\scriptsize {name}\,{_arrow(name, latex=True)}" for name in metrics]
    body = [
        [
            _latex(method),
            *(marks[rank] % text.replace(FEWER, r"$^{\dagger}$") for text, rank in cells),
        ]
        for method, cells in grid.lines
    ]
    images = ", ".join(f"{_latex(name)} {number}" for name, number in grid.sets.items())
    lines = [
        r"% Needs \usepackage{booktabs} and \usepackage{graphicx}.",
        r"\begin{table*}",
        r"\centering",
        r"\setlength{\belowcaptionskip}{4pt}",
        rf"\caption{{Saliency scores, convention {_latex(convention)}. Images: {images}. "
        r"Best values bold, second best underlined."
        + r" $^{\dagger}$ Of fewer images, not ranked." * _has_fewer(grid)
        + "}",
        r"\setlength{\tabcolsep}{3pt}%",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'c' * (span * len(grid.sets))}}}",
        r"\toprule",
        _latex_line(["", *above]),
        " ".join(rules),
        _latex_line(["Method", *heads * len(grid.sets)]),
        r"\midrule",
        *map(_latex_line, body),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def lay_out(rows: Sequence[Row], metrics: Sequence[str], decimals: int) -> Grid:
    """Arrange the rows; arguments and errors as `markdown_table`."""
    if not rows or not metrics:
        raise UserError("a table of scores needs rows and metrics: name sets and metrics to show")
    for name in metrics:
        look_up(dict.fromkeys(METRICS, name), name, "metric")
    names = method_names(rows)
    found: dict[tuple[str, str, str], Row] = {}
    images: dict[str, dict[str, None]] = {}
    for row in rows:
        key = (row["trial"], row["checkpoint"], row["set"])
        if key in found:
            raise UserError(
                f"{names[key[:2]]}: two rows of scores for {row['set']}: leave out one of them"
            )
        found[key] = row
        images.setdefault(row["set"], {})[str(row.get("images", ""))] = None
    columns = []
    for name, numbers in images.items():
        there = [found.get((*method, name), {}) for method in names]
        most = max(map(_count, numbers))
        whole = [_count(row.get("images", "")) == most for row in there]
        columns += [_ranked([row.get(m) for row in there], whole, m, decimals) for m in metrics]
    return Grid(
        # Methods scored on different numbers of images: all numbers, for the reader to see.
        sets={name: "/".join(filter(None, seen)) or MISSING for name, seen in images.items()},
        metrics=metrics,
        lines=list(zip(names.values(), zip(*columns, strict=True), strict=True)),
    )


def _has_fewer(grid: Grid) -> bool:
    return any(text.endswith(FEWER) for _, cells in grid.lines for text, _ in cells)


def method_names(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Return the shortest telling name of each (trial, checkpoint), in order of appearance.

    It is the checkpoint's, or ``trial/checkpoint`` where two trials have a checkpoint of that name.
    """
    keys = dict.fromkeys((row["trial"], row["checkpoint"]) for row in rows)
    checkpoints = [checkpoint for _, checkpoint in keys]
    return {
        (trial, checkpoint): (
            f"{trial}/{checkpoint}" if checkpoints.count(checkpoint) > 1 else checkpoint
        )
        for trial, checkpoint in keys
    }


def shown(value: Any, decimals: int = 3) -> str:
    """Return a score as papers print it, ``.932``, from a number or its text; "-" for none.

    Raises:
        UserError: a text is no number.
    """
    try:
        number = float(value) if value not in ("", None) else math.nan
    except ValueError:
        raise UserError(f"score '{value}' is no number: mend or delete the table") from None
    if not math.isfinite(number):
        return MISSING
    return re.sub(r"^(-?)0\.", r"\1.", f"{number:.{decimals}f}")


def _ranked(
    values: Sequence[Any], whole: Sequence[bool], metric: str, decimals: int
) -> list[tuple[str, int]]:
    """Return text and rank of the values of one column; those not of all images have no rank."""
    texts = [shown(value, decimals) for value in values]
    ranked = [is_whole and text != MISSING for text, is_whole in zip(texts, whole, strict=True)]
    numbers = {float(text) for text, has_rank in zip(texts, ranked, strict=True) if has_rank}
    ranks: dict[float, int] = {}
    if sum(ranked) > 1:
        order = sorted(numbers, reverse=metric not in LOWER_IS_BETTER)
        ranks = dict(zip(order, (BEST, SECOND), strict=False))
    return [
        (text, ranks.get(float(text), OTHER))
        if has_rank
        else (text if text == MISSING else text + FEWER, OTHER)
        for text, has_rank in zip(texts, ranked, strict=True)
    ]


def _count(images: Any) -> int:
    return int(images) if str(images).isdecimal() else 0


def _arrow(metric: str, latex: bool = False) -> str:
    """Return the arrow towards better values."""
    if latex:
        return r"$\downarrow$" if metric in LOWER_IS_BETTER else r"$\uparrow$"
    return "↓" if metric in LOWER_IS_BETTER else "↑"


def _markdown(name: str) -> str:
    """Escape a name; an underscore between letters or digits is harmless and stays readable."""
    name = re.sub(r"([\\`*<>\[\]|~$]|&(?=#?\w+;))", r"\\\1", _without_controls(name))
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", name)


def _latex(name: str) -> str:
    name = "".join(_LATEX.get(character, character) for character in _without_controls(name))
    return re.sub("-(?=-)", "-{}", name)  # two in a row would become a dash


def _latex_line(cells: Sequence[str]) -> str:
    # After \\ and \midrule, a "[" or "*" would be taken for an argument of theirs.
    guard = "{}" if cells[0].startswith(("[", "*")) else ""
    return guard + " & ".join(cells) + r" \\"


def _without_controls(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text)
