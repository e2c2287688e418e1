"""Small adversarial perturbations that uncover the uncertain pixels of an over-confident model.

The loss attacked is the cross-entropy to the model's own hard prediction on the clean image, since
no dense label exists. Every attack has the signature ``attack(model, images, settings, noise,
target)``, needs gradients with respect to the image alone, and leaves the model as it was found.
``target`` is that prediction, (B, 1, H, W) of 0 and 1, where the caller knows it already; None: the
model is asked.

Sources: FGSM, Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015; PGD,
Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from utils.errors import UserError

PIXEL_RANGE = 255.0


@dataclass(frozen=True)
class AttackSettings:
    """How strong an attack is.

    Attributes:
        eps: radius of the L-infinity ball around the image, in units of 1/255.
        step: length of one step, in units of 1/255 (``pgd``, ``patch_pgd``).
        steps: number of steps (``pgd``, ``patch_pgd``).
        patches: n of the n x n grid of ``patch_pgd``.

    Raises:
        UserError: a value is out of its range.
    """

    eps: float
    step: float
    steps: int = 5
    patches: int = 4

    def __post_init__(self) -> None:
        for name in ("eps", "step"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= PIXEL_RANGE):
                raise UserError(f"attack {name} = {value}: give a number from 0 to 255")
        for name in ("steps", "patches"):
            if getattr(self, name) < 1:
                raise UserError(f"attack {name} = {getattr(self, name)}: give at least 1")


Attack = Callable[[nn.Module, Tensor, AttackSettings, Tensor, Tensor | None], Tensor]


def image_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Draw the noise of a batch, each image's from its own generator.

    An image's noise depends on its seed and the shape alone, neither on the batch nor the device.

    Args:
        seeds: B seeds, one an image.
        shape: shape of one image's noise, (3, H, W).

    Returns:
        (B, 3, H, W) float32 on the CPU, uniform in [-1, 1).
    """
    noise = torch.empty(len(seeds), *shape)
    for row, seed in zip(noise, seeds, strict=True):
        row.uniform_(-1.0, 1.0, generator=torch.Generator().manual_seed(seed))
    return noise


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Hold ``model`` in eval mode with no parameter requiring a gradient.

    The training flag of every module and the ``requires_grad`` flag of every parameter are put
    back as they were when the block ends, also by an exception.
    """
    # Only what differs is touched: a network that is asked batch after batch is frozen already.
    training = [module for module in model.modules() if module.training]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in learning:
            parameter.requires_grad_(False)
        yield model
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)


def no_attack(
    model: nn.Module,
    images: Tensor,
    settings: AttackSettings,
    noise: Tensor,
    target: Tensor | None = None,
) -> Tensor:
    """Return the images as they are; the model is not run."""
    return images


def fgsm(
    model: nn.Module,
    images: Tensor,
    settings: AttackSettings,
    noise: Tensor,
    target: Tensor | None = None,
) -> Tensor:
    """Take one signed-gradient step of length eps from the clean image.

    Args:
        model: RGB (B, 3, H, W) in [0, 1] -> an object with ``logits`` (B, 1, H, W). In eval mode
            its images must not influence each other, else neither are their attacks independent.
        images: (B, 3, H, W) float in [0, 1].
        settings: only ``eps`` is used.
        noise: not used.
        target: see the module's text.

    Returns:
        Adversarial images: shape and dtype of ``images``, in [0, 1], within eps/255 of them.
    """
    return _ascend(model, images, images, settings, [settings.eps / PIXEL_RANGE], target)


def pgd(
    model: nn.Module,
    images: Tensor,
    settings: AttackSettings,
    noise: Tensor,
    target: Tensor | None = None,
) -> Tensor:
    """Projected gradient descent: signed steps from a random start, kept inside the ball.

    Args:
        model, images, target: as in `fgsm`.
        settings: ``eps``, ``step`` and ``steps``.
        noise: (B, 3, H, W) in [-1, 1], see `image_noise`; the start is ``images + eps * noise``.

    Returns:
        Adversarial images, as in `fgsm`.

    Raises:
        ValueError: ``noise`` and ``images`` differ in shape.
    """
    moves = [settings.step / PIXEL_RANGE] * settings.steps
    return _ascend(model, images, _random_start(images, settings, noise), settings, moves, target)


def patch_pgd(
    model: nn.Module,
    images: Tensor,
    settings: AttackSettings,
    noise: Tensor,
    target: Tensor | None = None,
) -> Tensor:
    """PGD by parts: each step moves a random half of the n x n grid, then the other half.

    The gradient is taken anew for the second half, with the first half already perturbed. So every
    pixel moves ``steps`` times, as in `pgd`, at twice the cost. The parts of a step are drawn from
    ``noise``, which is the only source of chance.

    Args and errors: as in `pgd`, and ``settings.patches`` is n.

    Returns:
        Adversarial images, as in `fgsm`.
    """
    start = _random_start(images, settings, noise)
    moves = []
    for index in range(settings.steps):
        half = _random_half(noise, settings.patches, index).to(images)
        moves += [half * settings.step / PIXEL_RANGE, (1 - half) * settings.step / PIXEL_RANGE]
    return _ascend(model, images, start, settings, moves, target)


ATTACKS: dict[str, Attack] = {
    "none": no_attack,
    "fgsm": fgsm,
    "pgd": pgd,
    "patch_pgd": patch_pgd,
}


def hard_prediction(logits: Tensor) -> Tensor:
    """Return what an attack's loss is taken to, float32 0 or 1, of the clean images' logits."""
    return (logits > 0).float()


def _random_start(images: Tensor, settings: AttackSettings, noise: Tensor) -> Tensor:
    if noise.shape != images.shape:
        raise ValueError(f"noise {tuple(noise.shape)} and images {tuple(images.shape)} differ")
    return _project(images + noise.to(images) * settings.eps / PIXEL_RANGE, images, settings)


def _random_half(noise: Tensor, patches: int, index: int) -> Tensor:
    """Return (B, 1, H, W) bool, true on a random half (rounded up) of the grid's cells.

    An image's cells are ranked by ``patches**2`` values of its noise, a fresh run of them for
    every ``index`` as long as the noise lasts.
    """
    cells = patches * patches
    values = noise.flatten(1)
    run = torch.arange(index * cells, (index + 1) * cells, device=noise.device) % values.shape[1]
    rank = values[:, run].argsort(dim=1, stable=True).argsort(dim=1)
    chosen = (rank < (cells + 1) // 2).view(-1, 1, patches, patches)
    height, width = noise.shape[-2:]
    rows = torch.arange(height, device=noise.device) * patches // height
    columns = torch.arange(width, device=noise.device) * patches // width
    return chosen[:, :, rows][:, :, :, columns]


def _project(candidate: Tensor, images: Tensor, settings: AttackSettings) -> Tensor:
    radius = settings.eps / PIXEL_RANGE
    return candidate.clamp(images - radius, images + radius).clamp(0.0, 1.0)


def _ascend(
    model: nn.Module,
    images: Tensor,
    start: Tensor,
    settings: AttackSettings,
    moves: Sequence[float | Tensor],
    target: Tensor | None,
) -> Tensor:
    """Raise the attacked loss by one signed-gradient step for each of ``moves``.

    A move is the length of the step, one number or one for every pixel. The loss is summed over
    pixels, so the gradient of an image does not depend on its batch.
    """
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        # Cloned because a tensor made in inference mode cannot take part in a gradient.
        images, adversarial = images.detach().clone(), start.detach().clone()
        target = hard_prediction(model(images).logits) if target is None else target.clone()
        for move in moves:
            adversarial.requires_grad_(True)
            logits = model(adversarial).logits.float()
            loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            moved = adversarial.detach() + gradient.sign() * move
            adversarial = _project(moved, images, settings)
    return adversarial
