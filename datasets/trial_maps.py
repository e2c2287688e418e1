"""What a trial knows of the maps that its checkpoints made."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import Config
from datasets.index import Sample
from datasets.label_budget import stored_budgets
from datasets.maps import read_map
from datasets.places import Place
from datasets.points import read_answers
from datasets.superpixels import SuperpixelCache
from utils import settings
from utils.background import in_background
from utils.cores import core_count
from utils.files import read_object, state_if_there
from utils.locks import locked
from utils.metrics import point_scores, point_tally
from utils.progress import track
from utils.run_folder import VALIDATION, RunFolder, map_of
from utils.tallies import TallyLog, make_record

AT_POINTS = "points"
"""In the name of a log, where others name a convention: these are no tallies of whole maps."""


class TrialMaps:
    """The maps of some checkpoints; images are listed and answers read once for all of them.

    Maps from elsewhere have only what their notes say, see `about`.

    Attributes:
        place: where the maps lie.
        about: arm, round and label budget of each checkpoint, as far as they are known.
    """

    def __init__(self, config: Config, place: Place, checkpoints: Sequence[str]) -> None:
        self.config = config
        self.place = place
        self.run = RunFolder(config.run_folder)
        self.about = {checkpoint: self._made_by(checkpoint) for checkpoint in checkpoints}
        if place.data_root is not None:
            self._add_budgets()

    @cached_property
    def images(self) -> tuple[list[Sample], list[Sample]]:
        """The images that the trial trains on, and those held out."""
        return settings.training_images(self.config)

    @cached_property
    def held_out_answers(self) -> list[NDArray[np.int64]]:
        """The points of each held-out image, int64 (K, 3) of x, y, label."""
        return read_answers([self.run.validation_points], self.images[1], self.run.ledger)

    def _made_by(self, checkpoint: str) -> dict[str, Any]:
        """Return arm and round of a checkpoint, as far as its note says."""
        note = self.place.predictions / checkpoint / "made_from.json"
        made = read_object(note) if note.exists() and not self.place.plain else {}
        return {key: made[key] for key in ("arm", "round") if key in made}

    def _add_budgets(self) -> None:
        """Add to what is known of the checkpoints what their labels cost."""
        answers: dict[Path, list[Path]] = {}
        counted: list[tuple[dict[str, Any], Path]] = []
        for known in self.about.values():
            if known.get("arm") == "dense":
                known["labelled_percent"] = 100.0
            elif "arm" in known:
                path = self.run.training(known["arm"], known["round"]) / "labels.json"
                answers[path] = self.run.answers(known["arm"], known["round"] + 1)
                counted.append((known, path))
        if not counted:
            return
        regions = SuperpixelCache(self.run.superpixels, self.config.superpixels)
        with locked(self.run.root / "tallies" / "labels.lock", "it counts labels"):
            budgets = stored_budgets(answers, self.images[0], regions, self.config.label_mode)
        for known, path in counted:
            known |= budgets[path]

    def score_held_out(self, checkpoint: str) -> dict[str, float]:
        """Score the maps of the held-out images at their labelled points, all pooled.

        What each map left there is kept, and counted again only when the map or an answer about
        its image has changed.

        Raises:
            UserError: a map is missing or damaged, there is no answer, or the disk is full.
        """
        names = [sample.name for sample in self.images[1]]
        folder = self.place.predictions / checkpoint
        maps = [folder / map_of(name, VALIDATION) for name in names]
        work = list(zip(maps, self.held_out_answers, strict=True))
        path = self.place.log_of(checkpoint, VALIDATION, AT_POINTS)
        what = f"{checkpoint} on {VALIDATION}"
        counts = np.zeros((2, 256), np.int64)
        with locked(path.with_suffix(".lock"), f"it scores {what}"):
            of_each = (_mark(name, *item) for name, item in zip(names, work, strict=True))
            marks = np.fromiter(of_each, np.uint64, len(work))
            log = TallyLog(path, "raw", frozenset(), marks)
            todo = [(*work[at], marks[at]) for at in np.flatnonzero(~np.isin(marks, log.marks))]
            done = in_background(_record, todo, 4 * core_count())
            for _, record in track(done, what, len(todo)):
                log.append(record)
            for chunk in log.close(names, marks).chunks():
                counts += chunk["counts"].sum(axis=0, dtype=np.int64)
        return {"images": len(names), **point_scores(counts)}


def _mark(name: str, saliency: Path, points: NDArray[np.int64]) -> int:
    """Return a hash of an image's name, of its map's state (`file_state`), and of its answers."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(os.fsencode(f"{name}\0{state_if_there(saliency)}\0"))
    digest.update(points.tobytes())
    return int.from_bytes(digest.digest(), "little")


def _record(saliency: Path, points: NDArray[np.int64], mark: int) -> NDArray:
    """Return the record of a map at labelled points, (K, 3) of x, y, label; RECORD of shape ()."""
    x, y, label = points.T
    return make_record(mark, point_tally(read_map(saliency)[y, x], label), resized=False)
