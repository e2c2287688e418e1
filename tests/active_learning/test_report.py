"""The report of a trial: one page, whole at any stage, which nothing can break out of."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from active_learning.answers import Answer, Journal
from active_learning.kappa import overall
from active_learning.questions import Question, write_questions
from active_learning.report import people
from active_learning.report.__main__ import PARTS, main
from active_learning.report.people import cost_of
from active_learning.report.trial import Trial
from config import Config
from datasets.images import write_png
from datasets.masks import border_distance
from datasets.points import Point, read_points, write_points
from utils.errors import UserError
from utils.run_folder import RunFolder
from utils.scores import read_scores, write_scores
from utils.settings import save

VOID = {"meta", "img", "br"}
TIME = "2026-01-31T12:00:00Z"
EVIL = "<img src=x onerror=alert(1)>.png"
NAMES = ("a.png", "b.png", EVIL, "\u202egnp.png")
HACKER = "</td><script>alert('x')</script>"
"""As a name of an annotator and a picture."""


class Page(HTMLParser):
    """A page taken apart; what is not well-formed fails at once."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.sections: dict[str, list[list[str]]] = {}
        self._section = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), tag
        self.elements.append((tag, dict(attrs)))
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
            self.sections[self._section] = []
        if tag in ("tr", "p", "li"):
            self.sections.setdefault(self._section, []).append([])
        if tag in ("th", "td", "p", "li"):
            self.sections[self._section][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.texts.append(data)
        rows = self.sections.get(self._section)
        if rows and rows[-1] and {"th", "td", "p", "li"} & set(self.open):
            rows[-1][-1] += data

    def row(self, section: str, first: str) -> list[str]:
        """The cells of a table's line, of a section, after its heading."""
        return next(row[1:] for row in self.sections[section] if row and row[0] == first)

    def left_out(self) -> dict[str, str]:
        lines = (row[0].partition(": ") for row in self.sections.get("left-out", []) if row)
        return {title: reason for title, _, reason in lines if reason}


def write(run: RunFolder) -> tuple[str, Page]:
    """Write the report by its command line; return it as it is and taken apart."""
    main(["--trial", run.root.name, "--runs", str(run.root.parent)])
    text = run.report.read_text(encoding="utf-8")
    return text, Page(text)


def make_trial(folder: Path, masks: bool = True, **fields: Any) -> RunFolder:
    """A trial that has just begun: four pictures, a disc in each."""
    for number, name in enumerate(NAMES):
        pixels = np.full((40, 60, 3), 50 * number, np.uint8)
        disc = cv2.circle(np.zeros((40, 60), np.uint8), (20 + number, 20), 9, 255, -1)
        write_png(folder / "data" / "images" / "SET" / name, pixels)
        if masks:
            write_png(folder / "data" / "gts" / "SET" / name, disc)
    kept = {"trial": "t", "runs": str(folder / "runs"), "data_root": str(folder / "data")}
    save(config := Config(trainset="SET", rounds=2, **kept, **fields))
    return RunFolder(config.run_folder)


def ask(run: RunFolder, index: int, seed: int = 0) -> list[Question]:
    rng = np.random.default_rng((seed, index))
    questions = [
        Question(name, int(x), index * 20 + int(y), index, place >= 5)
        for name in NAMES
        for place, (x, y) in enumerate(
            zip(rng.permutation(60)[:8], rng.permutation(20), strict=False)
        )
    ]
    write_questions(run.training("points", index) / "questions.csv", questions)
    return questions


def answer(run: RunFolder, questions: list[Question], said: str, who: str, seconds: float) -> None:
    """Answer questions with the letters given, in turns."""
    rows = [
        Answer(*q[:3], said[place % len(said)], q.round, who, seconds + place % 3, TIME)
        for place, q in enumerate(questions)
    ]
    Journal(run.journal).extend(rows)


def score(run: RunFolder) -> list[dict[str, Any]]:
    rng, rows = np.random.default_rng(1), []
    for name, arm, index, points in (
        ("dense-best", "dense", 0, ""),
        ("round_00-best", "points", 0, 5.0),
        ("round_01-best", "points", 1, 10.0),
        ("random-round_01-best", "random", 1, 10.0),
    ):
        for set_name in ("A&B", "validation"):
            row = {"trial": "t", "checkpoint": name, "set": set_name, "images": 6}
            metrics = ("maxF", "meanF", "adpF", "MAE")
            metrics += () if set_name == "validation" else ("wF", "S", "meanE")
            row |= {metric: float(rng.random()) for metric in metrics}
            row |= {"arm": arm, "round": index, "points": points, "label_mode": "pixel"}
            row |= {"region_error": 4.25 + index if arm == "points" else ""}
            rows.append(row | {"convention": "raw"})
    write_scores(run.scores, rows)
    return rows


def whole_trial(folder: Path) -> RunFolder:
    """A trial in which everything is there: two rounds, three annotators, scores and a sheet."""
    run = make_trial(folder, oracle="human", with_dense=True)
    for index in range(2):
        questions = ask(run, index)
        asked = [question for question in questions if not question.reserve]
        instead = [question for question in questions if question.reserve][::3]
        answer(run, asked, "fbbfs", "ann", 1.0)
        answer(run, instead, "f", "ann", 1.0)
        told = [(q, "bf".index("fbbf"[at % 5])) for at, q in enumerate(asked) if at % 5 < 4]
        told += [(question, 1) for question in instead]
        points = [Point(*question[:3], label, index) for question, label in told]
        write_points(run.points("points", index), points)
    answer(run, asked[:10], "fbfbs", HACKER, 0.0)
    answer(run, asked[:3], "b", "review:zoe", 2.0)
    Journal(run.journal).append(Answer(*asked[0][:3], "u", 1, HACKER, 0.5, TIME))
    score(run)
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    write_png(run.training("points", 0) / "sheet.png", noise)
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str, Page]:
    run = whole_trial(tmp_path_factory.mktemp("whole"))
    return run, *write(run)


