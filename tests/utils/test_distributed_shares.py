"""Shares of work and of batches, and batch norm over the images of several processes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.synced_norm import SyncedBatchNorm, synchronise_norms
from utils import device, distributed
from utils.epoch_sums import EpochSums


@given(st.integers(0, 100), st.integers(1, 9))
def test_every_piece_and_every_row_is_one_process_s(total: int, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world", lambda: count)
        pieces, places = [], []
        for rank in range(count):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            pieces += distributed.shard(range(total))
            places.append(distributed.rows(total))
    assert sorted(pieces) == list(range(total))
    assert [row for place in places for row in place] == list(range(total))
    sizes = [len(place) for place in places]
    assert max(sizes) - min(sizes) <= 1


def test_alone_everything_is_as_it_was() -> None:
    x = torch.ones(3)
    assert distributed.is_main()
    assert distributed.world() == 1
    assert distributed.all_reduce_sum(x) is x
    assert distributed.gather_rows(x, range(3), 3) is x
    assert distributed.gather_objects("a") == ["a"]
    assert distributed.any_of(True)
    assert not distributed.any_of(False)
    assert distributed.first_to_fail(2) is None
    network = torch.nn.Linear(1, 1)
    assert distributed.parallel(network) is network


def test_synced_norm_of_a_whole_batch_is_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if of two processes the other had no image: sums over all are those of this one."""
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))
    plain[0][0].weight.data = torch.tensor([1.0, -2.0, 0.5])
    plain[0][0].bias.data = torch.tensor([0.0, 3.0, 1.0])
    plain.double()
    synced = torch.nn.Sequential(torch.nn.Sequential(torch.nn.BatchNorm2d(3))).double()
    synced.load_state_dict(plain.state_dict())
    parameters = list(synced.parameters())
    synchronise_norms(synced)
    assert isinstance(synced[0][0], SyncedBatchNorm)
    assert [a is b for a, b in zip(synced.parameters(), parameters, strict=True)] == [True, True]
    monkeypatch.setattr("models.synced_norm.world", lambda: 2)
    for _ in range(2):
        x = (torch.randn(4, 3, 5, 2) * 7 + 100).double().requires_grad_()
        target, found = torch.randn(4, 3, 5, 2), []
        for network in (plain, synced):
            network.zero_grad()
            y = network(x)
            (gradient,) = torch.autograd.grad((y * target).sum(), x)
            found.append([y, gradient, *network.state_dict().values()])
        for one, two in zip(*found, strict=True):
            torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-9)


def test_what_is_shown_the_whole_batch_keeps_its_norm() -> None:
    network = torch.nn.ModuleDict({"consensus": torch.nn.BatchNorm2d(2)})
    assert type(synchronise_norms(network)["consensus"]) is torch.nn.BatchNorm2d


@pytest.mark.parametrize(
    ("name", "at_a_time", "expected"),
    [("auto", 16, 4), ("cuda", None, 4), ("auto", 5, 2), ("cuda:1", 16, 1), ("cpu", 16, 1)],
)
def test_each_gpu_gets_a_process_that_has_two_images(
    monkeypatch: pytest.MonkeyPatch, name: str, at_a_time: int | None, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert device.process_count(name, at_a_time) == expected


@pytest.mark.parametrize(("length", "allowed"), [(3, 1), (100, 5), (1000, 10)])
def test_few_steps_may_be_skipped(length: int, allowed: int) -> None:
    sums = EpochSums()
    assert all(sums.skip(length) for _ in range(allowed))
    assert not sums.skip(length)
    spread = EpochSums()
    for _ in range(int(0.05 * length)):
        assert spread.skip(length)
        spread.add({"loss": torch.tensor(2.0)})
    assert length < 20 or spread.means() == {"loss": 2.0}
