"""What is kept of a finished trial: four small files, that its result is read from.

They are text, some 40 bytes an image of the test sets, and name no folder but by its last part: fit
for a repository. ``--pack FOLDER`` writes them, ``--kept FOLDER`` reads them, on any machine.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config import Config
from utils.errors import UserError
from utils.files import read_json, write_json, write_text
from utils.results import image_scores
from utils.run_folder import RunFolder
from utils.tallies import log_path, read_tallies

CONVENTION = "pysodmetrics"

TESTED = ("S", "MAE")
"""Metrics that arms are compared by: those that are means over the images."""

IMAGES = "images.json"
"""The scores of each image, in a trial's folder."""

PATHS = ("data_root", "backbone_weights", "runs")
"""Fields of the settings that may name a folder of the machine."""

_COPIED = ("bench.json", "scores.csv", IMAGES)

_DIGITS = 6

OfImages = Mapping[str, NDArray[np.float64]]
"""Metric -> the scores of a set's images, (N,), in order of name."""


def keep_images(run: RunFolder, checkpoints: Sequence[Path], sets: Sequence[str]) -> None:
    """Write the scores of each image, by checkpoint and set, from the tallies of a trial.

    Raises:
        UserError: the maps of a set have not been scored.
    """
    found: dict[str, dict[str, dict[str, list]]] = {}
    for name in map(run.checkpoint_name, checkpoints):
        for set_name in sets:
            kept = read_tallies(log_path(run.root / "tallies" / name, set_name, CONVENTION))
            scores = image_scores(kept, TESTED)
            rounded = {metric: np.round(of, _DIGITS).tolist() for metric, of in scores.items()}
            found.setdefault(name, {})[set_name] = {"images": list(kept.names), **rounded}
    write_text(run.root / IMAGES, json.dumps(found, ensure_ascii=False) + "\n")


def read_images(path: Path, checkpoint: str, set_name: str) -> tuple[list[str], OfImages]:
    """Return the names of a set's images, and their scores by metric.

    Raises:
        UserError: the file is missing or damaged, or lacks them.
    """
    try:
        found = read_json(path)[checkpoint][set_name]
        scores = {metric: np.asarray(found[metric], np.float64) for metric in TESTED}
        names = [str(name) for name in found["images"]]
        if any(of.shape != (len(names),) or not np.isfinite(of).all() for of in scores.values()):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path}: lacks the scores of each image of {checkpoint} on {set_name}: delete it and "
            "give the same command again, without --report"
        ) from None
    return names, scores


def without_folders(word: str) -> str:
    """Return a word of a command line with an absolute path in it cut down to its name."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return flag + equals + (Path(value).name if Path(value).is_absolute() else value)


def named_alike(saved: Config, config: Config) -> Config:
    """Return ``config`` with the folders of ``saved`` where both have the same last part."""
    pairs = {name: (getattr(saved, name), getattr(config, name)) for name in PATHS}
    alike = {name: old for name, (old, new) in pairs.items() if Path(old).name == Path(new).name}
    return dataclasses.replace(config, **alike)


def pack(trials: Iterable[Path], target: Path) -> None:
    """Write what is kept of finished trials, ``seed_<s>/<trial>``, into a folder.

    Each file is written whole or not at all.

    Raises:
        UserError: a file of a trial is missing, or the disk is full; or another trial's scores are
            there, or among these in the same place (of a first round that was trained elsewhere,
            say, which rounded otherwise), and nothing was written.
    """
    pairs = {trial: target / trial.parent.name / trial.name for trial in trials}
    texts = {trial: {name: _text(trial / name) for name in _COPIED} for trial in pairs}
    firsts: dict[Path, str] = {}
    for trial, mine in pairs.items():
        scores, own = mine / "scores.csv", texts[trial]["scores.csv"]
        there = _text(scores) if scores.exists() else firsts.setdefault(mine, own)
        if there != own:
            raise UserError(
                f"{mine}: holds other scores than {trial}, or would: give --pack a folder of its "
                "own, and both to --kept"
            )
    for trial, mine in pairs.items():
        settings = read_json(trial / "config.json")
        named = {name: without_folders(settings[name]) for name in PATHS if name in settings}
        write_json(mine / "config.json", {**settings, **named})
        for name, text in texts[trial].items():
            write_text(mine / name, text)
    print(f"{len(pairs)} trials are kept: {target}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot keep {path}: {error.strerror}") from None