def test_every_part_is_there(whole: tuple[RunFolder, str, Page]) -> None:
    _, text, page = whole
    assert page.left_out() == {}
    assert len(page.sections) >= len(PARTS)
    assert len(text.encode()) < 200_000
    assert text.startswith("<!DOCTYPE html>")


def test_nothing_is_loaded_and_nothing_runs(whole: tuple[RunFolder, str, Page]) -> None:
    _, text, page = whole
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "audio"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"  # the policy would refuse it
            if name in {"href", "src", "srcset", "data", "xlink:href", "poster", "action"}:
                assert str(value).startswith(("#", "data:image/png;base64,")), value
    lower = text.lower()
    assert "url(" not in lower
    assert "@import" not in lower
    assert "http" not in lower.replace("http-equiv", "")
    policies = [a["content"] for t, a in page.elements if a.get("http-equiv")]
    style = re.search("<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert len(policies) == 1
    assert str(policies[0]).startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    anchors = {a.get("id") for _, a in page.elements}
    links = [str(a["href"]) for t, a in page.elements if t == "a"]
    assert links
    assert {link.removeprefix("#") for link in links} <= anchors


def test_names_are_shown_as_they_are(whole: tuple[RunFolder, str, Page]) -> None:
    _, text, page = whole
    assert HACKER in page.texts
    assert "<script" not in text
    assert "onerror=" not in text
    assert HACKER in {row[0] for row in page.sections["cost"] if row}
    shown = [t for t, _ in page.elements]
    assert shown.count("img") == 1


def test_scores_are_those_of_the_table(whole: tuple[RunFolder, str, Page]) -> None:
    run, _, page = whole
    shown = [a["value"] for t, a in page.elements if t == "data" and "value" in a]
    wanted = []
    for held_out in (False, True):
        metrics = (
            ("maxF", "meanF", "adpF", "MAE") if held_out else ("maxF", "wF", "S", "meanE", "MAE")
        )
        of = [r for r in read_scores(run.scores) if (r["set"] == "validation") == held_out]
        wanted += [row[metric] for row in of for metric in metrics]
    assert shown == wanted
    text = [f"{float(value):.3f}".lstrip("0") for value in wanted[:5]]
    assert page.row("scores", "dense-best") == text
    rows = {(r["arm"], r["points"]): r for r in read_scores(run.scores) if r["set"] == "A&B"}
    told = set(page.texts)
    for metric in ("maxF", "S", "MAE"):
        for arm, name, points in (("points", "asked", "5"), ("random", "random", "10")):
            value = float(rows[arm, points][metric])
            assert f"{name} points, {points}: {value:.4f}" in told
        assert f"dense masks: {float(rows['dense', ''][metric]):.4f}" in told
        # The random line begins where the asked one does.
        assert f"random points, 5: {float(rows['points', '5'][metric]):.4f}" in told


def test_costs_are_those_of_the_journal(whole: tuple[RunFolder, str, Page]) -> None:
    run, _, page = whole
    answers = Journal(run.journal).answers()
    ann = [one for one in answers if one.annotator == "ann"]
    seconds = sum(one.seconds for one in ann)
    mean = seconds / len(ann)
    assert len(ann) == 48
    assert page.row("cost", "ann") == [
        "48", "48", "8", "0", f"{np.median([one.seconds for one in ann]):.2f}", f"{mean:.2f}",
        f"{60 / mean:.1f}", f"{seconds / 60:.1f}",
    ]  # fmt: skip
    hacker = page.row("cost", HACKER)
    assert hacker[:4] == ["11", "10", "2", "1"]
    assert page.row("cost", "zoe (reviewer)")[:4] == ["3", "3", "0", "0"]
    assert page.row("cost", "all")[:4] == ["62", "61", "10", "1"]
    assert "Of 4 answers nobody took the time" in " ".join(page.texts)
    tiles = [text for text in page.texts if text == "62"]
    assert tiles
    first, second = (page.row("cost", f"round {index}") for index in range(2))
    assert (first[:3], second[:3]) == (["24", "24", "4"], ["38", "37", "6"])
    minutes = [sum(one.seconds for one in answers if one.round == 0) / 60, 0.0]
    assert first[3:] == [f"{minutes[0]:.1f}"] * 2
    said = [one.seconds for one in answers if one.round == 1 and one.answer != "u"]
    minutes[1] = len(said) * sum(said) / sum(second > 0 for second in said) / 60
    assert second[3:] == [f"{minutes[1]:.1f}", f"{sum(minutes):.1f}"]


def test_seconds_of_nobodys_watch_do_not_count() -> None:
    rows = [
        Answer("a", x, 0, "f", 0, "ann", seconds, TIME) for x, seconds in enumerate((0, 2, 4, 9))
    ]
    cost = cost_of([*rows, rows[0]._replace(answer="u", seconds=50.0)])
    assert (cost.clicks, cost.answers, cost.median, cost.mean) == (5, 4, 4, 5)
    assert cost.minutes == pytest.approx(4 * 5 / 60)
    assert cost.rate == pytest.approx(12)
    bare = cost_of([rows[0]])
    assert bare.median is bare.mean is bare.minutes is bare.rate is None


def test_what_nobody_was_shown_is_no_click_and_a_closed_round_stays_closed(tmp_path: Path) -> None:
    run = make_trial(tmp_path, oracle="human")
    questions = [question for question in ask(run, 0) if not question.reserve]
    answer(run, questions[:18], "fb", "ann", 1.0)
    answer(run, questions[18:], "s", "unreadable", 0.0)
    told = [Point(*question[:3], place % 2, 0) for place, question in enumerate(questions[:18])]
    write_points(run.points("points", 0), told)
    _, page = write(run)
    assert page.row("cost", "all")[0] == "18"
    assert "unreadable" not in {row[0] for row in page.sections["cost"] if row}
    assert page.row("questions-and-answers", "round 0")[1:] == ["18", "0", "0"]
    Journal(run.journal).append(Answer(*questions[0][:3], "u", 0, "ann", 0.5, TIME))
    assert page.row("questions-and-answers", "round 0") == write(run)[1].row(
        "questions-and-answers", "round 0"
    )


def test_balance_errors_and_agreement(whole: tuple[RunFolder, str, Page]) -> None:
    run, _, page = whole
    trial = Trial(Config(trainset="SET", rounds=2, data_root=str(run.root.parent.parent / "data"),
                         trial="t", runs=str(run.root.parent)))  # fmt: skip
    for index in range(2):
        points = read_points(run.points("points", index))
        foreground = sum(point.label for point in points)
        assert len(points) == 20
        told = page.row("class-balance", f"round {index}")
        assert told[:4] == [
            str(foreground),
            str(20 - foreground),
            "4",
            f"{100 * foreground / 20:.1f} %",
        ]
        wrong = 0
        for point in points:
            disc = NAMES.index(point.image)
            at = (point.x - 20 - disc) ** 2 + (point.y - 20) ** 2
            if abs(at**0.5 - 9) > 1.5:  # OpenCV's disc is not quite round
                wrong += (at < 81) != (point.label == 1)
            else:
                wrong += trial.truths[point.image, point.x, point.y].on_object != (point.label == 1)
        told = page.row("errors-of-the-labels", f"round {index}")
        assert told == ["20", str(wrong), f"{100 * wrong / 20:.2f} %", f"{4.25 + index} %"]
        assert 0 < wrong < 20
    every = overall(trial.standing)
    told = page.row("agreement-of-annotators", "all, a pixel's first answer and later ones")
    assert told[:3] == [str(every.pixels), str(every.alike), f"{every.kappa:.3f}"]
    assert every.pixels == 9
    told = page.row("agreement-of-annotators", f"{HACKER} and ann")
    assert told[0] == "9"
    assert page.row("questions-and-answers", "round 1")[0] == "4"


def test_an_answer_counts_in_the_round_that_asked() -> None:
    """Not where its pixel was in reserve, and not needed."""
    first = [Question("a", 0, 0, 0, False), Question("a", 1, 0, 0, True)]
    questions = {("points", 0): first, ("points", 1): [Question("a", 1, 0, 1, False)]}
    clicks = [Answer("a", x, 0, "f", x, "ann", 1.0, TIME) for x in (0, 1)]
    trial = SimpleNamespace(questions=questions, clicks=clicks)
    text = str(people._by_round(trial, cost_of(clicks)))
    found = re.findall(r"(round \d).*?<td[^>]*>(\d+)</td>", text)
    assert found == [("round 0", "1"), ("round 1", "1")], text


def test_settings_that_differ(whole: tuple[RunFolder, str, Page]) -> None:
    _, _, page = whole
    rows = {row[0]: row[1:] for row in page.sections["settings-other-than-the-defaults"] if row}
    assert rows["trainset"] == ["SET", "empty"]
    assert rows["oracle"] == ["human", "mask"]
    assert "epochs" not in rows


def test_a_trial_that_has_just_begun(tmp_path: Path) -> None:
    run = make_trial(tmp_path)
    _, page = write(run)
    assert set(page.left_out()) == set(PARTS) - {"Settings other than the defaults"}
    assert page.left_out()["Scores"] == "nothing has been scored yet"


def test_half_a_round_without_masks(tmp_path: Path) -> None:
    run = make_trial(tmp_path, masks=False, oracle="human")
    asked = [question for question in ask(run, 0) if not question.reserve]
    answer(run, asked[:7], "fbs", "ann", 1.0)
    # A kill has cut the last line.
    run.journal.write_bytes(run.journal.read_bytes()[:-4])
    _, page = write(run)
    left_out = page.left_out()
    assert left_out["Distance to the border"] == "no image has a mask"
    assert left_out["Errors of the labels"] == "no image has a mask"
    assert left_out["Agreement of annotators"] == "no pixel was answered by two annotators"
    # Six whole answers: f b s f b s.
    assert page.row("class-balance", "round 0 (under way)")[:4] == ["2", "2", "2", "50.0 %"]
    assert page.row("cost", "all")[:3] == ["6", "6", "2"]
    assert page.row("questions-and-answers", "round 0") == ["4", "4", "16", "0"]


def test_a_round_that_asked_nothing_has_no_line(tmp_path: Path) -> None:
    run = make_trial(tmp_path, oracle="human", retrain=1)
    answer(run, [question for question in ask(run, 0) if not question.reserve], "fb", "ann", 1.0)
    write_questions(run.questions("points", 2), [])
    write_points(run.points("points", 2), [])
    _, page = write(run)
    for section in ("class-balance", "questions-and-answers", "errors-of-the-labels"):
        firsts = [row[0] for row in page.sections[section] if row]
        assert any(first.startswith("round 0") for first in firsts)
        assert not any(first.startswith("round 2") for first in firsts)


def test_scores_at_held_out_points_alone(tmp_path: Path) -> None:
    run = make_trial(tmp_path)
    rows = [row for row in score(run) if row["set"] == "validation"]
    write_scores(run.scores, rows)
    _, page = write(run)
    told = (
        "Mean over held-out points, of the best checkpoint of the last training on as many points."
    )
    assert told in page.texts
    assert f"asked points, 5: {rows[1]['maxF']:.4f}" in page.texts


@pytest.mark.parametrize(
    ("fields", "told_cost"), [({}, "3 1.0"), ({"answer_seconds": 6.0}, "6 2.0")]
)
def test_masks_answered(tmp_path: Path, fields: dict[str, float], told_cost: str) -> None:
    run = make_trial(tmp_path, **fields)
    seconds, minutes = told_cost.split()
    points = [Point("a.png", x, 5, x % 2, 0) for x in range(20)]
    write_points(run.ledger, points)
    write_points(run.points("points", 0), points)
    _, page = write(run)
    told = " ".join(page.texts)
    assert "masks told 20 pixels" in told
    assert f"At {seconds} seconds an answer (answer_seconds), which is a guess and was not" in told
    assert f"would take {minutes} minutes" in told
    assert page.left_out()["Questions and answers"] == "masks answered, no person was asked"


@pytest.mark.parametrize("name", ["scores.csv", "oracle/answers.csv", "round_00/points.csv"])
def test_a_damaged_file_costs_its_parts_alone(tmp_path: Path, name: str) -> None:
    run = whole_trial(tmp_path)
    (run.root / name).write_text("rubbish\n<script>\n")
    text, page = write(run)
    left_out = page.left_out()
    assert 0 < len(left_out) < len(PARTS)
    assert all(str(run.root / name) in reason for reason in left_out.values())
    assert "<script" not in text


def test_the_data_have_gone(tmp_path: Path) -> None:
    run = whole_trial(tmp_path)
    (tmp_path / "data").rename(tmp_path / "moved")
    _, page = write(run)
    assert set(page.left_out()) == {"Distance to the border", "Errors of the labels"}


def test_the_file_stays_small(tmp_path: Path) -> None:
    run = make_trial(tmp_path, oracle="human")
    asked = [question for question in ask(run, 0) if not question.reserve]
    for number in range(120):
        answer(run, asked[:2], "fb", f"{number:03d}" + "\U0001f600" * 60, 1.0)
    rng = np.random.default_rng(0)
    for index in range(2):
        noise = rng.integers(0, 256, (1100, 1400, 3)).astype(np.uint8)
        write_png(run.training("points", index) / "sheet.png", noise)
    text, page = write(run)
    assert 1_000_000 < len(text.encode()) < 5_000_000
    assert "Of 120 annotators the 100 with most answers." in " ".join(page.texts)
    sources = [str(a["src"]) for t, a in page.elements if t == "img"]
    assert [source[:23] for source in sources] == ["data:image/jpeg;base64,"] * 2
    (run.training("points", 1) / "sheet.png").write_text("no picture")
    assert "sheet.png is no picture, or too large" in write(run)[1].texts


def test_no_trial(tmp_path: Path) -> None:
    flags = ["--trial", "other", "--runs", str(tmp_path), "--data_root", "D", "--trainset", "S"]
    with pytest.raises(UserError, match="name a trial that has begun"):
        main(flags)


def test_distance_to_the_border() -> None:
    mask = np.zeros((5, 7), bool)
    mask[2, 2:5] = True
    found = border_distance(mask)
    every = np.argwhere(np.ones_like(mask))
    for y, x in every:
        others = [p for p in every if mask[tuple(p)] != mask[y, x]]
        assert found[y, x] == pytest.approx(min(np.hypot(*(p - (y, x))) for p in others), abs=1e-4)
    assert np.isinf(border_distance(np.ones((2, 2), bool))).all()
    assert np.isinf(border_distance(np.zeros((2, 2), bool))).all()
