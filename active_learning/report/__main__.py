"""The report of a trial as one page: ``python -m active_learning.report --trial T [--to FILE]``.

It opens from disk with no net, and may be written at any time: what is not there yet is left out,
and named. Masks, where there are any, are looked at here only to say how right the answers are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from active_learning.report import people, points, scores
from active_learning.report.style import STYLE
from active_learning.report.trial import LeftOut, Trial, changed_settings, read_trial
from utils import settings
from utils.errors import UserError, run_script
from utils.files import write_text
from utils.markup import Html, join, name_of, page, table, tag


def settings_part(trial: Trial) -> Html:
    """Return the settings that are not the defaults."""
    found = changed_settings(trial.config)
    if not found:
        raise LeftOut("all are the defaults")
    lines = [[name, *(name_of(_setting(value)) for value in both)] for name, both in found.items()]
    return table(["setting", "this trial", "default"], lines)


PARTS: dict[str, Callable[[Trial], Html]] = {
    "Score against label budget": scores.curve,
    "Scores": scores.tables,
    "Questions and answers": people.progress,
    "Cost": people.cost,
    "Agreement of annotators": people.agreement,
    "Class balance": points.balance,
    "Distance to the border": points.border,
    "Errors of the labels": points.errors,
    "Sheets of the rounds": scores.sheets,
    "Settings other than the defaults": settings_part,
}


def report(trial: Trial) -> str:
    """Return the page."""
    made: dict[str, Html] = {}
    left_out: dict[str, str] = {}
    for title, make in PARTS.items():
        try:
            made[title] = make(trial)
        except (LeftOut, UserError) as reason:
            left_out[title] = str(reason)
    try:
        first = people.headline(trial)
    except (LeftOut, UserError):
        first = Html("")
    links = [tag("li", tag("a", title, href=f"#{_anchor(title)}")) for title in made]
    body = [tag("h1", "Trial ", name_of(trial.config.trial)), first]
    body.append(tag("nav", tag("ul", *links), aria_label="parts"))
    for title, content in made.items():
        body.append(tag("section", tag("h2", title), content, id=_anchor(title)))
    if left_out:
        lines = [tag("li", f"{title}: ", name_of(reason)) for title, reason in left_out.items()]
        body.append(tag("section", tag("h2", "Left out"), tag("ul", *lines), id="left-out"))
    return page(f"Trial {trial.config.trial}", STYLE, tag("main", join(body)))


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        value = "+".join(f"{name}={weight:g}" for name, weight in value.items())
    return str(value) if value != "" else "empty"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of the trial that the command line names."""

    def extend(parser: Any) -> None:
        told = "the file to write (default: report.html in the trial's folder)"
        parser.add_argument("--to", type=Path, metavar="FILE", help=told)

    config, args = settings.parse(argv, __doc__, extend)
    trial = read_trial(config)
    path = args.to or trial.run.report
    write_text(path, report(trial))
    print(f"report: {path}")
    return 0


if __name__ == "__main__":
    run_script(main)
