from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from models.classification import MASK_OPERATIONS, ClassHead, MaskedImage
from utils.errors import UserError

CLASSES, CHANNELS = 5, 6


@pytest.fixture
def head() -> ClassHead:
    torch.manual_seed(0)
    return ClassHead(CHANNELS, CLASSES)


@pytest.mark.parametrize("size", [(1, 1), (7, 3)])
def test_pools_and_classifies(head: ClassHead, size: tuple[int, int]) -> None:
    x = torch.randn(2, CHANNELS, *size)
    pooled = head.pool(x)
    torch.testing.assert_close(pooled, x.flatten(2).sum(2) / (size[0] * size[1]))
    expected = torch.einsum("bc,kc->bk", pooled, head.linear.weight) + head.linear.bias
    torch.testing.assert_close(head(pooled), expected)
    assert head(pooled).shape == (2, CLASSES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_class_head_learns_from_any_features(
    head: ClassHead, scale: float, dtype: torch.dtype
) -> None:
    head.to(dtype)
    x = (scale * torch.randn(2, CHANNELS, 4, 3)).to(dtype).requires_grad_()
    loss = F.cross_entropy(head(head.pool(x)).float(), torch.tensor([1, 4]))
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()
    for name, parameter in head.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.count_nonzero() > 0, name


def test_saved_class_head_predicts_bit_for_bit(head: ClassHead, tmp_path: Path) -> None:
    pooled = torch.randn(2, CHANNELS)
    expected = head(pooled)
    torch.save(head.state_dict(), tmp_path / "head.pth")
    other = ClassHead(CHANNELS, CLASSES)
    assert not torch.equal(other(pooled), expected)
    other.load_state_dict(torch.load(tmp_path / "head.pth", weights_only=True))
    assert torch.equal(other(pooled), expected)
    assert torch.equal(head.eval()(pooled), head.train()(pooled))


def test_product_and_sum_by_hand() -> None:
    image = torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    saliency = torch.tensor([0.0, 0.5]).view(1, 1, 1, 2)
    product = torch.tensor([[0.0, 1.0], [0.0, -0.5], [0.0, 0.25]]).view(1, 3, 1, 2)
    total = torch.tensor([[2.0, 2.5], [-1.0, -0.5], [0.5, 1.0]]).view(1, 3, 1, 2)
    assert torch.equal(MaskedImage("x")(image, saliency), product)
    assert torch.equal(MaskedImage("+")(image, saliency), total)


def test_mixture_is_one_linear_map_a_pixel() -> None:
    torch.manual_seed(0)
    masked = MaskedImage("c")
    image, saliency = torch.randn(2, 3, 5, 4), torch.rand(2, 1, 5, 4)
    weight, bias = masked.operation.mix.weight, masked.operation.mix.bias
    pixel = torch.cat((image[1, :, 3, 2], saliency[1, :, 3, 2]))
    expected = weight.view(3, 4) @ pixel + bias
    torch.testing.assert_close(masked(image, saliency)[1, :, 3, 2], expected)


@pytest.mark.parametrize("operation", MASK_OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gradient_reaches_map_image_and_mixture(
    operation: str, dtype: torch.dtype, scale: float
) -> None:
    torch.manual_seed(0)
    masked = MaskedImage(operation).to(dtype)
    image = (scale * torch.randn(2, 3, 7, 5)).to(dtype).requires_grad_()
    saliency = torch.rand(2, 1, 7, 5).to(dtype).requires_grad_()
    found = masked(image, saliency)
    assert found.shape == image.shape
    assert found.dtype == dtype
    (found.float() / scale).square().mean().backward()
    for name, x in (("image", image), ("saliency", saliency), *masked.named_parameters()):
        assert x.grad.isfinite().all(), name
        assert x.grad.count_nonzero() > 0, name


@pytest.mark.parametrize("operation", MASK_OPERATIONS)
def test_saved_masked_image_is_bit_equal(operation: str, tmp_path: Path) -> None:
    inputs = torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4)
    masked, other = MaskedImage(operation), MaskedImage(operation)
    torch.save(masked.state_dict(), tmp_path / "masked.pth")
    other.load_state_dict(torch.load(tmp_path / "masked.pth", weights_only=True))
    assert torch.equal(other.eval()(*inputs), masked.train()(*inputs))


@pytest.mark.parametrize("operation", MASK_OPERATIONS)
def test_exports_and_compiles(head: ClassHead, operation: str) -> None:
    image, saliency, pooled = torch.rand(1, 3, 7, 5), torch.rand(1, 1, 7, 5), torch.rand(2, 6)
    for module, inputs in ((MaskedImage(operation), (image, saliency)), (head, (pooled,))):
        expected = module(*inputs)
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        assert torch.equal(compiled(*inputs), expected)
        assert torch.equal(torch.export.export(module, inputs).module()(*inputs), expected)
    torch._dynamo.reset()


def test_parameter_counts() -> None:
    counts = {
        name: sum(p.numel() for p in MaskedImage(name).parameters()) for name in MASK_OPERATIONS
    }
    assert counts == {"x": 0, "+": 0, "c": 15}
    assert sum(p.numel() for p in ClassHead(512, 291).parameters()) == 149_283


def test_unknown_operation_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown mask operation '\*'.*known: x, \+, c"):
        MaskedImage("*")
