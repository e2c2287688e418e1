"""People as the oracle: what they said, and waiting until they have said it."""

from __future__ import annotations

import functools
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from active_learning.answers import (
    CANNOT_SAY,
    LABELS,
    Answer,
    Journal,
    counting,
    progress,
    standing,
)
from active_learning.questions import Pixel, Question, read_questions
from config import Config
from datasets.index import Sample
from datasets.points import Point, read_points, write_points
from utils.errors import UserError
from utils.locks import in_use
from utils.run_folder import RunFolder

POLL = 1.0
"""Seconds between two looks at the journal while another process serves the questions."""

GRACE = 3.0
"""Seconds in which the last answer of a round may still be taken back."""


class HumanOracle:
    """Answers with what people have said; see `active_learning.oracle.Oracle`.

    Args:
        ledger: every pixel that was told and used.
        journal: every answer. What counts of them is read once, when the first is wanted: it may be
            changed until then.
    """

    def __init__(self, ledger: Path, journal: Path) -> None:
        self.path, self.journal = ledger, journal
        answered = read_points(ledger) if ledger.exists() else []
        self.ledger = {(point.image, point.x, point.y): point for point in answered}

    @functools.cached_property
    def said(self) -> dict[Pixel, Answer | None]:
        """The answer that counts of each pixel."""
        found = standing(Journal(self.journal).answers())
        return {pixel: counting(answers) for pixel, answers in found.items()}

    @property
    def people(self) -> dict[Pixel, tuple[str, float]]:
        """Who answered for each pixel, and in how many seconds."""
        return {pixel: (said.annotator, said.seconds) for pixel, said in self.said.items() if said}

    def prepare(self, sample: Sample, pixels: np.ndarray) -> None:
        """Do nothing: all is said."""

    def ask(self, sample: Sample, pixels: np.ndarray, round_index: int) -> list[Point]:
        """Return the labels of the pixels; those that nobody can tell are left out.

        Raises:
            Unanswered: nobody has answered for one of them yet.
        """
        told = []
        for x, y in pixels.tolist():
            said = self.said.get((sample.name, x, y))
            if said is None:
                raise Unanswered(
                    f"{self.journal}: no answer for pixel ({x}, {y}) of {sample.name}: ask its "
                    "round again, which waits for the answers"
                )
            if said.answer == CANNOT_SAY:
                continue
            point = Point(sample.name, x, y, LABELS[said.answer], round_index)
            first = self.ledger.get(said.pixel, point).round
            self.ledger[said.pixel] = point._replace(round=first)
            told.append(point)
        return told

    def point_out(self, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        """Refuse: people are shown pixels here, they do not choose them (the settings say so)."""
        raise UserError("--first_points object: people are shown pixels: choose random or grid")

    def save(self) -> None:
        """Write the ledger, whole or not at all."""
        write_points(self.path, self.ledger.values())


class Unanswered(UserError):
    """A question is open: answers were wanted before they came, or one was taken back since."""


class OpenQuestions:
    """What is still to be answered of some questions files; cheap to ask often."""

    def __init__(self, paths: Sequence[Path], journal: Journal) -> None:
        self.files = [read_questions(path) for path in paths]
        self.journal = journal
        self._edits, self._seen = 0, 0
        self._one: Question | None = None

    def list(self) -> list[Question]:
        """Return the open questions, in the order of the files."""
        self._edits, answers = self.journal.read()
        self._seen, stands = len(answers), standing(answers)
        found = [
            question
            for questions in self.files
            for state in progress(questions, stands).values()
            for question in state.open
        ]
        self._one = found[-1] if found else None
        return found

    def none(self) -> bool:
        """Whether all is answered.

        An open question stays open, and wanted, until something is said of its image, or the
        journal is edited: so the last one is kept in mind, and all are counted again only then.
        """
        edits, new = self.journal.read(self._edits, self._seen)
        one = self._one if edits == self._edits else None
        if one is not None and all(answer.image != one.image for answer in new):
            self._seen += len(new)
            return False
        return not self.list()


def wait_for_answers(config: Config, paths: Sequence[Path]) -> bool:
    """Have people answer the questions of some files, and wait until they have.

    A server is started, unless one runs already; then the journal is looked at now and then. Either
    way the last answer may be taken back for some seconds.

    Returns:
        Whether all is answered; if not, nobody is to wait (``--no_wait``), and how to answer was
        printed.

    Raises:
        UserError: questions or journal are damaged. A journal that is damaged later is waited for.
    """
    run = RunFolder(config.run_folder)
    still = OpenQuestions(paths, Journal(run.journal))
    waiting = still.list()
    if not waiting:
        return True
    if not config.wait:
        images = len({question.image for question in waiting})
        command = [sys.executable, "-m", "active_learning.annotate", "--trial", config.trial]
        command += [] if config.runs == Config.runs else ["--runs", config.runs]
        print(
            f"{len(waiting)} questions about {images} images wait for answers: "
            f"{shlex.join(command)}",
            flush=True,
        )
        return False
    done = _patient(still.none)
    told, since = False, None
    while since is None or time.monotonic() - since < GRACE:
        if done():
            since = time.monotonic() if since is None else since
        elif not in_use(run.lock("annotate")):
            _serve(config, done, still.journal)
            break
        else:
            since = None
            if not told:
                waits = f"{len(waiting)} questions wait for answers"
                print(f"{waits}; a server runs already", flush=True)
            told = True
        time.sleep(POLL)
    return True


def _patient(done: Callable[[], bool]) -> Callable[[], bool]:
    """Return ``done``, for which a fault that somebody may mend means no, and is printed once."""
    told: set[str] = set()

    def asked() -> bool:
        try:
            return done()
        except UserError as error:
            if str(error) not in told:
                print(f"the round waits: {error}", flush=True)
            told.add(str(error))
            return False

    return asked


def _serve(config: Config, done: Callable[[], bool], journal: Journal) -> None:
    # Imported here: without people no server is needed.
    from active_learning.annotate.server import serve_until

    serve_until(config, done, journal=journal)
