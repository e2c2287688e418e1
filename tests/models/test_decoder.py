from __future__ import annotations

import torch

from models.decoder import Decoder, Detail


def test_output_has_the_size_of_the_finest_map() -> None:
    decoder = Decoder((4, 8, 16), width=6)
    maps = [torch.randn(2, 4, 17, 11), torch.randn(2, 8, 8, 5), torch.randn(2, 16, 4, 2)]
    assert decoder(maps).shape == (2, 6, 17, 11)


def test_one_level_is_lateral_then_refiner() -> None:
    decoder = Decoder((3,), width=5).eval()
    x = torch.randn(1, 3, 7, 7)
    assert torch.equal(decoder([x]), decoder.refiners[0](decoder.laterals[0](x)))


def test_every_level_reaches_the_output() -> None:
    torch.manual_seed(0)
    decoder = Decoder((4, 8, 16), width=6).eval()
    maps = [torch.randn(1, c, s, s, requires_grad=True) for c, s in ((4, 16), (8, 8), (16, 4))]
    decoder(maps).sum().backward()
    assert all(m.grad.count_nonzero() > 0 for m in maps)


def test_levels_are_refined_with_their_own_weights() -> None:
    # Silence a level's refiner: the result then holds nothing of that level or of coarser ones.
    torch.manual_seed(0)
    decoder = Decoder((4, 8, 16), width=6).eval()
    torch.nn.init.zeros_(decoder.refiners[1][0].weight)
    maps = [torch.randn(1, c, s, s, requires_grad=True) for c, s in ((4, 16), (8, 8), (16, 4))]
    decoder.levels(maps)[-1].sum().backward()
    assert [bool(m.grad.count_nonzero()) for m in maps] == [True, False, False]


def test_the_levels_are_added_up_at_the_finest_size() -> None:
    coarse, middle = torch.full((1, 2, 2, 3), 1.0), torch.full((1, 2, 4, 5), 10.0)
    fine = torch.arange(2.0 * 8 * 9).view(1, 2, 8, 9)
    assert torch.equal(Decoder.joined([coarse, middle, fine]), fine + 11)
    torch.manual_seed(0)
    decoder = Decoder((4, 8), width=6).eval()
    maps = [torch.randn(1, 4, 6, 6), torch.randn(1, 8, 3, 3)]
    top, bottom = decoder.levels(maps)
    grown = torch.nn.functional.interpolate(top, size=(6, 6), mode="bilinear")
    torch.testing.assert_close(decoder(maps), grown + bottom)


def test_a_deep_one_widens_the_top_and_refines_all_but_the_finest_twice() -> None:
    decoder = Decoder((4, 8, 16), width=6, deep=True).eval()
    shapes = {name: tuple(weight.shape) for name, weight in decoder.named_parameters()}
    kernels = {name: shape for name, shape in shapes.items() if len(shape) == 4}
    square = (6, 6, 3, 3)
    assert list(kernels.values()) == [
        *((6, 4, 1, 1), (6, 8, 1, 1), (24, 16, 1, 1), (24, 24, 3, 3), (6, 24, 1, 1)),
        *(square, square, square, square, square),
    ]
    assert [len(refiner) for refiner in decoder.refiners] == [3, 6, 6]
    assert [len(part) for part in decoder.laterals[-1][:2]] == [3, 3]  # with norm and ReLU
    maps = [torch.randn(2, 4, 17, 11), torch.randn(2, 8, 8, 5), torch.randn(2, 16, 4, 2)]
    assert [level.shape[2:] for level in decoder.levels(maps)] == [(4, 2), (8, 5), (17, 11)]
    assert all((level >= 0).all() for level in decoder.levels(maps))


def test_detail_sees_single_pixels_of_the_image_and_the_features() -> None:
    """Images that no map of half their size can tell apart."""
    torch.manual_seed(0)
    detail = Detail(8).eval()
    features, image = torch.rand(1, 8, 9, 7), torch.zeros(1, 3, 17, 13)
    board = image.clone()
    board[..., ::2, ::2] = board[..., 1::2, 1::2] = 1
    assert torch.equal(*(torch.nn.functional.avg_pool2d(x, 2) for x in (board, 1 - board)))
    with torch.no_grad():
        found = [detail(features, x) for x in (image, board, 1 - board)]
        other = detail(features.flip(-1), image)
    assert {x.shape for x in (*found, other)} == {(1, Detail.CHANNELS, 17, 13)}
    assert all((x >= 0).all() for x in found)
    pairs = [(0, 1), (1, 2), (0, 2)]
    assert all(not torch.allclose(found[a], found[b]) for a, b in pairs)
    assert not torch.allclose(found[0], other)
