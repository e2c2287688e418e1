from __future__ import annotations

import torch

from models.decoder import Decoder


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
