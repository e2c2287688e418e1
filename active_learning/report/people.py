"""Parts of the report on people: how far they have got, what it cost, how well they agree."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from active_learning.answers import CANNOT_SAY, UNDO, Answer
from active_learning.kappa import Agreement, overall, pairwise
from active_learning.questions import Pixel
from active_learning.report.points import MOST_NAMES, annotator_name
from active_learning.report.trial import LeftOut, Round, Trial
from datasets.points import read_points
from utils.markup import Html, join, table, tag


class Cost(NamedTuple):
    """What answers cost.

    Attributes:
        clicks: keys pressed or places clicked: answers, and those taken back.
        answers: of them answers, "can't say" included.
        skipped: of these "can't say".
        measured: seconds of the answers whose seconds were measured.
    """

    clicks: int
    answers: int
    skipped: int
    measured: tuple[float, ...]

    @property
    def median(self) -> float | None:
        """Seconds an answer, the median; None: not measured."""
        return statistics.median(self.measured) if self.measured else None

    @property
    def mean(self) -> float | None:
        """Seconds an answer, the mean."""
        return statistics.fmean(self.measured) if self.measured else None

    @property
    def minutes(self) -> float | None:
        """Minutes of all answers; those not measured at the mean of those that were."""
        return None if self.mean is None else self.answers * self.mean / 60

    @property
    def rate(self) -> float | None:
        """Answers a minute."""
        return 60 / self.mean if self.mean else None


def cost_of(answers: Sequence[Answer]) -> Cost:
    """Return what the rows of a journal cost; seconds of 0 are those of nobody's watch."""
    said = [answer for answer in answers if answer.answer != UNDO]
    skipped = sum(answer.answer == CANNOT_SAY for answer in said)
    measured = tuple(answer.seconds for answer in said if answer.seconds > 0)
    return Cost(len(answers), len(said), skipped, measured)


def headline(trial: Trial) -> Html:
    """Return the numbers that come first."""
    tiles: dict[str, object] = {}
    if trial.clicks:
        cost = cost_of(trial.clicks)
        tiles |= {"clicks": cost.clicks, "minutes": _told(cost.minutes, 1)}
        tiles |= {"answers a minute": _told(cost.rate, 1)}
    points = [len(one.points) for one in trial.rounds if one.arm == "points"]
    images = {point.image for one in trial.rounds if one.arm == "points" for point in one.points}
    tiles |= {"labels": sum(points), "images": len(images)}
    if images:
        tiles["labels an image"] = f"{sum(points) / len(images):.1f}"
    items = [tag("li", tag("strong", value), name) for name, value in tiles.items()]
    return tag("ul", *items, class_="tiles")


def progress(trial: Trial) -> Html:
    """Return how many questions are answered and open, by round."""
    if not trial.answers and trial.config.oracle != "human":
        raise LeftOut("masks answered, no person was asked")
    lines = []
    for (arm, index), images in trial.asked.items():
        told = sum(len(one.told) for one in images.values())
        still = sum(len(one.open) for one in images.values())
        short = sum(one.short for one in images.values())
        if (arm, index) in trial.finished:  # what was said since changes nothing
            told, still = len(trial.finished[arm, index]), 0
        name = Round(arm, index, [], True).name
        lines.append([name, len(images), told, still, short])
    if not lines:
        raise LeftOut("no question was put to a person")
    header = ["", "images", "told", "open", "nobody could tell, none left in reserve"]
    return table(header, lines)


def cost(trial: Trial) -> Html:
    """Return clicks and minutes, of each annotator too."""
    if not trial.clicks:
        return _assumed(trial)
    whole = cost_of(trial.clicks)
    people: dict[str, list[Answer]] = {}
    for answer in trial.clicks:
        people.setdefault(answer.annotator, []).append(answer)
    names = sorted(people, key=lambda name: -len(people[name]))[:MOST_NAMES]
    lines = [_line(annotator_name(name), cost_of(people[name])) for name in names]
    lines.append(_line("all", whole))
    header = ["annotator", "clicks", "answers", "can't say", "taken back", "seconds, median"]
    header += ["seconds, mean", "answers a minute", "minutes"]
    notes = ["Seconds go from a pixel being shown to its answer, breaks cut short."]
    without = whole.answers - len(whole.measured)
    if without and whole.measured:
        notes.append(f"Of {without} answers nobody took the time; they count at the mean.")
    elif without:
        seconds = trial.config.answer_seconds
        minutes = whole.answers * seconds / 60
        notes.append(
            f"Nobody took the time. At {seconds:g} seconds an answer (answer_seconds), a guess, "
            f"these would be {minutes:.1f} minutes."
        )
    if len(people) > MOST_NAMES:
        notes.append(f"Of {len(people)} annotators the {MOST_NAMES} with most answers.")
    told = tag("p", " ".join(notes), class_="note")
    return join([table(header, lines), told, _by_round(trial, whole)])


