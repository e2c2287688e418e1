"""The teacher: which snapshots it asks, and what it makes of their maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import active_learning.self_training as self_training
from active_learning.agreement import agree
from active_learning.cutting import by_colours, overlap
from active_learning.looked import Looked
from active_learning.self_training import Taught, Teacher, look_size
from config import Config
from datasets.augment import NONE
from datasets.cache import ResizedImages
from datasets.images import native_sizes
from datasets.index import list_set
from datasets.training import PointLabels, TrainingSet
from models.mean_maps import mean_maps
from models.saliency_net import SaliencyNet
from models.stored import load_model, parts_of
from utils.checkpoints import load_checkpoint, save_checkpoint
from utils.device import choose_machine
from utils.errors import UserError
from utils.settings import to_dict
from utils.stopping import Stopped

SIZE = 32
MACHINE = choose_machine("cpu", "fp32")
DEFAULT = Taught(snapshots=3, side=64, agree=True, cut=True, trust=0.5)


@pytest.fixture
def images(sample_root: Path) -> ResizedImages:
    return ResizedImages(list_set(sample_root, "SAMPLE-TE"), SIZE, 64, "test")


def save_snapshot(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = SaliencyNet("mobilenet_v2", 8, parts_of(to_dict(Config()), 0))
    torch.nn.init.constant_(model.head.bias, seed - 1.0)
    settings = {**to_dict(Config()), "backbone": "mobilenet_v2", "width": 8, "size": SIZE}
    save_checkpoint(path, {"model": model.state_dict(), "config": settings})
    return path


def teacher_of(
    images: ResizedImages, own: Path | None, earlier: Path | None, how: Taught = DEFAULT
) -> Teacher:
    count = len(images)
    points = PointLabels([np.zeros((0, 3), np.int64)] * count, [(64, 48)] * count, images.size)
    return Teacher(images, points, [range(count)], 4, own, earlier, how)


def names_after(teacher: Teacher, epochs: range) -> list[list[str]]:
    names = []
    for epoch in epochs:
        teacher.look(epoch, MACHINE)
        names.append([f"{path.parent.name}/{path.stem[-1]}" for path in teacher.seen])
    return names


def test_the_newest_snapshots_teach(images: ResizedImages, tmp_path: Path) -> None:
    own, earlier, none = (tmp_path / name for name in ("own", "earlier", "none"))
    for folder, epoch in ((own, 1), (own, 3), (earlier, 1), (earlier, 2)):
        save_snapshot(folder / f"epoch_000{epoch}.pth", epoch)
    before = ["earlier/1", "earlier/2"]
    # A kill between a snapshot and the epoch's last.pth leaves a snapshot of no whole epoch.
    assert names_after(teacher_of(images, own, earlier), range(4)) == [
        before,
        ["own/1"],
        ["own/1"],
        ["own/1", "own/3"],
    ]
    save_snapshot(own / "epoch_0004.pth", 4)
    two = Taught(2, SIZE, False, False)
    assert names_after(teacher_of(images, own, earlier, two), range(4, 5)) == [["own/3", "own/4"]]
    alone = Taught(1, SIZE, False, False)
    assert names_after(teacher_of(images, own, earlier, alone), range(2)) == [before[1:], ["own/1"]]
    assert names_after(teacher_of(images, own, None), range(2)) == [[], ["own/1"]]
    assert names_after(teacher_of(images, none, earlier), range(2)) == [before] * 2
    assert names_after(teacher_of(images, none, None), range(1)) == [[]]
    with pytest.raises(UserError, match=r"none: no snapshots .* train the round before"):
        teacher_of(images, own, none).look(0, MACHINE)
    assert names_after(teacher_of(images, own, none), range(1, 2)) == [["own/1"]]


def test_own_snapshots_need_not_teach(images: ResizedImages, tmp_path: Path) -> None:
    for folder in ("own", "earlier"):
        save_snapshot(tmp_path / folder / "epoch_0001.pth", 1)
    teacher = teacher_of(images, None, tmp_path / "earlier")
    assert names_after(teacher, range(3)) == [["earlier/1"]] * 3


def test_the_overlap_of_map_and_cut_by_hand() -> None:
    prob, made = np.array([[0.5, 0.25], [1.0, 0.0]]), np.array([[True, False], [True, True]])
    assert overlap(prob, made) == pytest.approx((0.5 + 1.0) / (1 + 0.25 + 1 + 1))
    assert overlap(made.astype(float), made) == 1
    assert overlap(prob, np.zeros((2, 2), bool)) == 0
    assert overlap(np.zeros((2, 2)), np.zeros((2, 2), bool)) == 0


@pytest.mark.parametrize(("trust", "share"), [(0.0, 1.0), (1.0, 0.0)])
def test_how_much_is_trusted_is_given(
    images: ResizedImages, tmp_path: Path, trust: float, share: float
) -> None:
    save_snapshot(tmp_path / "own/epoch_0001.pth", 1)
    how = Taught(3, SIZE, False, True, trust)
    teacher = teacher_of(images, tmp_path / "own", None, how)
    assert not teacher.trusted.any()
    teacher.look(1, MACHINE)
    assert teacher.trusted.double().mean() == share


def test_networks_that_diverged_do_not_teach(images: ResizedImages, tmp_path: Path) -> None:
    path = save_snapshot(tmp_path / "own/epoch_0001.pth", 1)
    state = load_checkpoint(path)
    state["model"]["head.bias"].fill_(float("nan"))
    save_checkpoint(path, state)
    with pytest.raises(UserError, match=r"own: what its networks make .* the training diverged"):
        teacher_of(images, tmp_path / "own", None).look(1, MACHINE)


def test_networks_that_binarise_teach_by_their_maps_before_that(images: ResizedImages) -> None:
    torch.manual_seed(0)
    parts = parts_of(to_dict(Config(binarise="decoder")), 0)
    model = SaliencyNet("mobilenet_v2", 8, parts).eval()
    teacher = teacher_of(images, None, None, Taught(1, SIZE, agree=False))
    for index, _, prob, _ in teacher._agreed([model], MACHINE, teacher.pieces):
        pixels = images.batch([index]).float() / 255
        with torch.no_grad():
            ways = [model(pixels), model(pixels.flip(-1))]
        both = torch.stack([ways[0].soft_logits, ways[1].soft_logits.flip(-1)])
        assert prob == pytest.approx(both.sigmoid().mean(0)[0, 0].numpy(), abs=1e-5)
        assert abs(prob - ways[0].logits.sigmoid()[0, 0].numpy()).mean() > 0.1


@pytest.mark.parametrize("agreed", [False, True])
def test_maps_are_cut_from_the_mean_map_of_image_and_mirror_image(
    images: ResizedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agreed: bool
) -> None:
    seen = {}

    def watched(
        image: np.ndarray, prob: np.ndarray, labels: np.ndarray, by: str, seed: int
    ) -> np.ndarray:
        seen[seed] = (image, prob, labels)
        return np.full(prob.shape, 255 * (seed % 2), np.uint8)

    monkeypatch.setattr(self_training, "cut", watched)
    paths = [save_snapshot(tmp_path / f"own/epoch_000{epoch}.pth", epoch) for epoch in (1, 2)]
    teacher = teacher_of(images, tmp_path / "own", None, Taught(3, 2 * SIZE, agreed, True))
    teacher.labels.points[3] = np.array([[63, 47, 1]])
    teacher.look(2, MACHINE)
    models = [load_model(path, MACHINE)[0] for path in paths]
    how = {"mirrored": True, "side": 2 * SIZE, "with_features": True}
    for found in mean_maps(models, images, [range(len(images))], 3, MACHINE, **how):
        answers = torch.stack([torch.zeros(2, SIZE, SIZE)] * len(found.indices))
        for index, labels in zip(found.indices, answers, strict=True):
            labels[1, -1, -1] = index == 3
        expected = found.maps
        if agreed:
            expected = agree(found.maps, found.features, found.images, answers)
        for index, row in zip(found.indices, expected, strict=True):
            image, prob, labels = seen[index]
            np.testing.assert_allclose(prob, by_colours(images[index], row.numpy()), atol=2e-3)
            assert np.array_equal(image, images[index])
            assert labels.sum() == (index == 3)
            common = overlap(prob, np.full(prob.shape, index % 2 == 1))
            assert teacher.trusted[index] == (common >= 0.5)
            label = 255 * (index % 2) if teacher.trusted[index] else 255 * row.numpy()
            np.testing.assert_allclose(teacher.maps[index], label, atol=0.6)
    assert teacher.trusted.unique().tolist() == [False, True]
    seen.clear()
    teacher.look(2, MACHINE)
    assert not seen


@pytest.mark.parametrize("value", [0.2, 0.8])
def test_a_cut_is_trusted_by_the_map_that_colours_have_corrected(
    images: ResizedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Else the map that was there before is the label."""
    before = {}

    def corrected(image: np.ndarray, prob: np.ndarray) -> np.ndarray:
        before[image.tobytes()] = prob
        return np.full(prob.shape, value)

    monkeypatch.setattr(self_training, "by_colours", corrected)
    monkeypatch.setattr(self_training, "cut", lambda *args, seed: np.full((SIZE, SIZE), 255))
    save_snapshot(tmp_path / "own/epoch_0001.pth", 1)
    teacher = teacher_of(images, tmp_path / "own", None)
    teacher.look(1, MACHINE)
    assert (teacher.trusted == (value > 0.5)).all()
    for index, label in enumerate(teacher.maps.numpy()):
        prob = before[images[index].tobytes()]
        assert 0.3 < overlap(prob, np.full(prob.shape, True)) < 0.7
        np.testing.assert_allclose(label, 255 if value > 0.5 else 255 * prob, atol=0.6)


