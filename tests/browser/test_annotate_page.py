"""The page, in a browser: who answers here sees what a person sees, and presses what he presses."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import train
from active_learning import __main__ as asking
from active_learning.annotate.desk import Desk
from active_learning.annotate.web import Refused
from active_learning.answers import Journal, label_of, progress, standing
from active_learning.questions import question_files, read_questions, write_questions
from config import Config
from datasets.images import read_mask
from datasets.points import read_points
from tests.annotate_trial import make_trial, rows, serve_quietly, start, write_round
from tests.annotate_trial import served as serving
from utils import settings
from utils.run_folder import RunFolder

if TYPE_CHECKING:
    from playwright.sync_api import Page

Masks = Mapping[str, np.ndarray]
Opener = Callable[..., "Page"]


def masks_of(config: Config) -> Masks:
    samples = [sample for part in settings.training_images(config) for sample in part]
    return {sample.name: read_mask(sample.mask) for sample in samples}


def enter(page: Page, port: int, name: str) -> None:
    page.goto(f"http://127.0.0.1:{port}/")
    page.fill("#name", name)
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-shown]")


def shown(page: Page) -> tuple[str, int, int] | None:
    said = page.get_attribute("body", "data-shown")
    if said is None:
        return None
    image, x, y = said.rsplit(" ", 2)
    return image, int(x), int(y)


def press(page: Page, key: str) -> None:
    """Press a key, and wait until another question is shown, or none."""
    before = page.get_attribute("body", "data-shown")
    page.keyboard.press(key)
    page.wait_for_selector(f'body:not([data-shown="{before}"]):not(.sending)')


def tell(page: Page, masks: Masks) -> None:
    """Answer the question on the screen as its mask says."""
    found = shown(page)
    assert found is not None
    image, x, y = found
    press(page, "f" if masks[image][y, x] else "b")


def answer_all(page: Page, masks: Masks) -> None:
    while shown(page) is not None:
        tell(page, masks)


def check_all_told(config: Config, masks: Masks) -> None:
    """Every question has its answer, and every answer is its mask's."""
    run = RunFolder(config.run_folder)
    stands = standing(Journal(run.journal).answers())
    for path in question_files(run):
        for found in progress(read_questions(path), stands).values():
            assert found.complete
            assert not found.short
            for question, said in found.told.items():
                inside = masks[question.image][question.y, question.x]
                assert said.answer == ("f" if inside else "b")


@pytest.fixture
def trial(sample_root: Path, tmp_path: Path) -> Config:
    config = make_trial(tmp_path / "runs", sample_root)
    write_round(config, 0, images=4, points=3)
    return config


