"""Parts of the report on scores: the curve against the budget, the tables, the sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from active_learning.report.trial import LeftOut, Trial
from datasets.round_sheet import draw_round
from utils.markup import Html, join, name_of, table, tag
from utils.metrics import SHOWN
from utils.metrics.points import POINT_METRICS
from utils.pictures import CURVE_METRICS, best_rows, budget_curves, data_uri
from utils.run_folder import VALIDATION
from utils.score_tables import BEST, SECOND, lay_out, method_names, shown
from utils.svg_charts import legend, line_chart

PICTURE_BYTES = 3_300_000
"""Of all sheets together, before their encoding, which makes a third more of it."""

MOST_SHEETS = 12

Row = Mapping[str, Any]


def curve(trial: Trial) -> Html:
    """Draw the scores against points an image; on held-out points where there is no test set."""
    rows, metrics, on = best_rows(trial.scores), CURVE_METRICS, "the test sets"
    if not any(row["arm"] for row in rows):
        rows, on = best_rows(trial.scores, held_out=True), "held-out points"
        metrics = ("maxF", "meanF", "MAE")
    charts, names, levels = [], {}, {}
    for metric in metrics:
        lines, level = budget_curves(rows, metric)
        if lines or level:
            label = metric + " (lower is better)" * (metric == "MAE")
            charts.append(line_chart(lines, level, "points an image", label))
            names |= lines
            levels |= level
    if not charts:
        raise LeftOut("no round has been scored yet")
    told = f"Mean over {on}, of the best checkpoint of the last training on as many points."
    return join(
        [
            tag("p", told),
            tag("div", *charts, class_="charts"),
            legend(list(names), list(levels)),
        ]
    )


def tables(trial: Trial) -> Html:
    """Return the scores on the test sets, and those at the held-out points."""
    held_out = [row for row in trial.scores if row["set"] == VALIDATION]
    on_test = [row for row in trial.scores if row["set"] != VALIDATION]
    parts: list[Html] = []
    if any(row["label_mode"] == "region_mask" for row in trial.scores):
        told = "Trained on masks inside whole superpixels (region_mask): these scores leak masks."
        parts.append(tag("p", told, class_="leak"))
    if on_test:
        parts.append(_on_test(on_test))
    if held_out:
        lines = [
            [name_of(row["checkpoint"]), row["images"], *(_value(row, m) for m in POINT_METRICS)]
            for row in held_out
        ]
        told = "At the labelled points of the validation images, by which checkpoints are chosen."
        parts.append(table(["checkpoint", "images", *POINT_METRICS], lines, told))
    if not parts:
        raise LeftOut("scores.csv is empty")
    return join(parts)


def _on_test(rows: Sequence[Row]) -> Html:
    """Return the scores on the test sets; the best of a column is bold, the second in italics."""
    grid = lay_out(rows, SHOWN, 3)
    by_cell = {((row["trial"], row["checkpoint"]), row["set"]): row for row in rows}
    places = [(name, metric) for name in grid.sets for metric in SHOWN]
    classes = {BEST: "best", SECOND: "second"}
    lines = []
    for method, (name, cells) in zip(method_names(rows), grid.lines, strict=True):
        line: list[object] = [name_of(name)]
        for (set_name, metric), (text, rank) in zip(places, cells, strict=True):
            value = by_cell.get((method, set_name), {}).get(metric) or None
            line.append(tag("data", text, value=value, class_=classes.get(rank)))
        lines.append(line)
    sets = [
        tag("th", name_of(name), f" ({number})", colspan=len(SHOWN), scope="colgroup")
        for name, number in grid.sets.items()
    ]
    told = f"Convention {rows[0]['convention']}. Bold: best, italics: second best."
    whole = table(["checkpoint", *(metric for _, metric in places)], lines, told)
    return Html(whole.replace("<thead>", f"<thead>{tag('tr', tag('td', ''), *sets)}", 1))


def _value(row: Row, metric: str) -> Html:
    return tag("data", shown(row.get(metric)), value=row.get(metric) or None)


def sheets(trial: Trial) -> Html:
    """Show the sheet of each round; one that is not there yet is drawn."""
    config, parts = trial.config, []
    drawn = [
        (index, draw_round(trial.run, index, config.data_root, config.trainset))
        for index in range(config.rounds)
    ]
    there = [(index, path) for index, path in drawn if path is not None]
    if not there:
        raise LeftOut("no round has stored what it saw")
    for index, path in there[-MOST_SHEETS:]:
        address = data_uri(path, PICTURE_BYTES // min(len(there), MOST_SHEETS))
        parts.append(tag("h3", f"Round {index}"))
        if address is None:
            parts.append(tag("p", f"{path.name} is no picture, or too large", class_="note"))
        else:
            told = f"What round {index} saw and asked, one image a row"
            parts.append(tag("img", src=address, alt=told, class_="sheet"))
    if len(there) > MOST_SHEETS:
        parts.append(tag("p", f"Of {len(there)} rounds the last {MOST_SHEETS}.", class_="note"))
    return join(parts)