@pytest.mark.parametrize("by", ["smoothing", "grabcut"])
def test_maps_are_cut_as_they_are_where_colours_do_not_count(
    images: ResizedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.delattr(self_training, "by_colours")
    seen = []

    def watched(
        image: np.ndarray, prob: np.ndarray, labels: np.ndarray, by: str, seed: int
    ) -> np.ndarray:
        assert by == how.cut_by
        seen.append(seed)
        return np.uint8(255) * (prob > 0.5)

    monkeypatch.setattr(self_training, "cut", watched)
    save_snapshot(tmp_path / "own/epoch_0001.pth", 1)
    how = dataclasses.replace(DEFAULT, colours=False, cut_by=by)
    teacher_of(images, tmp_path / "own", None, how).look(1, MACHINE)
    assert sorted(seen) == list(range(len(images)))


@pytest.mark.parametrize("coloured", [False, True])
def test_maps_that_are_not_cut_are_taken_at_one_half(
    images: ResizedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coloured: bool
) -> None:
    monkeypatch.delattr(self_training, "cut")
    monkeypatch.setattr(self_training, "by_colours", by_colours if coloured else None)
    path = save_snapshot(tmp_path / "own/epoch_0001.pth", 1)
    how = Taught(3, SIZE, False, False, trust=0.0, colours=coloured)
    teacher = teacher_of(images, tmp_path / "own", None, how)
    everyone = [range(len(images))]
    state, models = load_checkpoint(path), [load_model(path, MACHINE)[0]]
    seen = [found.maps.logit() for found in mean_maps(models, images, everyone, 4, MACHINE)]
    state["model"]["head.bias"] -= torch.cat(seen).median()
    save_checkpoint(path, {"model": state["model"], "config": state["config"]})
    teacher.look(1, MACHINE)
    models = [load_model(path, MACHINE)[0]]
    for found in mean_maps(models, images, everyone, 4, MACHINE, mirrored=True):
        indices, maps = found.indices, found.maps
        if coloured:
            pairs = zip(indices, maps.numpy(), strict=True)
            maps = torch.from_numpy(np.stack([by_colours(images[i], one) for i, one in pairs]))
        assert np.array_equal(teacher.maps[list(indices)], 255 * (maps > 0.5).byte())
    assert teacher.maps.unique().tolist() == [0, 255]


def test_large_images_are_cut_small_and_grown_again(
    images: ResizedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(
        image: np.ndarray, prob: np.ndarray, labels: np.ndarray, by: str, seed: int
    ) -> np.ndarray:
        seen.append((image, prob, labels))
        return np.uint8(255) * (np.indices(prob.shape)[0] < 8)

    monkeypatch.setattr(self_training, "cut", watched)
    monkeypatch.setattr(self_training, "CUT_SIZES", (SIZE // 2, 8))
    save_snapshot(tmp_path / "own/epoch_0001.pth", 1)
    how = dataclasses.replace(DEFAULT, trust=0.0)
    teacher = teacher_of(images, tmp_path / "own", None, how)
    teacher.labels.points[:] = [np.array([[63, 0, 1], [0, 47, 0]])] * len(images)
    teacher.look(1, MACHINE)
    for image, prob, labels in seen:
        assert (image.shape, prob.shape) == ((16, 16, 3), (16, 16))
        assert labels.shape == (2, 16, 16)
        assert (labels[1, 0, 15], labels[0, 15, 0], labels.sum()) == (1, 1, 2)
    dataset = TrainingSet(images, teacher.labels, NONE, 0, teacher.maps)
    upper = torch.arange(SIZE)[:, None].expand(-1, SIZE) < 16
    assert torch.equal(dataset[0, 0].pseudo >= 128, upper)


def test_fine_maps_shrink_to_what_a_training_sees(images: ResizedImages) -> None:
    """A map three times as fine: a column of which a third, or two, is foreground; then all."""
    count, size = len(images), 3 * SIZE
    points = PointLabels([np.zeros((0, 3), np.int64)] * count, [(64, 48)] * count, SIZE)
    maps = torch.zeros((count, size, size), dtype=torch.uint8)
    maps[:, :, 1 * 3 + 2 : 2 * 3] = 255
    maps[:, :, 4 * 3 + 1 :] = 255
    row = TrainingSet(images, points, NONE, 0, maps)[0, 0].pseudo[7].tolist()
    assert row == [0, 85, 0, 0, 170] + [255] * (SIZE - 5)


@pytest.mark.parametrize(
    ("cut", "settings", "expected"),
    [
        (40, {"pseudo_scale": 1.0}, 40),
        (16, {"pseudo_scale": 1.0}, SIZE),
        (40, {"pseudo_scale": 1.5}, 64),
        (999, {"pseudo_scale": 1.0}, "the largest picture's"),
        (16, {"pseudo_scale": 4.0}, "the largest picture's"),
        (999, {"size": 256}, 256),
        (999, {"pseudo_finer": False}, SIZE),
    ],
)
def test_pictures_are_as_fine_as_they_are_looked_at_or_cut_and_no_finer_than_they_are(
    images: ResizedImages,
    monkeypatch: pytest.MonkeyPatch,
    cut: int,
    settings: dict[str, object],
    expected: int | str,
) -> None:
    largest = max(map(max, native_sizes(images.samples)))
    assert 64 <= largest < 4 * SIZE
    monkeypatch.setattr(self_training, "CUT_SIZES", (cut, 16))
    found = look_size(native_sizes(images.samples), Config(**{"size": SIZE} | settings))
    assert found == (largest if isinstance(expected, str) else expected)


def test_the_maps_of_a_large_set_are_small(
    images: ResizedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = len(images) * SIZE**2
    for most, size in ((whole, SIZE), (whole - 1, 16)):
        monkeypatch.setattr(self_training, "MOST_BYTES", most)
        monkeypatch.setattr(self_training, "CUT_SIZES", (2 * SIZE, 16))
        teacher = teacher_of(images, None, None)
        assert (teacher.size, teacher.maps.shape[1:]) == (size, (size, size))


def test_a_look_reads_each_picture_of_no_group_once(
    images: ResizedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_snapshot(tmp_path / "own/epoch_0001.pth", 1)
    fine, read = ResizedImages(images.samples, 2 * SIZE, 0, "test"), []
    decode = fine.decode
    monkeypatch.setattr(fine, "decode", lambda index: read.append(index) or decode(index))
    teacher_of(fine, tmp_path / "own", None).look(1, MACHINE)
    assert sorted(read) == list(range(len(images)))


def test_pseudo_labels_repeat_bit_for_bit(images: ResizedImages, tmp_path: Path) -> None:
    save_snapshot(tmp_path / "own/epoch_0001.pth", 1)
    one, other = (teacher_of(images, tmp_path / "own", None) for _ in range(2))
    one.look(1, MACHINE)
    other.look(1, MACHINE)
    assert torch.equal(one.maps, other.maps)
    assert torch.equal(one.trusted, other.trusted)


def looks_kept(
    images: ResizedImages, teacher: Teacher, keep: Path, patch: pytest.MonkeyPatch, stop: int = 99
) -> list[int]:
    """Look by the first snapshot; stop before a label is kept. Return the images looked at."""
    seen, kept, batches, add = [], [], images.batches, Looked.add

    def noted(pieces: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        for piece, pixels in zip(pieces, batches(pieces), strict=True):
            seen.extend(piece)
            yield pixels

    def stops(self: Looked, index: int, *label: object) -> None:
        if len(kept) == stop:
            raise Stopped
        kept.append(index)
        add(self, index, *label)

    with patch.context() as patched:
        patched.setattr(images, "batches", noted)
        patched.setattr(Looked, "add", stops)
        teacher.pieces = [[0, 1], [2, 3], [4, 5]]
        try:
            teacher.look(1, MACHINE, keep)
        except Stopped:
            assert len(kept) == stop
    return seen


def test_a_look_that_was_stopped_goes_on_and_makes_the_same(
    images: ResizedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_snapshot(tmp_path / "own/epoch_0001.pth", 1)
    keep, cuts = tmp_path / "keep", []

    def watched(
        image: np.ndarray, prob: np.ndarray, labels: np.ndarray, by: str, seed: int
    ) -> np.ndarray:
        cuts.append(seed)
        return np.full(prob.shape, 255 * (seed % 2), np.uint8)

    monkeypatch.setattr(self_training, "cut", watched)
    whole, stopped, again, after = (teacher_of(images, tmp_path / "own", None) for _ in range(4))
    for teacher in (whole, stopped, again, after):
        teacher.labels.points[3] = np.array([[63, 47, 1]])
    whole.look(1, MACHINE)
    assert whole.trusted.unique().tolist() == [False, True]
    looks_kept(images, stopped, keep, monkeypatch, stop=3)
    cuts.clear()
    # Pieces of two images: of the second one was kept, and is not cut again.
    assert looks_kept(images, again, keep, monkeypatch) == [2, 3, 4, 5]
    assert sorted(cuts) == [3, 4, 5]
    assert looks_kept(images, after, keep, monkeypatch) == []
    for teacher in (again, after):
        assert torch.equal(teacher.maps, whole.maps)
        assert torch.equal(teacher.trusted, whole.trusted)


def test_what_was_made_by_others_or_of_something_else_is_made_anew(
    images: ResizedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, keep = tmp_path / "own", tmp_path / "keep"
    save_snapshot(own / "epoch_0001.pth", 1)

    def looked_at(how: Taught = DEFAULT, among: ResizedImages = images) -> list[int]:
        return looks_kept(among, teacher_of(among, own, None, how), keep, monkeypatch)

    everyone = list(range(6))
    assert looked_at() == everyone
    assert looked_at() == []
    answered = teacher_of(images, own, None)
    answered.labels.points[3] = np.array([[63, 47, 1]])
    assert looks_kept(images, answered, keep, monkeypatch) == everyone
    assert looked_at() == everyone
    assert looked_at(dataclasses.replace(DEFAULT, trust=0.7)) == everyone
    turned = ResizedImages(images.samples[::-1], SIZE, 64, "test")
    assert looked_at(among=turned) == everyone
    assert looked_at() == everyone
    replaced = images.samples[2].image
    replaced.write_bytes(replaced.read_bytes())
    assert looked_at() == everyone
    larger = ResizedImages(images.samples, SIZE + 8, 64, "test")
    assert looked_at(among=larger) == everyone
    assert looked_at() == everyone
    save_snapshot(own / "epoch_0001.pth", 2)
    assert looked_at() == everyone
    assert len(list(keep.iterdir())) == 1


def test_each_process_takes_what_was_kept_of_its_own_share(
    images: ResizedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever kept it: what two had taken would count twice in the sum over all processes."""
    save_snapshot(tmp_path / "own/epoch_0001.pth", 1)
    keep = tmp_path / "keep"
    assert len(looks_kept(images, teacher_of(images, tmp_path / "own", None), keep, monkeypatch))
    monkeypatch.setattr(self_training, "shard", lambda pieces: pieces[1::2])
    teacher = teacher_of(images, tmp_path / "own", None)
    assert looks_kept(images, teacher, keep, monkeypatch) == []
    assert [bool(label.any()) for label in teacher.maps] == [False, False, True, True, False, False]
