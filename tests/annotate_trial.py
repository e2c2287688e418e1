"""A small trial whose questions wait for answers, and a server of it, for tests."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from active_learning.annotate.desk import Desk
from active_learning.annotate.server import Site, serve_until
from active_learning.annotate.web import Server
from active_learning.questions import Question, write_questions
from config import Config
from datasets.images import image_size
from utils import settings
from utils.run_folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent


def make_trial(runs: Path, data_root: Path, **flags: Any) -> Config:
    """Begin a trial on the sample images, and write its settings."""
    given = {"trial": "asked", "runs": str(runs), "data_root": str(data_root), **flags}
    given = {"trainset": "SAMPLE-TR", "validation_fraction": 0.2, "device": "cpu", **given}
    given = {"rounds": 2, "points_per_image": 4, "oracle": "human", **given}
    config = settings.resolve(given)
    settings.save(config)
    return config


def write_round(
    config: Config, round_index: int, images: int, points: int, spare: int = 2
) -> list[Question]:
    """Write the questions of a round: random pixels of the first images."""
    rng = np.random.default_rng(round_index)
    questions = []
    for sample in settings.training_images(config)[0][:images]:
        width, height = image_size(sample.image)
        flat = rng.choice(width * height, points + spare, replace=False)
        for place, pixel in enumerate(flat.tolist()):
            x, y = pixel % width, pixel // width
            questions.append(Question(sample.name, x, y, round_index, place >= points))
    run = RunFolder(config.run_folder)
    write_questions(run.points("points", round_index).with_name("questions.csv"), questions)
    return questions


@contextlib.contextmanager
def served(desk: Desk, host: str = "127.0.0.1", token: str = "") -> Iterator[Server]:
    """Serve a trial from a thread of the test."""
    server = Server(host, 0, token, Site(desk).respond)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.end()
        thread.join()


def request(
    port: int, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send a request with a path as it stands; header names with _ for -."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, data, sent)
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def post(port: int, path: str, **body: Any) -> dict[str, Any]:
    """Send a request as the page does, and return what it is told."""
    status, _, found = request(port, "POST", path, body)
    assert status == 200, found
    return json.loads(found)


def serve_quietly(config: Config, done: Callable[[], bool]) -> tuple[threading.Thread, int]:
    """Run `serve_until` in a thread, at a port that is free; return the thread and the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    thread = threading.Thread(target=serve_until, args=(config, done, "127.0.0.1", port))
    thread.start()
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return thread, port
        time.sleep(0.05)
    raise AssertionError("no server")


def start(config: Config, *flags: str, port: int = 0) -> tuple[subprocess.Popen[str], int]:
    """Start the command line's server; return the process and its port."""
    command = [sys.executable, "-m", "active_learning.annotate", "--trial", config.trial]
    command += ["--runs", config.runs, "--port", str(port), *flags]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r":(\d+)/", line)
    assert found, line + process.stdout.read()
    return process, int(found[1])


def answer(config: Config, port: int, question: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Answer a question of the state that the server told."""
    body = {key: question[key] for key in ("picture", "x", "y")}
    return post(port, "/api/answer", trial=config.trial, **{"seconds": 1.5, **body, **more})


def rows(config: Config) -> Sequence[str]:
    """Return the lines of the journal, without its header."""
    path = RunFolder(config.run_folder).journal
    return path.read_text().splitlines()[1:] if path.exists() else []
