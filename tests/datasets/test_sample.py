"""The drawn sets: sound, repeatable, and as hard as they say."""

import hashlib
import shutil
from collections import Counter

import cv2
import numpy as np
import pytest

from datasets.check import check_data
from datasets.images import read_image, read_mask
from datasets.index import list_set
from datasets.sample import GROUP_SHAPES, SETS, _jobs, _objects, main, make_sample
from datasets.sample_shapes import SHAPES, rasterise
from utils.errors import UserError

FIRST_SHARES = {
    "SAMPLE-TR": [0.1853, 0.1548, 0.1153, 0.2393],
    "SAMPLE-TE": [0.1769, 0.1542, 0.2191, 0.1451],
}


def digest(root):
    """Hash every picture's and mask's pixels, by name."""
    return {
        (sample.set, sample.name): hashlib.sha256(
            read_image(sample.image).tobytes() + read_mask(sample.mask).tobytes()
        ).hexdigest()
        for name in SETS
        for sample in list_set(root, name)
    }


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("sample") / "d", train=40, test=20)


def test_sets_are_sound(sample):
    train, test = "SAMPLE-TR+SAMPLE-CO-TR", "SAMPLE-TE+SAMPLE-CO-TE"
    assert check_data(sample, train, test, progress=False) == []
    assert [len(list_set(sample, name)) for name in SETS] == [40, 20, 40, 20]


def test_sets_are_split_for_groups(sample):
    for name, each in (("SAMPLE-CO-TR", 8), ("SAMPLE-CO-TE", 4)):
        counts = Counter(one.group for one in list_set(sample, name))
        assert counts == dict.fromkeys(GROUP_SHAPES, each)
    few = Counter(job.set for job in _jobs(train=1, test=1))
    assert few["SAMPLE-CO-TR"] == 4 * len(GROUP_SHAPES)
    assert few["SAMPLE-CO-TE"] == 3 * len(GROUP_SHAPES)


def test_flat_pictures_are_those_of_earlier_versions(sample):
    """Shares of object in the first masks: another stream of random numbers would change them."""
    for name, expected in FIRST_SHARES.items():
        found = [read_mask(one.mask).mean() for one in list_set(sample, name)[:4]]
        assert found == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("group", GROUP_SHAPES)
def test_neither_order_nor_place_tells_the_marked_object(group):
    rng, size = np.random.default_rng(0), (40, 50)
    orders, places = [], []
    for _ in range(60):
        (one, marked), (other, other_marked) = _objects(rng, *size, group)
        assert marked != other_marked
        shared, distractor = (one, other) if marked else (other, one)
        orders.append(marked)
        places.append(np.nonzero(shared)[1].mean() < np.nonzero(distractor)[1].mean())
    for found in (orders, places):
        assert 0.25 < np.mean(found) < 0.75


def test_images_vary_in_shape_and_masks_in_share(sample):
    shapes, shares = set(), []
    for name in SETS[:2]:
        for one in list_set(sample, name):
            mask = read_mask(one.mask)
            assert max(mask.shape) == 128
            assert min(mask.shape) >= 0.7 * 128 - 1
            shapes.add(mask.shape)
            shares.append(mask.mean())
    assert {h > w for h, w in shapes} == {True, False}
    assert np.mean([0.08 <= share <= 0.35 for share in shares]) > 0.9
    assert np.std(shares) > 0.03


def test_groups_mark_one_of_two_objects(sample):
    groups = {}
    for one in list_set(sample, "SAMPLE-CO-TR") + list_set(sample, "SAMPLE-CO-TE"):
        groups.setdefault(one.group, []).append(read_mask(one.mask))
    assert set(groups) == set(GROUP_SHAPES)
    for masks in groups.values():
        assert len(masks) == 12
        for mask in masks:
            assert 0.03 < mask.mean() < 0.2
            # within one half of the picture, as the other half holds the other object
            long = 1 if mask.shape[1] >= mask.shape[0] else 0
            places = np.nonzero(mask)[long]
            assert np.ptp(places) <= mask.shape[long] / 2


