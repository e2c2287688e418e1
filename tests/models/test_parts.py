"""The whole network: every backbone, and every switch, through the same contracts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from losses import Supervision
from losses.objective import Objective
from models import BACKBONES, NO_PARTS, Parts, Prediction, SaliencyNet
from models.stored import load_model, parts_of
from utils.checkpoints import save_checkpoint
from utils.device import choose_machine
from utils.errors import UserError

CLASSES = 5
GROUPS = (3, 2)
GCONET = Parts(relation="gam", contrast=True, classes=CLASSES, levels=True)
GCONET_PLUS = Parts(
    relation="gam", contrast=True, classes=CLASSES, masked_classes=True, binarise="decoder"
)
ALL = dataclasses.replace(
    GCONET_PLUS, fine=True, mask_operation="c", binarise="both", refiner="image", levels=True
)
SWITCHES = {
    "none": NO_PARTS,
    "fine": Parts(fine=True),
    "gam": Parts(relation="gam"),
    "nonlocal": Parts(relation="nonlocal"),
    "mha": Parts(relation="mha"),
    "contrast": Parts(relation="mha", contrast=True),
    "classes": Parts(classes=CLASSES),
    "masked x": Parts(classes=CLASSES, masked_classes=True),
    "masked +": Parts(classes=CLASSES, masked_classes=True, mask_operation="+"),
    "binarised": Parts(binarise="decoder"),
    "refiner": Parts(refiner="map"),
    "refiner, binarised": Parts(refiner="map", binarise="refiner", binarise_k=50.0),
    "levels": Parts(levels=True),
    "gconet": GCONET,
    "gconet_plus": GCONET_PLUS,
    "all": ALL,
}
CASES = [("mobilenet_v2", name) for name in SWITCHES]
CASES += [(name, "all") for name in BACKBONES if name != "mobilenet_v2"]
CASES += [("resnet18", "gconet")]

PLACES = {
    "encoder": lambda parts: True,
    "decoder": lambda parts: True,
    "detail": lambda parts: parts.fine,
    "head": lambda parts: True,
    "consensus": lambda parts: parts.relation != "none",
    "contrast_head": lambda parts: parts.contrast,
    "class_head": lambda parts: parts.classes > 0,
    "masked_image": lambda parts: parts.masked_classes,
    "level_heads": lambda parts: parts.levels,
    "refiner": lambda parts: parts.refiner != "none",
}
"""Each child of the network, and when it is there."""


def build(backbone: str, parts: Parts) -> SaliencyNet:
    """Return a network whose batch norms have seen a batch: else the top features are next to 0."""
    torch.manual_seed(0)
    network = SaliencyNet(backbone, width=8, parts=parts)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        if not norm.weight.count_nonzero():  # as non-local blocks start, hiding what they norm
            nn.init.ones_(norm.weight)
    with torch.no_grad():
        network.train()(images_of(count=3), (2, 1))
        network.top_features(images_of(count=3))  # last: the masked images are others
    for norm in norms:
        norm.momentum = 0.1
    return network


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def network(request: pytest.FixtureRequest) -> SaliencyNet:
    """Return one network a case, shared by the tests: leave weights as they are."""
    backbone, name = request.param
    return build(backbone, SWITCHES[name])


def steady(network: SaliencyNet) -> SaliencyNet:
    """Switch to training, but for what makes a training pass depend on the batch or on chance."""
    network.train()
    for module in network.modules():
        if not list(module.children()) or module is network.encoder:
            module.eval()
    network.encoder.eval()
    return network


def objective_of(parts: Parts) -> Objective:
    """Return an objective that looks at every output the parts give."""
    return Objective(
        last={"bce": 1.0, "iou": 1.0},
        others={"bce": 1.0},
        contrast=float(parts.contrast),
        classify=float(parts.classes > 0),
        classify_masked=float(parts.masked_classes),
        triplet=float(parts.classes > 0),
        triplet_of="both" if parts.masked_classes else "image",
        triplet_margin=1e3,  # so that none is at rest
    )


def loss_of(found: Prediction, images: Tensor, groups: tuple[int, int], parts: Parts) -> Tensor:
    mask = torch.zeros(len(images), 1, *images.shape[-2:])
    mask[:, :, 10:40, 20:50] = 1
    supervision = Supervision(torch.cat((1 - mask, mask), dim=1), images)
    classes = torch.tensor([3] * groups[0] + [1] * groups[1])
    return objective_of(parts)(found, supervision, groups, classes)[0]


def images_of(size: tuple[int, int] = (64, 64), count: int = sum(GROUPS)) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1))


def assert_shapes(found: Prediction, parts: Parts, batch: int, size: tuple[int, int]) -> None:
    """Every output of a training pass is there where its part is on, and of its shape."""
    assert found.logits.shape == (batch, 1, *size)
    assert found.features.shape[:2] == (batch, 8)
    assert (found.crossed is not None) == parts.contrast
    for own, pooled, on in (
        (found.classes, found.pooled, parts.classes > 0),
        (found.masked_classes, found.masked_pooled, parts.masked_classes),
    ):
        assert (own is not None) == (pooled is not None) == on
        assert not on or own.shape == (batch, CLASSES)
        assert not on or pooled.shape[0] == batch
    assert (found.soft_logits is not None) == is_binarised(parts)
    assert found.soft_logits is None or found.soft_logits.shape == found.logits.shape
    coarse = (*found.others, *(found.crossed or ()))
    assert all(output.shape[:2] == (batch, 1) for output in coarse)
    assert all(x.isfinite().all() for x in (found.logits, found.features, *coarse))


def is_binarised(parts: Parts) -> bool:
    """Whether the final map is: the refiner's where there is one, else the decoder's."""
    return parts.binarise == "both" or parts.binarise == (
        "decoder" if parts.refiner == "none" else "refiner"
    )


def test_a_part_that_is_off_is_not_there(network: SaliencyNet) -> None:
    expected = {name for name, there in PLACES.items() if there(network.parts)}
    assert {name for name, _ in network.named_children()} == expected


def test_training_and_evaluation(network: SaliencyNet) -> None:
    """All parameters learn, and the eval pass says the same map and nothing more."""
    parts, groups = network.parts, (2, 1)
    # Wide enough for the non-local block, which halves its keys, to choose between several.
    images = images_of((64, 96) if parts.relation == "nonlocal" else (64, 64), 3)
    network.zero_grad(set_to_none=True)
    trained = steady(network)(images, groups)
    loss = loss_of(trained, images, groups, parts)
    loss.backward()
    assert loss.isfinite()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert [name for name, gradient in gradients.items() if not gradient.count_nonzero()] == []

    with torch.no_grad():
        found = network.eval()(images, groups)
    torch.testing.assert_close(found.logits, trained.logits.detach())
    torch.testing.assert_close(found.features, trained.features.detach())
    assert found[2:8] == ((), None, None, None, None, None)
    assert (found.soft_logits is not None) == is_binarised(parts)
    if found.soft_logits is not None:
        torch.testing.assert_close(found.soft_logits, trained.soft_logits.detach())


def test_half_precision_is_near_and_can_be_learnt_from(network: SaliencyNet) -> None:
    steady(network).zero_grad(set_to_none=True)
    images, groups = images_of(count=3), (2, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images, groups)
        loss = loss_of(found, images, groups, network.parts)
    with torch.no_grad():
        exact = network.eval()(images, groups).features
    if network.parts.relation == "none":  # a softmax over random features turns upon roundings
        error = (found.features.detach().float() - exact).norm() / exact.norm()
        assert error < (0.3 if network.parts.fine else 0.2)
    assert_shapes(found, network.parts, 3, (64, 64))
    assert found.logits.dtype == loss.dtype == torch.float32
    assert loss.isfinite()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_odd_size_and_a_group_of_one(network: SaliencyNet) -> None:
    """A pass as in training, batch norms and chance included; and an image by itself."""
    size = (65, 33)
    with torch.no_grad():
        found = network.train()(images_of(size, 3), (1, 2))
        alone = network.eval()(images_of(size, 1))
    assert_shapes(found, network.parts, 3, size)
    levels = (len(network.encoder.channels) - 1) * network.parts.levels
    assert len(found.others) == levels + (network.parts.refiner != "none")
    assert alone.logits.shape == (1, 1, *size)
    assert alone.logits.isfinite().all()


def test_a_refiner_adds_to_the_map_that_it_refines() -> None:
    torch.manual_seed(0)
    network, image = SaliencyNet("mobilenet_v2", 8, Parts(refiner="image")).eval(), images_of()
    with torch.no_grad():
        found = network(image)
        small = network.head(found.features)
        coarse = nn.functional.interpolate(small, size=(64, 64), mode="bilinear")
        refined = network.refiner(coarse, (image - network.mean) / network.std)
    torch.testing.assert_close(found.logits, refined)
    assert (refined - coarse).abs().max() > 0.01


def test_the_other_maps_are_those_of_the_coarser_levels() -> None:
    network = SaliencyNet("mobilenet_v2", 8, Parts(levels=True)).train()
    sides = [other.shape[-1] for other in network(images_of()).others]
    assert sides == [64 // stride for stride in network.encoder.strides[:0:-1]]


def settings_of(parts: Parts) -> dict:
    """Return the settings of a trial with these parts, as far as a checkpoint is read by them."""
    return {
        "backbone": "mobilenet_v2",
        "width": 8,
        "size": 64,
        "decoder": "fine" if parts.fine else "plain",
        "relation": parts.relation,
        "contrast": 2.0 * parts.contrast,
        "classify": 0.1 * bool(parts.classes),
        "classify_masked": 0.1 * parts.masked_classes,
        "mask_operation": parts.mask_operation,
        "binarise": parts.binarise,
        "binarise_k": parts.binarise_k,
        "refiner": parts.refiner,
        "losses_others": {"bce": 1.0} if parts.levels else {},
    }


@pytest.mark.parametrize("name", SWITCHES)
def test_settings_tell_the_parts(name: str) -> None:
    assert parts_of(settings_of(SWITCHES[name]), CLASSES) == SWITCHES[name]


@pytest.mark.parametrize("name", ["none", "fine", "refiner, binarised", "all"])
def test_a_checkpoint_is_read_back_from_its_settings(name: str, tmp_path: Path) -> None:
    network = build("mobilenet_v2", SWITCHES[name]).eval()
    state = {"model": network.state_dict(), "config": settings_of(SWITCHES[name])}
    save_checkpoint(tmp_path / "net.pth", {**state, "classes": CLASSES})
    again, _ = load_model(tmp_path / "net.pth", choose_machine("cpu", "fp32"))
    assert again.parts == SWITCHES[name]
    assert not any(module.training for module in again.modules())
    images = images_of(count=2)
    with torch.no_grad():
        expected, found = network(images), again.to(memory_format=torch.contiguous_format)(images)
    assert torch.equal(found.logits, expected.logits)


def test_settings_from_before_the_parts_switch_none_on() -> None:
    old = {"backbone": "resnet18", "width": 8, "size": 64, "losses_dense": {"bce": 1.0}}
    assert parts_of(old, 0) == NO_PARTS
    # The classes of the training groups are no classes to tell unless that is asked.
    assert parts_of({**old, "relation": "gam"}, 7) == Parts(relation="gam")


def test_classes_are_counted_from_the_groups() -> None:
    assert parts_of({"classify": 0.1}, 7).classes == 7


def calls_of(network: SaliencyNet, images: Tensor) -> Counter:
    """Count how often each child of the network runs in one pass."""
    calls: Counter = Counter()
    hooks = []
    for name, child in network.named_children():
        first = next(module for module in child.modules() if not list(module.children()))
        hooks.append(first.register_forward_hook(lambda *_, name=name: calls.update([name])))
    with torch.no_grad():
        network(images, GROUPS)
    for hook in hooks:
        hook.remove()
    return calls


def test_what_is_for_training_runs_in_training_alone() -> None:
    network = build("mobilenet_v2", ALL)
    always = {"encoder": 1, "decoder": 1, "detail": 1, "head": 1, "refiner": 1}
    always |= {"consensus": len(GROUPS)}
    more = {"encoder": 2, "class_head": 2, "contrast_head": 2, "masked_image": 1, "level_heads": 1}
    assert calls_of(network.train(), images_of()) == always | more
    assert calls_of(network.eval(), images_of()) == always


@pytest.mark.parametrize("relation", ["gam", "nonlocal", "mha"])
def test_another_group_changes_nothing_but_the_crossed_map(relation: str) -> None:
    parts = dataclasses.replace(ALL, relation=relation)
    network = build("mobilenet_v2", parts)
    images, other = images_of(), images_of()
    other[GROUPS[0] :] = other[GROUPS[0] :].flip(2) ** 2
    own = slice(0, GROUPS[0])
    with torch.no_grad():
        before, after = (steady(network)(x, GROUPS) for x in (images, other))
        evaluated = [network.eval()(x, GROUPS).logits[own] for x in (images, other)]
    torch.testing.assert_close(evaluated[0], evaluated[1])
    for name in ("logits", "features", "classes", "masked_classes", "pooled", "masked_pooled"):
        torch.testing.assert_close(getattr(after, name)[own], getattr(before, name)[own])
    for one, two in zip(before.others, after.others, strict=True):
        torch.testing.assert_close(one[own], two[own])
    torch.testing.assert_close(after.crossed[0][own], before.crossed[0][own])
    moved = (after.crossed[1] - before.crossed[1])[own].abs().mean()
    assert moved > 1e-3 * before.crossed[1][own].std()


@pytest.mark.parametrize("relation", ["gam", "nonlocal", "mha"])
def test_an_image_of_the_group_changes_the_others(relation: str) -> None:
    network = build("mobilenet_v2", Parts(relation=relation)).eval()
    images, other = images_of(), images_of()
    other[0] = 1 - other[0] ** 3
    with torch.no_grad():
        before, after = (network(x, GROUPS).features for x in (images, other))
        alone = [network(x[1:2]).features for x in (images, other)]
    assert (after - before)[1 : GROUPS[0]].abs().max() > 1e-4 * before.std()
    torch.testing.assert_close(after[GROUPS[0] :], before[GROUPS[0] :])
    assert torch.equal(*alone)


@pytest.mark.parametrize("name", ["none", "classes", "refiner", "levels"])
def test_without_a_relation_groups_mean_nothing(name: str) -> None:
    network = build("mobilenet_v2", SWITCHES[name]).eval()
    images = images_of()
    with torch.no_grad():
        found = [network(images, groups).logits for groups in (None, GROUPS, (1, 4))]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_the_masked_image_is_masked_by_the_final_map() -> None:
    network = build("mobilenet_v2", dataclasses.replace(ALL, mask_operation="x"))
    seen = []
    network.masked_image.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    images = images_of()
    with torch.no_grad():
        found = steady(network)(images, GROUPS)
    (image, saliency), *more = seen
    assert more == []
    torch.testing.assert_close(saliency, found.logits.sigmoid())
    torch.testing.assert_close(image, (images - network.mean) / network.std)


@pytest.mark.parametrize("name", ["none", "gconet", "all"])
def test_a_frozen_encoder_learns_nothing_and_the_rest_does(name: str) -> None:
    network = build("mobilenet_v2", SWITCHES[name]).train()
    network.freeze_encoder()
    before = {key: value.clone() for key, value in network.encoder.state_dict().items()}
    groups = network.parameter_groups(0.1, 0.5, 0.0)
    assert {group["name"] for group in groups} == {"rest/weights", "rest/scales"}
    images = images_of()
    found = network.eval().train()(images, GROUPS)
    loss_of(found, images, GROUPS, network.parts).backward()
    torch.optim.SGD(groups).step()
    after = network.encoder.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(parameter.grad is None for parameter in network.encoder.parameters())
    rest = {k: p.grad for k, p in network.named_parameters() if not k.startswith("encoder.")}
    assert all(gradient is not None for gradient in rest.values())


def test_compiles_as_one_graph_in_training() -> None:
    network = steady(build("resnet18", ALL))
    images = images_of()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        expected, found = network(images, GROUPS), compiled(images, GROUPS)
    torch._dynamo.reset()
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["none", "fine", "gam"])
def test_exports_with_any_number_of_images(name: str) -> None:
    network = build("resnet18", SWITCHES[name]).eval()
    shapes = {"image": {0: torch.export.Dim("images", min=2, max=32)}}
    shapes |= {"groups": None, "consensus": None}
    with torch.no_grad():
        exported = torch.export.export(
            network, (images_of(count=3), None, None), dynamic_shapes=shapes
        )
        found = exported.module()(images_of(), None, None).logits
        torch.testing.assert_close(found, network(images_of()).logits)


@pytest.mark.parametrize(
    ("switches", "told"),
    [
        ({"contrast": True}, "choose a relation, too"),
        ({"masked_classes": True}, "needs the classification of the image, too"),
        ({"binarise": "refiner"}, "there is no refiner: choose one, too"),
        ({"binarise": "both"}, "there is no refiner: choose one, too"),
        ({"relation": "game"}, r"unknown relation 'game'; did you mean 'gam'\?"),
        ({"refiner": "imag"}, r"unknown refiner 'imag'; did you mean 'image'\?"),
        ({"binarise": "decodre"}, r"'decodre'; did you mean 'decoder'\?"),
        ({"mask_operation": "*"}, r"unknown mask operation '\*'"),
    ],
)
def test_parts_that_mean_nothing_are_refused(switches: dict, told: str) -> None:
    with pytest.raises(UserError, match=told) as raised:
        Parts(**switches)
    assert "\n" not in str(raised.value)


def test_the_whole_network_learns_a_batch_by_heart() -> None:
    """Two groups; in each image two squares, of which that of the group's colour is marked."""
    torch.manual_seed(0)
    network = SaliencyNet("resnet18", width=16, parts=dataclasses.replace(ALL, classes=2)).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3  # so that eval keeps up with few steps
    images, mask = torch.rand(4, 3, 48, 48) * 0.3, torch.zeros(4, 1, 48, 48)
    for index, (top, left) in enumerate([(3, 6), (21, 22), (4, 24), (25, 3)]):
        colour = index // 2
        mask[index, :, top : top + 19, left : left + 19] = 1
        images[index, colour, top : top + 19, left : left + 19] += 0.6
        images[index, 1 - colour, 29 - top : 45 - top, 29 - left : 45 - left] += 0.6
    supervision = Supervision(torch.cat((1 - mask, mask), dim=1), images)
    objective = Objective(
        {"bce": 1.0, "iou": 1.0}, {"bce": 1.0}, contrast=1.0, classify=0.1, classify_masked=0.1
    )
    steps, classes = 48, torch.tensor([0, 0, 1, 1])
    optimiser = torch.optim.Adam(network.parameter_groups(2e-3, 0.3, 0.0))
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.03, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(network(images, (2, 2)), supervision, (2, 2), classes)[0].backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        found = network.eval()(images, (2, 2)).logits > 0
    iou = (found & (mask > 0)).sum() / (found | (mask > 0)).sum()
    assert iou > 0.95


def test_the_one_image_of_a_group_is_too_small_for_batch_norm_of_its_own() -> None:
    network = SaliencyNet("mobilenet_v2", 8, Parts(relation="nonlocal"))
    small, large = torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 64)
    with pytest.raises(UserError, match=r"a group\) of one image of 32x32 pixels leaves batch"):
        network.train()(small, groups=[2, 1])
    network(small, groups=[3])
    network(large, groups=[2, 1])
    network.eval()(small, groups=[2, 1])
    SaliencyNet("mobilenet_v2", 8, Parts(relation="gam")).train()(small, groups=[2, 1])
