"""Superpixels, their cache, and the spreading of answers over them."""

import resource
import shutil

import cv2
import numpy as np
import pytest

from datasets import superpixels as module
from datasets.images import read_image, write_png
from datasets.index import Sample, list_set
from datasets.superpixels import SuperpixelCache, read_label_map, spread, superpixels
from utils.errors import UserError
from utils.files import file_state


def picture(height, width, seed=0):
    """Soft patches of colour with some grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (6, 6, 3)).astype(np.float32)
    soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(soft + rng.normal(0, 5, soft.shape), 0, 255).astype(np.uint8)


def check(regions, shape):
    assert regions.shape == shape
    assert regions.dtype == np.int32
    total = int(regions.max()) + 1
    assert np.array_equal(np.unique(regions), np.arange(total))
    for region in range(total):
        found, _ = cv2.connectedComponents((regions == region).astype(np.uint8), connectivity=4)
        assert found == 2, f"region {region} is in {found - 1} parts"
    return total


@pytest.mark.parametrize(
    ("height", "width"), [(120, 120), (90, 160), (160, 90), (60, 240), (240, 60)]
)
@pytest.mark.parametrize("count", [50, 150])
def test_the_count_is_near_the_wish_whatever_the_shape(height, width, count):
    total = check(superpixels(picture(height, width), count), (height, width))
    assert 0.6 * count < total < 1.5 * count


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 3), (7, 200), (200, 7), (1, 50)])
@pytest.mark.parametrize("count", [1, 5, 400])
def test_tiny_pictures_get_a_region_a_pixel(height, width, count):
    total = check(superpixels(picture(height, width), count), (height, width))
    assert total == height * width


@pytest.mark.parametrize("contrib", [True, False])
@pytest.mark.parametrize(("height", "width", "count"), [(8, 8, 1), (8, 8, 3), (8, 300, 20)])
def test_small_pictures_are_cut(height, width, count, contrib, monkeypatch):
    if not contrib:
        monkeypatch.delattr(cv2, "ximgproc")
    total = check(superpixels(picture(height, width), count), (height, width))
    assert total < height * width / 4


def test_flat_pictures_are_cut_too():
    total = check(superpixels(np.full((80, 100, 3), 77, np.uint8), 80), (80, 100))
    assert 48 < total < 120


def test_regions_follow_a_strong_edge():
    image = np.full((96, 96, 3), 20, np.uint8)
    image[:, 41:] = (230, 200, 40)
    regions = superpixels(image, 64)
    left, right = set(np.unique(regions[:, :39])), set(np.unique(regions[:, 43:]))
    assert not left & right


def test_superpixels_repeat_themselves():
    image = picture(70, 90)
    assert np.array_equal(superpixels(image, 60), superpixels(image.copy(), 60))


@pytest.fixture
def sample(sample_root):
    return list_set(sample_root, "SAMPLE-TR")[0]


def test_the_cache_gives_what_computing_gives(sample, tmp_path, monkeypatch):
    expected = superpixels(read_image(sample.image), 40)
    cache = SuperpixelCache(tmp_path, 40)
    first = cache(sample)
    assert len(list(tmp_path.rglob("*.png"))) == 1
    # From here on nothing may be computed: the file, or the test fails.
    monkeypatch.setattr(module, "superpixels", lambda *_: pytest.fail("computed again"))
    second = SuperpixelCache(tmp_path, 40)(sample)
    for found in (first, second):
        assert np.array_equal(found, expected)
        assert found.dtype == np.int32


def test_the_cache_tells_counts_and_images_apart(sample_root, tmp_path):
    one, two, *_ = list_set(sample_root, "SAMPLE-TR")
    found = [SuperpixelCache(tmp_path, count)(s) for count in (10, 40) for s in (one, two)]
    expected = [superpixels(read_image(s.image), count) for count in (10, 40) for s in (one, two)]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(list(tmp_path.rglob("*.png"))) == 4


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "bits", "8-bit", "other size"])
def test_a_damaged_cache_file_is_made_again(sample, tmp_path, damage):
    cache = SuperpixelCache(tmp_path, 40)
    expected = cache(sample)
    (path,) = tmp_path.rglob("*.png")
    whole = path.read_bytes()
    if damage == "8-bit":
        write_png(path, np.zeros(expected.shape, np.uint8))
        plain = path.read_bytes()
        path.write_bytes(plain[:33] + whole[33 : whole.index(b"IDAT") - 4] + plain[33:])
    elif damage == "other size":
        cv2.imwrite(str(path), np.zeros((5, 5), np.uint16))
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        contents = {"empty": b"", "truncated": whole[:middle], "text": b"no png", "bits": flipped}
        path.write_bytes(contents[damage])
    assert np.array_equal(cache(sample), expected)
    assert path.read_bytes() == whole


def test_a_replaced_picture_gets_new_superpixels_and_no_other(sample_root, tmp_path):
    """Another picture of the same size, in the same place."""
    root = shutil.copytree(sample_root, tmp_path / "data")
    one, two, *_ = list_set(root, "SAMPLE-TR")
    cache = SuperpixelCache(tmp_path / "cache", 40)
    old = cache(one)
    cache(two)
    kept = tmp_path / "cache" / "40" / f"{two.name}.png"
    before = file_state(kept)
    cv2.imwrite(str(one.image), picture(*old.shape)[..., ::-1])
    found = cache(one)
    assert not np.array_equal(found, old)
    assert np.array_equal(found, superpixels(read_image(one.image), 40))
    assert np.array_equal(cache(one), found)
    cache(two)
    assert file_state(kept) == before


def test_superpixels_of_a_version_that_noted_no_picture_are_made_again(sample, tmp_path):
    cache = SuperpixelCache(tmp_path, 40)
    expected = cache(sample)
    (path,) = tmp_path.rglob("*.png")
    whole = path.read_bytes()
    cv2.imwrite(str(path), np.zeros(expected.shape, np.uint16))
    assert np.array_equal(cache(sample), expected)
    assert path.read_bytes() == whole


def test_a_full_disk_is_no_file(sample, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The largest size of a file stands for a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(UserError, match="larger than this system lets files be"):
            SuperpixelCache(tmp_path, 40)(sample)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.rglob("*.png"))


def test_more_regions_than_16_bits_are_not_cut_off(tmp_path):
    write_png(tmp_path / "long.png", picture(7, 9500))
    sample = Sample("long.png", tmp_path / "long.png", tmp_path / "none", "S", "")
    cache = SuperpixelCache(tmp_path / "cache", 40)
    for _ in range(2):
        assert cache(sample).max() == 7 * 9500 - 1


REGIONS = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]], np.int32)


def test_answers_fill_their_regions():
    found = spread(np.array([[0, 0, 1], [3, 1, 0]]), REGIONS)
    assert found.dtype == np.uint8
    assert found.tolist() == [[255, 255, 0, 0], [255, 255, 0, 0], [128, 128, 128, 128]]


def test_answers_that_agree_fill_their_region_once():
    found = spread(np.array([[0, 0, 1], [1, 1, 1], [2, 2, 0], [3, 2, 0]]), REGIONS)
    assert found.tolist() == [[255, 255, 128, 128], [255, 255, 128, 128], [128, 128, 0, 0]]


def test_answers_that_disagree_stand_alone():
    found = spread(np.array([[0, 0, 1], [1, 1, 0], [0, 1, 1], [2, 0, 1]]), REGIONS)
    assert found.tolist() == [[255, 128, 255, 255], [255, 0, 255, 255], [128, 128, 128, 128]]


def test_the_order_of_answers_does_not_matter():
    rng = np.random.default_rng(0)
    regions = superpixels(picture(60, 80), 30)
    pixels = rng.choice(60 * 80, 40, replace=False)
    points = np.stack([pixels % 80, pixels // 80, rng.integers(0, 2, 40)], axis=1)
    found = spread(points, regions)
    assert np.array_equal(spread(points[::-1], regions), found)
    assert (found[points[:, 1], points[:, 0]] == points[:, 2] * 255).all()
    asked = np.isin(regions, regions[points[:, 1], points[:, 0]])
    assert (found[~asked] == 128).all()


def test_no_answers():
    assert (spread(np.zeros((0, 3), np.int64), REGIONS) == 128).all()


def test_label_maps_are_read_back(tmp_path):
    label_map = spread(np.array([[0, 0, 1], [3, 1, 0]]), REGIONS)
    write_png(tmp_path / "a.png", label_map)
    assert np.array_equal(read_label_map(tmp_path / "a.png", (3, 4)), label_map)


@pytest.mark.parametrize("content", [None, b"", b"no png", "truncated", "shape"])
def test_damaged_label_maps_are_refused(tmp_path, content):
    path, shape = tmp_path / "a.png", (30, 40)
    write_png(path, picture(30, 40)[..., 0])
    if content is None:
        path.unlink()
    elif content == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    elif content == "shape":
        shape = (40, 30)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png: missing or damaged label map"):
        read_label_map(path, shape)
