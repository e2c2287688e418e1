"""Several processes that work on one stage: who is who, whose share is what, sums over all.

They are started by ``torchrun --nproc_per_node N``, one a GPU. Everything here is plain and free in
a stage of one process: it has rank 0, every share is the whole, and sums are what they were.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

WAIT = timedelta(hours=6)
"""How long a process waits for the others: one alone checks the data and asks the oracle, for which
250,000 images may take more than half an hour. One that ends takes the others with it at once.
"""

_store: dist.Store | None = None


def processes_asked() -> int:
    """Return how many processes the environment says there are (``WORLD_SIZE``)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Return this process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _active() else 1


def rank() -> int:
    """Return this process's number."""
    return dist.get_rank() if _active() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and talks."""
    return rank() == 0


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def setup() -> None:
    """Join the other processes that the environment names; alone, do nothing.

    The addresses of an earlier attempt must not be met: ``torchrun --max-restarts`` starts all
    processes again on the same store, so each attempt has names of its own in it.
    """
    global _store
    if processes_asked() == 1:
        return
    number = int(os.environ["RANK"])
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    server = dist.TCPStore(*address, processes_asked(), number == 0 and not hosted, timeout=WAIT)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    _store = dist.PrefixStore(f"attempt {attempt}", server)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=_store,
        rank=number,
        world_size=processes_asked(),
        timeout=WAIT,
    )
    if number:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  for good


def teardown() -> None:
    """Leave the other processes."""
    global _store
    if _active():
        dist.destroy_process_group()
    _store = None


def first_to_fail(status: int) -> int | None:
    """Note the exit status with which this process leaves before its time.

    Returns:
        None if it is the first; else the status of the first, which has told the reason, while
        this one most likely fails only because the other has gone.
    """
    if _store is None:
        return None
    try:
        number, first = _store.compare_set("failed", "", f"{rank()} {status}").split()
    except RuntimeError:  # the store's own host has gone, and nobody knows why
        return None
    return None if int(number) == rank() else int(first)


def shard(items: Sequence[T]) -> list[T]:
    """Return this process's share of some pieces of work; every piece is in one share."""
    return list(items[rank() :: world()])


def rows(total: int) -> range:
    """Return which rows of a batch are this process's: one stretch, in order of rank."""
    return range(total * rank() // world(), total * (rank() + 1) // world())


def all_reduce_sum(x: Tensor) -> Tensor:
    """Return the sum of ``x`` over all processes, without a gradient."""
    if world() == 1:
        return x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return all_reduce_sum(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        # Every process's loss depends on this one's x; the whole loss is the sum of them.
        return all_reduce_sum(gradient)


def summed(x: Tensor) -> Tensor:
    """Return the sum of ``x`` over all processes; its gradient is that of the sum of all losses."""
    return x if world() == 1 else _Sum.apply(x)


def gather_rows(x: Tensor, place: range, total: int) -> Tensor:
    """Return the rows of all processes, (total, ...), of which ``x`` are those at ``place``.

    The gradient is that of the sum of all processes' losses.
    """
    if world() == 1:
        return x
    around = [0, 0] * (x.dim() - 1) + [place.start, total - place.stop]
    return summed(torch.nn.functional.pad(x, around))


def gather_objects(value: T) -> list[T]:
    """Return every process's value, by rank; plain values and arrays, as they are pickled."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return found


def any_of(flag: bool) -> bool:
    """Whether the flag is true in any process."""
    return bool(all_reduce_sum(torch.tensor(int(flag)))) if world() > 1 else flag


def barrier() -> None:
    """Wait until all processes are here."""
    any_of(False)


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Let the main process do the block alone, then the others, which find its files."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def parallel(network: torch.nn.Module) -> torch.nn.Module:
    """Return the network as one whose gradients are averaged over all processes, itself if alone.

    Every parameter that learns must take part in every step. Buffers are left alone: batch norms
    keep theirs equal, see `models.synced_norm`.
    """
    if world() == 1:
        return network
    device = next(network.parameters()).device
    own = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():
        # Its successor is not there in older versions.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
        return torch.nn.parallel.DistributedDataParallel(network, own, broadcast_buffers=False)


def sum_gradients(network: torch.nn.Module) -> None:
    """Sum the gradients of a small network's parameters over all processes."""
    if world() > 1:
        for parameter in network.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
