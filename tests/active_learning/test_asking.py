"""Two steps of a round: the questions are written down, with a reserve, and then answered."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch

import active_learning.oracle as oracle_module
import active_learning.query as query
from active_learning.diversity import DIVERSITY
from active_learning.maps import Maps
from active_learning.mistakes import Mistakes
from active_learning.query import Pool
from active_learning.questions import by_image, read_questions, untold, write_questions
from active_learning.rounds import answer_round, choose_round
from config import Config
from datasets.images import native_sizes
from datasets.points import read_answers, read_points
from datasets.round_labels import read_point_labels
from tests.small_trials import ask_round
from utils.errors import UserError
from utils.files import write_json
from utils.run_folder import RunFolder

SKIPS = {"answer_skips": 0.35, "reserve": 4}


def trial(root, runs, **changes):
    return Config(
        **{
            **{"trial": "t", "runs": str(runs), "data_root": str(root), "trainset": "SAMPLE-TR"},
            **{"size": 32, "rounds": 3, "points_per_image": 9, "superpixels": 30},
            **{"backbone_weights": "none", "device": "cpu", "batch_size": 4, **changes},
        }
    )


@pytest.fixture
def networks(monkeypatch, tmp_path):
    """Put random maps in the place of what networks say."""

    def maps(images, ensemble, config, machine, key, done, answers):
        for index in range(len(images)):
            draw = np.random.default_rng([index, int(key.split()[-1])])
            made = draw.random((32, 32)), draw.random((4, 8, 8)), draw.random((3, 8, 8))
            scores, features, colours = (torch.from_numpy(a.astype(np.float32)) for a in made)
            yield index, Maps(scores, None, scores, features, colours)

    monkeypatch.setattr(query, "pool_maps", maps)
    monkeypatch.setattr(query, "ensemble_files", lambda *args: [tmp_path / "net.pth"])
    (tmp_path / "net.pth").write_bytes(b"")
    net = torch.nn.Identity()
    monkeypatch.setattr(query, "load_model", lambda path, machine: (net, {}))


def ask(config, rounds=3, arm="points"):
    """Ask some rounds as if the networks were trained between them; return the run folder."""
    run = RunFolder(config.run_folder)
    for index in range(rounds):
        ask_round(config, arm, index)
        write_json(run.trained(arm, index), {})
    return run


def files_of(run, rounds=3, arm="points"):
    """Questions and points of each file of a trial."""
    pairs = [(run.validation_questions, run.validation_points)]
    pairs += [(run.questions(arm, index), run.points(arm, index)) for index in range(rounds)]
    return [(read_questions(asked), read_points(told)) for asked, told in pairs]


WAYS = [
    {},
    {"spend": "pool"},
    {"first_points": "grid"},
    {"diversity": "random_top", "candidates_max": 3},  # more candidates, where more are wanted
    *({"diversity": rule} for rule in sorted(DIVERSITY)),
]


@pytest.mark.parametrize("changes", WAYS)
def test_a_reserve_changes_no_question(sample_root, tmp_path, networks, changes):
    # Hardly anything is skipped, so that all later questions are the same, too.
    plain = ask(trial(sample_root, tmp_path / "plain", **changes))
    spare = ask(trial(sample_root, tmp_path / "spare", answer_skips=1e-9, **changes))
    for (asked, points), (both, same) in zip(files_of(plain), files_of(spare), strict=True):
        assert not any(question.reserve for question in asked)
        assert [question for question in both if not question.reserve] == asked
        assert points == same
        assert [p[:3] for p in points] == [q[:3] for q in asked]
        for own, reserve in by_image(both).values():
            assert len(reserve) == 5
            assert all(question.reserve for question in reserve)
            assert len({question.pixel for question in own + reserve}) == len(own) + 5
        assert [q.reserve for q in both] == [
            q.reserve for own, reserve in by_image(both).values() for q in own + reserve
        ]


@pytest.mark.parametrize("arm", ["points", "random"])
@pytest.mark.parametrize("spend", ["image", "pool"])
def test_what_cannot_be_told_is_replaced(sample_root, tmp_path, networks, arm, spend):
    config = trial(sample_root, tmp_path, **SKIPS, spend=spend)
    run = ask(config, arm=arm)
    taken = set()
    short = images = 0
    for asked, points in files_of(run, arm=arm):
        told = {point[:3] for point in points}
        left_out = {question.pixel for question in untold(asked, points)}
        assert left_out
        for own, reserve in by_image(asked).values():
            images += 1
            pixels = [question.pixel for question in own + reserve]
            count = sum(pixel in told for pixel in pixels)
            if count < len(own):
                short += 1
                assert set(pixels) <= told | left_out
            # In order: no reserve is used before another that was not tried.
            tried = [pixel in told | left_out for pixel in pixels]
            assert tried == sorted(tried, reverse=True)
        # What was told or could not be told is not asked again; what was not tried may be.
        assert not taken & {question.pixel for question in asked}
        taken |= told | left_out
    assert short <= 0.1 * images
    ledger = read_points(run.ledger)
    assert {point[:3] for point in ledger} <= taken
    # The answers are those of the simulated person.
    careless = Mistakes(config.seed, skips=config.answer_skips)
    assert all(careless.say(p[0], np.zeros((99, 99), bool), [p[1:3]]) != [None] for p in ledger)


@pytest.mark.parametrize("index", [0, 1])
def test_questions_once_written_are_not_chosen_anew(
    sample_root, tmp_path, networks, monkeypatch, index
):
    config = trial(sample_root, tmp_path, **SKIPS)
    run = ask(config, index)
    pool = Pool(config)
    choose_round(pool, "points", index)
    path = run.questions("points", index)
    assert not run.points("points", index).exists()
    one, *others = read_questions(path)
    write_questions(path, others)

    def fail(*args, **more):
        raise AssertionError("chosen anew")

    with monkeypatch.context() as patch:
        patch.setattr(query, "random_pixels", fail)
        patch.setattr(query, "pool_maps", fail)
        choose_round(Pool(config), "points", index)
        answer_round(Pool(config), "points", index)
    assert read_questions(path) == others
    assert one.pixel not in {point[:3] for point in read_points(run.points("points", index))}


@pytest.mark.parametrize("arm", ["points", "random"])
@pytest.mark.parametrize("oracle", ["mask", "human"])
def test_a_round_that_only_trains_again_asks_nobody(
    sample_root, tmp_path, networks, monkeypatch, arm, oracle
):
    config = trial(sample_root, tmp_path, rounds=2, retrain=1)
    with pytest.raises(UserError, match=r"round_00/points\.csv"):
        choose_round(Pool(config), arm, 2)
    run = ask(config, 2, "points")
    if arm == "random":
        ask_round(config, "random", 1)
    ledger = run.ledger.read_bytes()
    monkeypatch.setattr(query, "pool_maps", None)  # no image is looked at
    # Who may be unable to tell is asked nothing in reserve, either.
    skips = SKIPS if oracle == "mask" else {}
    config = dataclasses.replace(config, oracle=oracle, **skips)
    choose_round(Pool(config), arm, 2)
    assert not run.points(arm, 2).exists()
    answer_round(Pool(config), arm, 2)
    assert files_of(run, 3, arm)[3] == ([], [])
    assert run.ledger.read_bytes() == ledger
    known = [Pool(config).known(arm, count) for count in (2, 3)]
    assert sum(map(len, known[0])) > 0
    assert all(np.array_equal(*pair) for pair in zip(*known, strict=True))


def test_questions_of_another_set_are_told(sample_root, tmp_path):
    config = trial(sample_root, tmp_path)
    run = RunFolder(config.run_folder)
    choose_round(Pool(config), "points", 0)
    path = run.questions("points", 0)
    first, *others = read_questions(path)
    for wrong, told in (
        (first._replace(image="zzz.png"), "line 2: image 'zzz.png' is not among"),
        (first._replace(x=5000), r"line 2: point \(5000, "),
    ):
        write_questions(path, [wrong, *others])
        with pytest.raises(UserError, match=rf"questions\.csv, {told}"):
            answer_round(Pool(config), "points", 0)
        assert not run.points("points", 0).exists()


def test_masks_are_read_side_by_side_and_answers_stand_in_order(sample_root, tmp_path, monkeypatch):
    """The first mask is read when the second has been, and all is as if they were read in turn."""
    monkeypatch.setattr("utils.background.core_count", lambda: 2)
    read, second, found = oracle_module.mask_of_image, threading.Event(), []

    def waits(path, image, size):
        if path == pool.samples[0].mask:
            assert second.wait(20)
        elif path == pool.samples[1].mask:
            second.set()
        return read(path, image, size)

    for name, value in (("mask_of_image", waits), ("MaskOracle.prepare", lambda *args: None)):
        config = trial(sample_root, tmp_path / name, **SKIPS)
        run, pool = RunFolder(config.run_folder), Pool(config)
        choose_round(pool, "points", 0)
        with monkeypatch.context() as patch:
            patch.setattr(f"active_learning.oracle.{name}", value)
            answer_round(pool, "points", 0)
        found.append((run.ledger.read_bytes(), run.points("points", 0).read_bytes()))
    assert second.is_set()
    assert found[0] == found[1]


class Blind:
    """An oracle who can tell nothing of some images."""

    people = None

    def __init__(self, *images):
        self.images = images

    def prepare(self, sample, pixels):
        pass

    def ask(self, sample, pixels, round_index):
        if not self.images or sample.name in self.images:
            return []
        return [query.MaskOracle.ask(self.real, sample, pixels[:1], round_index)[0]]

    def save(self):
        self.saved = True


def test_an_image_of_which_nothing_can_be_told_is_no_fault(sample_root, tmp_path):
    config = trial(sample_root, tmp_path, **SKIPS)
    name = Pool(config).samples[3].name
    oracle = Blind(name)
    oracle.real = query.MaskOracle(tmp_path / "ledger.csv")
    pool = Pool(config, oracle)
    choose_round(pool, "points", 0)
    path = answer_round(pool, "points", 0)
    found = read_answers([path], pool.samples)
    assert [len(points) == 0 for points in found] == [s.name == name for s in pool.samples]
    labels = read_point_labels(pool.run, "points", 0, pool.samples, 32, "region", 30)
    assert labels.at(3, np.eye(3)).sum() == 0
    # A file that was cut off is told all the same where every pixel can be told.
    plain = trial(sample_root, tmp_path / "plain")
    path = ask_round(plain, "points", 0)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-3]))
    with pytest.raises(UserError, match="lacks answers that were given"):
        read_answers([path], Pool(plain).samples)


def test_a_round_of_which_nothing_can_be_told_is_told(sample_root, tmp_path):
    config = trial(sample_root, tmp_path, **SKIPS)
    pool = Pool(config, Blind())
    choose_round(pool, "points", 0)
    with pytest.raises(UserError, match=r"questions\.csv: none of its pixels could be told"):
        answer_round(pool, "points", 0)
    assert not pool.run.points("points", 0).exists()


def test_reserves_of_small_images_end_with_the_image(sample_root, tmp_path):
    config = trial(sample_root, tmp_path, answer_skips=0.1, reserve=5000)
    pool = Pool(config)
    choose_round(pool, "points", 0)
    found = by_image(read_questions(pool.run.questions("points", 0)))
    for sample, (width, height) in zip(pool.samples, native_sizes(pool.samples), strict=True):
        own, reserve = found[sample.name]
        assert len(own) == 3
        assert len(reserve) == min(5000, width * height - 3)


def test_to_know_what_could_not_be_told_each_picture_is_opened_once(
    sample_root, tmp_path, networks, measured
):
    config = trial(sample_root, tmp_path, **SKIPS)
    ask(config)
    pool = Pool(config)
    measured.clear()
    assert sum(map(len, pool.untold("points", 3)))
    assert sorted(measured) == sorted(sample.name for sample in pool.samples)
