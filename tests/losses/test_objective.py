"""The sum of all losses: each with its weight, on its own output, and none that is off."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

from active_learning.learner import make_objective
from config import Config
from losses import Supervision, level_loss, objective, total_loss
from losses.groups import adversarial_generator, classification, contrast, triplet
from losses.objective import Objective
from losses.smoothing import smooth_labels
from utils.errors import UserError

GROUPS = (3, 2)
CLASSES = torch.tensor([1, 1, 1, 0, 0])
FULL = Objective(
    last={"bce": 1.0, "iou": 0.5},
    others={"mse": 3.0},
    contrast=2.0,
    classify=0.25,
    classify_masked=0.75,
    triplet=0.5,
    triplet_of="both",
    triplet_margin=4.0,
    adversarial=0.125,
)


def outputs(**absent: None) -> SimpleNamespace:
    """Return random outputs of every part, or those named as None."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    found = {
        "logits": draw(5, 1, 16, 16),
        "others": (draw(5, 1, 2, 2), draw(5, 1, 8, 8)),
        "crossed": (draw(5, 1, 2, 2), draw(5, 1, 2, 2)),
        "classes": draw(5, 2),
        "masked_classes": draw(5, 2),
        "pooled": draw(5, 6),
        "masked_pooled": draw(5, 6),
    }
    return SimpleNamespace(**{**found, **absent})


def masks() -> Supervision:
    mask = torch.zeros(5, 1, 16, 16)
    mask[:, :, 3:9, 4:12] = 1
    return Supervision(torch.cat((1 - mask, mask), dim=1), torch.zeros(5, 3, 16, 16))


def points() -> Supervision:
    labels = torch.zeros(5, 2, 16, 16)
    labels[:, 1, 5, 6] = labels[:, 0, 1, 14] = 1
    return Supervision(labels, torch.zeros(5, 3, 16, 16))


JUDGED = torch.linspace(-1, 1, 5).view(5, 1)


@pytest.mark.parametrize("supervision", [masks(), points()], ids=["masks", "points"])
def test_each_loss_has_its_output_and_its_weight(supervision: Supervision) -> None:
    found = outputs()
    total, values = FULL(found, supervision, GROUPS, CLASSES, JUDGED)
    last, on_last = total_loss(found.logits, supervision, {"bce": 1.0, "iou": 0.5})
    others, on_others = level_loss(found.others, supervision, {"mse": 3.0})
    expected = {
        "contrast": contrast(*found.crossed, supervision),
        "classify": classification(found.classes, CLASSES),
        "classify_masked": classification(found.masked_classes, CLASSES),
        "triplet": (triplet(found.pooled, GROUPS, 4.0) + triplet(found.masked_pooled, GROUPS, 4.0))
        / 2,
        "adversarial": adversarial_generator(JUDGED),
    }
    sums = last + others + sum(getattr(FULL, name) * value for name, value in expected.items())
    assert total.item() == pytest.approx(sums.item(), rel=1e-6)
    assert set(values) == {"bce", "iou", "others/mse", *expected}
    assert values["bce"] == on_last["bce"]
    assert values["others/mse"] == on_others["mse"]
    assert all(values[name] == value for name, value in expected.items())
    assert not any(value.requires_grad for value in values.values())


def test_each_weight_is_that_of_the_settings() -> None:
    config = Config(
        grouped=True,
        relation="gam",
        losses_others={"mse": 3.0},
        contrast=2.0,
        classify=0.25,
        classify_masked=0.75,
        triplet=0.5,
        triplet_of="both",
        triplet_margin=4.0,
        adversarial=0.125,
        label_smoothing=True,
    )
    expected = dataclasses.replace(FULL, smooth=True)
    assert make_objective(config, {"bce": 1.0, "iou": 0.5}) == expected


def test_every_output_learns() -> None:
    found = outputs()
    FULL(found, masks(), GROUPS, CLASSES, JUDGED)[0].backward()
    flat = [found.logits, *found.others, *found.crossed, found.classes, found.masked_classes]
    assert all(x.grad.count_nonzero() for x in [*flat, found.pooled, found.masked_pooled])


