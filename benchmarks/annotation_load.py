"""How many answers a second does the annotation server take, and does it lose or double any?

    python benchmarks/annotation_load.py --annotators 8 --images 300 --out results.json

Draws sample pictures, writes questions about them (ten a picture), starts the server as a process
of its own, and answers all questions by so many annotators at once, each with one connection that
is kept up, and no pause: a key costs what the page sends, an answer and, with its reply, the next
questions. Then the journal is compared with what every annotator was told: an answer that was
acknowledged and is not in it is lost; a second one of the same annotator, or the third one of a
pixel, is doubled. Beside it stands how fast one process alone can append to a journal on that disk.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from active_learning.answers import Answer, Journal, now
from active_learning.questions import Pixel, Question, write_questions
from config import Config
from datasets.images import image_size
from datasets.sample import TRAIN_SET, make_sample
from utils import settings
from utils.cli import Parser
from utils.errors import UserError, run_script
from utils.files import write_json
from utils.run_folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
POINTS = 10
APPENDED = 200
EARLIER = "earlier.png"
"""The image of the answers that are there before; nothing is asked about it any more."""


class Annotator(threading.Thread):
    """Answers until there is nothing left to answer.

    Attributes:
        told: the pixels whose answers the server has acknowledged, in order.
        seconds: from sending each answer to its acknowledgement.
    """

    def __init__(self, name: str, port: int, trial: str) -> None:
        super().__init__(name=name)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.trial = trial
        self.told: list[Pixel] = []
        self.seconds: list[float] = []
        self.fault: Exception | None = None

    def run(self) -> None:
        """Do it; a fault is kept for whoever waits."""
        try:
            state = self._post("/api/next", {})
            while state["stage"] in ("asking", "others"):
                state = self._answer(state) if state["questions"] else self._post("/api/next", {})
        except Exception as error:
            self.fault = error

    def _answer(self, state: dict[str, Any]) -> dict[str, Any]:
        question = state["questions"][0]
        place = {key: question[key] for key in ("picture", "x", "y")}
        said = {"trial": self.trial, "answer": "fb"[question["x"] % 2], "seconds": 1.0}
        begun = time.perf_counter()
        state = self._post("/api/answer", place | said | {"id": f"{self.name} {len(self.told)}"})
        self.seconds.append(time.perf_counter() - begun)
        self.told.append((question["image"], question["x"], question["y"]))
        return state

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(body | {"annotator": self.name})
        self.connection.request("POST", path, data, {"Content-Type": "application/json"})
        reply = self.connection.getresponse()
        found = json.loads(reply.read())
        if reply.status != 200:
            raise UserError(f"{path}: {reply.status} {found}")
        return found


def make_trial(folder: Path, images: int) -> tuple[Config, int]:
    """Make a trial whose first round waits for answers; return it and its number of questions."""
    root = make_sample(folder / "data", train=images, test=4, size=64)
    flags = {"trial": "load", "runs": str(folder / "runs"), "data_root": str(root)}
    config = settings.resolve({**flags, "trainset": TRAIN_SET, "oracle": "human"})
    settings.save(config)
    rng = np.random.default_rng(0)
    questions = []
    for sample in settings.training_images(config)[0]:
        width, height = image_size(sample.image)
        for pixel in rng.choice(width * height, POINTS, replace=False).tolist():
            questions.append(Question(sample.name, pixel % width, pixel // width, 0, False))
    path = RunFolder(config.run_folder).points("points", 0).with_name("questions.csv")
    write_questions(path, questions)
    return config, len(questions)


def answer_before(config: Config, count: int, annotators: int) -> None:
    """Put answers of the same annotators into the journal, as of rounds long closed."""
    names, when = [f"annotator {i}" for i in range(annotators)], now()
    Journal(RunFolder(config.run_folder).journal).extend(
        [Answer(EARLIER, x, 0, "f", 0, names[x % annotators], 1.0, when) for x in range(count)]
    )


def answer_all(config: Config, annotators: int) -> tuple[list[Annotator], float]:
    """Start the server, have all questions answered, and end it; return by whom, and seconds."""
    command = [sys.executable, "-m", "active_learning.annotate", "--trial", config.trial]
    command += ["--runs", config.runs, "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            found = re.search(r":(\d+)/", server.stdout.readline())  # type: ignore[union-attr]
            if found is None:
                raise UserError("the server did not start: see above")
            port = int(found[1])
            people = [Annotator(f"annotator {i}", port, config.trial) for i in range(annotators)]
            begun = time.perf_counter()
            for person in people:
                person.start()
            for person in people:
                person.join()
            took = time.perf_counter() - begun
        finally:
            server.send_signal(signal.SIGTERM)
    for person in people:
        if person.fault is not None:
            raise person.fault
    return people, took


def compare(config: Config, people: Sequence[Annotator]) -> dict[str, int]:
    """Compare the journal, without what was there before, with what was acknowledged."""
    every = Journal(RunFolder(config.run_folder).journal).answers()
    rows = [row for row in every if row.image != EARLIER]
    kept = Counter((row.annotator, row.pixel) for row in rows)
    told = Counter((person.name, pixel) for person in people for pixel in person.told)
    by_pixel = Counter(row.pixel for row in rows)
    again = sum(count - 1 for count in kept.values())
    return {
        "acknowledged": sum(told.values()),
        "in_journal": len(rows),
        "lost": sum((told - kept).values()),
        "doubled": again + sum(count > 2 for count in by_pixel.values()),
        "asked_twice_on_purpose": sum(count == 2 for count in by_pixel.values()),
        "pixels": len(by_pixel),
        "answered_before": len(every) - len(rows),
    }


def append_alone(folder: Path) -> float:
    """Return the answers a second that one process can append to a journal, with nothing else."""
    journal = Journal(folder / "alone.csv")
    begun = time.perf_counter()
    for x in range(APPENDED):
        journal.append(Answer("image.png", x, 0, "f", 0, "annotator", 1.0, now()))
    return APPENDED / (time.perf_counter() - begun)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the result; fail if an answer was lost or doubled."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotators", type=int, default=8)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--answered", type=int, default=0, help="answers that are there before")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--folder", type=Path, help="where the trial is made (default: temporary)")
    args = parser.parse(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        config, questions = make_trial(folder, args.images)
        answer_before(config, args.answered, args.annotators)
        people, took = answer_all(config, args.annotators)
        found = compare(config, people)
        seconds = np.concatenate([person.seconds for person in people]) * 1000
        median, high, highest = np.percentile(seconds, (50, 95, 100)).tolist()
        result = {
            "about": {
                "python": platform.python_version(),
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "annotators": args.annotators,
                "questions": questions,
            },
            "answers_a_second": found["acknowledged"] / took,
            "milliseconds": {"median": median, "95 %": high, "most": highest},
            "appends_a_second_alone": append_alone(folder),
            **found,
        }
    print(json.dumps(result, indent=2))
    if args.out:
        write_json(args.out, result)
    return int(found["lost"] > 0 or found["doubled"] > 0 or found["pixels"] < questions)


if __name__ == "__main__":
    run_script(main)
