"""Rounds one after another: what they need, share, leave alone and survive."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import active_learning.maps as looked
from active_learning.query import Pool
from active_learning.questions import read_questions
from datasets.points import read_points
from tests.active_learning.rounds.world import (
    SIZES,
    ask_rounds,
    assert_answers,
    files_below,
    give_snapshots,
    paint,
    run_of,
    save_pair,
    trial,
)
from tests.small_trials import ask_round
from utils.errors import UserError


def test_missing_snapshots_are_told(world, asked, tmp_path):
    config = trial(world, tmp_path)
    shutil.copytree(asked, config.run_folder)
    run_of(config).trained("points", 1).write_text("{}")
    with pytest.raises(UserError, match=r"round_01/snapshots: no snapshots: train round 1 first"):
        ask_round(config, "points", 2)


@pytest.mark.parametrize("arm", ["points", "random"])
def test_missing_or_foreign_points_of_an_earlier_round_are_told(world, tmp_path, arm):
    config = trial(world, tmp_path)
    give_snapshots(world, config, 0)
    with pytest.raises(UserError, match=r"round_00/points\.csv: no such file"):
        ask_round(config, arm, 1)
    path = ask_round(config, "points", 0)
    text = path.read_text(encoding="utf-8")
    for line, told in [
        ("tiny.png,3,0,0,0\n", r"points\.csv.*: point \(3, 0\) lies outside tiny\.png"),
        ("tinny.png,0,0,0,0\n", r"points\.csv.*: image 'tinny\.png' .* did you mean 'tiny\.png'"),
    ]:
        path.write_text(text + line, encoding="utf-8")
        with pytest.raises(UserError, match=told):
            ask_round(config, arm, 1)


def test_random_acquisition_neither_attacks_nor_asks_the_ensemble(
    world, fast, tmp_path, monkeypatch
):
    def fail(*args):
        raise AssertionError("not needed to ask at random")

    sizes = []
    predict = looked.predict_snapshots

    def spy(models, images):
        sizes.append(len(models))
        return predict(models, images)

    monkeypatch.setattr(looked, "predict_snapshots", spy)
    monkeypatch.setitem(looked.ATTACKS, "pgd", fail)
    config = trial(world, tmp_path, acquisition="random", attack="pgd")
    give_snapshots(world, config, 0)
    assert_answers(world, config, ask_rounds(config, 2))
    assert set(sizes) == {1}


def test_a_round_is_not_asked_from_an_unfinished_training(world, fast, tmp_path):
    config = trial(world, tmp_path)
    give_snapshots(world, config, 0)
    run_of(config).trained("points", 0).unlink()
    ask_round(config, "points", 0)
    with pytest.raises(UserError, match=r"round_00: not trained to its end: run train\.py"):
        ask_round(config, "points", 1)
    assert not run_of(config).points("points", 1).exists()


def test_a_round_that_is_not_trained_is_asked_of_the_networks_there_are(world, fast, tmp_path):
    """Told of its answers; without them the same maps would choose other pixels."""
    found = {}
    for agreed in (True, False):
        config = trial(world, tmp_path / str(agreed), train_every=2, ask_agree=agreed)
        give_snapshots(world, config, 0)
        found[agreed] = ask_rounds(config, 3)
        assert_answers(world, config, found[agreed])
        assert not run_of(config).snapshots("points", 1).exists()
    told, untold = ([read_points(paths[index]) for paths in found.values()] for index in (1, 2))
    assert told[0] != told[1]
    assert untold[0] != untold[1]


def test_the_random_arm_shares_the_first_round(world, tmp_path):
    config = trial(world, tmp_path)
    first, *others = ask_rounds(config, 3, "random")
    assert first == run_of(config).points("points", 0)
    assert [path.parent.parent.name for path in others] == ["random", "random"]
    assert_answers(world, config, [first, *others])
    assert not run_of(config).points("points", 1).exists()


def test_every_image_has_random_pixels_of_its_own(world, small, tmp_path):
    """Also images that are alike, of which a round's maps are, too."""
    image, mask = paint("alike", (40, 30), np.random.default_rng(0))
    for index in range(6):
        save_pair(tmp_path / "data", f"{index}.png", image, mask)
    changes = {"first_points": "grid", "acquisition": "entropy", "diversity": "random_top"}
    changes |= {"data_root": str(tmp_path / "data"), "validation_fraction": 0.5}
    config = trial(world, tmp_path, **changes)
    give_snapshots(world, config, 0)
    ask_rounds(config, 2)
    run = run_of(config)
    for path in (run.validation_questions, run.questions("points", 1)):
        asked = {}
        for question in read_questions(path):
            asked.setdefault(question.image, set()).add((question.x, question.y))
        assert len(asked) == len(set(map(frozenset, asked.values()))) > 1


