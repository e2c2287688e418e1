"""What a trial knows of the maps that its checkpoints made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from config import Config
from datasets.index import Sample
from datasets.label_budget import stored_budgets
from datasets.maps import read_map
from datasets.places import Place
from datasets.points import read_answers
from datasets.superpixels import SuperpixelCache
from utils import settings
from utils.files import read_object
from utils.locks import locked
from utils.metrics import point_scores
from utils.run_folder import VALIDATION, RunFolder, map_of


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
    def held_out_answers(self) -> list[np.ndarray]:
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
        """Score the maps of the held-out images at their labelled points, all pooled."""
        values, labels = [], []
        for sample, found in zip(self.images[1], self.held_out_answers, strict=True):
            path = self.place.predictions / checkpoint / map_of(sample.name, VALIDATION)
            values.append(read_map(path)[found[:, 1], found[:, 0]])
            labels.append(found[:, 2])
        scores = point_scores(np.concatenate(values), np.concatenate(labels))
        return {"images": len(self.images[1]), **scores}
