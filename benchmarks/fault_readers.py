"""Everything that reads files, to be given spoilt ones.

A reader may refuse a file with one line (`UserError`), or make sense of it; anything else (another
exception, a hang, memory without end) is a defect.
"""

from __future__ import annotations

import argparse
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from active_learning.answers import Answer, Journal, now, standing
from active_learning.asking import asked_pixels, untold_pixels
from active_learning.draft import Draft
from active_learning.looked import Looked
from active_learning.oracle import MaskOracle
from active_learning.selection import Choice
from benchmarks.fault_stages import Pipeline
from config import Config
from datasets.checked import require_checked
from datasets.images import image_size, read_image, read_mask, write_png
from datasets.index import list_sets
from datasets.label_budget import stored_budgets
from datasets.maps import read_map, read_true_mask
from datasets.places import Place
from datasets.points import read_answers
from datasets.round_sheet import read_sheet
from datasets.superpixels import SuperpixelCache, read_label_map
from datasets.trial_maps import TrialMaps
from models import build_model, load_weights
from models.stored import load_model
from select_best import choose_in_trial
from utils import settings
from utils.checkpoints import load_checkpoint
from utils.device import choose_machine
from utils.errors import UserError
from utils.files import read_json, write_json
from utils.metrics import METRICS, PARTS
from utils.run_folder import RunFolder
from utils.tallies import TallyLog, read_tallies


@dataclass(frozen=True)
class Reader:
    """Something that reads a file.

    Attributes:
        name: of the kind of file.
        path: where it is looked for.
        good: its sound content.
        read: reads it.
    """

    name: str
    path: Path
    good: bytes
    read: Callable[[], Any]

    def try_content(self, content: bytes) -> str:
        """Put a content in the file's place, read it, and put the sound one back.

        Returns:
            ``refused``, ``read``, or what went wrong.
        """
        self.path.write_bytes(content)
        try:
            return outcome(self.read)
        finally:
            self.path.write_bytes(self.good)


def outcome(read: Callable[[], Any]) -> str:
    """Return what came of reading: ``refused``, ``read``, or what went wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except UserError as error:
        return "refused" if "\n" not in str(error).strip() else f"several lines: {error!r:.300}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return "read"


@dataclass(frozen=True)
class Copied:
    """A copy of a trial that has run to its end, and its data.

    Attributes:
        folder: holds the copy, and whatever files are made to be read.
        run: the trial.
        config: its settings.
    """

    folder: Path
    run: RunFolder
    config: Config


Kinds = list[tuple[str, Path, Callable[[], Any]]]
"""Name of a kind of file, where it lies, and what reads it."""


def readers(pipeline: Pipeline, folder: Path) -> list[Reader]:
    """Return everything that reads files, at a copy of a trial that has run to its end.

    Args:
        pipeline: it has run.
        folder: where the copies go.
    """
    shutil.copytree(pipeline.home / "data", folder / "data")
    shutil.copytree(pipeline.after["select"], folder / "runs", symlinks=True)
    run = RunFolder(folder / "runs" / "tiny")
    moved = {"data_root": str(folder / "data"), "runs": str(folder / "runs")}
    write_json(run.config, {**read_json(run.config), **moved})
    copied = Copied(folder, run, _settings_of(folder))
    kinds = _answers(copied) + _questions(copied) + _scores(copied)
    kinds += _pictures(copied) + _networks(copied)
    return [Reader(name, path, path.read_bytes(), read) for name, path, read in kinds]


def _settings_of(folder: Path) -> Config:
    found = settings.resolve({"trial": "tiny", "runs": str(folder / "runs")})
    settings.check_names(found)
    return found


def _answers(copied: Copied) -> Kinds:
    """Settings, answers and what is known of the data."""
    run, config = copied.run, copied.config
    train, held_out = settings.training_images(config)
    answers = run.answers("points", 2)
    labels = run.training("points", 0) / "labels.json"
    cache = partial(SuperpixelCache, run.superpixels, config.superpixels)
    data = run.root, config.data_root, config.trainset, True
    return [
        ("points", answers[0], lambda: read_answers(answers, train)),
        (
            "points of the held-out split",
            run.validation_points,
            lambda: read_answers([run.validation_points], held_out),
        ),
        ("ledger", run.ledger, lambda: MaskOracle(run.ledger)),
        ("settings", run.config, lambda: _settings_of(copied.folder)),
        ("note of checked data", run.root / "data_checked.json", lambda: require_checked(*data)),
        (
            "label budget",
            labels,
            lambda: stored_budgets({labels: answers[:1]}, train, cache(), "pixel"),
        ),
    ]


def _questions(copied: Copied) -> Kinds:
    """Questions, and a journal of what people answered."""
    run = copied.run
    train, _ = settings.training_images(copied.config)
    asked, told = run.questions("points", 0), run.points("points", 0)
    said = Answer(train[0].name, 1, 2, "f", 0, "ann", 1.5, now())
    for _ in range(3):
        Journal(run.journal).append(said)
    names = [sample.name for sample in train]
    draft = Draft(run.training("points", 1), "x", names)
    for place in range(3):
        pixels = np.array([(place, 2), (3, 4)], np.int64)
        draft.add(place, Choice(pixels, pixels, 0.5))
    return [
        ("draft of a round", draft.path, lambda: Draft(draft.path.parent, "x", names)),
        ("questions", asked, lambda: asked_pixels(asked, train)),
        ("questions of a round before", asked, lambda: untold_pixels([(asked, told)], train)),
        ("journal of answers", run.journal, lambda: standing(Journal(run.journal).answers())),
        ("journal to be added to", run.journal, lambda: Journal(run.journal).append(said)),
    ]


def _scores(copied: Copied) -> Kinds:
    """Maps' notes, tallies, scores and the sheet of a round."""
    run, config = copied.run, copied.config
    samples = list_sets(config.data_root, config.trainset)
    note = run.predictions / "round_01-best" / "made_from.json"
    choice = argparse.Namespace(metric="MAE", on_test=False, any_round=False, markdown=False)
    choice.sets = []
    place = Place(run.predictions, copied.folder / "data/gts", run.root, "tiny", None)
    log = next((run.root / "tallies").rglob("*.pysodmetrics.tally"))
    numbers, answers = run.training("points", 1) / "sheet.npz", run.points("points", 1)

    def choose() -> None:
        choose_in_trial(config, choice)

    def tally() -> None:
        read_tallies(log).scores(METRICS).result()

    def tally_again() -> None:
        TallyLog(log, "pysodmetrics", frozenset(PARTS), np.arange(3, dtype=np.uint64))

    def sheet() -> None:
        read_sheet(samples, numbers, answers)

    return [
        ("note of maps", note, lambda: TrialMaps(config, place, [note.parent.name])),
        ("chosen by the note of maps", note, choose),
        ("scores", run.scores, choose),
        ("tallies", log, tally),
        ("tallies, opened", log, tally_again),
        ("names of tallies", log.with_suffix(".index"), tally),
        ("numbers of a sheet", numbers, sheet),
        ("answers of a sheet", answers, sheet),
    ]


