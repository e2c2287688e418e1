"""Device and precision, decided once."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

from utils.cores import core_count
from utils.errors import UserError

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
        UserError: an unknown device, or CUDA asked for where there is none.
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
    if precision == "auto":
        precision = "fp32"
        if chosen.type == "cuda":
            precision = "bf16" if torch.cuda.get_device_capability(chosen)[0] >= 8 else "fp16"
    return Machine(chosen, _DTYPES[precision])


def worker_count(workers: int, machine: Machine) -> int:
    """Return the number of loader processes; -1 chooses.

    On a CPU the network uses every core, and decoded images are kept in memory, so a process
    more would only be in the way.
    """
    if workers >= 0:
        return workers
    return min(8, core_count()) if machine.device.type == "cuda" else 0


def process_count(device: str) -> int:
    """Return how many processes a stage is to have: one a visible CUDA device, or one.

    Args:
        device: the config's; a single device (``cuda:1``) or ``cpu`` is one process.
    """
    return max(1, torch.cuda.device_count()) if device in ("auto", "cuda") else 1
