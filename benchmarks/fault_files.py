"""Spoilt files: many ways to spoil one, and everything that reads files.

A reader may refuse a file with one line (`UserError`), or make sense of it; anything else (another
exception, a hang, memory without end) is a defect.
"""

from __future__ import annotations

import argparse
import copy
import functools
import io
import json
import math
import random
import re
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import config as settings
from active_learning.oracle import MaskOracle
from benchmarks.fault_stages import Pipeline
from datasets.checked import require_checked
from datasets.images import image_size, read_image, read_mask, write_png
from datasets.index import list_sets
from datasets.label_budget import stored_budget
from datasets.maps import read_map, read_true_mask
from datasets.places import Place
from datasets.points import read_answers
from datasets.round_sheet import read_sheet
from datasets.superpixels import SuperpixelCache, read_label_map
from evaluate import about
from models import build_model, load_weights
from models.stored import load_model
from select_best import choose_in_trial
from utils.checkpoints import load_checkpoint
from utils.device import choose_machine
from utils.errors import UserError
from utils.files import read_json, write_json
from utils.metrics import METRICS, PARTS
from utils.run_folder import RunFolder
from utils.tallies import TallyLog, read_tallies

HOSTILE = (
    *(None, True, -1, 0, 3, 10**30, 2**63, 1e308, math.nan, math.inf, -math.inf, "", "a", "\0"),
    *("\ud800", "x" * 5000, "../../..", "nan", [], {}, [[]], {"a": {"b": []}}, [None] * 3),
)
"""Values that stand where others should."""

NUMBERS = ("nan", "inf", "-inf", "-1", "1e400", "9" * 30, "9" * 5000, "0x10", "1_0", "", "\u0663")
"""Texts that stand where a number should."""


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


