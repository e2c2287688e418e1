from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.binarise import Binarise
from models.refiner import Refiner
from utils.errors import UserError

WIDTH = 6
KINDS = {
    "map": {},
    "image": {"channels_in": 4},
    "binarise": {"binarise": 300.0},
    "both": {"channels_in": 4, "binarise": 50.0},
}


@pytest.fixture(params=KINDS)
def refiner(request: pytest.FixtureRequest) -> Refiner:
    torch.manual_seed(0)
    return Refiner(width=WIDTH, **KINDS[request.param])


def _inputs(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 1, height, width), torch.rand(batch, 3, height, width)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 31), (32, 48)])
def test_any_size_and_batch(refiner: Refiner, size: tuple[int, int]) -> None:
    refiner.eval()
    logits, image = _inputs(2, *size)
    both = refiner(logits, image)
    assert both.shape == (2, 1, *size)
    assert both.isfinite().all()
    torch.testing.assert_close(both[1:], refiner(logits[1:], image[1:]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels_in", [1, 4])
def test_residual_is_added_to_the_logits(channels_in: int) -> None:
    torch.manual_seed(0)
    refiner = Refiner(channels_in, WIDTH).eval()
    logits, image = _inputs(2, 9, 11)
    residual = refiner.head(refiner.features(logits, image))
    assert residual.abs().max() > 0.01
    assert torch.equal(refiner(logits, image), logits + residual)
    torch.nn.init.zeros_(refiner.head.weight)
    torch.nn.init.zeros_(refiner.head.bias)
    assert torch.equal(refiner(logits, image), logits)


def test_binarised_map_is_read_anew() -> None:
    torch.manual_seed(0)
    refiner = Refiner(1, WIDTH, binarise=300.0).eval()
    assert isinstance(refiner.head, Binarise)
    assert refiner.head.k == 300
    logits, _ = _inputs(1, 9, 11)
    expected = refiner.head(refiner.features(logits)).logits
    assert torch.equal(refiner(logits), expected)


def test_sees_saliency_first_and_image_only_if_asked() -> None:
    torch.manual_seed(0)
    logits, image = _inputs(1, 8, 8)
    seen: list[Tensor] = []
    for channels_in in (1, 4):
        refiner = Refiner(channels_in, WIDTH).eval()
        refiner.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        refiner(logits, image)
    assert torch.equal(seen[0], logits.sigmoid())
    assert torch.equal(seen[1], torch.cat((logits.sigmoid(), image), dim=1))


def test_features_match_the_u_net_written_out() -> None:
    torch.manual_seed(0)
    net = Refiner(1, WIDTH).eval()
    for block in (*net.down, net.bridge, *net.up):
        torch.nn.init.normal_(block[1].running_mean)
        torch.nn.init.uniform_(block[1].bias, 0.5, 1.0)

    def run(block: torch.nn.Sequential, x: Tensor) -> Tensor:
        y = F.conv2d(x, block[0].weight, padding=1)
        norm = block[1]
        y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return y.clamp(min=0)

    def join(coarse: Tensor, skip: Tensor) -> Tensor:
        return torch.cat((F.interpolate(coarse, skip.shape[-2:], mode="bilinear"), skip), 1)

    logits, _ = _inputs(2, 32, 48)  # sizes that halve exactly
    d1 = run(net.down[0], F.conv2d(logits.sigmoid(), net.stem.weight, net.stem.bias, padding=1))
    d2 = run(net.down[1], F.max_pool2d(d1, 2))
    d3 = run(net.down[2], F.max_pool2d(d2, 2))
    d4 = run(net.down[3], F.max_pool2d(d3, 2))
    bridge = run(net.bridge, F.max_pool2d(d4, 2))
    u4 = run(net.up[0], join(bridge, d4))
    u3 = run(net.up[1], join(u4, d3))
    u2 = run(net.up[2], join(u3, d2))
    expected = run(net.up[3], join(u2, d1))
    torch.testing.assert_close(net.features(logits), expected)
    for part in (bridge, u4, u3, u2, expected):
        assert part.std() > 0.01  # the comparison would see each


def test_levels_halve_and_round_up() -> None:
    refiner = Refiner(1, WIDTH).eval()
    sizes: list[tuple[int, ...]] = []
    for block in (*refiner.down, refiner.bridge, *refiner.up):
        block.register_forward_hook(lambda module, inputs, out: sizes.append(out.shape[-2:]))
    refiner(torch.randn(1, 1, 19, 33))
    down = [(19, 33), (10, 17), (5, 9), (3, 5)]
    assert [tuple(size) for size in sizes] == [*down, (2, 3), *reversed(down)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_every_parameter_learns(
    refiner: Refiner, scale: float, training: bool, dtype: torch.dtype
) -> None:
    refiner.to(dtype).train(training)
    logits, image = ((scale * x).to(dtype).requires_grad_() for x in _inputs(2, 33, 35))
    found = refiner(logits, image)
    assert found.isfinite().all()
    F.binary_cross_entropy_with_logits(found.float(), torch.rand(found.shape)).backward()
    assert logits.grad.isfinite().all()
    for name, parameter in refiner.named_parameters():
        assert parameter.grad.isfinite().all(), name
        if scale == 1:
            assert parameter.grad.count_nonzero() > 0, name


def test_mends_a_hole() -> None:
    torch.manual_seed(0)
    refiner = Refiner(1, WIDTH).train()
    mask = torch.zeros(2, 1, 24, 24)
    mask[0, :, 4:16, 6:20] = 1
    mask[1, :, 8:22, 3:15] = 1
    holed = mask.clone()
    holed[0, :, 8:11, 10:14] = 0
    holed[1, :, 12:16, 8:11] = 0
    logits = 4 * holed - 2
    optimiser = torch.optim.Adam(refiner.parameters(), lr=1e-2)
    for _ in range(50):
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(refiner(logits), mask).backward()
        optimiser.step()
    with torch.no_grad():
        found = refiner(logits) > 0
    assert ((logits > 0) != (mask > 0)).sum() == 24
    assert (found != (mask > 0)).sum() < 6


def test_autocast_hands_back_float32_logits(refiner: Refiner) -> None:
    refiner.eval()
    inputs = _inputs(1, 32, 32)
    with torch.no_grad():
        exact = refiner(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rough = refiner(*inputs)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.3, rtol=0.1)


def test_saved_refiner_predicts_bit_for_bit(refiner: Refiner, tmp_path: Path) -> None:
    inputs = _inputs(2, 20, 17)
    refiner.train()(*inputs)
    torch.save(refiner.state_dict(), tmp_path / "refiner.pth")
    expected = refiner.eval()(*inputs)
    refiner.train()(*inputs)
    assert not torch.equal(refiner.eval()(*inputs), expected)
    refiner.load_state_dict(torch.load(tmp_path / "refiner.pth", weights_only=True))
    assert torch.equal(refiner(*inputs), expected)


def test_exports() -> None:
    refiner = Refiner(1, WIDTH).eval()
    logits, _ = _inputs(1, 19, 33)
    exported = torch.export.export(refiner, (logits,)).module()
    assert torch.equal(exported(logits), refiner(logits))


def test_compiles_as_one_graph() -> None:
    refiner = Refiner(4, WIDTH, binarise=300.0).eval()
    inputs = _inputs(1, 19, 33)
    compiled = torch.compile(refiner, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(*inputs), refiner(*inputs))
    torch._dynamo.reset()


def test_parameter_counts() -> None:
    def count(*values: float) -> int:
        return sum(p.numel() for p in Refiner(*values).parameters())

    assert count() == 481_601
    assert count(4) == 483_329
    assert count(1, 64, 300.0) - count(1) == 147_521


def test_useless_slope_is_refused() -> None:
    with pytest.raises(UserError, match="binarisation slope k=0"):
        Refiner(binarise=0)
