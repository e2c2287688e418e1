"""Grids, points on objects, and points spent over the whole pool."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

import active_learning.query as query
from active_learning.query import Pool
from active_learning.selection import grid_pixels
from active_learning.spending import shares
from datasets.label_budget import label_budgets
from datasets.points import read_points
from datasets.round_labels import read_point_labels
from datasets.round_sheet import read_sheet
from tests.active_learning.rounds.world import (
    SIZES,
    ask_rounds,
    assert_answers,
    files_below,
    give_snapshots,
    run_of,
    trial,
)
from tests.small_trials import ask_round
from utils.pictures import draw_sheet


def test_a_grid_is_asked_first_and_all_arms_share_it(world, fast, tmp_path):
    config = trial(world, tmp_path, first_points="grid")
    give_snapshots(world, config, 0)
    first, second = ask_rounds(config, 2)
    assert_answers(world, config, [first, second])
    points = read_points(first)
    for sample in Pool(config).samples:
        mine = [(p.x, p.y) for p in points if p.image == sample.name]
        assert mine == [tuple(pair) for pair in grid_pixels(*SIZES[sample.name], 4).tolist()]
    random = read_points(ask_round(config, "random", 1))
    asked = {(p.image, p.x, p.y) for p in [*points, *random]}
    assert len(asked) == len(points) + len(random)
    # The validation images are asked at random, as they always are.
    plain = trial(world, tmp_path / "plain")
    ask_round(plain, "points", 0)
    held_out = [run_of(one).validation_points.read_bytes() for one in (config, plain)]
    assert held_out[0] == held_out[1]


def of_objects(world, runs, **changes):
    changes = {"rounds": 1, "points_per_round": "", "first_points": "object"} | changes
    return trial(world, runs, **changes)


def test_objects_are_pointed_out(world, tmp_path):
    config = of_objects(world, tmp_path)
    path = ask_round(config, "points", 0)
    points = read_points(path)
    pool = Pool(config)
    for sample in pool.samples:
        mine = [p for p in points if p.image == sample.name]
        # One disc an image at most, so one point on it and one beside.
        assert [p.label for p in mine] == [1] * bool(world.masks[sample.name].any()) + [0]
        assert all(p.label == world.masks[p.image][p.y, p.x] for p in mine)
    held_out = read_points(run_of(config).validation_points)
    assert sorted(read_points(run_of(config).ledger)) == sorted([*points, *held_out])
    assert len(held_out) == config.points_per_image * len(pool.validation)
    (budget,) = label_budgets(pool.samples, [[path]], pool.regions, "pixel")
    count = 2 * len(pool.samples) - 1  # one mask is empty
    assert budget["points"] == pytest.approx(count / len(pool.samples), abs=1e-4)
    area = sum(SIZES[sample.name][0] * SIZES[sample.name][1] for sample in pool.samples)
    assert budget["labelled_percent"] == pytest.approx(100 * count / area, abs=1e-4)

    # Asked again after an interruption: the same pixels, and nothing is counted twice.
    before = files_below(config.run_folder)
    path.unlink()
    ask_round(config, "points", 0)
    after = files_below(config.run_folder)
    assert all(after[name] == before[name] for name in before if name.suffix == ".csv")


def test_an_image_s_points_depend_on_its_own_mask_alone(world, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(world.root / "data", data)
    path = data / "gts" / "TR" / "flat.png"
    Image.fromarray(~np.asarray(Image.open(path))).save(path)
    one, other = (
        read_points(ask_round(config, "points", 0))
        for config in (
            of_objects(world, tmp_path / "a"),
            of_objects(world, tmp_path / "b", data_root=str(data)),
        )
    )
    assert [p for p in one if p.image != "flat.png"] == [p for p in other if p.image != "flat.png"]
    assert one != other


@pytest.mark.parametrize(
    ("rule", "mode"), [("facility_location", "region_mask"), ("random_top", "region")]
)
def test_the_pool_shares_a_round_s_points(world, asked, small, tmp_path, monkeypatch, rule, mode):
    even, pooled = (
        trial(world, tmp_path / spend, spend=spend, diversity=rule, label_mode=mode)
        for spend in ("image", "pool")
    )
    chosen = {}
    real = Pool._choose

    def note(pool, *args):
        *_, index, _ = args
        chosen[index] = real(pool, *args)
        return chosen[index]

    monkeypatch.setattr(Pool, "_choose", note)
    for config in (even, pooled):
        chosen.clear()
        shutil.copytree(asked, config.run_folder)
        give_snapshots(world, config, 1)
        ask_round(config, "points", 2)
    pool, paths = Pool(pooled), run_of(pooled).answers("points", 3)
    points = read_points(paths[2])
    assert len(points) == len(read_points(run_of(even).points("points", 2)))

    choices = [chosen[index] for index in range(len(pool.samples))]
    most = [len(choice.pixels) for choice in choices]
    known = pool.known("points", 2)
    for sample, size, points_before in zip(pool.samples, most, known, strict=True):
        left = np.prod(SIZES[sample.name]) - len(points_before)
        assert size == min(3 * 5, left)  # three times the round's five
    given_out = shares([choice.worth for choice in choices], most, len(points))
    assert len(set(given_out.tolist())) > 2
    for sample, choice, size in zip(pool.samples, choices, given_out, strict=True):
        mine = [(p.x, p.y) for p in points if p.image == sample.name]
        assert mine == [tuple(pair) for pair in choice.pixels[:size].tolist()]
    (budget,) = label_budgets(pool.samples, [paths], pool.regions, "pixel")
    counted = sum(len(read_points(path)) for path in paths)
    assert budget["points"] == pytest.approx(counted / len(pool.samples), abs=1e-4)
    ledger = read_points(run_of(pooled).ledger)
    assert len(ledger) == counted + len(read_points(run_of(pooled).validation_points))


def test_an_image_without_points_in_a_round(world, small, tmp_path, monkeypatch):
    config = trial(world, tmp_path, spend="pool", label_mode="region_mask")
    give_snapshots(world, config, 0)
    samples = Pool(config).samples
    real = query.spend

    def to_others(chosen, worth, count):
        return real(chosen, [0.0, *[1.0] * (len(worth) - 1)], count)

    monkeypatch.setattr(query, "spend", to_others)
    paths = ask_rounds(config, 2)
    assert samples[0].name not in {point.image for point in read_points(paths[1])}
    rows = read_sheet(samples, paths[1].parent / "sheet.npz", paths[1])
    assert rows[0].new.shape == (0, 3)
    draw_sheet(rows, tmp_path / "sheet.png")
    maps = [run_of(config).region_labels("points", index) for index in (0, 1)]
    labels = [(folder / f"{samples[0].name}.png").read_bytes() for folder in maps]
    assert labels[0] == labels[1]
    labels = read_point_labels(
        run_of(config), "points", 1, samples, config.size, config.label_mode, config.superpixels
    )
    assert labels.at(0, np.eye(3)).sum() > 0
