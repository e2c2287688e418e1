"""What the pages ask for, in plain values: the next questions, an answer taken, an image."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from active_learning.annotate.pictures import Pictures, require_inside
from active_learning.annotate.queue import Closed, Queue
from active_learning.annotate.web import Refused
from active_learning.answers import (
    CANNOT_SAY,
    LABELS,
    REVIEWER,
    UNDO,
    UNREADABLE,
    Answer,
    Journal,
    check_annotator,
    label_of,
    now,
)
from active_learning.kappa import overall
from active_learning.questions import Pixel, Question, question_files, read_questions
from config import Config
from datasets.superpixels import SuperpixelCache
from utils.errors import UserError
from utils.line_log import append_line
from utils.run_folder import RunFolder
from utils.settings import training_images
from utils.tables import csv_lines

AHEAD = 4
"""Questions an annotator holds: the one shown, and those whose pictures are loaded meanwhile."""

LATEST = 30
"""Answers of one's own to which one may go back; taking back reaches further."""

LONGEST_SECONDS = 60.0
"""A question that took longer was not looked at all the time."""

LISTED = 100
"""Images that the review page lists at a time."""

ERRORS_SHOWN = 20
LOOK_AGAIN = 0.5


class Desk:
    """A trial's questions and pictures, as the pages see them.

    Args:
        config: the trial.
        twice, order: see `Queue`.
        journal: that of the trial, where somebody else looks at it too; None: a new one.

    Raises:
        UserError: a set is missing, or all its images lie outside of the data root; or questions
            are about an image that is not there.
    """

    def __init__(
        self,
        config: Config,
        twice: float = 0.05,
        order: str = "rows",
        journal: Journal | None = None,
    ) -> None:
        self.config = config
        self.run = RunFolder(config.run_folder)
        train, validation = training_images(config)
        samples = [*train, *validation]
        require_inside(samples, Path(config.data_root))
        regions = SuperpixelCache(self.run.superpixels, config.superpixels)
        self.pictures = Pictures(samples, Path(config.data_root), regions)
        self.number = {sample.name: place for place, sample in enumerate(samples)}
        self.queue = Queue(journal or Journal(self.run.journal), twice, order)
        # Browsers keep pictures under addresses that this makes the server's own.
        self.version = secrets.token_hex(4)
        self.errors: list[dict[str, str]] = []
        self._bad: set[int] = set()
        self._seen: list[tuple[Path, float, bool]] = []
        self._asked: dict[tuple[Path, float], list[Question]] = {}
        self._looked = -math.inf
        self._lock = threading.Lock()
        self.look()

    def look(self) -> None:
        """Take up questions files that have come, and results that close them, by and by."""
        with self._lock:
            if time.monotonic() - self._looked < LOOK_AGAIN:
                return
            files = question_files(self.run)
            seen = [(f, f.stat().st_mtime, f.with_name("points.csv").exists()) for f in files]
            if seen != self._seen:
                self._asked = {
                    (file, at): self._asked.get((file, at)) or self._questions(file)
                    for file, at, _ in seen
                }
                self.queue.load([(self._asked[file, at], closed) for file, at, closed in seen])
                self._seen = seen
            self._looked = time.monotonic()

    def state(self, annotator: str) -> dict[str, Any]:
        """Return what the page shows: the next questions, one's latest answers, how far all is."""
        self.look()
        questions = self._next(annotator)
        mine = self._shown(self.queue.mine(annotator, LATEST))
        counts = self.queue.counts()
        return {
            "trial": self.config.trial,
            "version": self.version,
            "regions": self.config.label_mode != "pixel",
            "questions": questions,
            "mine": mine,
            "counts": counts._asdict(),
            "annotators": len(self.queue.leases.alive()),
            "stage": "asking" if questions else self._stage(counts.wanted > counts.told),
            "errors": self.errors[-ERRORS_SHOWN:],
            "failed": len(self.errors),
        }

    def answer(self, body: Mapping[str, Any], reviewer: bool = False) -> bool:
        """Write down what the page sends; when this returns, the disk holds it.

        Args:
            body: image (or picture, its number), x, y, answer, seconds, annotator, trial, id.
            reviewer: whether the annotator looks the others' answers over.

        Returns:
            Whether it was new, see `Queue.answer`.

        Raises:
            Refused: something of it cannot be meant, or nothing can be written just now.
        """
        if body.get("trial") != self.config.trial:
            raise Refused(409, f"this server asks about the trial {self.config.trial}")
        pixel, name = self._pixel(body), annotator_of(body, reviewer)
        said, seconds, request = body.get("answer"), body.get("seconds", 0), body.get("id", "")
        if said not in (*LABELS, CANNOT_SAY, UNDO):
            raise Refused(400, "an answer is f, b, s or u")
        if not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e9:
            raise Refused(400, "seconds must be a number of 0 or more")
        if not isinstance(request, str) or len(request) > 100:
            raise Refused(400, "id must be a short text")
        seconds = round(min(float(seconds), LONGEST_SECONDS), 2)
        self.look()
        try:
            return self.queue.answer(name, pixel, said, seconds, request)
        except KeyError:
            raise Refused(404, "nobody asks about this pixel") from None
        except Closed:
            raise Refused(400, "the round is closed, its answers are in use") from None
        except UserError as error:
            raise Refused(507, str(error)) from None

    def images(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the images that have answers, a hundred at most, and how well annotators agree.

        Args:
            body: text (part of the name), differing (only where annotators differ and no reviewer
                has spoken), start (how many to leave out).
        """
        self.look()
        stands = self.queue.standing()
        by_name: dict[str, list[str]] = {}
        for (image, _, _), answers in stands.items():
            by_name.setdefault(image, []).append("differs" if differs(answers) else "told")
        text, start = str(body.get("text", "")).casefold(), whole(body.get("start", 0))
        found = [
            {
                "picture": place,
                "image": name,
                "answers": len(by_name[name]),
                "differing": by_name[name].count("differs"),
            }
            for name, place in self.number.items()
            if name in by_name and text in name.casefold()
        ]
        found = [one for one in found if one["differing"] or not body.get("differing")]
        agreement = overall(stands)
        return {
            "trial": self.config.trial,
            "version": self.version,
            "images": found[start : start + LISTED],
            "total": len(found),
            "kappa": agreement.kappa,
            "twice": agreement.pixels,
            "alike": agreement.alike,
        }

    def image(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the questions about an image, with what every annotator said of each."""
        place = self._picture(body)
        name = self.pictures.samples[place].name
        points = [
            self._question(question)
            | {
                "closed": closed,
                "label": label_of(stands),
                "differs": differs(stands),
                "answers": [{"annotator": a.annotator, "answer": a.answer} for a in stands],
            }
            for question, stands, closed in self.queue.of_image(name)
        ]
        width, height = self.shown(place, lambda: self.pictures.size(place))
        told = {"picture": place, "image": name, "version": self.version}
        return {**told, "points": points, "width": width, "height": height}

    def shown(self, place: int, make: Callable[[], Any]) -> Any:
        """Return ``make()``; if the picture cannot be shown, skip the image and write that down.

        A file that cannot be opened is skipped by nobody: a disk that is away for a moment would
        cost every image its questions.

        Raises:
            Refused: it cannot be shown; says why. 503: not now.
        """
        try:
            return make()
        except UserError as error:
            reason = self._without_root(str(error))
            if not self.pictures.is_there(place):
                raise Refused(503, reason) from None
            self._skip(place, reason)
            raise Refused(422, reason) from None

    def _without_root(self, reason: str) -> str:
        for folder in (str(self.pictures.root), str(Path(self.config.data_root))):
            reason = reason.replace(folder + "/", "").replace(folder, "the data root")
        return reason

    def _skip(self, place: int, reason: str) -> None:
        sample = self.pictures.samples[place]
        with self._lock:
            known = place in self._bad
            self._bad.add(place)
            if not known:
                self.errors.append({"image": sample.name, "reason": reason})
                path = self.run.journal.with_name("unreadable.csv")
                append_line(path, "image,reason,time\n", csv_lines([(sample.name, reason, now())]))
        self.queue.skip_image(sample.name)

    def _questions(self, path: Path) -> list[Question]:
        """Read a questions file, all of whose images must be among those of the trial."""
        questions = read_questions(path)
        if gone := next((q.image for q in questions if q.image not in self.number), None):
            raise UserError(
                f"{path}: image '{gone}' is not among the trial's {len(self.number)}: put back "
                "pictures that were renamed or removed since it began, take away those that were "
                "added, and start the server anew"
            )
        return questions

    def _next(self, annotator: str) -> list[dict[str, Any]]:
        while True:
            taken = self.queue.take(annotator, AHEAD)
            found = self._shown(taken)
            # Where a picture cannot be shown, its questions have just been skipped.
            if len(found) == len(taken):
                return found

    def _shown(self, questions: Sequence[Question | Answer]) -> list[dict[str, Any]]:
        """Return questions for the page, without those about pictures that cannot be shown."""
        found = []
        for question in questions:
            try:
                found.append(self._question(question))
            except Refused as refused:
                if refused.status == 503:
                    raise
        return found

    def _question(self, question: Question | Answer) -> dict[str, Any]:
        """Return a question, or an answer with what was said in how many seconds."""
        said = {}
        if isinstance(question, Answer):
            said = {"answer": question.answer, "seconds": question.seconds}
        place = self.number[question.image]
        width, height = self.shown(place, lambda: self.pictures.size(place))
        return {
            "picture": place,
            "image": question.image,
            "width": width,
            "height": height,
            "x": question.x,
            "y": question.y,
            "round": question.round,
            **said,
        }

    def open_questions(self) -> int:
        """Return how many questions are open."""
        counts = self.queue.counts()
        return counts.wanted - counts.told

    def _stage(self, some_open: bool) -> str:
        """Tell why there is no question: others hold the last, a training runs, or all is told."""
        if some_open:
            return "others"
        config = self.config
        files = 1 + config.rounds + (config.rounds - 1) * config.with_random
        return "finished" if len(self._seen) >= files else "training"

    def _picture(self, body: Mapping[str, Any]) -> int:
        """Return a picture's number: that of the name, since another server's list may differ."""
        name, many = body.get("image"), len(self.pictures.samples)
        place = whole(body.get("picture")) if name is None else self.number.get(str(name), many)
        if place >= many:
            raise Refused(404, "no such picture")
        return place

    def _pixel(self, body: Mapping[str, Any]) -> Pixel:
        place = self._picture(body)
        return self.pictures.samples[place].name, whole(body.get("x")), whole(body.get("y"))


def differs(answers: list[Answer]) -> bool:
    """Tell whether annotators said different things of a pixel, and no reviewer has spoken."""
    reviewed = any(one.annotator.startswith(REVIEWER) for one in answers)
    return not reviewed and len({one.answer for one in answers}) > 1


def annotator_of(body: Mapping[str, Any], reviewer: bool = False) -> str:
    """Return the name that an answer is kept under.

    Raises:
        Refused: it is no name, or means another role.
    """
    name = body.get("annotator")
    if not isinstance(name, str) or name.startswith(REVIEWER) or name == UNREADABLE:
        raise Refused(400, "another name is needed")
    name = REVIEWER + name if reviewer else name
    try:
        check_annotator(name)
    except UserError as error:
        raise Refused(400, str(error)) from None
    return name


def whole(value: Any) -> int:
    """Return a number from a request.

    Raises:
        Refused: it is no whole number of 0 or more, or too large for any image.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise Refused(400, "a whole number is needed")
    return value
