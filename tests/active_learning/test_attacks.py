"""Attacks: known optimum, contract of every registered attack, and the model left as it was."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from active_learning.attacks import ATTACKS, AttackSettings, frozen, image_noise
from utils.errors import UserError

SETTINGS = AttackSettings(eps=8, step=3, steps=6, patches=3)
GRADIENT_ATTACKS = [name for name in ATTACKS if name != "none"]
RANDOM_ATTACKS = ["pgd", "patch_pgd"]


class Linear(nn.Module):
    """logits = w . x + b at every pixel."""

    def __init__(self, weights: list[float], bias: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))
        self.bias = bias

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        logits = (images * self.weights.view(1, 3, 1, 1)).sum(1, keepdim=True) + self.bias
        return SimpleNamespace(logits=logits, features=images)


class SmallNet(nn.Module):
    """Convolutions with batch norm and dropout, in double so that batches agree closely."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Conv2d(8, 1, 3, padding=1),
        ).double()
        self.body[1].running_mean.uniform_(-0.1, 0.1)
        self.body[1].running_var.uniform_(0.5, 1.5)

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.body(images.double()), features=images)


def images_of(count: int, height: int = 13, width: int = 17) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(count, 3, height, width, generator=generator).double()
    images[:, :, :2] = 0.0  # black and white pixels meet the limits of the range
    images[:, :, -2:] = 1.0
    return images


def noise_of(images: torch.Tensor, first_seed: int = 100) -> torch.Tensor:
    return image_noise(range(first_seed, first_seed + len(images)), images.shape[1:])


@pytest.mark.parametrize("name", ATTACKS)
def test_stays_in_ball_and_range_and_is_deterministic(name):
    images, model = images_of(2), SmallNet()
    before, noise = images.clone(), noise_of(images)
    adversarial = ATTACKS[name](model, images, SETTINGS, noise)
    assert adversarial.shape == images.shape
    assert adversarial.dtype == images.dtype
    assert not adversarial.requires_grad
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert (adversarial - images).abs().max() <= 8 / 255 + 1e-9
    assert torch.equal(adversarial, ATTACKS[name](model, images, SETTINGS, noise))
    assert torch.equal(images, before)
    assert torch.equal(adversarial, images) == (name == "none")


@pytest.mark.parametrize("name", ATTACKS)
def test_an_image_does_not_depend_on_its_batch(name):
    images, model = images_of(3), SmallNet()
    noise = noise_of(images)
    together = ATTACKS[name](model, images, SETTINGS, noise)
    for index in range(3):
        one = slice(index, index + 1)
        alone = ATTACKS[name](model, images[one], SETTINGS, noise[one])
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ATTACKS)
def test_model_is_left_as_it_was(name):
    images, model = images_of(2), SmallNet().train()
    model.body[1].eval()
    model.body[0].weight.requires_grad_(False)
    model.body[4].bias.grad = torch.full((1,), 7.0).double()
    state = copy.deepcopy(model.state_dict())
    training = [module.training for module in model.modules()]
    ATTACKS[name](model, images, SETTINGS, noise_of(images))
    assert [module.training for module in model.modules()] == training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad == (key != "body.0.weight")
        assert (parameter.grad is None) == (key != "body.4.bias")
    assert model.body[4].bias.grad.item() == 7.0


@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_raises_the_attacked_loss_more_than_chance(name):
    images, model = images_of(3), SmallNet().eval()
    target = (model(images).logits > 0).double()

    def loss(inputs: torch.Tensor) -> torch.Tensor:
        logits = model(inputs).logits
        each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return each.sum((1, 2, 3)).detach()

    noise = noise_of(images)
    adversarial = ATTACKS[name](model, images, SETTINGS, noise)
    random = (images + noise.sign() * 8 / 255).clamp(0, 1)
    assert (loss(adversarial) > loss(images)).all()
    assert (loss(adversarial) > loss(random) + 0.1).all()


@pytest.mark.parametrize("name", GRADIENT_ATTACKS)
def test_finds_the_optimum_of_a_linear_model(name):
    # The loss falls with |logit|, so the optimum is x - eps sign(y w), cut to [0, 1].
    weights = torch.tensor([2.0, -1.0, 0.5])
    model, images = Linear(weights.tolist(), -0.7), images_of(2).float()
    side = (model(images).logits > 0).float() * 2 - 1
    assert side.unique().numel() == 2
    direction = -side * weights.sign().view(1, 3, 1, 1)
    expected = (images + 6 / 255 * direction).clamp(0, 1)
    settings = AttackSettings(eps=6, step=2, steps=6)
    adversarial = ATTACKS[name](model, images, settings, noise_of(images))
    torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ATTACKS)
