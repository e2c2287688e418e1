from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import BACKBONES, Parts, SaliencyNet
from utils.errors import UserError


@pytest.fixture(scope="module", params=BACKBONES)
def network(request: pytest.FixtureRequest) -> SaliencyNet:
    """Return one network a backbone, shared by the tests: leave weights as they are."""
    torch.manual_seed(0)
    return SaliencyNet(request.param, width=16)


@pytest.fixture
def small() -> SaliencyNet:
    torch.manual_seed(0)
    return SaliencyNet("mobilenet_v2", width=8)


def test_training_step_reaches_every_parameter(network: SaliencyNet) -> None:
    network.train().zero_grad()
    prediction = network(torch.rand(2, 3, 64, 64))
    assert prediction.logits.shape == (2, 1, 64, 64)
    stride = network.encoder.strides[0]
    assert prediction.features.shape == (2, 16, 64 // stride, 64 // stride)
    loss = F.binary_cross_entropy_with_logits(prediction.logits, torch.rand(2, 1, 64, 64))
    loss.backward()
    assert loss.isfinite()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_every_parameter_matters(network: SaliencyNet) -> None:
    # In eval mode, where no layer is dropped at random and no bias is taken out by batch norm.
    network.eval().zero_grad()
    network(torch.rand(1, 3, 64, 64)).logits.square().sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad.count_nonzero() == 0]
    assert dead == []


@pytest.mark.parametrize("size", [(65, 97), (32, 32), (32, 63)])
def test_any_size_and_batch(network: SaliencyNet, size: tuple[int, int]) -> None:
    network.eval()
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        both = network(images)
        alone = network(images[1:])
    assert both.logits.shape == (2, 1, *size)
    assert both.logits.isfinite().all()
    torch.testing.assert_close(both.logits[1:], alone.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both.features[1:], alone.features, atol=1e-4, rtol=1e-4)


def test_trains_on_a_batch_of_one(network: SaliencyNet) -> None:
    assert network.train()(torch.rand(1, 3, 64, 33)).logits.isfinite().all()


def test_autocast_hands_back_float32_logits(network: SaliencyNet) -> None:
    network.eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        exact = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(image)
    assert rough.logits.dtype == torch.float32
    assert rough.features.isfinite().all()
    torch.testing.assert_close(rough.logits, exact.logits, atol=0.2, rtol=0.1)


def test_image_gradient_leaves_the_frozen_network_alone(network: SaliencyNet) -> None:
    network.eval().zero_grad(set_to_none=True)
    network.requires_grad_(False)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    network(image).logits.sum().backward()
    assert image.grad.isfinite().all()
    assert image.grad.count_nonzero() > 0.9 * image.numel()
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    network.requires_grad_(True)


def test_saved_network_predicts_bit_for_bit(
    network: SaliencyNet, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    name = request.node.callspec.params["network"]
    torch.save(network.state_dict(), tmp_path / "net.pth")
    torch.manual_seed(99)
    other = SaliencyNet(name, width=16)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = network.eval()(image)
        assert not torch.equal(other.eval()(image).logits, expected.logits)
        other.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
        found = other(image)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.features, expected.features)


def test_image_is_normalised_as_for_imagenet(small: SaliencyNet) -> None:
    seen = []
    small.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    wanted = torch.randn(1, 3, 64, 64)
    small.eval()(wanted * std + mean)
    torch.testing.assert_close(seen[0], wanted, atol=1e-5, rtol=0)


def test_logits_are_read_from_the_features(small: SaliencyNet) -> None:
    prediction = small.eval()(torch.rand(1, 3, 64, 64))
    expected = F.interpolate(small.head(prediction.features), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(prediction.logits, expected)
    assert (prediction.features >= 0).all()


def test_logits_of_a_fine_decoder_are_read_at_the_images_size() -> None:
    network = SaliencyNet("mobilenet_v2", 16, Parts(fine=True)).eval()
    image = torch.rand(1, 3, 64, 96)
    found = network(image)
    assert found.features.shape == (1, 16, 32, 48)
    read = network.detail(found.features, (image - network.mean) / network.std)
    torch.testing.assert_close(found.logits, network.head(read))


def test_first_map_is_near_the_share_of_salient_pixels(network: SaliencyNet) -> None:
    network.eval()
    with torch.no_grad():
        saliency = network(torch.rand(2, 3, 64, 64)).logits.sigmoid()
    assert 0.1 < saliency.mean() < 0.35


def test_the_seed_decides_the_weights() -> None:
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(SaliencyNet("vgg16", width=8).state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    for key in ("encoder.features.0.weight", "decoder.laterals.0.weight", "head.weight"):
        assert not torch.equal(states[0][key], states[2][key]), key


def test_too_small_images_are_refused(small: SaliencyNet) -> None:
    with pytest.raises(UserError, match="image of 64x31 pixels is too small"):
        small(torch.rand(2, 3, 31, 64))
    with pytest.raises(UserError, match=r"training batch \(.*\) of one image of 63x32 pixels"):
        small.train()(torch.rand(1, 3, 32, 63))
    assert small.train()(torch.rand(2, 3, 32, 32)).logits.shape == (2, 1, 32, 32)


def test_parameter_groups_split_by_part_and_kind(network: SaliencyNet) -> None:
    groups = network.parameter_groups(lr=0.1, backbone_lr_factor=0.5, weight_decay=0.01)
    names = {id(p): name for name, p in network.named_parameters()}
    placed = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(placed) == sorted(names.values())
    norms = (nn.BatchNorm2d, nn.LayerNorm)
    in_norm = {
        id(p) for m in network.modules() if isinstance(m, norms) for p in m.parameters(False)
    }
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr"] == pytest.approx(0.05 if name.startswith("encoder.") else 0.1)
            plain = name.endswith(("bias", "layer_scale", "logit_scale")) or (
                id(parameter) in in_norm
            )
            assert group["weight_decay"] == (0.0 if plain else 0.01), name


def test_frozen_parameters_are_left_out(small: SaliencyNet) -> None:
    small.encoder.requires_grad_(False)
    groups = small.parameter_groups(lr=0.1, backbone_lr_factor=0.5, weight_decay=0.0)
    assert [group["name"] for group in groups] == ["rest/weights", "rest/scales"]
    torch.optim.SGD(groups)


def test_compiles_as_one_graph(small: SaliencyNet) -> None:
    small.eval()
    image = torch.rand(1, 3, 64, 64)
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(image).logits, small(image).logits)
    torch._dynamo.reset()


def test_learns_one_batch_by_heart() -> None:
    torch.manual_seed(0)
    network = SaliencyNet("resnet18", width=16).train()
    images, mask = torch.rand(2, 3, 64, 64) * 0.5, torch.zeros(2, 1, 64, 64)
    mask[0, :, 8:40, 20:52] = 1
    mask[1, :, 30:60, 5:30] = 1
    images += 0.4 * mask * torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    optimiser = torch.optim.Adam(network.parameter_groups(3e-3, 0.3, 0.0))
    for _ in range(36):
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(network(images).logits, mask).backward()
        optimiser.step()
    with torch.no_grad():
        found = network.eval()(images).logits > 0
    iou = (found & (mask > 0)).sum() / (found | (mask > 0)).sum()
    assert iou > 0.95
