"""Maps of any folder: they are of these weights, these pictures and these groups, or made anew."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import test as testing
from config import Config
from datasets.images import read_image, write_png
from models import build_model
from models.stored import parts_of
from utils import settings
from utils.checkpoints import save_checkpoint
from utils.errors import UserError

CONFIG = Config(trainset="A", backbone="mobilenet_v2", width=8, size=32, device="cpu")


def save(path: Path, seed: int, bias: float = 0.0, relation: str = "none") -> Path:
    torch.manual_seed(seed)
    config = dataclasses.replace(CONFIG, grouped=relation != "none", relation=relation)
    values = settings.to_dict(config)
    model = build_model(config.backbone, config.width, parts=parts_of(values, 2))[0]
    torch.nn.init.constant_(model.head.bias, bias)
    save_checkpoint(path, {"model": model.state_dict(), "config": values, "classes": 2})
    return path


def paint(folder: Path, *names: str) -> Path:
    for name in names:
        rng = np.random.default_rng(sum(map(ord, name)))
        write_png(folder / f"{name}.png", rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    return folder


def maps(source: Path, checkpoint: Path, target: Path) -> dict[str, bytes]:
    testing.test_folder(source, checkpoint, target, CONFIG)
    return {
        path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*.png")
    }


def test_maps_of_other_weights_go_whatever_folder_they_were_of(tmp_path: Path) -> None:
    one, other = (save(tmp_path / f"{seed}.pth", seed) for seed in (1, 2))
    x, y = paint(tmp_path / "x", "a", "b"), paint(tmp_path / "y", "c")
    out = tmp_path / "out"
    first = maps(x, one, out)
    assert maps(y, one, out) == {**first, **maps(y, one, tmp_path / "y alone")}
    assert maps(y, other, out) == maps(y, other, tmp_path / "y by the other")
    assert maps(x, other, out)["a.png"] != first["a.png"]


def test_a_picture_that_was_replaced_gets_a_map_of_its_own(tmp_path: Path) -> None:
    network, folder, out = (
        save(tmp_path / "n.pth", 1),
        paint(tmp_path / "x", "a", "b"),
        tmp_path / "o",
    )
    before = maps(folder, network, out)
    kept = (out / "b.png").stat().st_mtime_ns
    write_png(folder / "a.png", 255 - read_image(folder / "a.png"))
    after = maps(folder, network, out)
    assert after == maps(folder, network, tmp_path / "fresh")
    assert after["a.png"] != before["a.png"]
    assert (out / "b.png").stat().st_mtime_ns == kept


def test_a_note_cannot_have_files_elsewhere_removed(tmp_path: Path) -> None:
    folder, out = paint(tmp_path / "x", "a"), tmp_path / "out"
    maps(folder, save(tmp_path / "1.pth", 1), out)
    note = out / "made_from.json"
    held = json.loads(note.read_text())
    note.write_text(json.dumps({**held, "pictures": {"../x/a.png": "", "../1.pth": ""}}))
    maps(folder, save(tmp_path / "2.pth", 2), out)
    assert (folder / "a.png").exists()
    assert (tmp_path / "1.pth").exists()


def test_a_group_is_mapped_as_it_is_now(tmp_path: Path) -> None:
    """Also where a picture came later, or could not be read at first."""
    network = save(tmp_path / "n.pth", 1, relation="gam")
    folder, out = tmp_path / "x", tmp_path / "out"
    paint(folder / "g", "a", "b")
    paint(folder / "h", "d", "e")
    maps(folder, network, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    sound = paint(tmp_path / "late", "c") / "c.png"
    (folder / "g/c.png").write_bytes(sound.read_bytes()[:60])
    assert testing.test_folder(folder, network, out, CONFIG) == 1
    shutil.copy(sound, folder / "g/c.png")
    mixed = (out / "g/a.png").stat().st_mtime_ns
    assert maps(folder, network, out) == maps(folder, network, tmp_path / "fresh")
    kept = {path.name for path, made in before.items() if path.stat().st_mtime_ns == made}
    assert kept == {"d.png", "e.png"}
    assert (out / "g/a.png").stat().st_mtime_ns > mixed  # its group has one picture more now


def test_a_group_that_a_picture_has_left_is_mapped_anew(tmp_path: Path) -> None:
    """Of a network that relates pictures alone."""
    folder = tmp_path / "x"
    for relation in ("gam", "none"):
        network = save(tmp_path / f"{relation}.pth", 1, relation=relation)
        paint(folder / "g", "a", "b", "c")
        paint(folder / "h", "d", "e")
        out = tmp_path / relation
        before = maps(folder, network, out)
        times = {name: (out / name).stat().st_mtime_ns for name in before}
        (folder / "g/c.png").unlink()
        after = maps(folder, network, out)
        fresh = maps(folder, network, tmp_path / f"{relation} fresh")
        assert {name: after[name] for name in fresh} == fresh
        kept = {name for name, time in times.items() if (out / name).stat().st_mtime_ns == time}
        assert {"h/d.png", "h/e.png", "g/c.png"} <= kept
        assert ("g/a.png" in kept) == (relation == "none")
        times = {name: (out / name).stat().st_mtime_ns for name in after}
        assert maps(folder, network, out) == after
        assert times == {name: (out / name).stat().st_mtime_ns for name in after}


def test_a_name_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    folder = paint(tmp_path / "x", "a")
    try:
        os.rename(folder / "a.png", folder / os.fsdecode(b"\xe4.png"))
    except OSError:
        pytest.skip("the file system refuses such names")
    network = save(tmp_path / "n.pth", 1)
    with pytest.raises(UserError, match=r"x: the name '\\udce4\.png' is not UTF-8: rename it"):
        testing.test_folder(folder, network, tmp_path / "out", CONFIG)


def test_maps_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    network, folder = save(tmp_path / "n.pth", 1, float("nan")), paint(tmp_path / "x", "a")
    with pytest.raises(UserError, match=r"maps are not finite: train again, in a new trial"):
        maps(folder, network, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.png"))


def test_repeatable_algorithms_serve_any_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(testing, "make_deterministic", lambda: asked.append(True))
    where = ["--input", str(paint(tmp_path / "x", "a")), "--output", str(tmp_path / "out")]
    where += ["--checkpoint", str(save(tmp_path / "n.pth", 1)), "--device", "cpu"]
    testing.main(where)
    assert asked == []
    testing.main([*where, "--deterministic"])
    assert asked == [True]


def test_hidden_files_and_leftovers_of_archives_are_no_pictures(tmp_path: Path) -> None:
    network, folder = save(tmp_path / "n.pth", 1), paint(tmp_path / "x", "a", "__MACOSX/b", ".d/c")
    (folder / "._a.png").write_bytes(b"resource fork")
    assert maps(folder, network, tmp_path / "out").keys() == {"a.png"}
