"""Spoilt files are refused in one line, or make sense: no traceback, no hang, no memory."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from active_learning.answers import Answer, Journal, now, standing
from active_learning.asking import untold_pixels
from active_learning.questions import Question, write_questions
from benchmarks.fault_files import bomb, spoil
from benchmarks.fault_readers import Reader, outcome
from config import Config
from datasets.images import image_size, read_image, read_mask, write_png
from datasets.index import list_set
from datasets.maps import read_map
from datasets.points import Point, read_answers, write_points
from datasets.round_sheet import read_sheet
from datasets.superpixels import SuperpixelCache, read_label_map
from models import build_model
from models.stored import load_model
from select_best import checkpoint_path
from test import test_folder as segment_folder
from utils.checkpoints import load_checkpoint, save_checkpoint
from utils.device import choose_machine
from utils.errors import UserError
from utils.files import read_json, read_object, write_json
from utils.metrics import METRICS, PARTS
from utils.ranking import check_numbers
from utils.run_folder import RunFolder
from utils.scores import read_scores, write_scores
from utils.settings import check_names, resolve, to_dict
from utils.tallies import TallyLog, make_record, read_tallies

KINDS = ("points", "settings", "checkpoint", "array", "mask", "image", "scores", "tallies")
KINDS += ("questions", "answers")


def make(kind: str, folder: Path, sample_root: Path) -> tuple[Path, Callable[[], Any]]:
    """Write a sound file of a kind; return its path, and what reads it."""
    path = folder / kind
    if kind == "points":
        samples = list_set(sample_root, "SAMPLE-TE")
        write_points(path, (Point(s.name, x, 3, x % 2, 0) for s in samples for x in range(3)))
        return path, lambda: read_answers([path], samples)
    if kind == "questions":
        samples = list_set(sample_root, "SAMPLE-TE")
        asked = [Question(s.name, x, 3, 0, x > 1) for s in samples for x in range(3)]
        write_questions(path, asked)
        told = folder / "points"
        write_points(told, (Point(*question[:3], 1, 0) for question in asked[::2]))
        return path, lambda: untold_pixels([(path, told)], samples)
    if kind == "answers":
        said = [Answer("é.png", x, 3, "fbsu"[x % 4], 0, "Zoë", 1.5, now()) for x in range(9)]
        path.unlink(missing_ok=True)
        for answer in said:
            Journal(path).append(answer)
        return path, lambda: (standing(Journal(path).answers()), Journal(path).append(said[0]))
    if kind == "settings":
        path = folder / "tiny" / "config.json"
        write_json(path, {**to_dict(Config()), "trial": "tiny"})
        return path, lambda: check_names(resolve({"trial": "tiny", "runs": str(folder)}))
    if kind == "checkpoint":
        save_checkpoint(path, {"model": {"a": torch.ones(9)}, "config": {"b": 1}, "c": [1.0]})
        return path, lambda: load_checkpoint(path)
    if kind == "array":
        path = folder / "a.npy"
        np.save(path, np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8))
        return path, lambda: read_map(path)
    if kind == "scores":
        write_scores(path, [{"checkpoint": "a", "set": "S", "images": 3, "MAE": 0.25}])
        return path, lambda: check_numbers(read_scores(path), path)
    if kind == "tallies":
        path = folder / "S.pysodmetrics.tally"
        marks = np.arange(3, dtype=np.uint64)
        log = TallyLog(path, "pysodmetrics", frozenset(PARTS), marks)
        tally = np.zeros((), read_tally_type())
        log.append(np.array([make_record(int(mark), tally, False) for mark in marks]))
        log.close(["a", "b", "c"], marks)
        return path, lambda: read_tallies(path).scores(METRICS)
    path = folder / f"{kind}.png"
    rng = np.random.default_rng(0)
    shape = (20, 30) if kind == "mask" else (20, 30, 3)
    write_png(path, np.uint8(255) * rng.integers(0, 2, shape, np.uint8))
    reads = read_mask if kind == "mask" else read_image
    return path, lambda: (reads(path), image_size(path))


def read_tally_type() -> np.dtype:
    from utils.metrics import TALLY

    return TALLY


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32))
def test_a_spoilt_file_is_refused_or_read(
    kind: str, seed: int, tmp_path: Path, sample_root: Path
) -> None:
    path, read = make(kind, tmp_path, sample_root)
    reader = Reader(kind, path, path.read_bytes(), read)
    assert outcome(read) == "read"
    way, content = spoil(reader.good, random.Random(seed))
    assert reader.try_content(content) in ("refused", "read"), way


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_flipped_bit_of_a_checkpoint_never_changes_a_weight(
    data: st.DataObject, tmp_path: Path
) -> None:
    path = tmp_path / "a.pth"
    weights = torch.arange(500.0)
    save_checkpoint(path, {"model": {"a": weights}, "config": {}})
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        found = load_checkpoint(path)
    except UserError:
        return
    assert torch.equal(found["model"]["a"], weights)


def test_an_archive_that_unpacks_to_far_more_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(bomb(1))
    with pytest.raises(UserError, match=r"a\.pth: damaged or not a checkpoint .*packed"):
        load_checkpoint(path)
    with pytest.raises(UserError, match="packed"):
        build_model("mobilenet_v2", 1, path)
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}q\x00.")
    path.write_bytes(stored.getvalue())
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path)


def test_an_array_that_speaks_of_more_than_it_holds_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((6, 8), np.float32))
    sound = path.read_bytes()
    path.write_bytes(sound.replace(b"(6, 8), }      ", b"(10**6, 999999)"))
    with pytest.raises(UserError, match="not readable as an array"):
        read_map(path)
    path.write_bytes(sound.replace(b"(6, 8), }             ", b"(999999, 999999999), }"))
    with pytest.raises(UserError, match="not readable as an array"):
        read_map(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 50_000, "1" * 5000, "\ufeff{}"])
def test_json_of_any_depth_and_length(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="not readable as JSON"):
        read_json(path)


@pytest.mark.parametrize("text", ["[]", "null", '"a"', "3", "NaN"])
def test_json_that_is_no_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match="holds no JSON object"):
        read_object(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"checkpoint": 3}', '{"checkpoint": "a\\u0000"}'])
def test_a_note_of_maps_that_names_no_checkpoint(tmp_path: Path, text: str) -> None:
    run = RunFolder(tmp_path)
    note = run.predictions / "best" / "made_from.json"
    note.parent.mkdir(parents=True)
    note.write_text(text)
    with pytest.raises(UserError, match="does not name the checkpoint"):
        checkpoint_path(run, "best")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"width": 10**9}, "cannot be meant|another architecture"),
        ({"width": 7}, "another architecture"),
        ({"width": "8"}, "lack width"),
        ({"width": True}, "lack width"),
        ({"backbone": 3}, "lack backbone"),
        ({"backbone": "mobilenet"}, "cannot be meant.*mobilenet_v2"),
        ({"relation": ["gam"]}, "cannot be meant"),
        ({"size": None}, "lack size"),
        ({"binarise_k": "k", "binarise": "decoder"}, "cannot be meant|another architecture"),
    ],
)
def test_settings_of_a_checkpoint_that_speak_of_no_network(
    tmp_path: Path, values: dict[str, Any], told: str
) -> None:
    path = tmp_path / "a.pth"
    model = build_model("mobilenet_v2", 8)[0]
    sound = {"backbone": "mobilenet_v2", "width": 8, "size": 32}
    save_checkpoint(path, {"model": model.state_dict(), "config": {**sound, **values}})
    with pytest.raises(UserError, match=told):
        load_model(path, choose_machine("cpu", "fp32"))


@pytest.mark.parametrize("line", ['-000000000000001 "a"', "0000000000000001 5", "x" * 40, ""])
def test_names_of_tallies_that_are_none(tmp_path: Path, sample_root: Path, line: str) -> None:
    path, read = make("tallies", tmp_path, sample_root)
    index = path.with_suffix(".index")
    index.write_text(index.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"run evaluate.py again"):
        read()


def test_a_log_of_tallies_of_no_convention(tmp_path: Path, sample_root: Path) -> None:
    path, read = make("tallies", tmp_path, sample_root)
    path.write_bytes(path.read_bytes().replace(b'"pysodmetrics"', b'["unheard"]   '))
    with pytest.raises(UserError, match="no scores are kept there"):
        read()


@pytest.mark.parametrize("number", ["9" * 400, "-inf", "nan", "1e999", "9" * 5000])
def test_numbers_in_scores_that_are_none(tmp_path: Path, sample_root: Path, number: str) -> None:
    path, read = make("scores", tmp_path, sample_root)
    for sound in (",3,", ",0.25,"):
        path.write_text(path.read_text().replace(sound, f",{number},"))
        with pytest.raises(UserError, match=r"line 2: .* is not a"):
            read()


def test_numbers_of_a_sheet_that_are_damaged(tmp_path: Path, sample_root: Path) -> None:
    samples = list_set(sample_root, "SAMPLE-TE")
    points, numbers = tmp_path / "points.csv", tmp_path / "sheet.npz"
    write_points(points, [Point(samples[0].name, 1, 2, 1, 0)])
    sizes = image_size(samples[0].image)[::-1]
    sound = {"name_0": np.array(samples[0].name), "known_0": np.empty((0, 3), np.int64)}
    for regions in (np.zeros(sizes, np.int32), np.zeros((2, 2), np.int32), np.array("x")):
        np.savez_compressed(numbers, **sound, regions_0=regions)
        if regions.shape == sizes:
            assert len(read_sheet(samples, numbers, points)) == 1
            continue
        with pytest.raises(UserError, match=r"sheet\.npz: damaged .*delete it"):
            read_sheet(samples, numbers, points)
    numbers.write_bytes(numbers.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"sheet\.npz: damaged"):
        read_sheet(samples, numbers, points)


def test_half_a_file_of_points_is_not_trained_on(tmp_path: Path, sample_root: Path) -> None:
    path, read = make("points", tmp_path, sample_root)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-3]))
    with pytest.raises(UserError, match="no answers for 1 of 6 images"):
        read()


def test_a_pipe_and_a_circle_of_links_among_pictures_are_no_hang(
    tmp_path: Path, sample_root: Path
) -> None:
    folder, checkpoint = tmp_path / "pictures", tmp_path / "a.pth"
    folder.mkdir()
    os.mkfifo(folder / "a.png")
    (folder / "b.png").symlink_to("c.png")
    (folder / "c.png").symlink_to("b.png")
    (folder / "loop").symlink_to(folder)
    (folder / "d.png").write_bytes(list_set(sample_root, "SAMPLE-TE")[0].mask.read_bytes())
    model = build_model("mobilenet_v2", 8)[0]
    values = {"backbone": "mobilenet_v2", "width": 8, "size": 32}
    save_checkpoint(checkpoint, {"model": model.state_dict(), "config": values})
    plain = Config(trainset="A", device="cpu")
    assert segment_folder(folder, checkpoint, tmp_path / "maps", plain) == 2
    assert json.loads((tmp_path / "maps" / "made_from.json").read_text())["fingerprint"]
    assert (tmp_path / "maps" / "d.png").exists()


def test_the_circle_of_links_as_a_trial(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match="circle"):
        write_json(tmp_path / "a" / "x.json", {})


@pytest.mark.parametrize("side", [0, 60_000, 2**31 - 1, 2**32 - 1])
def test_superpixels_of_a_huge_size_are_made_again(
    tmp_path: Path, sample_root: Path, side: int
) -> None:
    sample = list_set(sample_root, "SAMPLE-TE")[0]
    cache = SuperpixelCache(tmp_path, 20)
    sound = cache(sample)
    path = next(tmp_path.rglob("*.png"))
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    spoilt = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    path.write_bytes(spoilt)
    assert np.array_equal(cache(sample), sound)
    assert path.read_bytes() == content
    path.write_bytes(spoilt)
    with pytest.raises(UserError, match="missing or damaged label map"):
        read_label_map(path, sound.shape)


def test_a_format_that_is_no_number_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"format": torch.zeros(2, 2), "model": {}, "config": {}}, path)
    with pytest.raises(UserError, match="format unknown") as told:
        load_checkpoint(path)
    assert "\n" not in str(told.value)
