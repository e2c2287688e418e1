from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from active_learning.annotate import desk as desk_module
from active_learning.annotate import pictures, server, web
from active_learning.annotate.desk import Desk
from active_learning.answers import UNREADABLE, Journal, progress, standing
from active_learning.questions import read_questions, write_questions
from config import Config
from datasets.images import read_image
from tests.annotate_trial import (
    answer,
    make_trial,
    post,
    request,
    rows,
    serve_quietly,
    served,
    start,
    write_round,
)
from utils.errors import UserError
from utils.locks import held
from utils.run_folder import RunFolder

TOKEN = "0123456789abcdefgh"


@pytest.fixture
def trial(sample_root: Path, tmp_path: Path) -> Config:
    config = make_trial(tmp_path / "runs", sample_root)
    write_round(config, 0, images=3, points=4)
    return config


@pytest.fixture
def port(trial: Config) -> Iterator[int]:
    with served(Desk(trial)) as found:
        yield found.server_port


def test_everything_is_sent_with_a_strict_policy(port: int) -> None:
    for path in [*server.FILES, "/picture/0", "/inset/0/1/2/33", "/none"]:
        status, headers, body = request(port, "GET", path)
        assert status == (404 if path == "/none" else 200)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        cached = path.startswith(("/picture", "/inset"))
        assert headers["Cache-Control"] == ("private, max-age=86400" if cached else "no-store")
        # Nothing of the page comes from anywhere else.
        assert b"://" not in body.replace(b"http://www.w3.org/2000/svg", b"") or cached


@pytest.mark.parametrize(
    "path",
    [
        "/../config.json",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/%252e%252e%252fetc%252fpasswd",
        "//etc/passwd",
        "/etc/passwd",
        "/picture/../0",
        "/picture/0/../../etc/passwd",
        "/picture/0%00.jpg",
        "/picture/%30",
        "/picture/tr_0000.jpg",
        "/picture//etc/passwd",
        "/picture/-1",
        "/picture/99999999",
        "/picture/0x0",
        "/picture/1e1",
        "/picture/\u0660".encode().decode("latin-1"),
        "/inset/0/0/0/9999",
        "/inset/0/0/0/34",
        "/inset/0/99999/0/33",
        "/region/0/0/99999/17",
        "/page.css/",
        "/queue.py",
        "/.",
        "file:///etc/passwd",
        "http://127.0.0.1/page.css",
        "/api/next",
    ],
)
def test_no_other_path_leads_anywhere(port: int, path: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        line = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(line.encode("latin-1"))
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    assert reply.split()[1] in (b"404", b"400")
    assert b"root:" not in reply


def test_names_that_may_be_anyones_are_refused(port: int) -> None:
    for host in ("localhost", f"localhost:{port}", "127.0.0.1:9", "[::1]:80", "192.168.0.7"):
        assert request(port, "GET", "/", Host=host)[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "", "[bad", "localhost.evil.example"):
        assert request(port, "GET", "/", Host=host)[0] == 421


def test_other_sites_write_nothing(trial: Config, port: int) -> None:
    body = {"trial": trial.trial, "annotator": "ann", "answer": "f", "seconds": 1}
    question = post(port, "/api/next", annotator="ann")["questions"][0]
    body |= {key: question[key] for key in ("picture", "x", "y")}
    good = f"http://127.0.0.1:{port}"
    for status, headers in [
        (403, {"Origin": "http://evil.example"}),
        (403, {"Origin": "null"}),
        (403, {"Origin": f"http://127.0.0.1:{port + 1}"}),
        (403, {"Sec_Fetch_Site": "cross-site"}),
        (403, {"Sec_Fetch_Site": "same-site", "Origin": good}),
        (415, {"Content_Type": "text/plain"}),
        (415, {"Content_Type": "application/x-www-form-urlencoded"}),
        (421, {"Host": "evil.example"}),
    ]:
        found = request(port, "POST", "/api/answer", body, **headers)[0]
        assert found == status, headers
    assert rows(trial) == []
    ours = {"Origin": good, "Sec_Fetch_Site": "same-origin"}
    assert request(port, "POST", "/api/answer", body, **ours)[0] == 200
    assert len(rows(trial)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"answer": "x"},
        {"answer": None},
        {"answer": ["f"]},
        {"picture": -1},
        {"picture": 10**6},
        {"picture": "0"},
        {"picture": True},
        {"image": "gone.png"},
        {"image": 0},
        {"x": 1.5},
        {"x": 2**40},
        {"y": None},
        {"seconds": -1},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"seconds": 10**400},
        {"seconds": "1"},
        {"annotator": ""},
        {"annotator": "a\nb"},
        {"annotator": "x" * 65},
        {"annotator": "review:ann"},
        {"annotator": UNREADABLE},
        {"annotator": 7},
        {"trial": "another"},
        {"id": 5},
    ],
)
def test_what_cannot_be_meant_is_refused_and_not_written(
    trial: Config, port: int, change: dict[str, object]
) -> None:
    question = post(port, "/api/next", annotator="ann")["questions"][0]
    body = {key: question[key] for key in ("picture", "x", "y")}
    body |= {"trial": trial.trial, "annotator": "ann", "answer": "f", "seconds": 1.0}
    status, _, found = request(port, "POST", "/api/answer", body | change)
    assert status in (400, 404, 409), found
    assert "error" in json.loads(found)
    assert rows(trial) == []