def _by_round(trial: Trial, whole: Cost) -> Html:
    """Return what each round cost, in the order in which they are answered."""
    places_of: dict[Pixel, list[tuple[str, int]]] = {}
    for place, questions in trial.questions.items():
        for question in questions:
            places_of.setdefault(question.pixel, []).append(place)
    of_place: dict[tuple[str, int], list[Answer]] = {}
    for answer in trial.clicks:
        # What one round had in reserve, and did not need, another may have asked.
        places = places_of.get(answer.pixel, [])
        of_round = [place for place in places if place[1] == answer.round]
        for place in (of_round or places)[:1]:
            of_place.setdefault(place, []).append(answer)
    lines, so_far = [], 0.0
    for place in (place for place in trial.questions if place in of_place):
        cost = cost_of(of_place[place])
        minutes = cost.minutes
        if minutes is None and whole.mean is not None:
            minutes = cost.answers * whole.mean / 60
        so_far += minutes or 0.0
        name = Round(*place, [], True).name
        together = _told(so_far if minutes is not None else None, 1)
        numbers = [cost.clicks, cost.answers, cost.skipped, _told(minutes, 1), together]
        lines.append([name, *numbers])
    header = ["", "clicks", "answers", "can't say", "minutes", "minutes so far"]
    return table(header, lines) if lines else Html("")


def _assumed(trial: Trial) -> Html:
    """Return what a person would have needed for the answers of the mask oracle."""
    if not trial.run.ledger.exists():
        raise LeftOut("nothing has been answered yet")
    asked, seconds = len(read_points(trial.run.ledger)), trial.config.answer_seconds
    told = (
        f"No person answered: masks told {asked} pixels, those of all arms and of the validation "
        f"images. At {seconds:g} seconds an answer (answer_seconds), which is a guess and was not "
        f"measured, a person would take {asked * seconds / 60:.1f} minutes."
    )
    return tag("p", told)


def _line(name: object, cost: Cost) -> list[object]:
    numbers = [cost.clicks, cost.answers, cost.skipped, cost.clicks - cost.answers]
    times = [(cost.median, 2), (cost.mean, 2), (cost.rate, 1), (cost.minutes, 1)]
    return [name, *numbers, *(_told(value, digits) for value, digits in times)]


def agreement(trial: Trial) -> Html:
    """Return Cohen's kappa of all, and of every two annotators."""
    every = overall(trial.standing)
    if not every.pixels:
        raise LeftOut("no pixel was answered by two annotators")
    lines = [_agreement_line("all, a pixel's first answer and later ones", every)]
    for one in pairwise(trial.standing, MOST_NAMES):
        names = join([annotator_name(one.first), " and ", annotator_name(one.second)])
        lines.append(_agreement_line(names, one))
    header = ["annotators", "pixels", "alike", "kappa", "95 % interval"]
    letters = ["foreground", "background", "can't say"]
    confused = [[f"first: {name}", *row] for name, row in zip(letters, every.table, strict=True)]
    told = (
        "Cohen's kappa of the pixels that two annotators answered: 1 always alike, 0 as by chance. "
        "The interval is over the choice of pixels. Reviewers, who saw the other answers, are not "
        "counted."
    )
    after = ["", *(f"later: {name}" for name in letters)]
    return join([tag("p", told), table(header, lines), table(after, confused)])


def _agreement_line(name: object, one: Agreement) -> list[object]:
    if one.kappa is None:
        return [name, one.pixels, one.alike, "undefined", one.why_undefined()]
    known = one.low is not None
    interval = f"{one.low:.2f} to {one.high:.2f}" if known else "unknown: too few, or all alike"
    return [name, one.pixels, one.alike, f"{one.kappa:.3f}", interval]


def _told(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
