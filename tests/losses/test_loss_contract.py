"""What every registered loss must do, whatever it measures."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losses import LOSSES, Supervision

LABELLED = ("bce", "balanced_bce", "iou", "ssim", "mse")
SIZES = [(1, 1), (1, 7), (2, 3), (4, 4), (12, 13), (24, 24)]
ANSWERS = ["none", "foreground", "background", "one point", "both at one pixel", "mask"]


def make_labels(answers: str, size: tuple[int, int]) -> torch.Tensor:
    labels = torch.zeros(2, 2, *size)
    if answers in ("foreground", "background"):
        labels[:, int(answers == "foreground")] = 1
    elif answers == "one point":
        labels[0, 1, size[0] // 2, size[1] // 2] = 1
    elif answers == "both at one pixel":
        labels[0, :, 0, 0] = 1
    elif answers == "mask":
        labels[:, 1, : size[0] // 2 + 1, : size[1] // 2 + 1] = 1
        labels[:, 0] = 1 - labels[:, 1]
    return labels


def make_case(
    answers: str, size: tuple[int, int], spread: float = 3.0
) -> tuple[torch.Tensor, Supervision]:
    generator = torch.Generator().manual_seed(size[0] * 100 + size[1])
    logits = spread * torch.randn(2, 1, *size, generator=generator)
    small = [max(1, side // 2) for side in size]
    return logits.requires_grad_(), Supervision(
        make_labels(answers, size),
        torch.rand(2, 3, *size, generator=generator),
        torch.randn(2, 1, *small, generator=generator),
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_finite(name: str, answers: str, size: tuple[int, int]) -> None:
    for spread in (0.0, 3.0, 1e4):
        logits, supervision = make_case(answers, size, spread)
        loss = LOSSES[name](logits, supervision)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert loss >= -1e-6
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LABELLED)
def test_nothing_labelled_teaches_nothing(name: str) -> None:
    logits, supervision = make_case("none", (24, 24))
    loss = LOSSES[name](logits, supervision)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("name", LABELLED)
def test_the_mask_itself_is_the_best_map(name: str) -> None:
    _, supervision = make_case("mask", (24, 24))
    right = 1e4 * (2 * supervision.labels[:, 1:] - 1)
    assert LOSSES[name](right, supervision) == pytest.approx(0, abs=1e-6)
    assert LOSSES[name](-right, supervision) > 0.9


@pytest.mark.parametrize("name", LOSSES)
def test_a_small_step_down_the_gradient_lowers_the_loss(name: str) -> None:
    logits, supervision = make_case("mask", (24, 24), spread=1.0)
    logits, supervision = logits.double().detach().requires_grad_(), supervision
    before = LOSSES[name](logits, supervision)
    (gradient,) = torch.autograd.grad(before, logits)
    step = 1e-3 / gradient.norm()
    after = LOSSES[name](logits - step * gradient, supervision)
    assert (before - after).item() == pytest.approx(1e-3 * gradient.norm().item(), rel=0.05)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    logits, supervision = make_case("mask", (24, 24))
    rough = logits.detach().bfloat16()
    supervision = supervision._replace(small_logits=supervision.small_logits.bfloat16())
    exact = LOSSES[name](
        rough.float(), supervision._replace(small_logits=supervision.small_logits.float())
    )
    found = LOSSES[name](rough, supervision)
    with torch.autocast("cpu", torch.bfloat16):
        within = LOSSES[name](rough, supervision)
    assert found.dtype == within.dtype == torch.float32
    assert found == within == exact


@pytest.mark.parametrize("name", LOSSES)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_mirrored_and_repeated_batches_lose_the_same(name: str, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 1, 14, 14, generator=generator).double()
    supervision = Supervision(
        torch.randint(0, 2, (2, 2, 14, 14), generator=generator).double(),
        torch.rand(2, 3, 14, 14, generator=generator).double(),
        torch.randn(2, 1, 6, 7, generator=generator).double(),
    )
    loss = LOSSES[name]
    expected = loss(logits, supervision).item()
    mirrored = Supervision(*(x.flip(3) for x in supervision[:3]))
    twice = Supervision(*(torch.cat((x, x)) for x in supervision[:3]))
    assert loss(logits.flip(3), mirrored).item() == pytest.approx(expected, abs=1e-10)
    assert loss(torch.cat((logits, logits)), twice).item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_the_shares_of_parts_sum_to_the_loss_of_the_whole(name: str) -> None:
    """The parts differ in size and in how much is labelled, so that a mean of means is another."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 1, 14, 14, generator=generator).double()
    labels = torch.randint(0, 2, (3, 2, 14, 14), generator=generator).double()
    labels[0, 0], labels[0, 1] = 0.0, 1.0
    labels[2, 1] = 0
    image = torch.rand(3, 3, 14, 14, generator=generator).double()
    small = torch.randn(3, 1, 6, 7, generator=generator).double()
    whole = Supervision(labels, image, small)
    parts = [
        LOSSES[name](logits[piece], Supervision(*(x[piece] for x in whole[:3]), labels))
        for piece in (slice(0, 1), slice(1, 3))
    ]
    assert sum(parts).item() == pytest.approx(LOSSES[name](logits, whole).item(), abs=1e-12)


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("factor", [1e-6, 0.5, 7.0])
def test_only_the_ratio_of_label_weights_counts(name: str, factor: float) -> None:
    logits, supervision = make_case("mask", (24, 24))
    scaled = supervision._replace(labels=supervision.labels * factor)
    assert LOSSES[name](logits, scaled).item() == pytest.approx(
        LOSSES[name](logits, supervision).item(), rel=1e-4
    )


@pytest.mark.parametrize("name", ["bce", "balanced_bce", "iou", "mse"])
def test_no_gradient_where_nothing_is_labelled(name: str) -> None:
    logits, supervision = make_case("none", (12, 13))
    supervision.labels[0, 1, 3, 4] = 1
    supervision.labels[0, 0, 7, 7] = 2
    (gradient,) = torch.autograd.grad(LOSSES[name](logits, supervision), logits)
    assert gradient.nonzero().tolist() == [[0, 0, 3, 4], [0, 0, 7, 7]]
    assert gradient[0, 0, 3, 4] < 0 < gradient[0, 0, 7, 7]


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    torch.manual_seed(1)
    logits = torch.randn(1, 1, 13, 12, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 2, (1, 1, 13, 12)).double()
    supervision = Supervision(
        torch.cat((1 - labels, labels), dim=1),
        torch.rand(1, 3, 13, 12, dtype=torch.float64),
        torch.randn(1, 1, 6, 6, dtype=torch.float64),
    )
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, supervision), logits)