@pytest.fixture
def served(trial: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr("active_learning.annotate.server.GRACE", 0.0)
    ended = threading.Event()
    thread, port = serve_quietly(trial, ended.is_set)
    yield port
    ended.set()
    thread.join()


def test_a_round_with_undo_skip_reload_and_a_killed_server(trial: Config, new_page: Opener) -> None:
    masks, page = masks_of(trial), new_page()
    process, port = start(trial)
    try:
        enter(page, port, "ann")
        first = shown(page)
        # A slip, and its undo: the question comes again.
        press(page, "b" if masks[first[0]][first[2], first[1]] else "f")
        press(page, "u")
        assert shown(page) == first
        tell(page, masks)
        # Cannot be told: the same image's next in reserve comes.
        skipped = shown(page)
        press(page, "s")
        assert shown(page)[0] == skipped[0]
        assert shown(page) not in (first, skipped)
        tell(page, masks)
        # An earlier answer, looked at and changed, and changed back.
        press(page, "ArrowLeft")
        assert page.is_visible("text=You said")
        press(page, "ArrowRight")
        assert page.is_hidden("text=You said")
        before = shown(page)
        page.reload()
        page.wait_for_selector("body[data-shown]")
        assert shown(page) == before
        tell(page, masks)
        # The server is killed: the answer is kept, and sent when there is one again.
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = len(rows(trial))
        found = shown(page)
        page.keyboard.press("f" if masks[found[0]][found[2], found[1]] else "b")
        page.wait_for_selector("text=Not saved yet")
        assert shown(page) == found
        assert len(rows(trial)) == kept
        process, port = start(trial, port=port)
        page.wait_for_selector(f'body:not([data-shown="{" ".join(map(str, found))}"])')
        assert page.is_hidden("#banner")
        assert len(rows(trial)) == kept + 1
        answer_all(page, masks)
        page.wait_for_selector("text=The network is at work")
        assert "12 of 12 answered" in page.inner_text("#numbers")
    finally:
        process.terminate()
        process.wait()
    check_all_told(trial, masks)
    stands = standing(Journal(RunFolder(trial.run_folder).journal).answers())
    stood = [said for several in stands.values() for said in several]
    assert [said.answer for said in stood].count("s") == 1
    assert len(stood) == 13


def test_an_answer_survives_a_closed_page(trial: Config, new_page: Opener) -> None:
    page = new_page()
    process, port = start(trial)
    enter(page, port, "ann")
    process.send_signal(signal.SIGKILL)
    process.wait()
    page.keyboard.press("f")
    page.wait_for_selector("text=Not saved yet")
    image, x, y = shown(page)
    page.goto("about:blank")
    process, port = start(trial, port=port)
    try:
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("body[data-shown]")
        assert shown(page) != (image, x, y)
    finally:
        process.terminate()
        process.wait()
    assert [row.split(",")[:4] for row in rows(trial)] == [[image, str(x), str(y), "f"]]


def test_a_page_open_since_before_a_picture_went_answers_its_own(
    sample_root: Path, tmp_path: Path, new_page: Opener
) -> None:
    root = tmp_path / "data"
    shutil.copytree(sample_root, root)
    config = make_trial(tmp_path / "runs", root)
    last = write_round(config, 0, images=3, points=2)[-4:]
    write_questions(RunFolder(config.run_folder).questions("points", 0), last)
    page = new_page()
    process, port = start(config)
    enter(page, port, "ann")
    found = shown(page)
    process.kill()
    process.wait()
    settings.training_images(config)[0][0].image.unlink()
    process, port = start(config, port=port)
    try:
        press(page, "f")
        press(page, "ArrowLeft")
        assert shown(page) == found
    finally:
        process.terminate()
        process.wait()
    assert [row.split(",")[0] for row in rows(config)] == [last[0].image]


def test_a_page_that_nobody_touches_gives_no_sign_of_life(served: int, new_page: Opener) -> None:
    page, signs = new_page(), []
    page.add_init_script("const own = setInterval; setInterval = (act, ms) => own(act, ms / 100);")
    page.on("request", lambda sent: signs.append(sent) if "/api/alive" in sent.url else None)
    enter(page, served, "ann")
    page.wait_for_timeout(700)
    signs.clear()
    page.wait_for_timeout(1000)
    assert signs == []
    page.keyboard.press("r")
    page.wait_for_timeout(700)
    assert len(signs) == 1


@pytest.mark.parametrize("path", ["", "review"])
def test_an_answer_is_not_told_to_be_unsaved_where_its_reply_alone_fails(
    trial: Config, served: int, new_page: Opener, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    page = new_page()
    enter(page, served, "ann")
    if path:
        press(page, "f")
        page.goto(f"http://127.0.0.1:{served}/{path}")
        page.wait_for_selector("#points [aria-current=true]")
    said = len(rows(trial))

    def away(*_: object) -> None:
        raise Refused(503, "the disk is away")

    with monkeypatch.context() as patch:
        patch.setattr(Desk, "_question", away)
        page.keyboard.press("b")
        page.wait_for_selector("text=the disk is away")
        assert "Not saved" not in page.inner_text("#banner")
        assert page.evaluate("Object.keys(localStorage).join()") == "annotator"
        assert len(rows(trial)) == said + 1
    page.wait_for_selector("#banner", state="hidden")
    assert len(rows(trial)) == said + 1


def test_two_at_once_by_touch_and_mouse(trial: Config, served: int, new_page: Opener) -> None:
    masks = masks_of(trial)
    phone = new_page(viewport={"width": 390, "height": 700}, has_touch=True, color_scheme="dark")
    desk = new_page()
    enter(phone, served, "ann")
    enter(desk, served, "bob")
    assert shown(phone)[0] != shown(desk)[0]
    while any(shown(page) for page in (phone, desk)):
        for page, act in ((phone, phone.tap), (desk, desk.click)):
            if found := shown(page):
                said = "f" if masks[found[0]][found[2], found[1]] else "b"
                act(f'#answers [data-answer="{said}"]')
                before = " ".join(map(str, found))
                page.wait_for_selector(f'body:not([data-shown="{before}"])')
    check_all_told(trial, masks)
    answers = Journal(RunFolder(trial.run_folder).journal).answers()
    assert {one.annotator for one in answers} == {"ann", "bob"}
    doubly = len(answers) - len({one.pixel for one in answers})
    assert doubly <= 3  # the share that is asked of both
    for button in phone.query_selector_all("button, a.button"):
        box = button.bounding_box()
        assert box is None or min(box["width"], box["height"]) >= 44


@pytest.mark.parametrize(("width", "height"), [(667, 320), (740, 360), (932, 430)])
def test_a_phone_held_sideways_has_room_for_the_picture(
    served: int, new_page: Opener, width: int, height: int
) -> None:
    page = new_page(viewport={"width": width, "height": height}, is_mobile=True, has_touch=True)
    enter(page, served, "ann")
    stage = page.locator("#stage").bounding_box()
    assert stage is not None
    assert stage["height"] > 0.6 * height
    assert stage["width"] > 0.5 * width
    for button in page.query_selector_all("#answers button"):
        box = button.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= height
        assert box["x"] + box["width"] <= width


def test_on_a_phone_help_and_review_begin_at_their_top(
    trial: Config, served: int, new_page: Opener
) -> None:
    page = new_page(viewport={"width": 360, "height": 480}, is_mobile=True, has_touch=True)
    enter(page, served, "ann")
    page.tap("#help-button")
    page.wait_for_selector("#help[open]")
    # Neither below the first lines, nor with the button that gives one's name up at hand.
    assert page.evaluate("document.querySelector('#help').scrollTop") == 0
    assert page.evaluate("document.activeElement.id") == "help-title"
    page.keyboard.press("Escape")
    press(page, "b")
    page.goto(f"http://127.0.0.1:{served}/review")
    page.wait_for_selector("#points [aria-current=true]")
    assert page.evaluate("scrollY") == 0


def test_a_damaged_picture_is_told_and_skipped(
    sample_root: Path, tmp_path: Path, new_page: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("active_learning.annotate.server.GRACE", 0.0)
    root = tmp_path / "data"
    shutil.copytree(sample_root, root)
    config = make_trial(tmp_path / "runs", root)
    write_round(config, 0, images=3, points=2)
    # The second is told, too, when of all that were told no more than the last is sent.
    monkeypatch.setattr("active_learning.annotate.desk.ERRORS_SHOWN", 1)
    damaged = [sample.image for sample in settings.training_images(config)[0][:2]]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-400])
    ended = threading.Event()
    thread, port = serve_quietly(config, ended.is_set)
    page = new_page()
    enter(page, port, "ann")
    page.wait_for_selector(f"text={damaged[1].name} cannot be shown")
    masks = masks_of(config)
    page.wait_for_selector("#banner", state="hidden")
    assert shown(page)[0] not in {path.name for path in damaged}
    answer_all(page, masks)
    assert "2 of 2 answered" in page.inner_text("#numbers")
    ended.set()
    thread.join()


def test_what_is_under_the_cross_hairs(trial: Config, served: int, new_page: Opener) -> None:
    page = new_page()
    enter(page, served, "ann")
    for key in ("+", "+", "-", "-", "-"):
        page.keyboard.press(key)
        _, x, y = shown(page)
        # The middle of the ring lies over the middle of the asked pixel, as the picture is drawn.
        ring = page.locator("#marks circle").first.bounding_box()
        picture = page.locator("#picture").bounding_box()
        width, height = page.evaluate(
            "(({ naturalWidth, naturalHeight }) => [naturalWidth, naturalHeight])"
            "(document.querySelector('#picture'))"
        )
        assert ring["x"] + ring["width"] / 2 == pytest.approx(
            picture["x"] + (x + 0.5) * picture["width"] / width, abs=1
        )
        assert ring["y"] + ring["height"] / 2 == pytest.approx(
            picture["y"] + (y + 0.5) * picture["height"] / height, abs=1
        )


def test_region_theme_help_and_a_long_key_press(
    sample_root: Path, tmp_path: Path, new_page: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("active_learning.annotate.server.GRACE", 0.0)
    config = make_trial(tmp_path / "runs", sample_root, label_mode="region", superpixels=20)
    write_round(config, 0, images=2, points=2)
    ended = threading.Event()
    thread, port = serve_quietly(config, ended.is_set)
    page = new_page(color_scheme="dark")
    enter(page, port, "ann")
    assert page.get_attribute("html", "data-theme") == "dark"
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "light"
    page.keyboard.press("r")
    page.wait_for_selector("#outline path", state="attached")
    page.keyboard.press("r")
    page.wait_for_selector("#outline path", state="detached")
    # While the help is open no key answers, nor does one with Ctrl, nor one that is held down.
    page.keyboard.press("?")
    page.keyboard.press("f")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+b")
    assert rows(config) == []
    first = " ".join(map(str, shown(page)))
    for _ in range(3):
        page.keyboard.down("b")
    page.wait_for_selector(f'body:not([data-shown="{first}"])')
    page.keyboard.up("b")
    assert len(rows(config)) == 1
    ended.set()
    thread.join()


def test_a_token_lets_a_browser_in(trial: Config, new_page: Opener) -> None:
    page, other = new_page(), new_page()
    token = "0123456789abcdefgh"
    with serving(Desk(trial), token=token) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        assert other.goto(address).status == 401
        page.goto(f"{address}?token={token}")
        page.wait_for_url(address)  # without the token, which no history then shows
        page.fill("#name", "ann")
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-shown]")
        press(page, "f")
        assert page.evaluate("document.cookie") == ""
    assert len(rows(trial)) == 1


def test_a_reviewer_at_the_keyboard(trial: Config, served: int, new_page: Opener) -> None:
    masks, page = masks_of(trial), new_page()
    enter(page, served, "eve")
    image, x, y = shown(page)
    right = "f" if masks[image][y, x] else "b"
    press(page, "b" if right == "f" else "f")
    page.click("text=Review")
    page.wait_for_selector("#points button")
    # The questions come in the file's order, the answered one first.
    page.keyboard.press(right)
    page.wait_for_selector("text=review:eve")
    (stands,) = standing(Journal(RunFolder(trial.run_folder).journal).answers()).values()
    assert label_of(stands) == right
    assert [one.annotator for one in stands] == ["eve", "review:eve"]
    page.keyboard.press("u")
    page.wait_for_selector("text=review:eve", state="hidden")


def test_a_slow_picture_does_not_take_the_place_of_a_later_one(
    trial: Config, served: int, new_page: Opener
) -> None:
    """Nor is a pixel of it answered while it is not there; and keys of the browser stay its own."""
    page, held = new_page(), []
    enter(page, served, "eve")
    answer_all(page, masks_of(trial))
    said = len(rows(trial))
    page.goto(f"http://127.0.0.1:{served}/review")
    page.wait_for_selector("#points [aria-current=true]")
    listed = page.query_selector_all("#images button")
    numbers = [one.get_attribute("data-picture") for one in listed]
    page.route(f"**/picture/{numbers[1]}?*", lambda route: held.append(route))
    page.keyboard.press("Alt+ArrowRight")
    page.wait_for_timeout(200)
    assert not held
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    page.keyboard.press("s")
    page.wait_for_timeout(200)
    assert len(rows(trial)) == said
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f"#images [data-picture='{numbers[2]}'][aria-current=true]")
    held[0].continue_()
    page.wait_for_timeout(300)
    assert page.get_attribute("#picture", "src").startswith(f"/picture/{numbers[2]}?")
    page.keyboard.press("s")
    page.wait_for_selector("text=review:eve")
    answers = Journal(RunFolder(trial.run_folder).journal).answers()
    shown_now = page.inner_text("#images [aria-current=true]")
    assert [answer.image for answer in answers[said:]] == [shown_now]


