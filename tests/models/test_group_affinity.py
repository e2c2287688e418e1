from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from models.group_affinity import (
    RELATIONS,
    ContrastHead,
    GroupAffinity,
    GroupConsensus,
    MultiHeadAttention,
    NonLocal,
)
from utils.errors import UserError

relations = pytest.mark.parametrize("relation", RELATIONS)


def awake(module: nn.Module) -> nn.Module:
    """Give every parameter a value, so that nothing is hidden by a zero of the initialisation."""
    for name, parameter in module.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.uniform_(parameter, 0.5, 2)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return module


def relation_module(relation: str, channels: int = 16) -> nn.Module:
    torch.manual_seed(3)
    return awake(RELATIONS[relation](channels)).double().eval()


def group_consensus(relation: str, channels: int = 16) -> GroupConsensus:
    torch.manual_seed(4)
    return awake(GroupConsensus(channels, relation)).double().eval()


def maps(n: int, channels: int = 16, size: tuple[int, int] = (3, 5), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, *size, generator=generator, dtype=torch.float64)


def per_pixel(layer: nn.Conv2d, pixel: Tensor) -> Tensor:
    return layer.weight[:, :, 0, 0] @ pixel + layer.bias


def affinity_by_loops(module: GroupAffinity, x: Tensor) -> Tensor:
    n, channels, h, w = x.shape
    places = [(row, column) for row in range(h) for column in range(w)]
    queries, keys = (
        {(i, *at): per_pixel(layer, x[(i, slice(None), *at)]) for i in range(n) for at in places}
        for layer in (module.query, module.key)
    )
    out = torch.empty_like(x)
    for i in range(n):
        scores = {}
        for at in places:
            best = [
                max(float(queries[(i, *at)] @ keys[(j, *there)]) for there in places)
                for j in range(n)
            ]
            scores[at] = sum(best) / n / math.sqrt(channels)
        total = sum(math.exp(score) for score in scores.values())
        for at, score in scores.items():
            weighted = x[(i, slice(None), *at)] * (math.exp(score) / total)
            out[(i, slice(None), *at)] = per_pixel(module.output, weighted)
    return out


@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 3), h=st.integers(1, 4), w=st.integers(1, 4), seed=st.integers(0, 99))
def test_affinity_is_what_nested_loops_say(n: int, h: int, w: int, seed: int) -> None:
    module, x = relation_module("gam", 8), maps(n, 8, (h, w), seed)
    with torch.no_grad():
        torch.testing.assert_close(module(x), affinity_by_loops(module, x))


def test_affinity_finds_what_every_image_shows() -> None:
    # One pixel of each image is alike, the rest differ from image to image: with identity
    # projections the shared one has the highest affinity to the other images.
    module = GroupAffinity(8)
    for layer in (module.query, module.key):
        nn.init.dirac_(layer.weight)
    x = torch.zeros(3, 8, 1, 3)
    for image, shared in enumerate((0, 2, 1)):
        own = [place for place in range(3) if place != shared]
        x[image, 0, 0, shared] = 5
        for channel, place in enumerate(own):
            x[image, 1 + 2 * image + channel, 0, place] = 5
    assert module.scores(x).flatten(1).argmax(dim=1).tolist() == [0, 2, 1]


def test_affinity_of_an_even_image_shrinks_it_by_its_pixels() -> None:
    module, pixel = relation_module("gam"), maps(1, size=(1, 1))
    nn.init.zeros_(module.output.bias)
    expected = module.output(pixel) / 15
    torch.testing.assert_close(module(pixel.expand(2, -1, 3, 5)), expected.expand(2, -1, 3, 5))


def test_affinity_starts_as_published() -> None:
    torch.manual_seed(0)
    module = GroupAffinity(128)
    for layer in (module.query, module.key, module.output):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.03)
        assert not layer.bias.any()