def _pictures(copied: Copied) -> Kinds:
    """Images, masks, maps and superpixels."""
    run, config = copied.run, copied.config
    first = settings.training_images(config)[0][0]
    array, label_map = copied.folder / "map.npy", copied.folder / "labels" / f"{first.name}.png"
    np.save(array, np.linspace(0, 1, 48).reshape(6, 8).astype(np.float32))
    shape = read_mask(first.mask).shape
    write_png(label_map, np.zeros(shape, np.uint8))
    regions = run.superpixels / str(config.superpixels) / f"{first.name}.png"
    cache = partial(SuperpixelCache, run.superpixels, config.superpixels)
    maps = run.predictions / "round_01-best" / "SAMPLE-TE"
    map_file = shutil.copy(next(maps.glob("*.png")), maps / "x.png")
    return [
        ("image", first.image, lambda: (read_image(first.image), image_size(first.image))),
        ("mask", first.mask, lambda: (read_mask(first.mask), read_true_mask(first.mask))),
        ("map", map_file, lambda: read_map(map_file)),
        ("map as an array", array, lambda: read_map(array)),
        ("superpixels", regions, lambda: cache()(first)),
        ("label map", label_map, lambda: read_label_map(label_map, shape)),
    ]


def _networks(copied: Copied) -> Kinds:
    """Checkpoints, weights of a backbone, and what a teacher has kept."""
    run, machine = copied.run, choose_machine("cpu", "fp32")
    looked = Looked(run.training("points", 0), b"x", 32)
    for place in range(3):
        looked.add(place, True, np.full((32, 32), place, np.uint8))
    last, best = (run.checkpoint("points", *which) for which in ((0, "last"), (1, "best")))
    small, weights = copied.folder / "small.pth", copied.folder / "weights.pth"
    state = load_checkpoint(last, ("training",))
    training = {**state["training"], "optimizer": {"state": {}}, "random": None}
    tensors = {"a": torch.randn(3, 4), "b": torch.zeros(())}
    torch.save({**state, "model": tensors, "training": training}, small)
    encoder = build_model("mobilenet_v2", 1)[0].encoder
    names = ("features.0.0.weight", "features.0.1.weight")
    torch.save({n: t for n, t in encoder.state_dict().items() if n in names}, weights)

    def load_backbone() -> None:
        load_weights(build_model("mobilenet_v2", 1)[0].encoder, weights, "mobilenet_v2")

    return [
        ("checkpoint", small, lambda: load_checkpoint(small, ("model", "config", "training"))),
        ("pseudo labels of a look", looked.path, lambda: list(looked.found())),
        ("network", best, lambda: load_model(best, machine)),
        ("weights of a backbone", weights, load_backbone),
    ]
