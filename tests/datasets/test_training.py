"""What a training reads: reproducible items, whole masks, no point lost."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datasets import training
from datasets.augment import NONE, Augmentation, resize_map
from datasets.cache import ResizedImages, ResizedMasks
from datasets.groups import list_groups
from datasets.images import native_sizes, read_image, read_mask, write_png
from datasets.index import Sample, list_set
from datasets.superpixels import spread
from datasets.training import (
    EpochSampler,
    MaskLabels,
    PointLabels,
    TrainingSet,
    loader_faults,
    make_loader,
    sample_grid,
)
from utils.errors import UserError

SIZE = 48
STRONG = Augmentation(flip=0.5, crop=0.6, rotate=25.0, colour=0.3, pepper=0.01)
FLIPS = Augmentation(flip=0.5)


@pytest.fixture(scope="module")
def samples(sample_root):
    return list_set(sample_root, "SAMPLE-TR")[:8]


@pytest.fixture(scope="module")
def images(samples):
    return ResizedImages(samples, SIZE, 64, "test")


@pytest.fixture(scope="module")
def masks(samples):
    return ResizedMasks(samples, SIZE, 64, "test")


@pytest.fixture(scope="module")
def points(samples):
    """Ten points an image, two of them corners and two neighbours."""
    rng, found = np.random.default_rng(0), []
    for width, height in native_sizes(samples):
        pixels = [(0, 0), (width - 1, height - 1), (5, 5), (5, 6)]
        pixels += list(zip(rng.integers(0, width, 6), rng.integers(0, height, 6), strict=True))
        found.append(np.array([(x, y, i % 2) for i, (x, y) in enumerate(pixels)]))
    return found


@pytest.fixture(scope="module")
def labels(samples, points):
    return PointLabels(points, native_sizes(samples), SIZE)


def same(one, other):
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) and one[2] == other[2]


def test_items_have_the_promised_form(images, labels):
    pixels, counts, index, _ = TrainingSet(images, labels, STRONG, 0)[(1, 3)]
    assert pixels.shape == (3, SIZE, SIZE)
    assert counts.shape == (2, SIZE, SIZE)
    assert pixels.dtype == counts.dtype == torch.uint8
    assert index == 3


def test_without_augmentation_items_are_the_images(samples, images, masks):
    pixels, counts, _, _ = TrainingSet(images, MaskLabels(masks), NONE, 0)[(5, 2)]
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), images[2])
    assert np.array_equal(counts[1].numpy(), masks[2] >= 128)
    # The image is RGB and upright.
    native = read_image(samples[2].image)
    assert np.allclose(images[2].mean(axis=(0, 1)), native.mean(axis=(0, 1)), atol=1.0)


def test_an_item_is_fixed_by_seed_epoch_and_index_alone(images, labels):
    one, other = (TrainingSet(images, labels, STRONG, 3) for _ in range(2))
    keys = [(epoch, index) for epoch in range(2) for index in range(len(images))]
    first = {key: one[key] for key in keys}
    np.random.default_rng(0).shuffle(keys)
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    assert all(same(first[key], other[key]) for key in keys)
    # Each part of the key matters.
    assert not torch.equal(one[(0, 1)][0], one[(1, 1)][0])
    assert not torch.equal(one[(0, 1)][0], TrainingSet(images, labels, STRONG, 4)[(0, 1)][0])


def test_two_images_of_an_epoch_are_changed_differently(images, masks):
    twice = TrainingSet(FromArray(images[1], images[1]), MaskLabels([masks[1]] * 2), STRONG, 0)
    assert not torch.equal(twice[(0, 0)].image, twice[(0, 1)].image)


def test_augmentation_does_not_touch_the_cached_images(images, masks):
    before = images[0].copy(), masks[0].copy()
    dataset = TrainingSet(images, MaskLabels(masks), STRONG, 0)
    for epoch in range(5):
        dataset[(epoch, 0)]
    assert np.array_equal(images[0], before[0])
    assert np.array_equal(masks[0], before[1])


def test_workers_change_nothing(images, labels):
    epochs = []
    for workers in (0, 2):
        dataset = TrainingSet(images, labels, STRONG, 1)
        loader, sampler = make_loader(dataset, 3, 1, workers, pin_memory=False)
        batches = []
        for epoch in (0, 1):
            sampler.epoch = epoch
            batches += list(loader)
        epochs.append(batches)
    alone, helped = epochs
    assert len(alone) == len(helped) == 2 * (8 // 3)
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)
    assert alone[0].images.shape == (3, 3, SIZE, SIZE)
    assert alone[0].labels.shape == (3, 2, SIZE, SIZE)
    assert alone[0].indices.dtype == torch.int64
    assert {b.indices.tolist()[0] for b in alone[:2]} != {b.indices.tolist()[0] for b in alone[2:]}


def test_a_loader_process_shares_its_batches_itself(images, labels, monkeypatch):
    """Where a lack of shared memory is raised; the thread behind it would wait for ever."""
    dataset = TrainingSet(images, labels, NONE, 1, torch.zeros(8, 4, 4, dtype=torch.uint8))
    for within in (True, False):
        monkeypatch.setattr(training, "get_worker_info", lambda at=within: at or None)
        (batch, *_) = make_loader(dataset, 3, 1, 0, pin_memory=False)[0]
        tensors = [tensor for tensor in batch if tensor is not None]
        assert len(tensors) == 5
        assert all(tensor.is_shared() == within for tensor in tensors)


FULL = "unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)"
CAUGHT = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ...:\n"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed. ", "was killed, .*--workers"),
        ("DataLoader worker (pid(s) 7) exited unexpectedly", "was killed, .*--workers"),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory.",
            "/dev/shm: .*--shm-size",
        ),
        (FULL, "/dev/shm: .*--shm-size"),
        (CAUGHT + FULL, "/dev/shm: .*--shm-size"),
    ],
)
def test_what_a_loader_wants_of_the_machine_is_told_in_a_line(told, expected):
    with pytest.raises(UserError, match=expected), loader_faults():
        raise RuntimeError(told)


def test_a_defect_in_a_loader_process_is_not_taken_for_a_want_of_memory():
    told = CAUGHT + "stack expects each tensor to be equal size"
    with pytest.raises(RuntimeError, match="equal size"), loader_faults():
        raise RuntimeError(told)


def test_without_groups_a_batch_is_one_group(images, labels):
    loader, _ = make_loader(TrainingSet(images, labels, NONE, 1), 3, 1, 0, pin_memory=False)
    for batch in loader:
        assert batch.classes.dtype == torch.int64
        assert batch.classes.tolist() == [0, 0, 0]
        assert batch.groups == (3,)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_two_groups(sample_root, workers):
    samples = list_set(sample_root, "SAMPLE-CO-TR")[2:]  # the first of five groups loses two
    groups = list_groups(samples)
    masks = ResizedMasks(samples, SIZE, 64, "test")
    dataset = TrainingSet(ResizedImages(samples, SIZE, 64, "test"), MaskLabels(masks), NONE, 0)
    loader, sampler = make_loader(dataset, 6, 0, workers, pin_memory=False, groups=groups)
    sampler.epoch, seen = 4, set()
    batches, keys = list(loader), list(sampler)
    assert len(batches) == len(loader) == len(keys)
    for batch, wanted in zip(batches, keys, strict=True):
        indices = batch.indices.tolist()
        assert wanted == [(4, index) for index in indices]
        first, second = (samples[indices[at]].group for at in (0, -1))
        assert first != second
        sizes = tuple(2 if group == "crescent" else 3 for group in (first, second))
        assert batch.groups == sizes
        assert [samples[i].group for i in indices] == [first] * sizes[0] + [second] * sizes[1]
        assert [groups.names[number][1] for number in batch.classes] == [
            samples[i].group for i in indices
        ]
        assert batch.images.shape == (sum(sizes), 3, SIZE, SIZE)
        for index, image, label in zip(indices, batch.images, batch.labels, strict=True):
            assert torch.equal(image, dataset[(4, index)][0])
            assert torch.equal(label, dataset[(4, index)][1])
        seen |= {first, second}
    assert len(seen) == 5


def test_masks_keep_their_share_of_foreground(samples, masks):
    for index, sample in enumerate(samples):
        assert masks[index].mean() / 255 == pytest.approx(read_mask(sample.mask).mean(), abs=0.02)


@pytest.mark.parametrize("augmentation", [NONE, FLIPS, STRONG])
def test_mask_labels_sum_to_one_everywhere(images, masks, augmentation):
    dataset = TrainingSet(images, MaskLabels(masks), augmentation, 0)
    for index in range(len(images)):
        counts = dataset[(0, index)][1]
        assert (counts.sum(dim=0) == 1).all()
        assert 0 < counts[1].sum() < SIZE * SIZE


class FromArray:
    """Pictures given as arrays, with the face of ResizedImages and ResizedMasks."""

    def __init__(self, *pictures):
        self.pictures, self.size = pictures, pictures[0].shape[0]

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.pictures[index]


def test_masks_and_pseudo_labels_go_where_the_image_goes():
    y, x = np.mgrid[:SIZE, :SIZE]
    mask = np.where((x - 15) ** 2 + (y - 25) ** 2 < 90, 255, 0).astype(np.uint8)
    augmentation = Augmentation(flip=0.5, crop=0.6, rotate=25.0)
    image = np.repeat(mask[..., None], 3, axis=2)
    labels, pseudo = MaskLabels(FromArray(mask)), torch.from_numpy(mask[None])
    dataset = TrainingSet(FromArray(image), labels, augmentation, 0, pseudo)
    for epoch in range(20):
        pixels, counts, _, guessed = dataset[(epoch, 0)]
        assert torch.equal(pixels[0] >= 128, counts[1] == 1)
        assert torch.equal(pixels[0], guessed)


def test_points_go_where_the_image_goes():
    # One white pixel, and a point on it: after any change the point lies on the brightest pixels.
    augmentation, seen = Augmentation(flip=0.5, crop=0.6, rotate=25.0), 0
    for x, y in ((20, 11), (30, 40), (4, 25)):
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        image[y, x] = 255
        labels = PointLabels([np.array([[x, y, 1]])], [(SIZE, SIZE)], SIZE)
        dataset = TrainingSet(FromArray(image), labels, augmentation, 0)
        for epoch in range(30):
            pixels, counts, _, _ = dataset[(epoch, 0)]
            assert counts[0].sum() == 0
            assert counts[1].sum() <= 1
            if counts[1].sum():
                seen += 1
                assert pixels[0][counts[1] == 1].item() >= 0.9 * pixels[0].max().item() > 40
    assert seen > 60


@given(st.integers(1, 200), st.integers(1, 200), st.integers(32, 80), st.integers(0, 99), st.data())
def test_no_point_is_lost_without_crop_and_rotation(width, height, size, epoch, data):
    pixel = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1), st.integers(0, 1))
    rows = data.draw(st.lists(pixel, max_size=12))
    rows += [(x, y, 1) for x in (0, width - 1) for y in (0, height - 1)]
    points = np.array(rows)
    image = np.zeros((size, size, 3), np.uint8)
    labels = PointLabels([points], [(width, height)], size)
    dataset = TrainingSet(FromArray(image), labels, FLIPS, 0)
    counts = dataset[(epoch, 0)][1]
    assert counts[0].sum() == (points[:, 2] == 0).sum()
    assert counts[1].sum() == (points[:, 2] == 1).sum()


def test_point_labels_of_the_sample(samples, points, labels):
    for index in range(len(samples)):
        counts = labels.at(index, np.eye(3))
        assert counts.dtype == np.uint8
        assert counts[0].sum() == (points[index][:, 2] == 0).sum()
        assert counts[1].sum() == (points[index][:, 2] == 1).sum()
        assert counts[0, 0, 0] == 1
        assert counts[1, -1, -1] == 1


def test_an_image_without_points_has_no_labels():
    labels = PointLabels([np.zeros((0, 3), np.int64)], [(50, 40)], SIZE)
    assert labels.at(0, np.eye(3)).sum() == 0


def test_sample_grid_takes_the_pixel_under_the_centre():
    pixels = np.arange(6)[None, :] + 10 * np.arange(4)[:, None]
    assert sample_grid(pixels, 2).tolist() == [[11, 14], [31, 34]]
    assert np.array_equal(sample_grid(pixels[:, :4], 4), pixels[:, :4])
    assert sample_grid(np.array([[7]]), 3).tolist() == [[7] * 3] * 3
    # The inverse of resize_map, rounded, at every size.
    rng = np.random.default_rng(0)
    for width, height, size in rng.integers(1, 90, (50, 3)):
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        scale = np.linalg.inv(resize_map(width, height, size))
        centre = scale[[0, 1], [0, 1]] * np.arange(size)[:, None] + scale[:2, 2]
        ties = np.abs(centre - np.floor(centre) - 0.5) < 1e-6
        found = np.stack([sample_grid(x, size)[0], sample_grid(y, size)[:, 0]], axis=1)
        assert (found == np.floor(centre + 0.5))[~ties].all()


def test_region_labels_never_override_points():
    # The left half is one region, the right half another; in the left one the answers disagree.
    regions = np.zeros((60, 80), np.int64)
    regions[:, 40:] = 1
    points = np.array([[10, 10, 1], [20, 50, 0], [60, 30, 0]])
    # A map that says the opposite everywhere must not win against the answers.
    contrary = np.full((60, 80), 255, np.uint8)
    plain = PointLabels([points], [(80, 60)], SIZE).at(0, np.eye(3))
    asked = plain.sum(axis=0) > 0
    maps = [spread(points, regions)], [contrary]
    spreaded, fought = (PointLabels([points], [(80, 60)], SIZE, m).at(0, np.eye(3)) for m in maps)
    for found in (spreaded, fought):
        assert np.array_equal(found[:, asked], plain[:, asked])
    assert (fought[1][~asked] == 1).all()
    assert (fought[0][~asked] == 0).all()
    right = np.arange(SIZE) >= SIZE // 2
    assert (spreaded[0][:, right] == 1).all()
    assert (spreaded[:, :, ~right].sum(axis=0) == asked[:, ~right]).all()


def test_region_labels_go_where_the_image_goes():
    label_map = np.full((SIZE, SIZE), 128, np.uint8)
    label_map[10:30, 5:25] = 255
    label_map[5:40, 32:44] = 0
    image = np.repeat(label_map[..., None], 3, axis=2)
    points = np.zeros((0, 3), np.int64)
    labels = PointLabels([points], [(SIZE, SIZE)], SIZE, [label_map])
    augmentation = Augmentation(flip=0.5, crop=0.6, rotate=25.0)
    dataset = TrainingSet(FromArray(image), labels, augmentation, 0)
    for epoch in range(15):
        pixels, counts, _, _ = dataset[(epoch, 0)]
        assert counts.max() == 1
        assert (counts.sum(dim=0) <= 1).all()
        # Labels are not smeared over the borders of areas: there the nearest pixel counts, which
        # makes up a quarter of the interpolated value at least.
        assert (pixels[0][counts[1] == 1] >= 155).all()
        assert (pixels[0][counts[0] == 1] <= 100).all()
        for value, expected in ((0, (1, 0)), (128, (0, 0)), (255, (0, 1))):
            inside = pixels[0] == value
            assert inside.sum() > 50
            wrong = (counts[0] != expected[0]) | (counts[1] != expected[1])
            assert not (wrong & inside).any()


@pytest.mark.parametrize(("length", "batch"), [(12, 4), (13, 4), (3, 8), (2, 2), (5, 1)])
def test_an_epoch_takes_each_image_once(length, batch):
    sampler = EpochSampler(length, batch, 0)
    seen = set()
    for epoch in range(30):
        sampler.epoch = epoch
        batches = list(sampler)
        assert len(batches) == len(sampler) == max(1, length // batch)
        assert all(len(keys) == min(batch, length) == sampler.smallest for keys in batches)
        keys = [key for keys in batches for key in keys]
        assert {key[0] for key in keys} == {epoch}
        indices = [index for _, index in keys]
        assert len(set(indices)) == len(indices)
        assert set(indices) <= set(range(length))
        if length % min(batch, length) == 0:
            assert set(indices) == set(range(length))
        seen |= set(indices)
    # What one epoch leaves out, others take.
    assert seen == set(range(length))


def test_the_order_belongs_to_seed_and_epoch():
    def order(seed, epoch):
        sampler = EpochSampler(40, 8, seed)
        sampler.epoch = epoch
        return [index for keys in sampler for _, index in keys]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != sorted(order(0, 0))


def test_native_sizes_are_width_and_height(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((3, 7), np.uint8))
    sample = Sample("a.png", tmp_path / "a.png", tmp_path / "none", "S", "")
    assert native_sizes([sample, sample]) == [(7, 3), (7, 3)]