def test_why_a_name_is_refused_is_told(trial: Config, served: int, new_page: Opener) -> None:
    page = new_page()
    page.goto(f"http://127.0.0.1:{served}/")
    page.fill("#name", "e\u200dve")
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice:not([hidden])")
    assert "annotator" in page.inner_text("#notice")
    assert page.is_visible("#who")


def test_a_change_that_comes_too_late_is_told(trial: Config, served: int, new_page: Opener) -> None:
    page = new_page()
    enter(page, served, "ann")
    press(page, "f")
    press(page, "ArrowLeft")
    RunFolder(trial.run_folder).points("points", 0).write_text("image,x,y,label,round\n")
    page.wait_for_timeout(600)
    page.keyboard.press("b")
    page.wait_for_selector("text=All is answered for now")
    assert "the round is closed" in page.inner_text("#notice")
    assert len(rows(trial)) == 1


def test_the_same_points_and_weights_as_from_masks(
    tiny: list[str], tmp_path: Path, new_page: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("active_learning.annotate.server.GRACE", 0.2)
    page = new_page()
    named: dict[str, RunFolder] = {}
    for name in ("mask", "human"):
        flags = [*tiny, "--trial", name, "--oracle", name, "--no-with_dense"]
        flags += ["--epochs", "1", "--snapshots", "1"]
        named[name] = RunFolder(tmp_path / "runs" / name)
        for index in ("0", "1"):
            ask = [*flags, "--round", index]
            if name == "mask":
                asking.main(ask)
            else:
                answer_in_browser(ask, page)
            train.main([*flags, "--arm", "points", "--round", index])
    for index in (0, 1):
        mask, human = (read_points(run.points("points", index)) for run in named.values())
        assert mask == human
        mask, human = (
            torch.load(run.checkpoint("points", index, "last"), weights_only=True)["model"]
            for run in named.values()
        )
        assert all(torch.equal(mask[key], human[key]) for key in mask)
    both = [read_points(run.validation_points) for run in named.values()]
    assert both[0] == both[1]


def answer_in_browser(flags: list[str], page: Page) -> None:
    """Run the stage that asks, and answer what it asks as the masks say."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        found = threading.Event()

        def heard(server: object, count: int) -> None:
            said.append(str(server.server_port))  # type: ignore[attr-defined]
            found.set()

        patch.setattr("active_learning.annotate.server._tell", heard)
        stage = threading.Thread(target=asking.main, args=(flags,), daemon=True)
        stage.start()
        assert found.wait(60)
        page.goto(f"http://127.0.0.1:{said[0]}/")
        if not page.evaluate("localStorage.getItem('annotator')"):
            page.fill("#name", "ann")
            page.keyboard.press("Enter")
        page.wait_for_selector("body[data-shown]")
        config, _ = settings.parse(flags[:-2], "")
        answer_all(page, masks_of(config))
        stage.join()