def spoil(good: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Spoil a file's content in a random way; return what was done, and the content."""
    ways = [flip, cut, shorten, repeat, exchange, insert, change_number, encode, fill]
    way = chance.choice([*ways, spoil_json] if good[:1] in (b"{", b"[") else ways)
    if good[:2] == b"PK":
        way = chance.choice([*ways, spoil_pickle, spoil_pickle])
    if good[:4] == b"\x89PNG":
        way = chance.choice([*ways, resize_png, resize_png])
    return way.__name__, way(good, chance)


def flip(good: bytes, chance: random.Random) -> bytes:
    """Flip up to eight bits."""
    spoilt = bytearray(good)
    for _ in range(chance.choice((1, 1, 2, 8))):
        spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
    return bytes(spoilt)


def cut(good: bytes, chance: random.Random) -> bytes:
    """Leave the end out."""
    return good[: chance.choice((0, 1, chance.randrange(len(good)), len(good) - 1))]


def shorten(good: bytes, chance: random.Random) -> bytes:
    """Leave a part out."""
    start = chance.randrange(len(good))
    return good[:start] + good[start + chance.choice((1, 2, 100)) :]


def repeat(good: bytes, chance: random.Random) -> bytes:
    """Write a part twice."""
    start, end = sorted(chance.randrange(len(good)) for _ in range(2))
    return good[:end] + good[start:end] + good[end:]


def exchange(good: bytes, chance: random.Random) -> bytes:
    """Let two parts of one length change places."""
    size = chance.choice((1, 2, 16, 100))
    one, other = (chance.randrange(max(1, len(good) - size)) for _ in range(2))
    spoilt = bytearray(good)
    spoilt[one : one + size], spoilt[other : other + size] = (
        good[other : other + size],
        good[one : one + size],
    )
    return bytes(spoilt)


def insert(good: bytes, chance: random.Random) -> bytes:
    """Insert bytes that text does not hold, or a line."""
    parts = (b"\0", b"\xff\xfe", b"\r", b"\n", b'"', b",,,,,,,,", b"\n\n", chance.randbytes(20))
    at = chance.randrange(len(good))
    return good[:at] + chance.choice(parts) + good[at:]


def change_number(good: bytes, chance: random.Random) -> bytes:
    """Let a number that is written in digits be another, or none."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", good[:100_000]))
    if not found:
        return flip(good, chance)
    number = chance.choice(found)
    return good[: number.start()] + chance.choice(NUMBERS).encode() + good[number.end() :]


def encode(good: bytes, chance: random.Random) -> bytes:
    """Write the text in another encoding, or with other ends of lines."""
    text = good.decode("latin-1")
    way = chance.choice(("utf-16", "utf-32", "utf-8-sig", "crlf", "cr"))
    if way in ("crlf", "cr"):
        return text.replace("\n", "\r\n" if way == "crlf" else "\r").encode("latin-1")
    return text.encode(way)


def fill(good: bytes, chance: random.Random) -> bytes:
    """Replace all of it, as file systems leave it after a power cut."""
    nested = b"[" * 100_000
    return chance.choice(
        (b"\0" * len(good), chance.randbytes(len(good)), nested, b"\n" * 50, b"{}")
    )


def replace_node(value: Any, chance: random.Random, hostile: Sequence[Any] = HOSTILE) -> Any:
    """Return a nested value with one of its parts, at any depth, replaced or left out."""
    if isinstance(value, dict | list) and value and chance.random() < 0.9:
        spoilt = copy.copy(value)
        key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if chance.random() < 0.15:
            del spoilt[key]
        else:
            spoilt[key] = replace_node(value[key], chance, hostile)
        return spoilt
    return chance.choice(hostile)


def spoil_json(good: bytes, chance: random.Random) -> bytes:
    """Replace one value of a JSON file."""
    try:
        value = json.loads(good)
    except ValueError:  # no JSON but in its beginning
        return change_number(good, chance)
    return json.dumps(replace_node(value, chance)).encode()


def spoil_pickle(good: bytes, chance: random.Random) -> bytes:
    """Replace one value of a checkpoint, or its archive by one that unpacks to far more."""
    try:
        state = torch.load(io.BytesIO(good), weights_only=True)
    except Exception:  # an archive of arrays
        return bomb()
    if chance.random() < 0.1:
        return bomb()
    hostile = [value for value in HOSTILE if not isinstance(value, str) or value != "\ud800"]
    hostile += [torch.zeros(()), torch.zeros(3, dtype=torch.int8), torch.zeros(1).expand(10**9)]
    hostile.append(torch.full((2, 2), math.nan))
    written = io.BytesIO()
    torch.save(replace_node(state, chance, hostile), written)
    return written.getvalue()


@functools.cache
def bomb(megabytes: int = 30) -> bytes:
    """Return an archive with parts that unpack to so many megabytes of zeros, each from little."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("archive/data.pkl", "archive/data/0", "name_0.npy"):
            archive.writestr(name, bytes(megabytes * 10**6))
    return written.getvalue()


def resize_png(good: bytes, chance: random.Random) -> bytes:
    """Let a PNG say that it is of another size, its checksum right."""
    sides = (0, 1, 7, 60_000, 2**31 - 1, 2**32 - 1)
    header = b"IHDR" + struct.pack(">II", chance.choice(sides), chance.choice(sides)) + good[24:29]
    return good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:]


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
    config = settings.resolve({"trial": "tiny", "runs": str(folder / "runs")})
    samples = list_sets(config.data_root, config.trainset)
    train, held_out = settings.training_images(config)
    machine = choose_machine("cpu", "fp32")
    first, last = train[0], run.checkpoint("points", 0, "last")
    best = run.checkpoint("points", 1, "best")
    small, weights = folder / "small.pth", folder / "weights.pth"
    state = load_checkpoint(last, ("training",))
    training = {**state["training"], "optimizer": {"state": {}}, "random": None}
    tensors = {"a": torch.randn(3, 4), "b": torch.zeros(())}
    torch.save({**state, "model": tensors, "training": training}, small)
    network = build_model("mobilenet_v2", 1)[0]
    names = ("features.0.0.weight", "features.0.1.weight")
    torch.save({n: t for n, t in network.encoder.state_dict().items() if n in names}, weights)
    array, label_map = folder / "map.npy", folder / "labels" / f"{first.name}.png"
    np.save(array, np.linspace(0, 1, 48).reshape(6, 8).astype(np.float32))
    log = next((run.root / "tallies").rglob("*.tally"))
    regions = run.superpixels / str(config.superpixels) / f"{first.name}.png"
    answers = run.answers("points", 2)
    shape = read_mask(first.mask).shape
    write_png(label_map, np.zeros(shape, np.uint8))
    preds = run.predictions / "round_01-best"
    choice = argparse.Namespace(metric="MAE", on_test=False, any_round=False, sets=[])
    choice.markdown, place = (
        False,
        Place(run.predictions, folder / "data/gts", run.root, "tiny", None),
    )

    def tally() -> None:
        kept = read_tallies(log)
        kept.scores(METRICS).result()

    def tally_again() -> None:
        marks = np.arange(3, dtype=np.uint64)
        TallyLog(log, "pysodmetrics", frozenset(PARTS), marks)

    def sheet() -> None:
        read_sheet(samples, run.training("points", 1) / "sheet.npz", run.points("points", 1))

    def budget() -> None:
        cache = SuperpixelCache(run.superpixels, config.superpixels)
        path = run.training("points", 0) / "labels.json"
        stored_budget(path, train, answers[:1], cache, "pixel")

    def settings_of() -> None:
        found = settings.resolve({"trial": "tiny", "runs": str(folder / "runs")})
        settings.check_names(found)

    found = {
        "points": (answers[0], lambda: read_answers(answers, train)),
        "points of the held-out split": (
            run.validation_points,
            lambda: read_answers([run.validation_points], held_out),
        ),
        "ledger": (run.ledger, lambda: MaskOracle(run.ledger)),
        "settings": (run.config, settings_of),
        "note of checked data": (
            run.root / "data_checked.json",
            lambda: require_checked(run.root, config.data_root, config.trainset, True),
        ),
        "note of maps": (preds / "made_from.json", lambda: about(config, place, preds.name)),
        "chosen by the note of maps": (
            preds / "made_from.json",
            lambda: choose_in_trial(config, choice),
        ),
        "label budget": (run.training("points", 0) / "labels.json", budget),
        "scores": (run.scores, lambda: choose_in_trial(config, choice)),
        "tallies": (log, tally),
        "tallies, opened": (log, tally_again),
        "names of tallies": (log.with_suffix(".index"), tally),
        "numbers of a sheet": (run.training("points", 1) / "sheet.npz", sheet),
        "answers of a sheet": (answers[1], sheet),
        "image": (first.image, lambda: (read_image(first.image), image_size(first.image))),
        "mask": (first.mask, lambda: (read_mask(first.mask), read_true_mask(first.mask))),
        "map": (preds / "SAMPLE-TE" / "x.png", lambda: read_map(preds / "SAMPLE-TE" / "x.png")),
        "map as an array": (array, lambda: read_map(array)),
        "superpixels": (regions, lambda: SuperpixelCache(run.superpixels, 200)(first)),
        "label map": (label_map, lambda: read_label_map(label_map, shape)),
        "checkpoint": (small, lambda: load_checkpoint(small, ("model", "config", "training"))),
        "network": (best, lambda: load_model(best, machine)),
        "weights of a backbone": (
            weights,
            lambda: load_weights(
                build_model("mobilenet_v2", 1)[0].encoder, weights, "mobilenet_v2"
            ),
        ),
    }
    shutil.copy(next((preds / "SAMPLE-TE").glob("*.png")), preds / "SAMPLE-TE" / "x.png")
    return [Reader(name, path, path.read_bytes(), read) for name, (path, read) in found.items()]