def test_mask_is_where_objects_cover_half_a_pixel(tmp_path, monkeypatch):
    drawn = []

    def spy(*args):
        drawn.append(rasterise(*args))
        return drawn[-1]

    monkeypatch.setattr("datasets.sample.rasterise", spy)
    make_sample(tmp_path, train=12, test=1, size=64)
    for one in list_set(tmp_path, "SAMPLE-TR"):
        mask = read_mask(one.mask)
        coverage = drawn.pop(0)
        if ((coverage >= 0.5) != mask).any():
            coverage = np.maximum(coverage, drawn.pop(0))
        np.testing.assert_array_equal(coverage >= 0.5, mask)


def test_colour_alone_does_not_tell_the_object(sample):
    """Even a threshold tuned on each picture along its best colour axis leaves many errors."""
    scores = []
    for one in list_set(sample, "SAMPLE-TE"):
        image, mask = read_image(one.image).astype(float), read_mask(one.mask)
        axis = image[mask].mean(0) - image[~mask].mean(0)
        value = image @ axis
        cuts = np.quantile(value, np.linspace(0.3, 0.99, 40))
        scores.append(max((m & mask).sum() / (m | mask).sum() for m in (value > c for c in cuts)))
    assert 0.3 < np.mean(scores) < 0.9


def test_made_twice_it_is_the_same(sample, tmp_path):
    np.random.seed(1)  # noqa: NPY002  the global state must not matter
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1 if threads != 1 else 2)
    try:
        again = make_sample(tmp_path, train=4, test=5)
    finally:
        cv2.setNumThreads(threads)
    first, second = digest(sample), digest(again)
    assert len(second) == 4 + 5 + 20 + 15
    assert {key: first[key] for key in second} == second
    other = digest(make_sample(tmp_path / "other", train=4, test=5, seed=1))
    assert not set(other.values()) & set(second.values())
    assert len(set(first.values())) == len(first)


def test_finished_set_is_left_alone(tmp_path):
    make_sample(tmp_path, train=1, test=1, size=32)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    make_sample(tmp_path, train=1, test=1, size=32)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(UserError, match=r"sample.json: a sample set of other settings"):
        make_sample(tmp_path, train=2, test=1, size=32)


def test_interrupted_set_is_completed(tmp_path, monkeypatch):
    whole = digest(make_sample(tmp_path / "whole", train=3, test=1, size=32))
    calls = []

    def stop(path, array):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("datasets.sample.write_png", stop)
        with pytest.raises(KeyboardInterrupt):
            make_sample(tmp_path / "d", train=3, test=1, size=32)
    assert digest(make_sample(tmp_path / "d", train=3, test=1, size=32)) == whole


def test_other_data_is_not_overwritten(tmp_path):
    make_sample(tmp_path, train=1, test=1, size=32)
    (tmp_path / "sample.json").unlink()
    shutil.rmtree(tmp_path / "images" / "SAMPLE-TR")
    with pytest.raises(UserError, match="choose another --out"):
        make_sample(tmp_path, train=1, test=1, size=32)


@pytest.mark.parametrize("bad", [{"train": 0}, {"test": 0}, {"size": 31}, {"seed": -1}])
def test_bad_numbers(tmp_path, bad):
    with pytest.raises(UserError, match=f"--{next(iter(bad))}"):
        make_sample(tmp_path, **bad)
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "d"), "--train", "2", "--test", "1", "--size", "40"]
    assert main(arguments) == 0
    assert "SAMPLE-TR" in capsys.readouterr().out
    assert len(list_set(tmp_path / "d", "SAMPLE-TR")) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--ou", "x"], r"unknown flag --ou; did you mean '--out'\?"),
        ([], "--out is missing: name the folder"),
        (["--out", "x", "--train", "many"], "argument --train: invalid int value"),
    ],
)
def test_bad_arguments_are_one_line(arguments, told):
    with pytest.raises(UserError, match=told) as raised:
        main(arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_have_the_wanted_area_inside_their_box(name):
    box = (40.0, 10.0, 150.0, 110.0)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        coverage = rasterise(SHAPES[name](rng), rng, (120, 160), box, 0.1)
        assert coverage.dtype == np.float32
        assert coverage.min() == 0
        assert coverage.max() == 1
        rows, columns = np.nonzero(coverage)
        assert columns.min() >= 39
        assert columns.max() <= 150
        assert rows.min() >= 9
        assert rows.max() <= 110
        # drawn outlines count whole pixels, so a thin shape may come out a little larger
        assert coverage.mean() == pytest.approx(0.1, rel=0.15) or name in ("figure", "insect")
        assert 0.05 < coverage.mean() < 0.12
