"""A GPU that is none: a pytest plugin under which CUDA code runs on a CPU.

    python -m pytest -p tests.pretended_cuda tests/test_cuda.py

Tensors on the pretended device say that they are on ``cuda:0`` and hold a CPU tensor that does the
work. As on a GPU, an operation on tensors of both devices is an error, and so is NumPy on a tensor
that was not brought back: what a GPU would tell of a forgotten ``.to(device)`` or ``.cpu()`` is
told here. Autocast changes nothing, memory has no end, and numbers are a CPU's: of kernels,
precision and speed nothing is shown. For a process of its own: torch is not put back.

The device is PyTorch's for backends that are written in Python (wrapper subclasses, experimental
since 2.10); its tensors are CUDA's by what they tell, since no other device may bear that name.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyPrivateUse1Hook,
    _setup_privateuseone_for_python_backend,
)

CUDA = torch.device("cuda", 0)
ATEN = torch.ops.aten
COPIES = {ATEN.copy_.default, ATEN._to_copy.default}
"""Operations between the devices."""

INDEXED = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default}
INDEXED |= {ATEN._index_put_impl_.default}
"""Operations that take indices (their second argument) from the CPU, too."""

JOINED = {ATEN.cat.default, ATEN.stack.default}
"""Operations that take no number from the CPU, as others do."""

SEEN: Counter[str] = Counter()
"""Operations that ran on the pretended device."""

STATUS = pytest.StashKey[int]()
"""With what status the run ends."""


class Hook(_DummyPrivateUse1Hook):
    """Says that no other thread's device need be kept."""

    def has_primary_context(self, dev_id: int) -> bool:
        """Return False: there is no context."""
        return False


class OnCuda(torch.Tensor):
    """A tensor that says it is on ``cuda:0``; ``held`` is the CPU's that it stands for."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnCuda:
        """Wrap a CPU tensor."""
        shape = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, **shape, dtype=held.dtype, device=torch.device("pretended", 0)
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, args: Sequence = (), kwargs: Mapping | None = None
    ) -> Any:
        """Run an operation of which an argument is on the device."""
        return run(operation, args, kwargs or {})

    def tolist(self) -> Any:
        """Return the values, as a GPU tensor does."""
        return self.held.tolist()

    def __format__(self, form: str) -> str:
        """Return a number's text, as `torch.Tensor` does."""
        return format(self.held, form)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse, as a GPU tensor does."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    __array__ = numpy

    def __reduce_ex__(self, protocol: int) -> Any:
        """Be saved: `torch.load` puts it wherever it is told to."""
        return self.held.clone().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnCuda:
        """Copy, parameters as parameters."""
        made: Any = OnCuda(self.held.clone())
        if isinstance(self, torch.nn.Parameter):
            made = torch.nn.Parameter(made, self.requires_grad)
        memo[id(self)] = made
        return made


class Pretending(TorchDispatchMode):
    """Within it tensors can be made on, and brought to, ``cuda``."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Sequence = (), kwargs: Mapping | None = None
    ) -> Any:
        """Run any operation."""
        return run(operation, args, kwargs or {})


def run(operation: Any, args: Sequence, kwargs: Mapping[str, Any]) -> Any:
    """Run an operation on what the arguments hold; its result is on the device that it would be."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnCuda)]
    check_devices(operation, args, kwargs)
    SEEN[str(operation)] += bool(there)
    device, plain = kwargs.get("device"), {**kwargs}
    if device is not None:
        plain["device"] = torch.device("cpu")
    if plain.get("pin_memory"):
        plain["pin_memory"] = False
    found = operation(*tree_map(held, args), **tree_map(held, plain))
    to_cuda = bool(there) if device is None else torch.device(device).type != "cpu"
    if operation is ATEN.copy_.default:
        to_cuda = isinstance(args[0], OnCuda)
    known = {id(tensor.held): tensor for tensor in there}

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, OnCuda):
            return value
        return known.get(id(value)) if id(value) in known else OnCuda(value) if to_cuda else value

    return tree_map(wrap, found)


def check_devices(operation: Any, args: Sequence, kwargs: Mapping[str, Any]) -> None:
    """Raise what a GPU would of an operation on tensors of both devices; numbers may mix."""
    generator, device = kwargs.get("generator"), kwargs.get("device")
    if generator is not None and device is not None and torch.device(device).type != "cpu":
        raise RuntimeError(
            f"Expected a 'cuda' device type for generator but found 'cpu': {operation}"
        )
    if operation in COPIES:
        return
    looked_at = [args, kwargs]
    if operation in INDEXED and isinstance(args[0], OnCuda):
        looked_at = [args[0], args[2:], kwargs]
    tensors = [leaf for leaf in tree_leaves(looked_at) if isinstance(leaf, torch.Tensor)]
    strict = operation in JOINED or operation in INDEXED
    here = [t for t in tensors if not isinstance(t, OnCuda) and (t.dim() or strict)]
    if here and any(isinstance(tensor, OnCuda) for tensor in tensors):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in here)
        raise RuntimeError(
            f"Expected all tensors to be on the same device: {operation}, on the CPU: {shapes}"
        )


def held(value: Any) -> Any:
    """Return the CPU tensor of one on the device; anything else as it is."""
    return value.held if isinstance(value, OnCuda) else value


def moved(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return `torch.tensor` or its like with the copy to the device made where it is seen."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        found = make(*args, **kwargs)
        return found if device is None else found.to(device)

    return made


def pretend() -> None:
    """Make torch believe that there is one GPU."""
    torch.cuda._lazy_init = lambda: None
    torch._C._ensureCUDADeviceGuardSet()
    _setup_privateuseone_for_python_backend("pretended", hook=Hook())
    torch.tensor, torch.as_tensor = moved(torch.tensor), moved(torch.as_tensor)
    torch.Tensor.pin_memory = lambda self, device=None: self
    told: dict[str, Any] = {"is_available": True, "device_count": 1, "current_device": 0}
    told |= {"get_device_capability": (8, 0), "get_rng_state_all": [], "max_memory_allocated": 0}
    told |= {"get_device_name": "pretended", "is_bf16_supported": True}
    nothing = ("set_rng_state_all", "manual_seed_all", "synchronize", "empty_cache")
    told |= dict.fromkeys((*nothing, "reset_peak_memory_stats"))
    for name, value in told.items():
        setattr(torch.cuda, name, lambda *args, value=value, **kwargs: value)


def leave(status: int) -> NoReturn:
    """End the process without Python's own clearing up.

    A thread of autograd's may still hold what Python must free; one that asks for the interpreter
    while it ends is ended in the midst of C++, which aborts the process ("terminate called without
    an active exception").
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


pretend()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep the status to leave with, where tests have run."""
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        session.config.stash[STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave, when all is told."""
    if STATUS in config.stash:
        leave(config.stash[STATUS])


@pytest.fixture(scope="session", autouse=True)
def pretended_cuda() -> Iterator[None]:
    """Give all tests, and what they share, the device."""
    with Pretending():
        yield
