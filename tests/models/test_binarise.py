from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from models.binarise import Binarise, conv_block
from utils.errors import UserError

WIDTH = 8


@pytest.fixture
def head() -> Binarise:
    torch.manual_seed(0)
    return Binarise(WIDTH)


class _Channel(nn.Module):
    """Read one channel of the features: stands in for a branch of known output."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.index : self.index + 1]


def _of(a: Tensor, b: Tensor, k: float) -> tuple[Tensor, Tensor]:
    """Binarise where the branches give a and b, any shape: logits and soft logits, flat."""
    head = Binarise(2, k)
    head.saliency, head.threshold = _Channel(0), _Channel(1)
    found = head(torch.stack((a.flatten(), b.flatten())).view(1, 2, 1, -1))
    return found.logits.flatten(), found.soft_logits.flatten()


@pytest.mark.parametrize("k", [50.0, 300.0])
def test_matches_the_published_step_in_double_precision(k: float) -> None:
    a = torch.linspace(-12, 12, 49, dtype=torch.float64).view(-1, 1).expand(49, 49)
    b = a.T
    p, t = 1 / (1 + torch.exp(-a)), 1 / (1 + torch.exp(-b))
    published = 1 / (1 + torch.exp(-k * (p - t)))
    assert published.isfinite().all()
    logits, soft = _of(a, b, k)
    torch.testing.assert_close(logits.sigmoid(), published.flatten(), rtol=1e-10, atol=0)
    torch.testing.assert_close(soft, (a - b).flatten())


def test_keeps_its_slope_where_the_published_exponential_overflows() -> None:
    a, b = torch.tensor([-2.0]), torch.tensor([2.0])
    difference = a.sigmoid() - b.sigmoid()
    assert torch.exp(-300 * difference).isinf()
    logits, _ = _of(a, b, 300.0)
    torch.testing.assert_close(logits, 300 * difference)
    assert F.binary_cross_entropy_with_logits(logits, torch.ones(1)) > 200


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 2), min_size=1, max_size=8),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 1),
)
def test_finite_for_any_branch_outputs(
    pairs: list[tuple[float, float]], dtype: torch.dtype, answer: int
) -> None:
    a, b = torch.tensor(pairs).to(dtype).T.requires_grad_()
    logits, soft = _of(a, b, 300.0)
    assert logits.dtype == soft.dtype == torch.float32
    assert (logits.abs() <= 300).all()
    assert (logits * soft >= 0).all()  # both maps show the same objects
    F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, answer)).backward(
        inputs=[a, b]
    )
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()


def test_half_precision_branches_are_widened_before_the_step() -> None:
    # In bfloat16, sigmoid(3) and sigmoid(3.02) are one number.
    a, b = torch.tensor([3.0, 3.015625]).bfloat16().unbind()
    logits, _ = _of(a, b, 300.0)
    exact = 300 * (a.double().sigmoid() - b.double().sigmoid())
    assert exact < -0.1
    torch.testing.assert_close(logits.double(), exact.view(1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (7, 5)])
def test_keeps_the_resolution_of_the_features(head: Binarise, size: tuple[int, int]) -> None:
    found = head.eval()(torch.rand(3, WIDTH, *size))
    assert found.logits.shape == found.soft_logits.shape == (3, 1, *size)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_learns(
    head: Binarise, scale: float, training: bool, dtype: torch.dtype
) -> None:
    head.to(dtype).train(training)
    features = (scale * torch.randn(2, WIDTH, 6, 5)).to(dtype).requires_grad_()
    found = head(features)
    assert all(x.isfinite().all() for x in found)
    F.binary_cross_entropy_with_logits(found.logits, torch.rand_like(found.logits)).backward()
    assert features.grad.isfinite().all()
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all(), name
        if scale == 1:
            assert parameter.grad.count_nonzero() > 0, name


@pytest.mark.parametrize("k", [50.0, 300.0])
def test_starts_like_an_ordinary_head(k: float) -> None:
    torch.manual_seed(0)
    head = Binarise(64, k).train()
    logits = head(torch.rand(2, 64, 16, 16)).logits
    assert 0.15 < logits.sigmoid().mean() < 0.3
    assert 0.1 < logits.std() < 1.5


def test_tells_a_bright_square_from_its_ground() -> None:
    torch.manual_seed(0)
    head = Binarise(WIDTH).train()
    mask = torch.zeros(2, 1, 12, 12)
    mask[:, :, 3:8, 4:10] = 1
    features = 0.3 * torch.rand(2, WIDTH, 12, 12) + mask * torch.rand(1, WIDTH, 1, 1)
    optimiser = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(head(features).logits, mask).backward()
        optimiser.step()
    found = head.eval()(features)
    assert torch.equal(found.logits > 0, mask > 0)
    assert torch.equal(found.soft_logits > 0, mask > 0)
    grey = [((x.sigmoid() - 0.5).abs() < 0.49).float().mean() for x in found]
    assert grey[0] < 0.2 < 0.8 < grey[1]  # one map is nearly black and white, the other is not


def test_autocast_hands_back_float32_logits(head: Binarise) -> None:
    head.eval()
    features = torch.rand(1, WIDTH, 6, 6)
    with torch.no_grad():
        exact = head(features)
        with torch.autocast("cpu", torch.bfloat16):
            rough = head(features)
    assert rough.logits.dtype == torch.float32
    torch.testing.assert_close(rough.logits, exact.logits, atol=0.5, rtol=0.1)


def test_saved_head_predicts_bit_for_bit(head: Binarise, tmp_path: Path) -> None:
    features = torch.rand(2, WIDTH, 6, 6)
    head.train()(features)  # moves the running statistics
    torch.save(head.state_dict(), tmp_path / "head.pth")
    other = Binarise(WIDTH).eval()
    expected = head.eval()(features)
    assert not torch.equal(other(features).logits, expected.logits)
    other.load_state_dict(torch.load(tmp_path / "head.pth", weights_only=True))
    assert all(map(torch.equal, other(features), expected))


def test_exports_and_compiles(head: Binarise) -> None:
    features = torch.rand(1, WIDTH, 7, 5)
    head.eval()
    compiled = torch.compile(head, backend="eager", fullgraph=True)
    exported = torch.export.export(head, (features,)).module()
    for other in (compiled, exported):
        assert all(map(torch.equal, other(features), head(features)))
    torch._dynamo.reset()


@pytest.mark.parametrize("width", [8, 64])
def test_parameter_count(width: int) -> None:
    count = sum(p.numel() for p in Binarise(width).parameters())
    assert count == 36 * width**2 + 10 * width + 2
    assert width != 64 or count == 148_098


@pytest.mark.parametrize("k", [0.0, -300.0, 1.9, float("nan"), float("inf")])
def test_useless_slopes_are_refused(k: float) -> None:
    with pytest.raises(UserError, match="binarisation slope"):
        Binarise(WIDTH, k)


def test_conv_block_is_convolution_norm_and_relu() -> None:
    torch.manual_seed(0)
    block = conv_block(3, 5).train()
    x = torch.randn(2, 3, 6, 7)
    y = F.conv2d(x, block[0].weight, padding=1)
    mean, variance = y.mean((0, 2, 3), True), y.var((0, 2, 3), unbiased=False, keepdim=True)
    expected = ((y - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)
