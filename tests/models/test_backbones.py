from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models as tv

from models.backbones import BACKBONES, build_encoder
from utils.errors import UserError


def reference_body(name: str) -> nn.Module:
    """Return torchvision's own network without its classifier, its weights not yet set."""
    with torch.device("meta"):
        network = getattr(tv, name)(weights=None)
    for classifier in ("classifier", "fc", "head", "norm"):
        if hasattr(network, classifier):
            setattr(network, classifier, nn.Identity())
    return network.to_empty(device="cpu")


@pytest.mark.parametrize("name", BACKBONES)
def test_coarsest_map_and_keys_are_those_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name).eval()
    reference = reference_body(name).eval()
    assert list(encoder.state_dict()) == list(reference.state_dict())
    reference.load_state_dict(encoder.state_dict())
    body = reference.features if hasattr(reference, "features") else reference.layer4
    seen = []
    body.register_forward_hook(lambda module, inputs, output: seen.append(output))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = encoder(image)
        # The hook's output is what counts; some networks cannot run on without a classifier.
        reference(image)
    expected = seen[0].permute(0, 3, 1, 2) if name == "swin_v2_t" else seen[0]
    assert torch.equal(maps[-1], expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_have_the_declared_channels_and_strides(name: str) -> None:
    encoder = build_encoder(name).eval()
    with torch.no_grad():
        maps = encoder(torch.randn(2, 3, 64, 96))
    shapes = [tuple(feature.shape) for feature in maps]
    assert shapes == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert list(encoder.strides) == sorted(encoder.strides)
    assert encoder.strides[-1] == 32


def test_maps_are_not_overwritten_by_later_layers() -> None:
    # Layers that work in place would change a map that was handed out before.
    encoder = build_encoder("vgg16").eval()
    kept = []
    for index in encoder.taps:
        encoder.features[index].register_forward_hook(
            lambda module, inputs, output: kept.append(output.clone())
        )
    with torch.no_grad():
        maps = encoder(torch.randn(1, 3, 32, 32))
    assert all(torch.equal(a, b) for a, b in zip(maps, kept, strict=True))
    assert all((feature >= 0).all() for feature in maps)


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_vgg_starts_with_the_published_spread(name: str) -> None:
    # Kaiming's, by the fan-out: without it sixteen layers fade the signal away.
    torch.manual_seed(0)
    for layer in build_encoder(name).features:
        if isinstance(layer, nn.Conv2d):
            assert layer.bias.count_nonzero() == 0
            expected = (2 / (9 * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)


def test_unknown_backbone_names_the_closest() -> None:
    with pytest.raises(UserError, match=r"unknown backbone 'resnet5'; did you mean 'resnet50'\?"):
        build_encoder("resnet5")