def test_a_loss_of_weight_zero_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("computed")

    for name in ("contrast", "classification", "triplet", "adversarial_generator", "level_loss"):
        monkeypatch.setattr(objective, name, fail)
    monkeypatch.setattr(objective, "smooth_labels", fail)
    found, supervision = outputs(), masks()
    total, values = Objective({"bce": 2.0})(found, supervision, GROUPS, CLASSES, JUDGED)
    assert total == 2 * values["bce"]
    assert set(values) == {"bce"}


def test_outputs_of_a_plain_network_are_enough() -> None:
    bare = dict.fromkeys(("crossed", "classes", "masked_classes", "pooled", "masked_pooled"))
    found = outputs(**bare, others=())
    total, values = Objective({"bce": 1.0}, others={"iou": 1.0})(found, points())
    assert total == values["bce"]
    assert set(values) == {"bce"}


@pytest.mark.parametrize("which", ["image", "masked", "both"])
def test_triplets_of(which: str) -> None:
    found = outputs()
    aim = Objective({"bce": 1.0}, triplet=1.0, triplet_of=which, triplet_margin=4.0)
    _, values = aim(found, masks(), GROUPS)
    image, masked = (triplet(x, GROUPS, 4.0).item() for x in (found.pooled, found.masked_pooled))
    assert image != pytest.approx(masked)
    expected = {"image": image, "masked": masked, "both": (image + masked) / 2}
    assert values["triplet"].item() == pytest.approx(expected[which])


@pytest.mark.parametrize(
    ("which", "missing"),
    [("image", "pooled"), ("masked", "masked_pooled"), ("both", "masked_pooled")],
)
def test_triplets_of_what_is_not_pooled_are_told(which: str, missing: str) -> None:
    aim = Objective({"bce": 1.0}, triplet=1.0, triplet_of=which)
    with pytest.raises(UserError, match=f"triplets of {which}: .*turn classification") as raised:
        aim(outputs(**{missing: None}), masks(), GROUPS)
    assert "\n" not in str(raised.value)


def test_smoothing_averages_hard_and_smoothed_masks_on_every_map() -> None:
    found, supervision = outputs(), masks()
    aim = Objective({"bce": 1.0}, others={"bce": 2.0})
    hard, values = aim(found, supervision)
    soft_labels = supervision._replace(labels=smooth_labels(supervision.labels))
    soft, _ = aim(found, soft_labels)
    total, told = dataclasses.replace(aim, smooth=True)(found, supervision)
    assert hard != soft
    assert total.item() == pytest.approx((hard + soft).item() / 2, rel=1e-6)
    assert told == values  # the masks', as they are


def test_smoothing_leaves_other_losses_and_points_as_they_are() -> None:
    found = outputs()
    smooth = dataclasses.replace(FULL, smooth=True)
    one, two = (aim(found, points(), GROUPS, CLASSES, JUDGED)[0] for aim in (FULL, smooth))
    assert one.item() == pytest.approx(two.item(), rel=1e-6)
    of_maps = Objective(FULL.last, FULL.others)
    supervision = masks()
    gained = [
        (dataclasses.replace(aim, smooth=True)(found, supervision, GROUPS, CLASSES, JUDGED)[0])
        - aim(found, supervision, GROUPS, CLASSES, JUDGED)[0]
        for aim in (FULL, of_maps)
    ]
    assert gained[0].item() == pytest.approx(gained[1].item(), abs=1e-5)


def test_without_an_opinion_there_is_no_adversary() -> None:
    aim = Objective({"bce": 1.0}, adversarial=1.0)
    _, without = aim(outputs(), masks())
    total, values = aim(outputs(), masks(), judged=torch.zeros(5, 1))
    assert set(without) == {"bce"}
    assert values["adversarial"].item() == pytest.approx(math.log(2))
    assert total.item() == pytest.approx((values["bce"] + values["adversarial"]).item())


def test_unknown_losses_on_the_other_maps_are_told() -> None:
    with pytest.raises(UserError, match=r"unknown loss 'bse'; did you mean 'mse'"):
        Objective({"bce": 1.0}, others={"bse": 1.0})(outputs(), masks())
