"""The oracle tells what it is asked, counts it once, and is alone in opening masks."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import active_learning.oracle as oracle_module
import datasets.masks as masks
from active_learning.oracle import SPECK, MaskOracle, leak_regions
from datasets.images import read_mask
from datasets.index import Sample
from datasets.points import Point, read_points
from utils.errors import UserError

WIDTH, HEIGHT = 9, 6


def make(folder, name, mask, size=None):
    """Write an image and its mask (bool); the image has the mask's size unless one is given."""
    sample = Sample(name, folder / "images" / name, folder / "gts" / name, "TR", "")
    for path in (sample.image, sample.mask):
        path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size or mask.shape[::-1], (90, 20, 200)).save(sample.image)
    Image.fromarray(mask.astype(np.uint8) * 255).save(sample.mask)
    return sample


@pytest.fixture
def mask():
    return np.random.default_rng(3).random((HEIGHT, WIDTH)) < 0.4


@pytest.fixture
def sample(tmp_path, mask):
    return make(tmp_path, "größe 1.png", mask)


@pytest.fixture
def opened(monkeypatch):
    """The masks that the oracle opens, in order."""
    paths = []

    def spy(path):
        paths.append(path)
        return read_mask(path)

    monkeypatch.setattr(masks, "read_mask", spy)
    return paths


def test_answers_are_the_mask_at_x_y(tmp_path, sample, mask):
    y, x = (axis.ravel() for axis in np.indices(mask.shape))
    answers = MaskOracle(tmp_path / "ledger.csv").ask(sample, np.stack([x, y], axis=1), 2)
    expected = [
        Point(sample.name, int(a), int(b), int(mask[b, a]), 2) for a, b in zip(x, y, strict=True)
    ]
    assert answers == expected
    assert {type(value) for value in answers[0][1:]} == {int}


def test_the_ledger_is_the_set_of_asked_pixels_and_survives(tmp_path, sample, mask, opened):
    other = make(tmp_path, "other.png", ~mask)
    path = tmp_path / "oracle" / "ledger.csv"
    first = MaskOracle(path)
    first.ask(sample, np.array([[0, 0], [8, 5]]), 0)
    first.ask(other, np.array([[8, 5]]), 0)
    first.ask(sample, np.array([[8, 5], [3, 2]]), 1)
    assert not path.exists()
    first.save()
    expected = [
        Point(sample.name, 0, 0, int(mask[0, 0]), 0),
        Point(sample.name, 8, 5, int(mask[5, 8]), 0),
        Point(other.name, 8, 5, int(not mask[5, 8]), 0),
        Point(sample.name, 3, 2, int(mask[2, 3]), 1),
    ]
    assert read_points(path) == expected
    before = path.read_bytes()

    opened.clear()
    second = MaskOracle(path)
    second.ask(other, np.array([[1, 1]]), 2)
    second.save()
    assert read_points(path) == [*expected, Point(other.name, 1, 1, int(not mask[1, 1]), 2)]
    assert path.read_bytes().startswith(before)


def test_a_mask_is_opened_for_new_pixels_only(tmp_path, sample, opened):
    path = tmp_path / "ledger.csv"
    pixels = np.array([[0, 0], [8, 5], [4, 4]])
    oracle = MaskOracle(path)
    assert opened == []
    first = oracle.ask(sample, pixels, 0)
    assert opened == [sample.mask]
    assert oracle.ask(sample, pixels, 0) == first
    assert oracle.ask(sample, pixels[1:], 3) == [point._replace(round=3) for point in first[1:]]
    oracle.ask(sample, pixels[:0], 4)
    assert opened == [sample.mask]
    oracle.save()
    ledger = path.read_bytes()

    sample.mask.unlink()
    again = MaskOracle(path)
    assert again.ask(sample, pixels, 0) == first
    again.save()
    assert opened == [sample.mask]
    assert path.read_bytes() == ledger

    with pytest.raises(UserError, match="no such file"):
        again.ask(sample, np.array([[0, 0], [1, 0]]), 1)


def test_a_mask_that_was_prepared_is_opened_once(tmp_path, sample, opened):
    pixels = np.array([[0, 0], [8, 5], [4, 4]])
    plain = MaskOracle(tmp_path / "ledger.csv").ask(sample, pixels, 0)
    oracle = MaskOracle(tmp_path / "ledger.csv")
    opened.clear()
    oracle.prepare(sample, pixels)
    assert (opened, oracle.ledger) == ([sample.mask], {})
    assert oracle.ask(sample, pixels, 0) == plain
    oracle.prepare(sample, pixels[1:])
    assert opened == [sample.mask]