class Largest(TorchDispatchMode):
    """Notes the largest product of matrices that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.mm.default:
            self.numbers = max(self.numbers, result.numel())
        return result


@pytest.mark.parametrize("limit", [1, 61, 60 * 7, 60 * 59, 60 * 60, 2**24])
def test_affinity_in_pieces_is_affinity_in_one(limit: int) -> None:
    whole, pieces = relation_module("gam"), relation_module("gam")
    pieces.limit = limit
    gradients, outputs = [], []
    for module in (whole, pieces):
        x = maps(4).requires_grad_()
        out = module(x)
        outputs.append(out)
        gradients.append(torch.autograd.grad(out.square().sum(), [x, *module.parameters()]))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("limit", "largest"), [(60 * 7, 60 * 7), (60 * 60, 60 * 60), (1, 60)])
def test_affinity_keeps_to_its_limit(limit: int, largest: int) -> None:
    module, saved = GroupAffinity(4, limit=limit), []
    with (
        Largest() as mode,
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, id),
    ):
        module.scores(torch.randn(4, 4, 3, 5))
    assert mode.numbers == largest
    assert max(saved) <= 60 * 4  # queries, keys and the index of each maximum; no affinities


@pytest.mark.parametrize("size", [(1, 1), (2, 4), (3, 5)])
def test_nonlocal_is_its_formula(size: tuple[int, int]) -> None:
    module, x = relation_module("nonlocal"), maps(2, size=size)
    nn.init.normal_(module.norm.running_mean)
    nn.init.uniform_(module.norm.running_var, 0.5, 2)
    with torch.no_grad():
        query, key, value = (
            torch.einsum("oc,nchw->nohw", layer.weight[:, :, 0, 0], x)
            for layer in (module.query, module.key, module.value)
        )
        query = query + module.query.bias[:, None, None]
        # Pad to even sides with what never is a maximum, then take the largest of each 2 x 2.
        key, value = (
            F.pad(y, (0, size[1] % 2, 0, size[0] % 2), value=-math.inf)
            .unfold(2, 2, 2)
            .unfold(3, 2, 2)
            .amax((4, 5))
            .flatten(2)
            for y in (key, value)
        )
        attention = torch.einsum("ncp,ncq->npq", query.flatten(2), key).softmax(dim=2)
        seen = torch.einsum("npq,ncq->ncp", attention, value).view(2, 8, *size)
        out = torch.einsum("oc,nchw->nohw", module.output.weight[:, :, 0, 0], seen)
        expected = x + module.norm(out)
        torch.testing.assert_close(module(x), expected)


def test_nonlocal_starts_as_the_identity() -> None:
    x = maps(3).float()
    assert torch.equal(NonLocal(16)(x), x)


def test_multi_head_attention_is_torchs() -> None:
    module, x = relation_module("mha"), maps(2)
    reference = nn.MultiheadAttention(16, 8, batch_first=True).double()
    layers = (module.query, module.key, module.value)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([layer.weight[:, :, 0, 0] for layer in layers]))
        biases = [module.query.bias, torch.zeros(16), module.value.bias]
        reference.in_proj_bias.copy_(torch.cat(biases))
        reference.out_proj.weight.copy_(module.output.weight[:, :, 0, 0])
        reference.out_proj.bias.copy_(module.output.bias)
        tokens = x.flatten(2).transpose(1, 2)
        expected, _ = reference(tokens, tokens, tokens)
        torch.testing.assert_close(module(x), expected.transpose(1, 2).view_as(x))


def test_multi_head_attention_wants_a_multiple_of_eight_channels() -> None:
    with pytest.raises(ValueError, match="12 channels"):
        MultiHeadAttention(12)


@pytest.mark.parametrize("relation", ["nonlocal", "mha"])
def test_attention_stays_within_its_image(relation: str) -> None:
    module, x = relation_module(relation), maps(3)
    torch.testing.assert_close(module(x)[1:2], module(x[1:2]))


def test_affinity_looks_beyond_its_image() -> None:
    module, x = relation_module("gam"), maps(3)
    assert not torch.allclose(module(x)[1:2], module(x[1:2]))


@relations
def test_every_parameter_learns(relation: str) -> None:
    module = relation_module(relation).train()
    module(maps(3)).pow(3).sum().backward()
    idle = [name for name, p in module.named_parameters() if not p.grad.abs().max() > 1e-9]
    assert not idle


@relations
@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(5)))
def test_order_within_a_group_does_not_matter(relation: str, order: list[int]) -> None:
    module, x = group_consensus(relation), maps(8)
    shuffled = torch.cat([x[order], x[5:]])
    out = module(x, (5, 3))
    expected = torch.cat([out[order], out[5:]])
    torch.testing.assert_close(module(shuffled, (5, 3)), expected)


@relations
@pytest.mark.parametrize("groups", [(1, 4), (2, 3), (3, 1, 1)])
def test_groups_do_not_mix(relation: str, groups: tuple[int, ...]) -> None:
    module = group_consensus(relation).train()  # batch norm, too, sees one group at a time
    x = maps(5).requires_grad_()
    parts = x.split(groups)
    out = module(x, groups)
    torch.testing.assert_close(out, torch.cat([module(part) for part in parts]))
    for index, own in enumerate(out.split(groups)):
        (gradient,) = torch.autograd.grad(own.square().sum(), x, retain_graph=True)
        reached = [bool(part.any()) for part in gradient.split(groups)]
        assert reached == [other == index for other in range(len(groups))]


@relations
def test_crossed_features_hear_of_the_next_group(relation: str) -> None:
    module, x, groups = group_consensus(relation), maps(6).requires_grad_(), (3, 1, 2)
    consensus = module.consensus(x, groups)
    out = module.cross(x, groups, consensus)
    rows = consensus[[1, 1, 1, 2, 0, 0], :, None, None]
    torch.testing.assert_close(out, x * rows)
    (gradient,) = torch.autograd.grad(out[:3].square().sum(), x)
    assert [bool(part.any()) for part in gradient.split(groups)] == [True, True, False]


def test_a_single_group_cannot_be_crossed() -> None:
    module, x = group_consensus("gam"), maps(2)
    with pytest.raises(ValueError, match="no other group"):
        module.cross(x, (2,), module.consensus(x))


@relations
def test_consensus_is_the_mean_of_the_relations_output(relation: str) -> None:
    module, x = group_consensus(relation), maps(5)
    consensus = module.consensus(x, (2, 3))
    assert consensus.shape == (2, 16)
    for found, part in zip(consensus, x.split((2, 3)), strict=True):
        torch.testing.assert_close(found, module.relation(part).mean((0, 2, 3)))
    torch.testing.assert_close(module(x, (2, 3))[:2], x[:2] * consensus[0, :, None, None])


@relations
def test_a_group_can_be_weighted_in_pieces(relation: str) -> None:
    module, x = group_consensus(relation), maps(5)
    consensus = module.consensus(x)
    pieces = [module(part, consensus=consensus) for part in x.split(2)]
    torch.testing.assert_close(torch.cat(pieces), module(x))


@pytest.mark.parametrize("groups", [(2, 2), (4, 2)])
def test_groups_must_make_up_the_batch(groups: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match="sum exactly"):
        group_consensus("gam")(maps(5), groups)


def test_each_group_needs_its_consensus() -> None:
    module, x = group_consensus("gam"), maps(5)
    with pytest.raises(ValueError, match="zip"):
        module(x, (2, 3), module.consensus(x))


def test_unknown_relations_are_refused() -> None:
    with pytest.raises(UserError, match=r"relation module 'gma'.*known: gam"):
        GroupConsensus(8, "gma")


@relations
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(relation: str, dtype: torch.dtype) -> None:
    # Pixels of a large common part and small differences, as after a ReLU: the affinities reach
    # 1e5, beyond half precision, while the differences among them decide.
    torch.manual_seed(0)
    module = awake(GroupConsensus(64, relation)).to(dtype).eval()
    x = (200 + torch.randn(4, 64, 4, 4)).to(dtype)
    low = module.consensus(x)
    assert low.dtype == torch.float32
    assert module(x).dtype == dtype
    full = module.float().consensus(x.float())
    assert (low - full).norm() < 0.02 * full.norm()


@relations
def test_autocast_stays_close(relation: str) -> None:
    torch.manual_seed(0)
    module, x = awake(GroupConsensus(64, relation)), 3 * torch.rand(4, 64, 4, 4)
    full = module.consensus(x)
    with torch.autocast("cpu", torch.bfloat16):
        low = module.consensus(x)
        out = module(x)
    assert (low.dtype, out.dtype) == (torch.float32, torch.float32)
    assert (low - full).norm() < 0.03 * full.norm()


def test_autocast_does_not_reach_the_affinities() -> None:
    # A bfloat16 product of these would be off by up to 1: a factor of e in the weights.
    module = GroupAffinity(4)
    for layer in (module.query, module.key):
        nn.init.dirac_(layer.weight)
    x = 16 + torch.arange(64).view(1, 4, 4, 4) / 8  # exact in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        low = module.scores(x)
    torch.testing.assert_close(low, module.scores(x))


@pytest.mark.parametrize("relation", ["nonlocal", "mha"])
def test_attention_is_in_full_precision(relation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not every kernel of every torch sums the logits of half-precision tokens in full precision.
    attend, dtypes = F.scaled_dot_product_attention, []

    def watched(*tokens: Tensor, scale: float | None) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        dtypes.extend(x.dtype for x in tokens)
        return attend(*tokens, scale=scale)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    module, x = RELATIONS[relation](16), maps(2).float()
    with torch.autocast("cpu", torch.bfloat16):
        module(x)
    module.bfloat16()(x.bfloat16())
    assert dtypes == [torch.float32] * 6


@relations
def test_an_exported_module_takes_a_group_of_any_size(relation: str) -> None:
    module, x = group_consensus(relation), maps(5)
    images = torch.export.Dim("images", min=2, max=64)
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: images},)).module()
    larger = maps(9, seed=1)
    torch.testing.assert_close(exported(larger), module(larger))


@relations
def test_two_groups_compile_into_one_graph(relation: str) -> None:
    module, x = group_consensus(relation), maps(5)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, (2, 3)), module(x, (2, 3)))


def test_contrast_head_is_two_convolutions() -> None:
    torch.manual_seed(0)
    head, x = ContrastHead(16), torch.randn(2, 16, 5, 3)
    wide, narrow = (layer for layer in head.modules() if isinstance(layer, nn.Conv2d))
    assert (wide.weight.shape, narrow.weight.shape) == ((4, 16, 3, 3), (1, 4, 1, 1))
    hidden = F.conv2d(F.pad(x, (1, 1, 1, 1)), wide.weight, wide.bias).relu()
    torch.testing.assert_close(head(x), F.conv2d(hidden, narrow.weight, narrow.bias))
