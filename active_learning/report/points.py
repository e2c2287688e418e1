"""Parts of the report on answers: their classes, where they lie, and how right they are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

from active_learning.answers import CANNOT_SAY, LABELS, REVIEWER, label_of
from active_learning.questions import untold
from active_learning.report.trial import LeftOut, Round, Trial
from utils.markup import Html, join, name_of, table, tag
from utils.svg_charts import bar_chart, share_bar

EDGES = (1, 2, 4, 8, 16, 32, 64, math.inf)
"""Distances from the border in pixels; a bar goes from one to below the next."""

MOST_NAMES = 100


def balance(trial: Trial) -> Html:
    """Return how many answers of each round are foreground and background, or none."""
    lines = []
    for one in trial.rounds:
        labels = [point.label for point in one.points]
        parts = {"foreground": sum(labels), "background": len(labels) - sum(labels)}
        parts["can't say"] = _skipped(trial, one)
        share = f"{100 * sum(labels) / len(labels):.1f} %" if labels else "-"
        lines.append([_name(one), *parts.values(), share, share_bar(parts)])
    header = ["", "foreground", "background", "can't say", "foreground of the labels", ""]
    return table(header, lines)


def _skipped(trial: Trial, one: Round) -> int:
    """Return how many questions of a round nobody could tell, as far as it is answered."""
    questions = trial.questions.get((one.arm, one.index), [])
    if one.finished:
        return len(untold(questions, one.points))
    answers = (trial.standing.get(question.pixel, ()) for question in questions)
    return sum(label_of(of_pixel) == CANNOT_SAY for of_pixel in answers)


def border(trial: Trial) -> Html:
    """Draw, round by round, how far the points lie from the objects' borders."""
    found = {}
    for one in trial.rounds:
        here = [(point.image, point.x, point.y) for point in one.points]
        distances = [trial.truths[pixel].distance for pixel in here if pixel in trial.truths]
        finite = [value for value in distances if math.isfinite(value)]
        if finite:
            found[one.name] = finite
    if not found:
        raise LeftOut("no answered image has a mask with a border")
    shares = {name: _histogram(values) for name, values in found.items()}
    most = max(max(bars.values()) for bars in shares.values())
    charts = [bar_chart(f"{name} ({len(found[name])})", b, most) for name, b in shares.items()]
    told = (
        "Percent of the points by their distance to the border, in pixels: from the centre of the "
        "pixel to that of the nearest one of the other kind. Random points show what is usual."
    )
    return join([tag("p", told, _of_masks(trial)), tag("div", *charts, class_="charts")])


def _histogram(distances: Iterable[float]) -> dict[str, float]:
    """Return the percentage of distances in each range of `EDGES`."""
    values = list(distances)
    found = {}
    for low, high in pairwise(EDGES):
        name = f"{low}–{high}" if high < math.inf else f"{low}+"
        found[name] = 100 * sum(low <= value < high for value in values) / len(values)
    return found


def errors(trial: Trial) -> Html:
    """Return how many answers, and how many labels if they were spread, are wrong by the masks."""
    truth = trial.truths
    spread = region_errors(trial)
    lines = []
    for one in trial.rounds:
        wrong = [
            (point.label == 1) != truth[point.image, point.x, point.y].on_object
            for point in one.points
            if (point.image, point.x, point.y) in truth
        ]
        regions = spread.get((one.arm, one.index))
        lines.append([_name(one), *_shares(wrong), "-" if regions is None else f"{regions:g} %"])
    header = ["", "answers with a mask", "wrong", "wrong, percent", "wrong if spread"]
    told = (
        "Wrong: other than the mask has it at that very pixel. Wrong if spread: of the labels of "
        "all rounds so far, if each answer filled its superpixel."
    )
    parts = [tag("p", told, _of_masks(trial)), table(header, lines)]
    people: dict[str, list[bool]] = {}
    for pixel, answers in trial.standing.items():
        for answer in answers:
            if answer.answer in LABELS and pixel in truth:
                on_object = LABELS[answer.answer] == 1
                mine = people.setdefault(answer.annotator, [])
                mine.append(on_object != truth[pixel].on_object)
    if people:
        names = sorted(people)[:MOST_NAMES]
        lines = [[annotator_name(name), *_shares(people[name])] for name in names]
        parts.append(table(["annotator", *header[1:4]], lines))
    return join(parts)


def region_errors(trial: Trial) -> dict[tuple[str, int], float]:
    """Return the percentage of wrong labels if answers were spread, as ``scores.csv`` has it."""
    try:
        rows = trial.scores
    except LeftOut:
        return {}
    return {
        (row["arm"], int(row["round"])): float(row["region_error"])
        for row in rows
        if row["region_error"] and row["round"].isdecimal()
    }


def _shares(wrong: list[bool]) -> list[object]:
    share = f"{100 * sum(wrong) / len(wrong):.2f} %" if wrong else "-"
    return [len(wrong), sum(wrong), share]


def _name(one: Round) -> str:
    return one.name + " (under way)" * (not one.finished)


def annotator_name(name: str) -> Html:
    """Return what an annotator is called in tables."""
    reviewer = name.startswith(REVIEWER)
    return join([name_of(name.removeprefix(REVIEWER)), " (reviewer)" * reviewer])


def _of_masks(trial: Trial) -> str:
    looked_at, there, images = trial.masks_of
    if looked_at == images:
        return ""
    return f" Masks of {looked_at} of {images} answered images were looked at; {there} have one."