def test_eps_zero_gives_the_image(name):
    images = images_of(2)
    settings = AttackSettings(eps=0, step=1)
    assert torch.equal(ATTACKS[name](SmallNet(), images, settings, noise_of(images)), images)


@pytest.mark.parametrize("name", ATTACKS)
def test_zero_gradient_stays_in_the_ball(name):
    images = images_of(1).float()
    noise = noise_of(images)
    adversarial = ATTACKS[name](Linear([0.0, 0.0, 0.0], 1.0), images, SETTINGS, noise)
    start = noise if name in RANDOM_ATTACKS else torch.zeros_like(noise)
    torch.testing.assert_close(adversarial, (images + start * 8 / 255).clamp(0, 1))


@pytest.mark.parametrize("name", RANDOM_ATTACKS)
def test_other_noise_gives_another_attack(name):
    images, settings = images_of(1), AttackSettings(eps=8, step=1, steps=2)
    one = ATTACKS[name](SmallNet(), images, settings, noise_of(images, 1))
    two = ATTACKS[name](SmallNet(), images, settings, noise_of(images, 2))
    assert not torch.equal(one, two)
    with pytest.raises(ValueError, match="differ"):
        ATTACKS[name](SmallNet(), images, settings, noise_of(images)[:, :, 1:])


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ATTACKS)
def test_works_where_gradients_are_off(name, guard):
    model, settings = SmallNet(), SETTINGS
    expected = ATTACKS[name](model, images_of(1), settings, noise_of(images_of(1)))
    with guard():
        images = images_of(1)
        adversarial = ATTACKS[name](model, images, settings, noise_of(images))
        assert not torch.is_grad_enabled()
    assert torch.equal(adversarial, expected)


def test_patch_pgd_moves_one_half_of_the_grid_at_a_time():
    seen = []

    class Watched(Linear):
        def forward(self, images: torch.Tensor) -> SimpleNamespace:
            seen.append(images.detach().clone())
            return super().forward(images)

    images = torch.full((2, 3, 12, 18), 0.5)
    settings = AttackSettings(eps=40, step=1, steps=2, patches=3)
    end = ATTACKS["patch_pgd"](Watched([1.0, 1.0, 1.0], 0.0), images, settings, noise_of(images))
    states = [*seen[1:], end]  # the first run is the clean prediction
    moved = [(after != before).any(1) for before, after in itertools.pairwise(states)]
    assert len(moved) == 4
    for first, second in (moved[:2], moved[2:]):
        cells = first.view(2, 3, 4, 3, 6).transpose(2, 3).reshape(2, 9, 24)
        assert (cells.all(2) == cells.any(2)).all()
        assert (cells.any(2).sum(1) == 5).all()
        assert torch.equal(second, ~first)
    assert not torch.equal(moved[0], moved[2])
    assert not torch.equal(moved[0][0], moved[0][1])


def test_patch_pgd_takes_any_grid():
    images = images_of(1, 5, 7)
    for patches in (1, 4, 9):
        settings = AttackSettings(eps=8, step=2, steps=3, patches=patches)
        adversarial = ATTACKS["patch_pgd"](SmallNet(), images, settings, noise_of(images))
        assert (adversarial - images).abs().max() <= 8 / 255 + 1e-9


def test_noise_of_an_image_follows_its_seed_alone():
    noise = image_noise([4, 9, 4], (3, 5, 6))
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(noise[1:2], image_noise([9], (3, 5, 6)))
    many = image_noise(range(20), (3, 16, 16))
    assert many.min() >= -1
    assert many.max() <= 1
    assert abs(many.mean()) < 0.02
    assert many.std() == pytest.approx(3**-0.5, abs=0.01)


def test_frozen_restores_after_an_exception():
    model = SmallNet().train()
    model.body[3].eval()
    model.body[0].bias.requires_grad_(False)

    def fail() -> None:
        with frozen(model) as held:
            assert not any(module.training for module in held.modules())
            assert not any(parameter.requires_grad for parameter in held.parameters())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [module.training for module in model.body] == [True, True, True, False, True]
    assert model.training
    off = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert off == ["body.0.bias"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"eps": -1}, "eps = -1"),
        ({"eps": float("nan")}, "eps = nan"),
        ({"step": 256}, "step = 256"),
        ({"steps": 0}, "steps = 0"),
        ({"patches": 0}, "patches = 0"),
    ],
)
def test_wrong_settings_are_told(values, told):
    with pytest.raises(UserError, match=told):
        AttackSettings(**{"eps": 4.0, "step": 1.0, **values})
