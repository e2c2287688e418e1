"""People, label maps, sheets and the command."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

import active_learning.query as query
from active_learning.__main__ import main
from active_learning.query import Pool
from active_learning.rounds import answer_round, choose_round
from datasets.points import Point, read_points
from datasets.superpixels import superpixels
from tests.active_learning.rounds.world import (
    CPU,
    SIZES,
    ask_rounds,
    assert_answers,
    give_snapshots,
    run_of,
    trial,
)
from tests.small_trials import ask_round
from utils.errors import UserError


class Person:
    """An oracle without masks, who calls everything foreground."""

    people = None

    def __init__(self, folder):
        self.folder = folder
        self.events = []

    def prepare(self, sample, pixels):
        pass

    def ask(self, sample, pixels, round_index):
        self.events.append(sample.name)
        return [Point(sample.name, int(x), int(y), 1, round_index) for x, y in pixels]

    def save(self):
        # Told apart by how many points files there are: a ledger is saved before its answers.
        self.events.append(len(list(self.folder.rglob("points.csv"))))


def test_without_masks_a_person_can_answer(world, fast, tmp_path):
    shutil.copytree(world.root / "data" / "images", tmp_path / "data" / "images")
    config = trial(world, tmp_path, data_root=str(tmp_path / "data"))
    give_snapshots(world, config, 0)
    person = Person(config.run_folder)
    pool = Pool(config, person)
    choose_round(pool, "points", 0)
    answer_round(pool, "points", 0)
    pool.choose_uncertain(1, CPU)
    pool.answer("points", 1)
    names = [sample.name for sample in pool.samples]
    held_out = [sample.name for sample in pool.validation]
    assert person.events == [*held_out, 0, *names, 1, *names, 2]
    points = read_points(pool.run.points("points", 1))
    assert len(points) == 3 * len(names)
    assert {point.label for point in points} == {1}
    assert not pool.run.ledger.exists()


@pytest.mark.parametrize("mode", ["pixel", "region", "region_mask"])
def test_label_maps_are_stored_by_the_mode_that_leaks_alone(world, fast, tmp_path, mode):
    config = trial(world, tmp_path, label_mode=mode, acquisition="entropy", attack="none")
    give_snapshots(world, config, 0)
    paths = ask_rounds(config, 2)
    random_path = ask_round(config, "random", 1)
    maps = [path for path in config.run_folder.rglob("*") if "region_labels" in path.parts]
    if mode != "region_mask":
        assert maps == []
        return
    for arm, index, files in [
        ("points", 0, paths[:1]),
        ("points", 1, paths),
        ("random", 1, [paths[0], random_path]),
    ]:
        points = [point for path in files for point in read_points(path)]
        for sample in Pool(config).samples:
            folder = run_of(config).region_labels(arm, index)
            stored = np.asarray(Image.open(folder / f"{sample.name}.png"))
            regions = superpixels(query_image(sample), config.superpixels)
            mine = {int(regions[p.y, p.x]) for p in points if p.image == sample.name}
            expected = np.where(world.masks[sample.name], 255, 0)
            expected[~np.isin(regions, list(mine))] = 128
            assert (stored == expected).all()


def query_image(sample):
    image = np.asarray(Image.open(sample.image))
    return np.rot90(image, -1).copy() if sample.name == "turned.jpg" else image


def test_the_sheet_holds_a_few_images_numbers(world, fast, tmp_path):
    config = trial(world, tmp_path)
    give_snapshots(world, config, 0)
    _, path = ask_rounds(config, 2)
    with np.load(path.parent / "sheet.npz", allow_pickle=False) as sheet:
        names = [str(sheet[f"name_{row}"]) for row in range(query.SHEET_IMAGES)]
        assert len(set(names)) == query.SHEET_IMAGES
        for row, name in enumerate(names):
            width, height = SIZES[name]
            assert sheet[f"regions_{row}"].shape == (height, width)
            assert sheet[f"scores_{row}"].shape == (32, 32)
            assert len(sheet[f"known_{row}"]) == 4
            chosen = {(p.x, p.y) for p in read_points(path) if p.image == name}
            candidates = {tuple(pair) for pair in sheet[f"candidates_{row}"].tolist()}
            assert name == "tiny.png" or chosen <= candidates


def flags(config):
    names = ("trial", "runs", "data_root", "trainset", "seed", "backbone", "backbone_weights")
    names += ("rounds", "retrain", "points_per_image", "points_per_round")
    names += ("size", "width", "device")
    return [part for name in names for part in (f"--{name}", str(getattr(config, name)))]


def test_the_command_asks_a_round(world, tmp_path, capsys):
    config = trial(world, tmp_path)
    assert main(flags(config)) == 0
    path = run_of(config).points("points", 0)
    assert f"{path}: answered" in capsys.readouterr().out
    assert main([*flags(config), "--arm", "random", "--round", "1"]) == 0
    assert_answers(world, config, [path, run_of(config).points("random", 1)])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--round", "3"], r"--round 3: the trial's rounds are 0 to 2"),
        (["--round", "-1"], r"--round -1: "),
        (["--acquisition", "entrpy"], r"did you mean 'entropy'"),
        (["--diversity", "topk"], r"did you mean 'top_k'"),
        (["--acquisition", "adversarial_shift"], r"--attack is none"),
        (["--spend", "pool", "--acquisition", "random"], r"--spend pool .* --acquisition random"),
        (["--arm", "dense"], r"--arm"),
    ],
)
def test_the_command_tells_what_cannot_be_meant(world, tmp_path, more, told):
    config = trial(world, tmp_path)
    with pytest.raises(UserError, match=told):
        main([*flags(config), *more])
    assert not config.run_folder.exists()