@pytest.mark.parametrize("size", [(WIDTH - 1, HEIGHT), (WIDTH, HEIGHT + 3), (HEIGHT, WIDTH)])
def test_a_mask_of_another_size_is_told(tmp_path, mask, size):
    sample = make(tmp_path, "odd.png", mask, size)
    oracle = MaskOracle(tmp_path / "ledger.csv")
    # The pixel lies in both: only the sizes tell that the mask is not the image's.
    told = rf"gts/odd\.png: {WIDTH} x {HEIGHT} pixels.*odd\.png has {size[0]} x {size[1]}: "
    with pytest.raises(UserError, match=told):
        oracle.ask(sample, np.array([[0, 0]]), 0)
    assert oracle.ledger == {}
    regions = np.zeros(size[::-1], np.int32)
    with pytest.raises(UserError, match=told):
        leak_regions(sample, np.array([[0, 0, 1]]), regions, tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


def test_a_damaged_ledger_is_told(tmp_path):
    path = tmp_path / "ledger.csv"
    path.write_text("image,x,y,label,round\na.png,1,1,7,0\n")
    with pytest.raises(UserError, match=r"ledger\.csv, line 2: label 7"):
        MaskOracle(path)


def test_leaked_regions_are_the_mask_in_asked_superpixels(tmp_path, sample, mask):
    regions = np.repeat(np.arange(3), 3)[None].repeat(HEIGHT, axis=0).astype(np.int32)
    label_map = leak_regions(sample, np.array([[0, 0, 1], [8, 5, 0]]), regions, tmp_path / "maps")
    expected = np.where(mask, 255, 0)
    expected[:, 3:6] = 128
    assert label_map.dtype == np.uint8
    assert (label_map == expected).all()
    stored = np.asarray(Image.open(tmp_path / "maps" / f"{sample.name}.png"))
    assert (stored == expected).all()


def names_in(path):
    """Every name, attribute and import of a source file; ``open`` only as what opens a file.

    (It is also the name of what nobody has answered yet.)
    """
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found |= {node.id} - ({"open"} if isinstance(node.ctx, ast.Store) else set())
        elif isinstance(node, ast.Attribute):
            found |= {node.attr} - ({"open"} if id(node) not in called else set())
        elif isinstance(node, ast.alias):
            found.update(node.name.split("."))
    return found


def test_only_the_oracle_can_open_a_mask():
    openers = {"read_mask", "read_grey", "ResizedMasks", "MASKS_FOLDER", "mask", "mask_of_image"}
    # What opens masks for others: a folder that is imported, and the report after the fact.
    openers |= {"answers_of_masks", "truths", "with_masks"}
    root = Path(oracle_module.__file__).parent
    sources = sorted(root.rglob("*.py"))
    assert {path.name for path in sources} >= {"query.py", "selection.py", "oracle.py"}
    using = {str(path.relative_to(root)): names_in(path) & openers for path in sources}
    assert {name: found for name, found in using.items() if found} == {
        "oracle.py": {"mask_of_image", "mask"},
        "exchange/__main__.py": {"answers_of_masks"},
        "report/trial.py": {"truths", "with_masks"},
        "report/points.py": {"truths"},
    }
    # Nor are files read by other means than those that read images, points and snapshots. (The
    # annotation server sends the files of its own page, see its tests; drafts read themselves.)
    readers = {"open", "imread", "imdecode", "fromfile", "Image", "read_bytes"}
    reading = {str(path.relative_to(root)): names_in(path) & readers for path in sources}
    assert {name: found for name, found in reading.items() if found} == {
        "annotate/server.py": {"read_bytes"},
        "draft.py": {"read_bytes"},
        "looked.py": {"open"},
    }


def pointed(tmp_path, mask, seeds=1, name="objects.png"):
    """What is pointed out in an image of this mask: one list of (x, y) a seed."""
    sample = make(tmp_path, name, mask)
    oracle = MaskOracle(tmp_path / "ledger.csv")
    found = [oracle.point_out(sample, np.random.default_rng(seed)) for seed in range(seeds)]
    assert oracle.ledger == {}
    for pixels in found:
        assert pixels.dtype == np.int64
        answers = oracle.ask(sample, pixels, 0)
        assert [p.label for p in answers] == [int(mask[y, x]) for x, y in pixels]
    return [[(int(x), int(y)) for x, y in pixels] for pixels in found]


def places(mask):
    return {(int(x), int(y)) for y, x in np.argwhere(mask)}


def test_a_person_points_at_each_object_and_beside(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    objects = [mask.copy() for _ in range(2)]
    objects[0][0:2, 0:2] = objects[0][2, 2] = True  # joined by a corner
    objects[1][3:6, 5:8] = True
    mask = objects[0] | objects[1]
    found = pointed(tmp_path, mask, 300)
    assert {len(pixels) for pixels in found} == {3}
    # Any pixel of a part may be chosen, and no other.
    for part, want in enumerate([*objects, ~mask]):
        assert {pixels[part] for pixels in found} == places(want)
    assert pointed(tmp_path, mask)[0] == found[0]


def test_specks_are_no_objects_unless_there_is_nothing_else(tmp_path):
    least = int(SPECK * 100 * 100)
    mask = np.zeros((100, 100), bool)
    mask[50, 0:least] = mask[60, 0 : least - 1] = mask[70, 0 : least - 2] = True
    for pixels in pointed(tmp_path, mask, 20):
        assert [y for _, y in pixels[:-1]] == [50]
        assert not mask[pixels[-1][::-1]]
    mask[50] = False
    assert [y for _, y in pointed(tmp_path, mask, name="specks.png")[0][:-1]] == [60]


def test_masks_without_objects_or_background(tmp_path):
    none = np.zeros((HEIGHT, WIDTH), bool)
    for name, mask in (
        ("empty.png", none),
        ("full.png", ~none),
        ("one.png", np.ones((1, 1), bool)),
    ):
        assert {len(pixels) for pixels in pointed(tmp_path, mask, 5, name)} == {1}


def test_pointing_needs_a_mask_of_the_image_s_size(tmp_path, mask):
    sample = make(tmp_path, "odd.png", mask, (WIDTH, HEIGHT + 1))
    with pytest.raises(UserError, match=r"gts/odd\.png: 9 x 6 pixels.*9 x 7: make them"):
        MaskOracle(tmp_path / "l.csv").point_out(sample, np.random.default_rng(0))
