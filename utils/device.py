"""Device and precision, decided once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from utils import distributed
from utils.cores import core_count
from utils.errors import UserError

LEAST_IMAGES = 2
"""Images of a batch that a process, and a part of it, must have: batch norm needs two."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Machine:
    """The device that computes and the precision it computes in."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the mixed-precision context, or none in fp32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Move uint8 RGB (B, 3, H, W) to the device, as float in [0, 1]."""
        floats = pixels.to(self.device, non_blocking=True).float() / 255
        return floats.contiguous(memory_format=self.memory_format)

    @property
    def memory_format(self) -> torch.memory_format:
        """Layout of images and weights: channels last is faster on CPU and CUDA alike."""
        return torch.channels_last


def choose_machine(device: str, precision: str) -> Machine:
    """Return the `Machine` for the config's ``device`` and ``precision``.

    ``auto`` takes CUDA where there is one, and mixed precision there: bf16 where the card has
    it, fp16 on older ones. On a CPU ``auto`` is fp32, since bf16 is slower on most.

    Raises:
        UserError: an unknown device or precision, or CUDA asked for where there is none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise UserError(f"--device {device}: use auto, cpu, cuda or cuda:<n>")
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise UserError(f"--device {device}: {count} CUDA devices are there; use auto or cpu")
    if distributed.world() > 1:
        chosen = _own_device(chosen)
    if precision not in _DTYPES and precision != "auto":
        raise UserError(f"--precision {precision}: use auto, {', '.join(_DTYPES)}")
    if precision == "auto":
        precision = "fp32"
        if chosen.type == "cuda":
            precision = "bf16" if torch.cuda.get_device_capability(chosen)[0] >= 8 else "fp16"
    return Machine(chosen, _DTYPES[precision])


def _own_device(chosen: torch.device) -> torch.device:
    """Return the device of this process among several."""
    if chosen.type == "cpu":
        return chosen
    if chosen.index is not None:
        raise UserError(f"--device {chosen}: several processes need a GPU each: use cuda or auto")
    if distributed.local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"process {distributed.local_rank() + 1} of {distributed.world()} has no GPU of its "
            f"own, {torch.cuda.device_count()} are there: give torchrun a lower --nproc_per_node"
        )
    return torch.device("cuda", distributed.local_rank())


def process_count(device: str, at_a_time: int | None = None) -> int:
    """Return how many processes a stage is to have: one a visible CUDA device, or one.

    Args:
        device: the config's; a single device (``cuda:1``) or ``cpu`` is one process.
        at_a_time: images that all processes look at at a time; each needs two. None: enough.
    """
    if device not in ("auto", "cuda"):
        return 1
    count = torch.cuda.device_count()
    return max(1, count if at_a_time is None else min(count, at_a_time // LEAST_IMAGES))


def make_deterministic() -> None:
    """Let PyTorch use repeatable algorithms alone; before anything is computed on CUDA."""
    # Read when cuBLAS starts, and asked for by the next line where it does.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


ON_GPU = "on the GPU"
IN_SHARED = "in /dev/shm (docker run --shm-size 8g makes it larger)"


@contextlib.contextmanager
def memory_advice(what: str, ways: Sequence[str], cache_mb: int = 0) -> Iterator[None]:
    """Turn a lack of memory in the block, of a GPU or of the machine, into a `UserError`.

    Args:
        what: what was being done.
        ways: what may be changed, the best first.
        cache_mb: memory for decoded images, which are the machine's, not the GPU's; 0: none.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        where = _lacks_memory(error)
        if where is None:
            raise
        if cache_mb and where != ON_GPU:
            less = f"--cache_mb {cache_mb // 2}"
            ways = [less, *ways] if where == IN_SHARED else [*ways, less]
        raise UserError(f"out of memory {where}, {what}: give {', or '.join(ways)}") from error


def _lacks_memory(error: BaseException) -> str | None:
    """Say where memory was lacking; None: it was something else."""
    # The libraries beneath have words of their own for it, and torch hands them on as they are.
    full = "ALLOC_FAILED" in str(error) or "CUDA error: out of memory" in str(error)
    if full or isinstance(error, torch.cuda.OutOfMemoryError):
        return ON_GPU
    if "unable to allocate shared memory" in str(error):
        return IN_SHARED
    lacks = "DefaultCPUAllocator" in str(error) or isinstance(error, MemoryError)
    return "of the machine" if lacks else None


def worker_count(workers: int, machine: Machine) -> int:
    """Return the number of loader processes; -1 chooses, for each process as many.

    On a CPU the network uses every core, and decoded images are kept in memory, so a process
    more would only be in the way.
    """
    if workers >= 0:
        return workers
    return min(8, core_count()) if machine.device.type == "cuda" else 0
