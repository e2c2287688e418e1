"""A group seen in pieces is the group seen whole."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from models import Parts, SaliencyNet
from models.group_view import view_group

COUNT = 7
PLAIN = Parts()


@functools.cache
def build(parts: Parts) -> SaliencyNet:
    """Return a network, shared by the tests, in eval mode, whose batch norms have seen the images.

    In double precision: random weights make much of roundings.
    """
    torch.manual_seed(0)
    network = SaliencyNet("mobilenet_v2", width=8, parts=parts).double().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            if not module.weight.count_nonzero():
                nn.init.ones_(module.weight)
    with torch.no_grad():
        network(group_of_images())
    return network.eval()


def group_of_images() -> Tensor:
    return torch.rand(COUNT, 3, 64, 64, generator=torch.Generator().manual_seed(2)).double()


def cut(images: Tensor, *sizes: int) -> tuple[Tensor, ...]:
    return images.split(list(sizes))


@pytest.mark.parametrize("sizes", [(3, 3, 1), (1,) * COUNT])
@pytest.mark.parametrize(
    "parts",
    [
        Parts(relation="gam"),
        Parts(relation="nonlocal"),
        Parts(relation="mha"),
        Parts(relation="gam", fine=True),
    ],
)
def test_in_pieces_as_in_one(parts: Parts, sizes: tuple[int, ...]) -> None:
    network, images = build(parts), group_of_images()
    with torch.no_grad():
        whole = network(images)
        view = view_group(network, cut(images, *sizes))
        pieces = [view(piece) for piece in cut(images, *reversed(sizes))]
        single = network(images[:1])
    logits = torch.cat([piece.logits for piece in pieces])
    torch.testing.assert_close(logits, whole.logits)
    torch.testing.assert_close(torch.cat([piece.features for piece in pieces]), whole.features)
    # The group does matter: an image by itself is seen otherwise.
    assert (single.logits - whole.logits[:1]).abs().max() > 1e-3


def test_the_consensus_stays_when_an_image_is_altered() -> None:
    """So an attack on some images moves neither the others' maps nor what is looked for."""
    network, images = build(Parts(relation="gam")), group_of_images()
    view = view_group(network, [images])
    altered = images.clone()
    altered[0] = 1 - altered[0]
    with torch.no_grad():
        before, after = view(images).logits, view(altered).logits
        anew = view_group(network, [altered])(altered).logits
    torch.testing.assert_close(after[1:], before[1:])
    assert (after[0] - before[0]).abs().max() > 1e-3
    assert (anew[1:] - before[1:]).abs().max() > 1e-3


def test_the_gradient_of_an_image_reaches_that_image_alone() -> None:
    network, images = build(Parts(relation="gam")), group_of_images()
    view = view_group(network, [images.requires_grad_()])
    assert not view.consensus.requires_grad
    view(images).logits[2].sum().backward()
    touched = [index for index, row in enumerate(images.grad) if row.count_nonzero()]
    assert touched == [2]


def test_without_a_relation_the_group_is_not_looked_at() -> None:
    network, images = build(PLAIN), group_of_images()

    def pieces():
        raise AssertionError("looked at")
        yield

    view = view_group(network, pieces())
    with torch.no_grad():
        assert torch.equal(view(images).logits, network(images).logits)


@pytest.mark.parametrize("relation", ["none", "gam"])
def test_soft_maps_are_those_of_the_same_network(relation: str) -> None:
    network = build(Parts(relation=relation, binarise="decoder"))
    images = group_of_images()
    with torch.no_grad():
        expected = network(images)
        hard = view_group(network, [images])(images)
        soft = view_group(network, [images], soft=True)(images)
    assert torch.equal(hard.logits, expected.logits)
    assert torch.equal(soft.logits, expected.soft_logits)
    assert torch.equal(soft.features, expected.features)
    assert not torch.allclose(soft.logits, hard.logits)


def test_a_soft_view_of_a_network_without_binarisation_is_its_map() -> None:
    network, images = build(PLAIN), group_of_images()
    with torch.no_grad():
        found = view_group(network, [images], soft=True)(images)
        assert torch.equal(found.logits, network(images).logits)