def test_requests_have_limits(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert request(port, "POST", "/api/next", b" " * 5000)[0] == 413
    assert request(port, "POST", "/api/next", b"{")[0] == 400
    assert request(port, "POST", "/api/next", b"[" * 4000)[0] == 400
    assert request(port, "POST", "/api/next", b"[]")[0] == 400
    assert request(port, "POST", "/api/next", b"{}", Transfer_Encoding="chunked")[0] == 411
    assert request(port, "GET", "/?" + "x" * 2000)[0] == 414
    assert request(port, "GET", "/" + "x" * 70000)[0] == 414
    assert request(port, "DELETE", "/")[0] == 501
    # A client that sends a byte now and then does not hold a connection for ever.
    monkeypatch.setattr(web, "PATIENCE", 0.5)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(40):
            try:
                slow.sendall(b"X")
            except OSError:
                break
            time.sleep(0.1)
        else:
            pytest.fail("still connected")


def test_too_many_connections_are_turned_away(
    trial: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MOST_CONNECTIONS", 2)
    with served(Desk(trial)) as running:
        where = ("127.0.0.1", running.server_port)
        with socket.create_connection(where), socket.create_connection(where):
            time.sleep(0.3)
            with socket.create_connection(where, timeout=20) as third:
                assert third.recv(10) == b""


def test_a_token_is_needed_once(trial: Config) -> None:
    with served(Desk(trial), token=TOKEN) as running:
        port = running.server_port
        for path in ("/", "/page.js", "/picture/0", f"/?token={TOKEN}x", "/?token=", "/none"):
            assert request(port, "GET", path)[0] == 401
        assert request(port, "POST", "/api/next", {"annotator": "ann"})[0] == 401
        status, headers, body = request(port, "GET", f"/review?token={TOKEN}")
        assert status == 200
        assert b"url=/review" in body
        cookie = headers["Set-Cookie"]
        assert "HttpOnly; SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert b"url=//" not in request(port, "GET", f"//evil?token={TOKEN}")[2]
        given = cookie.split(";")[0]
        assert request(port, "GET", "/", Cookie=f"a=b; {given}")[0] == 200
        assert request(port, "POST", "/api/next", {"annotator": "ann"}, Cookie=given)[0] == 200
        assert request(port, "GET", "/", Cookie=given[:-1])[0] == 401


@pytest.mark.parametrize(("given", "needed"), [(None, True), ("", False)])
def test_the_environment_tells_the_token_unless_one_is_given(
    trial: Config, monkeypatch: pytest.MonkeyPatch, capsys, given: str | None, needed: bool
) -> None:
    monkeypatch.setattr(server, "GRACE", 0.0)
    monkeypatch.setenv("GCO_TOKEN", TOKEN)
    server.serve_until(trial, lambda: True, token=given)
    assert ("/?token=... " in capsys.readouterr().out) == needed


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "some.host"])
def test_nobody_listens_elsewhere_without_a_token(trial: Config, host: str) -> None:
    with pytest.raises(UserError, match="give --token"):
        server.serve_until(trial, lambda: True, host)
    with pytest.raises(UserError, match="at least 16"):
        server.serve_until(trial, lambda: True, host, token="short")


