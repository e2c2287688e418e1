"""Questions and answers in the formats of other tools, out and in again."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import active_learning.__main__ as asking
from active_learning.answers import Answer, Journal, label_of, progress, standing
from active_learning.exchange import cvat, label_studio, points_csv
from active_learning.exchange.__main__ import SHOWN, main, tell
from active_learning.exchange.tasks import (
    Found,
    Pictures,
    Taken,
    Whose,
    pixel_of,
    take_in,
    write_parts,
)
from active_learning.kappa import pairwise
from active_learning.questions import Question, read_questions, write_questions
from config import Config
from datasets.images import write_png
from datasets.index import list_sets
from datasets.points import read_points
from utils.errors import UserError
from utils.files import read_json
from utils.run_folder import RunFolder
from utils.settings import from_dict, save
from utils.stopping import EXIT_WAITING

TIME = "2026-01-31T12:00:00Z"
SIZES = {"a.png": (31, 17), "b & <c>.png": (64, 40), "group/d é.png": (7, 90)}
"""Width and height of each image."""

FORMATS = ("labelstudio", "cvat", "points")


def make_trial(folder: Path) -> RunFolder:
    """A trial whose images are asked about, in two rounds, with a reserve; nothing is answered."""
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        write_png(folder / "data" / "images" / "SET" / name, pixels)
    kept = {"trial": "t", "runs": str(folder / "runs"), "data_root": str(folder / "data")}
    save(config := Config(trainset="SET", oracle="human", with_dense=False, **kept))
    run = RunFolder(config.run_folder)
    for index in range(2):
        questions = []
        for name, (width, height) in SIZES.items():
            chosen = rng.permutation(width * height // 2)[:6] + index * (width * height // 2)
            questions += [
                Question(name, int(at % width), int(at // width), index, place >= 4)
                for place, at in enumerate(chosen)
            ]
        write_questions(run.root / f"round_{index:02d}" / "questions.csv", questions)
    return run


@pytest.fixture
def trial(tmp_path: Path) -> RunFolder:
    return make_trial(tmp_path)


def questions_of(run: RunFolder) -> list[list[Question]]:
    return [read_questions(run.root / f"round_0{index}" / "questions.csv") for index in range(2)]


def answer(run: RunFolder) -> None:
    """Two annotators, one after and before the other, a reviewer, skips, undone answers."""
    rng = np.random.default_rng(1)
    first, second = questions_of(run)
    journal = []
    for question in [q for q in first if not q.reserve] + [q for q in second if q.reserve][:2]:
        said = "fbs"[int(rng.choice(3, p=(0.4, 0.4, 0.2)))]
        names = ["ann", "Bob, the <2nd>"][:: int(rng.choice((-1, 1)))]
        for name in names[: 1 + int(rng.integers(2))]:
            seconds = round(float(rng.uniform(0.3, 4)), 3)
            journal.append(Answer(*question[:3], said, question.round, name, seconds, TIME))
            said = "fb"[int(rng.integers(2))]
    one, two = journal[0], journal[5]
    journal.append(one._replace(annotator="review:zoe", answer="b" if one.answer == "f" else "f"))
    journal += [two._replace(answer="u"), two._replace(answer="s")]
    Journal(run.journal).extend(journal)


def run_main(run: RunFolder, *words: str | Path) -> int:
    return main(["--trial", run.root.name, "--runs", str(run.root.parent), *map(str, words)])


def stands(run: RunFolder) -> dict:
    return standing(Journal(run.journal).answers())


@pytest.mark.parametrize("name", FORMATS)
def test_round_trip(trial: RunFolder, tmp_path: Path, name: str) -> None:
    answer(trial)
    before, file = stands(trial), tmp_path / "out.file"
    assert len({label_of(of) for of in before.values()}) == 3
    assert sum(len(of) > 1 for of in before.values()) > 3
    assert any(of[0].annotator != "ann" for of in before.values() if len(of) > 1)
    run_main(trial, "--export", name, "--to", file)
    trial.journal.unlink()
    run_main(trial, "--import", name, "--from", file)
    after = stands(trial)
    assert after == before  # in the order in which they count, with seconds and times
    assert pairwise(after) == pairwise(before)
    progress_of = [progress(of_file, after) for of_file in questions_of(trial)]
    assert progress_of == [progress(of_file, before) for of_file in questions_of(trial)]


@pytest.mark.parametrize("name", FORMATS)
def test_what_would_be_too_large_to_come_back_goes_out_in_parts(
    trial: RunFolder, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    answer(trial)
    before, file = stands(trial), tmp_path / "out.file"
    run_main(trial, "--export", name, "--to", file)
    most = file.stat().st_size // 2
    file.unlink()
    monkeypatch.setattr("active_learning.exchange.tasks.MOST_WRITTEN", most)
    for module in (label_studio, cvat, points_csv):
        monkeypatch.setattr(module, "MOST_BYTES", 2 * most)
    capsys.readouterr()
    run_main(trial, "--export", name, "--to", file)
    written = sorted(tmp_path.glob("out_*.file"))
    assert [part.name for part in written] == [f"out_{n}.file" for n in range(1, len(written) + 1)]
    assert f"in {len(written)} parts, out_1.file to" in capsys.readouterr().out
    assert 1 < len(written) <= len(SIZES)
    assert not file.exists()
    if name == "cvat":  # a project of its own has its own numbers
        assert all('<image id="0"' in part.read_text() for part in written)
    (tmp_path / "out_77.file").touch()
    run_main(trial, "--export", name, "--to", file)
    assert "of an earlier export, and not of this one: out_77.file\n" in capsys.readouterr().out
    trial.journal.unlink()
    run_main(trial, "--import", name, "--from", *written)
    assert stands(trial) == before
    file.write_bytes(b" " * (2 * most + 1))
    with pytest.raises(UserError, match="split it"):
        run_main(trial, "--import", name, "--from", file)


def test_parts_are_filled_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("active_learning.exchange.tasks.MOST_WRITTEN", 4)
    texts = ["é", "bb", "cc", "d", "an image's own", "e"]  # é is two bytes
    written = write_parts(tmp_path / "out.txt", texts, " ".join)
    assert [part.read_text() for part in written] == ["é bb", "cc d", "an image's own", "e"]
    assert write_parts(tmp_path / "out.txt", [], " ".join) == [tmp_path / "out.txt"]


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_open_is_exported_and_stays_open(
    trial: RunFolder, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.file"
    run_main(trial, "--export", name, "--to", file)
    assert "3 images, 24 pixels, 24 of them open" in capsys.readouterr().out
    run_main(trial, "--import", name, "--from", file)
    assert not trial.journal.exists()
    assert "open questions: 24" in capsys.readouterr().out
    answer(trial)
    capsys.readouterr()
    run_main(trial, "--export", name, "--to", file)
    each = [progress(of_file, stands(trial)) for of_file in questions_of(trial)]
    left = sum(len(one.open) for of in each for one in of.values())
    assert f" {left} of them open" in capsys.readouterr().out
    assert 0 < left < 24


def test_an_annotation_is_one_annotators(trial: RunFolder, tmp_path: Path) -> None:
    answer(trial)
    run_main(trial, "--export", "labelstudio", "--to", tmp_path / "tasks.json")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    found = [
        [mark["meta"]["annotator"] for mark in annotation["result"]]
        for task in tasks
        for annotation in task["annotations"]
    ]
    assert all(len(set(names)) == 1 for names in found)
    assert {names[0] for names in found} == {"ann", "Bob, the <2nd>", "review:zoe"}
    assert any(len(names) > 1 for names in found)


def mark_in_label_studio(file: Path, label: Callable[[str, float, float], str]) -> None:
    """Do what an annotator does there: take the prediction over and label its keypoints."""
    tasks = json.loads(file.read_text())
    for number, task in enumerate(tasks):
        result = task.pop("predictions")[0]["result"]
        for keypoint in result:
            assert keypoint["value"]["keypointlabels"] == ["Asked"]
            del keypoint["meta"]  # as if it had been marked anew
            place = keypoint["value"]["x"], keypoint["value"]["y"]
            keypoint["value"]["keypointlabels"] = [label(task["data"]["name"], *place)]
        name = task["data"].pop("name").split("/")[-1]
        task["data"]["image"] = f"/data/upload/1/0123abcd-{quote(name)}"
        seconds = 2.0 * len(result)
        task["annotations"] = [{"result": result, "completed_by": 7, "lead_time": seconds}]
        task["id"] = number
    file.write_text(json.dumps(tasks))


def test_a_task_labelled_in_label_studio(trial: RunFolder, tmp_path: Path) -> None:
    file = tmp_path / "tasks.json"
    run_main(trial, "--export", "labelstudio", "--to", file)
    labelling = (tmp_path / "tasks.config.xml").read_text()
    for text in ('value="Foreground"', 'value="Can\'t say"', 'value="Asked"', 'value="$image"'):
        assert text in labelling
    task = json.loads(file.read_text())[2]
    address = task["data"]["image"]
    assert address == "/data/local-files/?d=images/SET/group/d%20%C3%A9.png"
    width, height = SIZES["group/d é.png"]
    asked = next(q for q in questions_of(trial)[0] if q.image == "group/d é.png")
    keypoint = task["predictions"][0]["result"][0]
    assert (keypoint["original_width"], keypoint["original_height"]) == (width, height)
    assert keypoint["value"]["x"] == pytest.approx(100 * (asked.x + 0.5) / width)
    mark_in_label_studio(file, lambda name, x, y: "Foreground" if x > 50 else "Background")
    # A name that an upload has cut its folder from is not known any more.
    run_main(trial, "--import", "labelstudio", "--from", file)
    found = stands(trial)
    assert {pixel[0] for pixel in found} == {"a.png", "b & <c>.png"}
    assert {one.annotator for of in found.values() for one in of} == {"labelstudio:7"}
    assert {one.seconds for of in found.values() for one in of} == {2.0}
    for image, x, _ in found:
        wanted = "f" if 100 * (x + 0.5) / SIZES[image][0] > 50 else "b"
        assert {label_of(of) for pixel, of in found.items() if pixel[:2] == (image, x)} == {wanted}
    assert len(found) == 16


def test_a_job_done_in_cvat(trial: RunFolder, tmp_path: Path) -> None:
    file = tmp_path / "annotations.xml"
    run_main(trial, "--export", "cvat", "--to", file)
    text = file.read_text()
    labels = json.loads((tmp_path / "annotations.labels.json").read_text())
    assert {label["name"] for label in labels} == {"Foreground", "Background", "Can't say", "Asked"}
    asked = questions_of(trial)[0][0]
    assert f'points="{asked.x}.50,{asked.y}.50"' in text
    text = re.sub(r'label="Asked"', 'label="Background"', text)
    text = text.replace('name="a.png"', 'name="images/SET/a.png"')
    file.write_text(text)
    run_main(trial, "--import", "cvat", "--from", file, "--annotator", "Zoë")
    found = stands(trial)
    assert len(found) == 24
    assert {(label_of(of), of[0].annotator, of[0].seconds) for of in found.values()} == {
        ("b", "Zoë", 0.0)
    }


@pytest.mark.parametrize("name", FORMATS)
def test_a_name_that_is_overruled_may_be_any(trial: RunFolder, tmp_path: Path, name: str) -> None:
    answer(trial)
    file = tmp_path / "in.file"
    run_main(trial, "--export", name, "--to", file)
    file.write_text(re.sub('(?<=[",>])ann(?=[",<])', "a" * 65, file.read_text()))
    before = stands(trial)
    trial.journal.unlink()
    with pytest.raises(UserError, match="1 to 64 characters"):
        run_main(trial, "--import", name, "--from", file)
    run_main(trial, "--import", name, "--from", file, "--annotator", "Zoë")
    found = stands(trial)
    assert found.keys() == before.keys()
    assert {one.annotator for of in found.values() for one in of} == {"Zoë"}


def test_own_points_files(trial: RunFolder, tmp_path: Path) -> None:
    asked = questions_of(trial)[0][0]
    file = tmp_path / "points.csv"
    file.write_text(f"image,x,y,label,round\n{asked.image},{asked.x},{asked.y},1,0\n")
    run_main(trial, "--import", "points", "--from", file)
    assert {pixel: label_of(of) for pixel, of in stands(trial).items()} == {asked.pixel: "f"}
    assert stands(trial)[asked.pixel][0].annotator == "points"


def test_masks_answer_what_is_open(
    trial: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(trial)
    before = stands(trial)
    rng = np.random.default_rng(3)
    masks = {name: rng.random((h, w)) > 0.5 for name, (w, h) in SIZES.items()}
    del masks["a.png"]
    for name, mask in masks.items():
        write_png(tmp_path / "masks" / name, mask.astype(np.uint8) * 255)
    run_main(trial, "--import", "masks", "--from", tmp_path / "masks")
    after = stands(trial)
    assert {pixel: of for pixel, of in after.items() if pixel in before} == before
    new = {pixel: label_of(of) for pixel, of in after.items() if pixel not in before}
    assert new == {(n, x, y): "f" if masks[n][y, x] else "b" for n, x, y in new}
    each = [progress(of_file, after) for of_file in questions_of(trial)]
    assert all(one.complete for of in each for image, one in of.items() if image in masks)
    assert len(new) >= 8
    still = sum(len(of["a.png"].open) for of in each)
    assert f"open questions: {still}" in capsys.readouterr().out
    with pytest.raises(UserError, match="no such folder"):
        run_main(trial, "--import", "masks", "--from", tmp_path / "nothing")
    write_png(tmp_path / "masks" / "a.png", np.zeros((17, 30), np.uint8))
    with pytest.raises(UserError, match=r"30 x 17 pixels, but .*a\.png has 31 x 17"):
        run_main(trial, "--import", "masks", "--from", tmp_path / "masks")


def test_a_trial_answered_by_imports_is_that_of_the_mask_oracle(
    tiny: list[str], sample_root: Path, tmp_path: Path
) -> None:
    human = [*tiny, "--oracle", "human", "--no_wait", "--runs", str(tmp_path / "human")]
    run = RunFolder(tmp_path / "human" / "tiny")
    assert asking.main(human) == EXIT_WAITING
    assert not run.points("points", 0).exists()
    run_main(run, "--import", "masks", "--from", sample_root / "gts" / "SAMPLE-TR")
    assert asking.main(human) == 0
    assert asking.main(tiny) == 0
    masks = RunFolder(tmp_path / "runs" / "tiny")
    for of in (RunFolder.validation_points.fget, lambda run: run.points("points", 0)):
        assert read_points(of(run)) == read_points(of(masks))


def test_what_stands_stands() -> None:
    question = Question("a", 1, 2, 3, False)
    other = question._replace(x=5)
    stands = {question.pixel: [Answer("a", 1, 2, "f", 3, "ann", 1.0, TIME)]}
    found = [
        Found("a", 1, 2, "b", "bob", 0.0, ""),  # contradicts ann
        Found("a", 1, 2, "f", "bob", 0.0, ""),
        Found("a", 1, 2, "b", "ann", 0.0, ""),  # contradicts herself
        Found("a", 9, 9, "b", "ann", 0.0, ""),  # not asked
        Found("a", 5, 2, "s", "ann", 1.5, TIME),
        Found("a", 5, 2, "f", "ann", 0.0, ""),  # contradicts herself
        Found("a", 5, 2, "b", "bob", 0.0, "yesterday"),  # a second opinion
        Found("a", 5, 2, "b", "bob", 0.0, ""),
    ]
    taken = take_in(found, {q.pixel: q for q in (question, other)}, stands)
    assert [(a.pixel, a.answer, a.round, a.annotator, a.seconds) for a in taken.new] == [
        (other.pixel, "s", 3, "ann", 1.5),
        (other.pixel, "b", 3, "bob", 0.0),
    ]
    assert taken.new[0].time == TIME
    assert re.fullmatch(r"20\d\d-.*Z", taken.new[1].time)
    assert (taken.known, taken.not_asked) == (2, 1)
    assert taken.contradicting == [found[0], found[2], found[5]]


def test_what_a_reviewer_said_is_what_stands() -> None:
    question = Question("a", 1, 2, 3, False)
    said = (("f", "ann"), ("b", "review:bob"))
    stands = {question.pixel: [Answer("a", 1, 2, word, 3, who, 1.0, TIME) for word, who in said]}
    found = [Found("a", 1, 2, word, "cid", 0.0, "") for word in "bf"]
    taken = take_in(found, {question.pixel: question}, stands)
    assert (taken.new, taken.known, taken.contradicting) == ([], 1, [found[1]])


@pytest.mark.parametrize("count", [1, SHOWN, SHOWN + 2])
def test_of_many_contradictions_some_are_shown_and_all_are_counted(count: int, capsys) -> None:
    found = [Found("a", place, 2, "b", "bob", 0.0, "") for place in range(count)]
    stands = {("a", one.x, 2): [Answer("a", one.x, 2, "f", 0, "ann", 1.0, TIME)] for one in found}
    tell(Taken([], 0, found, 0), stands)
    lines = capsys.readouterr().out.splitlines()
    assert f"contradicting what stands, left out: {count}" in lines
    assert sum("stands f" in line for line in lines) == min(count, SHOWN)
    assert ("  and 2 more" in lines) == (count > SHOWN)


@given(st.integers(1, 20_000), st.data())
def test_every_pixel_comes_back_from_percent(size: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, size - 1))
    told = json.loads(json.dumps(label_studio.percent(place, size)))
    assert pixel_of(told / 100 * size, 0, (size, 1), "")[0] == place
    assert pixel_of(float(f"{place + 0.5:.2f}"), 0, (size, 1), "")[0] == place


def test_the_edges_of_a_picture_belong_to_it() -> None:
    assert pixel_of(10.0, 0.0, (10, 4), "") == (9, 0)
    assert pixel_of(0.99, 4.0, (10, 4), "") == (0, 3)
    for place in ((10.01, 0), (0, 4.01), (-0.01, 0)):
        with pytest.raises(UserError, match="outside the picture of 10 x 4"):
            pixel_of(*place, (10, 4), "here")


def deep(value: object) -> str:
    return json.dumps([{"data": {"image": "a.png"}, "annotations": value}])


def one_mark(**changes: object) -> str:
    value = {"x": 10, "y": 10, "keypointlabels": ["Foreground"]} | changes.pop("value", {})  # type: ignore[operator]
    mark = {"type": "keypointlabels", "value": value} | changes
    return deep([{"result": [mark]}])


JSON_FAULTS = {
    "": "not readable as JSON",
    "[" * 100_000: "not readable as JSON",
    "{}": "a list should be",
    "[3]": "task 1: 3 where an object",
    "[{}]": "task 1, data: None",
    '[{"data": {}}]': "neither name nor image",
    '[{"data": {"image": "http://[x"}}]': "no address",
    deep({}): "a list should be",
    deep([[]]): "annotation 1: ",
    deep([{"result": 4}]): "a list should be",
    deep([{"result": [None]}]): "mark 1: None",
    deep([{"result": [], "lead_time": "long"}]): "seconds 'long' is no number",
    one_mark(value={"x": 1e300}): "x 1e\\+300 cannot be meant",
    one_mark(value={"x": 10**400}): "x 1000.* is no number",
    one_mark(value={"x": float("nan")}): "x nan cannot be meant",
    one_mark(value={"y": 100.5}): "outside the picture",
    one_mark(value={"keypointlabels": ["Cat"]}): "label 'Cat': must be one of",
    one_mark(value={"keypointlabels": ["Asked", "Asked"]}): "must be one of",
    one_mark(value={"keypointlabels": "Asked"}): "a list should be",
    one_mark(original_width=99, original_height=17): "99 x 17 pixels there and 31 x 17 here",
    one_mark(image_rotation=90): "turned",
    one_mark(meta={"annotator": "x" * 65}): "1 to 64 characters",
    one_mark(meta={"annotator": "a\nb"}): "control",
    one_mark(meta={"annotator": "\ud800"}): "control",
    one_mark(meta={"annotator": ["a"]}): "is no text",
    one_mark(meta={"seconds": -1}): "must be 0 or more",
}

IMAGE = '<image name="a.png" width="31" height="17">'
XML_FAULTS = {
    "": "not readable as XML",
    "<annotations>": "not readable as XML",
    "<other/>": "no annotations of CVAT",
    '<!DOCTYPE a [<!ENTITY a "aaaa">]><annotations>&a;</annotations>': "document type",
    '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>': "document type",
    '<?xml version="1.0" encoding="no-such"?><annotations/>': "not readable as XML",
    "<annotations>&a;</annotations>": "not readable as XML",
    '<annotations><points label="Asked"/></annotations>': "line 1: points in no image",
    "<annotations>\n<image/></annotations>": "line 2: an image without a name",
    '<annotations><image name="a.png"/></annotations>': "width '' is no number",
    f"<annotations>{IMAGE.replace('31', '32')}</image></annotations>": "32 x 17 pixels there",
    f'<annotations>{IMAGE}<points label="Cat" points="1,1"/></image></annotations>': "label 'Cat'",
    f"<annotations>{IMAGE}<points points='1,1'/></image></annotations>": "label None",
    f'<annotations>{IMAGE}<points label="Foreground" points="1"/></image></annotations>': "like",
    f'<annotations>{IMAGE}<points label="Foreground" points="1,x"/></image></annotations>': "y 'x'",
    f'<annotations>{IMAGE}<points label="Foreground" points="1,17.5"/></image></annotations>': (
        "outside the picture"
    ),
    f'<annotations>{IMAGE}<points label="Foreground" points="1,inf"/></image></annotations>': (
        "cannot be meant"
    ),
    f'<annotations>{IMAGE}<points label="Foreground" points="1,1"><attribute name="seconds">-3'
    "</attribute></points></image></annotations>": "must be 0 or more",
}

CSV_FAULTS = {
    "image,x,y,label\n": "the first line lacks round",
    "image,x,y,label,round\na.png,1,1,1\n": "line 2: 5 values",
    "image,x,y,label,round\na.png,1.5,1,1,0\n": "line 2: x and y must be whole",
    "image,x,y,label,round\na.png,1,1,f,0\n": "line 2: label 'f'",
    "image,x,y,label,round,seconds\na.png,1,1,1,0,nan\n": "seconds 'nan' cannot be meant",
    "image,x,y,label,round,annotator\na.png,1,1,1,0,\x07\n": "control",
}


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        *(("labelstudio", *case) for case in JSON_FAULTS.items()),
        *(("cvat", *case) for case in XML_FAULTS.items()),
        *(("points", *case) for case in CSV_FAULTS.items()),
    ],
    ids=lambda text: text[:20],
)
def test_what_cannot_be_meant_is_told(
    trial_once: RunFolder, tmp_path: Path, name: str, text: str, match: str
) -> None:
    file = tmp_path / "in.file"
    file.write_text(text)
    with pytest.raises(UserError, match=match) as told:
        run_main(trial_once, "--import", name, "--from", file)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 500
    assert not trial_once.journal.exists()


@pytest.fixture(scope="module")
def trial_once(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A trial that is not written to."""
    return make_trial(tmp_path_factory.mktemp("trial"))