def test_validation_is_asked_once_and_apart(world, tmp_path, opened):
    config = trial(world, tmp_path)
    ask_round(config, "points", 0)
    path = run_of(config).validation_points
    points = read_points(path)
    pool = Pool(config)
    held_out = {sample.name for sample in pool.validation}
    assert held_out
    assert not held_out & {sample.name for sample in pool.samples}
    assert held_out | {sample.name for sample in pool.samples} == set(SIZES)
    assert {point.image for point in points} == held_out
    for name in held_out:
        total = SIZES[name][0] * SIZES[name][1]
        mine = [point for point in points if point.image == name]
        assert len({(p.x, p.y) for p in mine}) == len(mine) == min(12, total)
        assert all(p.label == world.masks[name][p.y, p.x] for p in mine)
    before = path.read_bytes().replace(b"\n", b"\r\n")  # as a person's editor may leave it
    path.write_bytes(before)
    opened.clear()
    Pool(config).answer_validation()
    ask_rounds(config, 2, "random")
    assert path.read_bytes() == before
    assert not {mask.stem for mask in opened} & {Path(name).stem for name in held_out}


@pytest.mark.parametrize("index", [0, 1])
def test_a_round_that_was_asked_is_left_alone(world, fast, tmp_path, opened, index):
    config = trial(world, tmp_path)
    give_snapshots(world, config, 0)
    *_, path = ask_rounds(config, index + 1)
    edited = path.read_bytes() + b"tiny.png,2,2,1,9\n"
    path.write_bytes(edited)
    before = files_below(config.run_folder)
    opened.clear()
    assert ask_round(config, "points", index) == path
    assert files_below(config.run_folder) == before
    assert opened == []


@pytest.mark.parametrize(("index", "spend"), [(0, "image"), (1, "image"), (1, "pool")])
def test_killed_between_ledger_and_points(world, fast, tmp_path, opened, index, spend):
    config = trial(world, tmp_path, spend=spend)
    give_snapshots(world, config, 0)
    *_, path = ask_rounds(config, index + 1)
    before = files_below(config.run_folder)
    path.unlink()
    run_of(config).validation_points.unlink()
    opened.clear()
    # Round 0 makes the validation points, also where its own points are there.
    for again in range(index + 1):
        ask_round(config, "points", again)
    after = files_below(config.run_folder)
    assert after.keys() == before.keys()
    same = [name for name in before if name.suffix == ".csv"]
    assert len(same) == 2 * (index + 2) + 1  # questions and points, validation's too; the ledger
    assert all(after[name] == before[name] for name in same)
    assert opened == []


def test_a_fault_in_one_mask_leaves_no_answers(world, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(world.root / "data", data)
    (data / "gts" / "TR" / "tiny.png").unlink()
    config = trial(world, tmp_path, data_root=str(data))
    with pytest.raises(UserError, match=r"gts/TR/tiny\.png: no such file"):
        ask_round(config, "points", 0)
    assert not run_of(config).points("points", 0).exists()
    Image.fromarray(world.masks["tiny.png"].astype(np.uint8) * 255).save(
        data / "gts" / "TR" / "tiny.png"
    )
    assert_answers(world, config, [ask_round(config, "points", 0)])


@pytest.mark.parametrize("changes", [{}, {"first_points": "grid"}, {"spend": "pool"}])
def test_masks_that_were_not_asked_do_not_matter(world, fast, tmp_path, changes):
    """Turn every mask pixel round that no ledger holds: the same questions, bit for bit."""
    data = tmp_path / "data"
    shutil.copytree(world.root / "data", data)
    config = trial(world, tmp_path / "a", **changes)
    give_snapshots(world, config, 0, 1)
    paths = ask_rounds(config, 3)
    told = {name: np.zeros(mask.shape, bool) for name, mask in world.masks.items()}
    for point in read_points(run_of(config).ledger):
        told[point.image][point.y, point.x] = True
    for name, mask in world.masks.items():
        path = (data / "gts" / "TR" / name).with_suffix(".png")
        assert path.exists()
        Image.fromarray((mask ^ ~told[name]).astype(np.uint8) * 255).save(path)

    other = trial(world, tmp_path / "b", data_root=str(data), **changes)
    give_snapshots(world, other, 0, 1)
    paths += [run_of(config).validation_points, run_of(config).ledger]
    again = [*ask_rounds(other, 3), run_of(other).validation_points, run_of(other).ledger]
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