@pytest.mark.parametrize(
    ("host", "token", "told"),
    [
        ("127.0.0.1", "", r"12 questions wait for answers at http://127\.0\.0\.1:\d+/ "),
        # Nobody else could open the address that was listened at.
        ("0.0.0.0", TOKEN, rf"at http://{re.escape(socket.gethostname())}:\d+/\?token=\.\.\. "),
    ],
)
def test_the_address_and_what_waits_there_are_told(
    trial: Config, monkeypatch: pytest.MonkeyPatch, capsys, host: str, token: str, told: str
) -> None:
    monkeypatch.setattr(server, "GRACE", 0.0)
    server.serve_until(trial, lambda: True, host, token=token)
    said = capsys.readouterr().out
    assert re.search(told, said)
    assert TOKEN not in said


def test_a_busy_port_is_told(trial: Config, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        taken = busy.getsockname()[1]
        monkeypatch.setattr(server, "PORT", taken)
        monkeypatch.setattr(server, "GRACE", 0.0)
        server.serve_until(trial, lambda: True)
        said = re.search(rf"port {taken} is busy: taking (\d+)", capsys.readouterr().out)
        assert said
        assert int(said[1]) > taken  # the very next one may be another program's
        with pytest.raises(UserError, match="cannot listen"):
            server.serve_until(trial, lambda: True, port=taken)
    with served(Desk(trial)) as running, pytest.raises(OSError, match="in use"):
        web.Server("127.0.0.1", running.server_port, "", server.Site(Desk(trial)).respond)


def test_one_server_a_trial(trial: Config) -> None:
    lock = RunFolder(trial.run_folder).lock("annotate")
    with held(lock, "it"), pytest.raises(UserError, match="its annotation server, is in use"):
        server.serve_until(trial, lambda: True)


def test_whoever_waits_and_the_server_share_a_journal(
    trial: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, used, site = Journal(RunFolder(trial.run_folder).journal), [], server.Site
    monkeypatch.setattr(server, "_wait", lambda done: None)
    monkeypatch.setattr(server, "Site", lambda desk: used.append(desk.queue.journal) or site(desk))
    server.serve_until(trial, lambda: True, journal=journal)
    assert used == [journal]


def test_serving_ends_when_all_is_done(trial: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACE", 0.1)
    path = RunFolder(trial.run_folder).points("points", 0).with_name("questions.csv")
    asked, journal = read_questions(path), Journal(RunFolder(trial.run_folder).journal)

    def done() -> bool:
        stands = standing(journal.answers())
        return all(found.complete for found in progress(asked, stands).values())

    thread, port = serve_quietly(trial, done)
    state = post(port, "/api/next", annotator="ann")
    while state["questions"]:
        state = answer(trial, port, state["questions"][0], annotator="ann", answer="b")
    assert state["stage"] == "training"
    # Of the last round that asks: what is trained after it brings no question.
    alone = dataclasses.replace(trial, rounds=1, retrain=1)
    held_out = RunFolder(trial.run_folder).validation_questions
    held_out.parent.mkdir(exist_ok=True)
    held_out.write_bytes(path.read_bytes())
    assert Desk(alone).state("ann")["stage"] == "finished"
    thread.join(20)
    assert not thread.is_alive()
    assert len(rows(trial)) == 12
    with pytest.raises(OSError, match="refused"):
        request(port, "GET", "/")


def test_questions_that_come_later_are_taken_up(trial: Config, port: int) -> None:
    write_round(trial, 1, images=1, points=1)
    time.sleep(0.6)
    assert post(port, "/api/next", annotator="ann")["counts"]["wanted"] == 13


def test_files_of_questions_are_read_once(trial: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    read, reader = [], desk_module.read_questions
    monkeypatch.setattr(
        desk_module, "read_questions", lambda path: read.append(path) or reader(path)
    )
    monkeypatch.setattr(desk_module, "LOOK_AGAIN", -1.0)
    desk, run = Desk(trial), RunFolder(trial.run_folder)
    first, second = run.questions("points", 0), run.questions("points", 1)
    assert read == [first]
    write_round(trial, 1, images=1, points=1)
    assert desk.state("ann")["counts"]["wanted"] == 13
    first.with_name("points.csv").touch()
    assert desk.state("ann")["counts"]["wanted"] == 1
    assert read == [first, second]
    os.utime(second, (0, 0))  # but anew when it is another
    desk.look()
    assert read == [first, second, second]


def test_questions_about_a_picture_that_is_not_there_are_told(trial: Config, port: int) -> None:
    asked = write_round(trial, 1, images=1, points=1, spare=0)
    path = RunFolder(trial.run_folder).questions("points", 1)
    write_questions(path, [one._replace(image="gone.png") for one in asked])
    time.sleep(0.6)
    status, _, body = request(port, "POST", "/api/next", {"annotator": "ann"})
    assert status == 500
    assert "image 'gone.png' is not among the trial's" in json.loads(body)["error"]
    with pytest.raises(UserError, match=r"gone\.png.* put back pictures"):
        Desk(trial)


def test_another_list_of_pictures_makes_no_answer_another_images(
    sample_root: Path, tmp_path: Path
) -> None:
    """A page that was open when the server began anew knows the numbers of before."""
    root = tmp_path / "data"
    shutil.copytree(sample_root, root)
    config = make_trial(tmp_path / "runs", root)
    last = write_round(config, 0, images=3, points=2)[-4:]
    write_questions(RunFolder(config.run_folder).questions("points", 0), last)
    before = Desk(config)
    question = before.state("ann")["questions"][0]
    before.pictures.samples[0].image.unlink()
    with served(Desk(config)) as running:
        port = running.server_port
        now = post(port, "/api/next", annotator="ann")
        same = next(
            q for q in now["questions"] if (q["x"], q["y"]) == (question["x"], question["y"])
        )
        assert same["picture"] != question["picture"]
        for at in ("picture/{}", "inset/{}/0/0/17", "region/{}/0/0/17"):
            address = "/" + at.format(question["picture"])
            assert request(port, "GET", f"{address}?v={before.version}")[0] == 409
            assert request(port, "GET", f"{address}?v={now['version']}")[0] == 200
        answer(config, port, question, annotator="ann", answer="f", image=question["image"])
        shown = post(port, "/api/image", image=question["image"])
        assert (shown["picture"], shown["version"]) == (same["picture"], now["version"])
    (kept,) = Journal(RunFolder(config.run_folder).journal).answers()
    assert kept.pixel == (question["image"], question["x"], question["y"])


def test_pictures_are_upright_and_insets_exact(sample_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(sample_root, root)
    config = make_trial(tmp_path / "runs", root)
    desk = Desk(config)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    sample = desk.pictures.samples[0]
    Image.fromarray(noise).save(sample.image, "png", exif=exif)
    upright = read_image(sample.image)
    with served(desk) as running:
        port = running.server_port
        large = cv2.imdecode(np.frombuffer(request(port, "GET", "/picture/0")[2], np.uint8), 1)
        assert large.shape == (50, 30, 3)
        body = request(port, "GET", "/inset/0/2/45/17")[2]
    inset = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    assert inset.shape == (17, 17, 4)
    for row in range(17):
        for column in range(17):
            y, x = 45 - 8 + row, 2 - 8 + column
            inside = 0 <= y < 50 and 0 <= x < 30
            wanted = [*upright[y, x, ::-1], 255] if inside else [0, 0, 0, 0]
            assert inset[row, column].tolist() == wanted


def test_large_pictures_are_made_smaller(
    sample_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "LARGEST_SIDE", 40)
    desk = Desk(make_trial(tmp_path / "runs", sample_root))
    found = cv2.imdecode(np.frombuffer(desk.pictures.large(0), np.uint8), 1)
    assert max(found.shape) == 40


def test_a_region_is_outlined(trial: Config, port: int) -> None:
    status, _, body = request(port, "GET", "/region/0/20/20/17")
    assert status == 200
    outline = np.array(json.loads(body)[0], np.int32)
    assert cv2.pointPolygonTest(outline.astype(np.float32), (20, 20), False) >= 0


def test_a_bounded_cache() -> None:
    cache = pictures.Cache(10, len)
    made = []

    def make(key: str) -> bytes:
        return cache.get(key, lambda: made.append(key) or bytes(4))

    for key in "abacab":
        make(key)
    assert made == ["a", "b", "c", "b"]


@pytest.fixture
def spoilt(sample_root: Path, tmp_path: Path) -> tuple[Config, Path]:
    """A trial with a picture that is no picture, and one that is a link to a file elsewhere."""
    root = tmp_path / "data"
    shutil.copytree(sample_root, root)
    config = make_trial(tmp_path / "runs", root)
    write_round(config, 0, images=3, points=2)
    first, second, third = Desk(config).pictures.samples[:3]
    secret = tmp_path / "secret.png"
    Image.fromarray(read_image(second.image)).save(secret)
    second.image.unlink()
    second.image.symlink_to(os.path.relpath(secret, second.image.parent))
    # Its header is whole, so that its size is known: the fault shows when it is decoded.
    first.image.write_bytes(first.image.read_bytes()[:-400])
    return config, third.image


def test_pictures_that_cannot_be_shown_are_skipped_and_recorded(
    spoilt: tuple[Config, Path],
) -> None:
    config, sound = spoilt
    with served(Desk(config)) as running:
        port = running.server_port
        first = post(port, "/api/next", annotator="ann")["questions"]
        # The link is found out before it is asked about.
        assert {q["picture"] for q in first} == {0, 2}
        status, _, body = request(port, "GET", "/picture/0")
        assert status == 422
        assert str(config.data_root) not in body.decode()
        for path in ("/picture/1", "/inset/1/0/0/33", "/region/1/0/0/17"):
            status, _, body = request(port, "GET", path)
            assert status == 422
            assert b"leads out of the data root" in body
        state = post(port, "/api/next", annotator="ann")
        assert {q["image"] for q in state["questions"]} == {sound.name}
        assert len(state["errors"]) == state["failed"] == 2
        while state["questions"]:
            state = answer(config, port, state["questions"][0], annotator="ann", answer="f")
    run = RunFolder(config.run_folder)
    asked = read_questions(run.points("points", 0).with_name("questions.csv"))
    found = progress(asked, standing(Journal(run.journal).answers()))
    assert all(one.complete for one in found.values())
    assert sorted(one.short for one in found.values()) == [0, 2, 2]
    with open(run.journal.with_name("unreadable.csv"), newline="") as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == 2
    assert any("leads out" in row["reason"] for row in listed)


def test_pictures_that_are_away_for_a_moment_keep_their_questions(
    sample_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(sample_root, root)
    config = make_trial(tmp_path / "runs", root)
    write_round(config, 0, images=3, points=2)
    with served(Desk(config)) as running:
        port = running.server_port
        (root / "images").rename(root / "away")
        status, _, body = request(port, "POST", "/api/next", {"annotator": "ann"})
        assert status == 503
        assert "tr_0" in json.loads(body)["error"]
        assert str(root) not in body.decode()
        assert request(port, "GET", "/picture/0")[0] == 503
        assert rows(config) == []
        (root / "away").rename(root / "images")
        state = post(port, "/api/next", annotator="ann")
        assert state["errors"] == []
        assert state["counts"] == {"wanted": 6, "told": 0, "short": 0}


@pytest.mark.parametrize("path", ["/api/answer", "/api/review"])
def test_a_saved_answer_is_told_though_its_reply_cannot_be_made(
    trial: Config, port: int, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    question = post(port, "/api/next", annotator="ann")["questions"][0]
    body = {key: question[key] for key in ("image", "x", "y")}
    body |= {"trial": trial.trial, "annotator": "ann", "answer": "f", "seconds": 1, "id": "1"}
    for fault, fresh in ((web.Refused(503, "away"), True), (UserError("damaged"), False)):

        def fail(*_: object, fault: Exception = fault) -> None:
            raise fault

        monkeypatch.setattr(Desk, "_question", fail)
        assert post(port, path, **body) == {"fresh": fresh}
        assert len(rows(trial)) == 1


def test_a_second_opinion_on_a_spoilt_picture_is_asked_of_nobody(
    sample_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(sample_root, root)
    config = make_trial(tmp_path / "runs", root)
    write_round(config, 0, images=2, points=1)
    with served(Desk(config, twice=1.0)) as running:
        first = post(running.server_port, "/api/next", annotator="ann")["questions"][0]
        answer(config, running.server_port, first, annotator="ann", answer="f")
    desk = Desk(config, twice=1.0)
    desk.pictures.samples[first["picture"]].image.write_bytes(b"no picture")
    with served(desk) as running:
        found = post(running.server_port, "/api/next", annotator="bob")
        assert first["image"] not in {question["image"] for question in found["questions"]}
        assert len(found["questions"]) == 1


def test_superpixels_that_cannot_be_kept_cost_no_question(trial: Config, port: int) -> None:
    folder = RunFolder(trial.run_folder).superpixels
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_bytes(b"")
    assert request(port, "GET", "/region/0/20/20/17")[0] == 500
    assert rows(trial) == []
    assert len(post(port, "/api/next", annotator="ann")["questions"]) == 4


def test_a_set_that_lies_elsewhere_is_no_set_of_skipped_pictures(
    sample_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (root / "images" / "SAMPLE-TR").symlink_to(sample_root / "images" / "SAMPLE-TR")
    config = make_trial(tmp_path / "runs", root)
    with pytest.raises(UserError, match="links lead out of the data root"):
        Desk(config)


def test_a_reviewer_changes_what_counts(trial: Config, port: int) -> None:
    questions = post(port, "/api/next", annotator="ann")["questions"]
    for name in ("ann", "bob"):
        answer(trial, port, questions[0], annotator=name, answer=name[0] if name == "bob" else "f")
    listed = post(port, "/api/images", differing=True)
    assert [one["differing"] for one in listed["images"]] == [1]
    assert listed["twice"] == 1
    body = {key: questions[0][key] for key in ("picture", "x", "y")}
    image = post(
        port, "/api/review", trial=trial.trial, annotator="eve", answer="s", seconds=0, **body
    )
    point = next(p for p in image["points"] if (p["x"], p["y"]) == (body["x"], body["y"]))
    assert point["label"] == "s"
    assert [a["annotator"] for a in point["answers"]] == ["ann", "bob", "review:eve"]
    assert post(port, "/api/images", differing=True)["total"] == 0
    assert post(port, "/api/images", text="nothing like it")["total"] == 0
    assert post(port, "/api/next", annotator="ann")["counts"]["told"] == 0


def test_an_answer_in_use_cannot_be_changed_and_that_is_told(trial: Config, port: int) -> None:
    question = post(port, "/api/next", annotator="ann")["questions"][0]
    answer(trial, port, question, annotator="ann", answer="f")
    RunFolder(trial.run_folder).points("points", 0).write_text("image,x,y,label,round\n")
    time.sleep(0.6)
    assert post(port, "/api/next", annotator="ann")["mine"] == []
    body = {key: question[key] for key in ("picture", "x", "y")}
    body |= {"trial": trial.trial, "annotator": "ann", "seconds": 1}
    for said in "ub":
        status, _, found = request(port, "POST", "/api/answer", body | {"answer": said})
        assert status == 400
        assert "the round is closed" in json.loads(found)["error"]
    assert len(rows(trial)) == 1


def test_a_full_disk_is_told_and_the_answer_can_be_sent_again(
    trial: Config, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = post(port, "/api/next", annotator="ann")["questions"][0]
    body = {key: question[key] for key in ("picture", "x", "y")}
    body |= {"trial": trial.trial, "annotator": "ann", "answer": "f", "seconds": 1, "id": "1"}
    with monkeypatch.context() as patch:

        def full(self: Journal, answer: object) -> None:
            raise UserError("the disk is full")

        patch.setattr(Journal, "append", full)
        assert request(port, "POST", "/api/answer", body)[0] == 507
    assert post(port, "/api/answer", **body)["fresh"]
    assert len(rows(trial)) == 1


def test_a_damaged_journal_is_told(trial: Config, port: int) -> None:
    journal = RunFolder(trial.run_folder).journal
    question = post(port, "/api/next", annotator="ann")["questions"][0]
    answer(trial, port, question, annotator="ann", answer="f")
    with open(journal, "a") as file:
        file.write("not,an,answer\n")
    status, _, body = request(port, "POST", "/api/next", {"annotator": "ann"})
    assert status == 500
    assert "line 3: 8 values are needed" in json.loads(body)["error"]


def test_kill_9_loses_nothing_that_was_answered(trial: Config) -> None:
    process, port = start(trial)
    said: list[tuple[str, int, int]] = []
    killed = threading.Event()

    def work(name: str) -> None:
        try:
            state = post(port, "/api/next", annotator=name)
            while state["questions"] and len(said) < 9:
                question = state["questions"][0]
                state = answer(
                    trial, port, question, annotator=name, answer="f", id=str(time.time())
                )
                said.append((question["image"], question["x"], question["y"]))
                if len(said) == 5:
                    process.send_signal(signal.SIGKILL)
                    killed.set()
        except (OSError, ValueError):
            assert killed.is_set()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    process.wait()
    kept = {one.pixel for one in Journal(RunFolder(trial.run_folder).journal).answers()}
    assert set(said) <= kept
    assert len(kept) >= 5
    process, port = start(trial, port=port)
    try:
        state = post(port, "/api/next", annotator="ann")
        assert state["counts"]["told"] == len(kept)
        while state["questions"]:
            state = answer(trial, port, state["questions"][0], annotator="ann", answer="b")
        assert state["counts"]["told"] == 12
    finally:
        process.terminate()
        assert process.wait() == 75