READ = {"labelstudio": label_studio.read, "cvat": cvat.read, "points": points_csv.read}


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(data=st.data())
def test_no_spoilt_file_is_a_defect_of_ours(
    exports: dict[str, bytes], pictures: Pictures, spoilt: Path, name: str, data: st.DataObject
) -> None:
    whole = bytearray(exports[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        signs = st.sampled_from([b"-", b"e9", b'"', b"<"])
        new = data.draw(st.one_of(st.binary(max_size=3), signs))
        whole[at : at + data.draw(st.integers(0, 9))] = new
    spoilt.write_bytes(whole)
    try:
        found = READ[name](spoilt, pictures, Whose("me"))
    except UserError:
        return
    questions = {(f.image, f.x, f.y): Question(f.image, f.x, f.y, 0, False) for f in found}
    for one in take_in(found, questions, {}).new:
        assert one.seconds >= 0
        assert one.answer in set("fbs")


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spoilt") / "file"


@pytest.fixture(scope="module")
def pictures(trial_once: RunFolder) -> Pictures:
    return Pictures(list_sets(trial_once.root.parent.parent / "data", "SET"))


@pytest.fixture(scope="module")
def exports(trial_once: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an answered trial is exported as."""
    folder = tmp_path_factory.mktemp("exports")
    shutil.copytree(trial_once.root, folder / "runs" / "t")
    run = RunFolder(folder / "runs" / "t")
    answer(run)
    for name in FORMATS:
        run_main(run, "--export", name, "--to", folder / name)
    return {name: (folder / name).read_bytes() for name in FORMATS}


def test_names_that_xml_cannot_hold(tmp_path: Path) -> None:
    from active_learning.exchange.tasks import Asked, Task

    task = Task("a\x01.png", "images/SET/a\x01.png", 3, 3, (Asked(0, 0, 0, ()),))
    with pytest.raises(UserError, match="XML cannot hold this name"):
        cvat.write(tmp_path / "out.xml", [task])


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ([], "give either --export"),
        (["--export", "cvat", "--import", "cvat"], "give either --export"),
        (["--export", "cvat"], "--export needs --to"),
        *((["--export", name, "--to", ""], "name the file") for name in FORMATS),
        (["--export", "masks", "--to", "x"], "unknown format to export 'masks'"),
        (["--import", "cvta", "--from", "x"], "did you mean 'cvat'"),
        (["--import", "cvat"], "--import needs --from"),
        (["--import", "masks", "--from", "x", "y"], "masks takes one folder"),
        (["--import", "cvat", "--from", "nothing.xml"], "no such file"),
        (["--import", "cvat", "--from", "."], "a folder where a file"),
        (["--import", "points", "--from", "nothing.csv"], "no such file"),
        (["--import", "cvat", "--from", "x", "--annotator", "a\tb"], "control characters"),
    ],
)
def test_the_command_line(trial_once: RunFolder, words: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        run_main(trial_once, *words)


def test_where_masks_answer_nothing_is_imported(trial: RunFolder, tmp_path: Path) -> None:
    config = from_dict(read_json(trial.config), "")
    save(dataclasses.replace(config, oracle="mask"))
    run_main(trial, "--export", "points", "--to", tmp_path / "points.csv")
    with pytest.raises(UserError, match="masks answer here"):
        run_main(trial, "--import", "points", "--from", tmp_path / "points.csv")


def test_nothing_asked_yet(trial: RunFolder) -> None:
    for path in trial.root.glob("round_*/questions.csv"):
        path.unlink()
    with pytest.raises(UserError, match="nothing has been asked yet"):
        run_main(trial, "--export", "cvat", "--to", "x")
