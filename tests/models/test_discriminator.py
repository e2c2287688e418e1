from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from losses.groups import adversarial_discriminator
from models.adversary import Adversary
from models.discriminator import Discriminator


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 39)])
def test_one_score_a_map_whatever_its_size_and_company(
    discriminator: Discriminator, size: tuple[int, int]
) -> None:
    maps = torch.rand(3, 1, *size)
    scores = discriminator(maps)
    assert scores.shape == (3, 1)
    torch.testing.assert_close(scores[1:2], discriminator(maps[1:2]), atol=1e-6, rtol=1e-5)
    assert torch.equal(discriminator.eval()(maps), scores)


@pytest.mark.parametrize("size", [(32, 32), (33, 46), (47, 35)])
def test_every_pixel_counts(discriminator: Discriminator, size: tuple[int, int]) -> None:
    maps = torch.rand(1, 1, *size, requires_grad=True)
    discriminator(maps).sum().backward()
    assert maps.grad.count_nonzero() == maps.numel()


def test_score_matches_the_network_written_out(discriminator: Discriminator) -> None:
    maps = torch.rand(2, 1, 64, 48)
    x = maps
    for i in (0, 2, 4, 6):
        conv = discriminator.layers[i]
        x = F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
        x = x.where(x > 0, 0.2 * x)
    assert x.shape == (2, 128, 4, 3)
    expected = discriminator.linear(x.flatten(2).sum(2) / 12)
    torch.testing.assert_close(discriminator(maps), expected)


def test_an_adversary_learns_to_tell_labels_from_maps_where_there_are_labels() -> None:
    given, told = [], []

    def loss(*opinions: torch.Tensor) -> torch.Tensor:
        told.extend(opinions)
        return adversarial_discriminator(*opinions)

    adversary = Adversary(loss, 1e-3, torch.device("cpu"))
    adversary.network.register_forward_hook(lambda _, inputs, found: given.append((*inputs, found)))
    logits, labels = torch.randn(2, 1, 32, 32), torch.zeros(2, 2, 32, 32)
    labels[:, 1, :9], labels[:, 0, 9:20] = 3, 0.5  # weights of classes; nothing below is labelled
    adversary.learn(logits, labels)
    true = torch.full((2, 1, 32, 32), 0.5)
    true[:, :, :9], true[:, :, 9:20] = 1, 0
    made = logits.sigmoid()
    made[:, :, 20:] = 0.5
    found = {id(opinion): maps for maps, opinion in given}
    for opinion, maps in zip(told, (true, made), strict=True):
        torch.testing.assert_close(found[id(opinion)], maps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, -1e4, 1e4])
def test_every_parameter_learns(
    discriminator: Discriminator, scale: float, dtype: torch.dtype
) -> None:
    discriminator.to(dtype)
    maps = (scale * torch.rand(2, 1, 33, 40)).to(dtype).requires_grad_()
    scores = discriminator(maps).float()
    assert scores.isfinite().all()
    F.binary_cross_entropy_with_logits(scores, torch.ones(2, 1)).backward()
    assert maps.grad.isfinite().all()
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad.isfinite().all(), name
        if scale == 1:
            assert parameter.grad.count_nonzero() > 0, name


def test_learns_masks_from_blurred_masks(discriminator: Discriminator) -> None:
    torch.manual_seed(1)
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=1e-3)

    def draw() -> torch.Tensor:
        masks = torch.zeros(4, 1, 32, 32)
        for mask, (top, left) in zip(masks, torch.randint(2, 14, (4, 2)).tolist(), strict=True):
            mask[0, top : top + 14, left : left + 12] = 1
        return torch.cat((masks, F.avg_pool2d(masks, 7, 1, 3)))

    answers = torch.tensor([1.0] * 4 + [0.0] * 4).view(8, 1)
    for _ in range(60):
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(discriminator(draw()), answers).backward()
        optimiser.step()
    assert torch.equal(discriminator(draw()) > 0, answers > 0)


def test_saved_discriminator_scores_bit_for_bit(
    discriminator: Discriminator, tmp_path: Path
) -> None:
    maps = torch.rand(2, 1, 32, 32)
    torch.save(discriminator.state_dict(), tmp_path / "discriminator.pth")
    other = Discriminator()
    assert not torch.equal(other(maps), discriminator(maps))
    other.load_state_dict(torch.load(tmp_path / "discriminator.pth", weights_only=True))
    assert torch.equal(other(maps), discriminator(maps))


def test_exports_and_compiles(discriminator: Discriminator) -> None:
    maps = torch.rand(2, 1, 33, 47)
    expected = discriminator(maps)
    compiled = torch.compile(discriminator, backend="eager", fullgraph=True)
    assert torch.equal(compiled(maps), expected)
    assert torch.equal(torch.export.export(discriminator, (maps,)).module()(maps), expected)
    torch._dynamo.reset()


def test_parameter_count(discriminator: Discriminator) -> None:
    assert sum(p.numel() for p in discriminator.parameters()) == 172_657
