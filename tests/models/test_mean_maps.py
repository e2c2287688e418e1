"""Mean maps: their formula, and that neither batch nor other groups change them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from datasets.cache import ResizedImages
from datasets.index import list_set
from models.group_view import view_group
from models.mean_maps import MeanMaps, as_seen, enlarged, mean_maps
from models.saliency_net import Parts, SaliencyNet
from utils.device import choose_machine
from utils.errors import UserError

MACHINE = choose_machine("cpu", "fp32")


class Pictures:
    size = 32

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator).byte()

    def batch(self, indices: Sequence[int]) -> Tensor:
        return self.pixels[list(indices)]

    def batches(self, pieces: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        return map(self.batch, pieces)


def network(seed: int, relation: str = "none") -> SaliencyNet:
    torch.manual_seed(seed)
    return SaliencyNet("mobilenet_v2", 8, Parts(relation=relation)).eval()


def maps_by_index(found: Iterable[MeanMaps]) -> dict[int, Tensor]:
    pairs = (zip(batch.indices, batch.maps, strict=True) for batch in found)
    return dict(itertools.chain.from_iterable(pairs))


def test_the_mean_over_networks_and_mirror_images() -> None:
    models, pictures = [network(0), network(1)], Pictures(3)
    found = maps_by_index(mean_maps(models, pictures, [[2, 0, 1]], 2, MACHINE, mirrored=True))
    assert list(found) == [2, 0, 1]
    pixels = MACHINE.images(pictures.pixels)
    with torch.no_grad():
        plain = sum(model(pixels).logits.sigmoid()[:, 0] for model in models) / 2
        turned = sum(model(pixels.flip(3)).logits.sigmoid()[:, 0].flip(2) for model in models) / 2
    torch.testing.assert_close(
        torch.stack([found[i] for i in range(3)]), (plain + turned) / 2, atol=1e-5, rtol=0
    )
    assert (plain - turned).abs().max() > 1e-3
    one = maps_by_index(mean_maps(models[:1], pictures, [[0, 1, 2]], 3, MACHINE))
    assert not torch.allclose(one[0], plain[0], atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_groups_are_seen_whole_and_apart(batch_size: int) -> None:
    model, pictures = network(2, "gam"), Pictures(5)
    groups = [[0, 3, 4], [1, 2]]
    found = maps_by_index(mean_maps([model], pictures, groups, batch_size, MACHINE))
    for group in groups:
        pixels = MACHINE.images(pictures.batch(group))
        with torch.no_grad():
            expected = view_group(model, [pixels])(pixels).logits.sigmoid()[:, 0]
        rows = torch.stack([found[index] for index in group])
        torch.testing.assert_close(rows, expected, atol=1e-5, rtol=0)


def test_binarised_maps_can_be_had_soft() -> None:
    torch.manual_seed(3)
    model, pictures = SaliencyNet("mobilenet_v2", 8, Parts(binarise="decoder")).eval(), Pictures(2)
    pixels = MACHINE.images(pictures.pixels)
    with torch.no_grad():
        found = model(pixels)
    for soft, logits in ((False, found.logits), (True, found.soft_logits)):
        maps = maps_by_index(mean_maps([model], pictures, [[0, 1]], 2, MACHINE, soft=soft))
        torch.testing.assert_close(maps[1], logits.sigmoid()[1, 0], atol=1e-5, rtol=0)
    assert not torch.allclose(found.logits, found.soft_logits, atol=1e-2)


@pytest.mark.parametrize(
    ("size", "scale", "side"),
    [
        (100, 1.0, 100),
        (128, 1.25, 160),
        (100, 1.1, 128),
        (32, 1.4, 32),
        (32, 1.6, 64),
        (32, 2.5, 96),
        (128, 0.5, 64),
        (32, 0.1, 32),
    ],
)
def test_enlarged_to_whole_cells(size: int, scale: float, side: int) -> None:
    assert enlarged(size, scale) == side


def test_what_a_smaller_size_cannot_show_is_smoothed_away() -> None:
    """Stripes of a pixel each are grey at a third of the size; left out, they would be black."""
    pictures = Pictures(1)
    stripes = torch.arange(pictures.size) % 2 * 255
    pictures.pixels = stripes.to(torch.uint8).expand(1, 3, pictures.size, -1)
    seen = as_seen(pictures.pixels, MACHINE, pictures.size // 3)
    middle = seen[..., 2:-2]
    assert middle.shape[-1] > 4
    assert 0.4 < middle.min() <= middle.max() < 0.6
    assert torch.equal(as_seen(pictures.pixels, MACHINE, pictures.size) * 255, pictures.pixels)


def test_enlarged_images_give_maps_of_their_own_size_and_features() -> None:
    """Features of several networks lie one after the other, each of unit length, mirrored back."""
    models, pictures = [network(4), network(5)], Pictures(2)
    for size in (32, 64, 96):
        (found,) = mean_maps(
            models, pictures, [[0, 1]], 2, MACHINE, True, side=size, with_features=True
        )
        large = MACHINE.images(pictures.pixels)
        large = functional.interpolate(large, size=(size, size), mode="bilinear")
        maps, features = [], []
        with torch.no_grad():
            for model in models:
                plain, turned = model(large), model(large.flip(3))
                maps += [plain.logits.sigmoid(), turned.logits.sigmoid().flip(3)]
                both = plain.features + turned.features.flip(3)
                features.append(both / both.norm(dim=1, keepdim=True).clamp_min(1e-12))
        expected = functional.interpolate(sum(maps) / 4, size=(32, 32), mode="bilinear")[:, 0]
        torch.testing.assert_close(found.maps, expected, atol=1e-5, rtol=0)
        assert torch.equal(found.pixels, pictures.pixels)
        assert torch.equal(found.images, large)
        torch.testing.assert_close(found.features, torch.cat(features, 1), atol=1e-4, rtol=0)
    (bare,) = mean_maps(models, pictures, [[0, 1]], 2, MACHINE)
    assert bare.features is None


def test_the_next_batch_is_read_while_this_one_is_looked_at(
    sample_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is of another group, and no more; what cannot be read is told in its turn."""
    begun, next_one = [], threading.Event()
    decode = ResizedImages.decode

    def spy(self: ResizedImages, index: int) -> np.ndarray:
        begun.append(index)
        if index == 1:
            next_one.set()
        if index == 4:
            raise UserError("the picture is damaged")
        return decode(self, index)

    monkeypatch.setattr(ResizedImages, "decode", spy)
    images = ResizedImages(list_set(sample_root, "SAMPLE-TE"), 32, 0, "test")
    found = mean_maps([network(0)], images, [[2, 0], [3, 1], [5, 4]], 2, MACHINE)
    assert next(found).indices == [2, 0]
    assert next_one.wait(20)
    assert sorted(begun) == [0, 1, 2, 3]
    assert next(found).indices == [3, 1]
    with pytest.raises(UserError, match="damaged"):
        next(found)
