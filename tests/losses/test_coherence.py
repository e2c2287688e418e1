from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from losses import Supervision
from losses.coherence import coherence

STD = np.array([0.229, 0.224, 0.225])


def supervise(image: torch.Tensor) -> Supervision:
    batch, _, height, width = image.shape
    return Supervision(torch.zeros(batch, 2, height, width), image)


def slow_coherence(
    saliency: np.ndarray, image: np.ndarray, radius: int, colour_sigma: float, place_sigma: float
) -> float:
    """Mean over pixels of the sum over their neighbours in the kernel, one pair at a time."""
    height, width = saliency.shape
    total = 0.0
    for y, x in np.ndindex(height, width):
        for v in range(max(0, y - radius), min(height, y + radius + 1)):
            for u in range(max(0, x - radius), min(width, x + radius + 1)):
                if (v, u) == (y, x):
                    continue
                colour = (((image[:, y, x] - image[:, v, u]) / STD) ** 2).sum()
                place = (y - v) ** 2 + (x - u) ** 2
                weight = math.exp(-place / (2 * place_sigma**2) - colour / (2 * colour_sigma**2))
                total += weight * abs(saliency[y, x] - saliency[v, u])
    return total / (height * width)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(7, 9), (2, 6), (1, 5), (4, 1)])
def test_equals_the_plain_loop(size: tuple[int, int], kernel: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 1, *size).double()
    image = 0.5 + 0.1 * torch.randn(1, 3, *size).double()
    found = coherence(logits, supervise(image), kernel, 0.7, 2.0, scale=1.0)
    saliency = logits.sigmoid()[0, 0].numpy()
    expected = slow_coherence(saliency, image[0].numpy(), kernel // 2, 0.7, 2.0)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_defaults_are_the_documented_ones_at_half_size() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 12, 10).double()
    image = 0.5 + 0.1 * torch.randn(1, 3, 12, 10).double()
    saliency = torch.nn.functional.avg_pool2d(logits.sigmoid(), 2)[0, 0].numpy()
    small = torch.nn.functional.avg_pool2d(image, 2)[0].numpy()
    expected = slow_coherence(saliency, small, 2, 0.5, 6.0)
    assert coherence(logits, supervise(image)).item() == pytest.approx(expected, rel=1e-10)


def test_two_pixels_by_hand() -> None:
    # Saliency 0 and 1 side by side; red differs by one ImageNet standard deviation.
    logits = torch.tensor([[[[-1e4, 1e4]]]])
    image = torch.zeros(1, 3, 1, 2)
    image[0, 0, 0, 1] = 0.229
    found = coherence(logits, supervise(image), colour_sigma=0.5, place_sigma=6.0, scale=1.0)
    assert found.item() == pytest.approx(math.exp(-1 / 72 - 2), rel=1e-5)


def test_an_edge_between_colours_costs_little() -> None:
    logits = torch.full((1, 1, 16, 16), -5.0)
    logits[..., 8:] = 5.0
    plain = torch.full((1, 3, 16, 16), 0.5)
    edged = plain.clone()
    edged[..., 8:] = 1.0
    assert coherence(logits, supervise(edged)) < 0.02 * coherence(logits, supervise(plain))


def test_a_flat_map_costs_nothing() -> None:
    loss = coherence(torch.full((2, 1, 9, 9), 0.3), supervise(torch.rand(2, 3, 9, 9)))
    assert loss.item() == pytest.approx(0, abs=1e-8)


def test_no_gradient_flows_to_the_image() -> None:
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    logits = torch.randn(1, 1, 8, 8, requires_grad=True)
    coherence(logits, supervise(image)).backward()
    assert image.grad is None
    assert logits.grad.count_nonzero() > 0
