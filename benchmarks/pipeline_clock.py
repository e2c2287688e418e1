"""Clocks of the pipeline benchmark: pairs of work and its floor, and the parts of a whole."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

Work = Callable[[], object]


@dataclass
class Clock:
    """Measures seconds on a device.

    Attributes:
        device: waited for before and after.
        cpu: count the seconds of all threads of this process, not those on the wall. That tells
            the cost where other programs use the cores, too; on a GPU it tells nothing.
    """

    device: torch.device
    cpu: bool

    def seconds(self, work: Work) -> float:
        """Return how long some work takes."""
        self.wait()
        now = time.process_time if self.cpu else time.perf_counter
        begun = now()
        work()
        self.wait()
        return now() - begun

    def wait(self) -> None:
        """Wait until the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Row:
    """One stage of the pipeline.

    Attributes:
        stage: its name.
        images: looked at in one turn.
        seconds: of a turn, the median.
        floor: seconds of what cannot be done without; None: nothing was measured.
        floor_of: what that is.
        ratio: median over the turns of seconds / floor.
        times: how often a round of the trial does it to an image of its own; 0: a part of another.
        memory: CUDA memory at its peak, MiB.
        busy: mean use of the GPU as its driver tells it, percent; None: unknown.
    """

    stage: str
    images: int
    seconds: float
    floor: float | None = None
    floor_of: str = ""
    ratio: float | None = None
    times: float = 0.0
    memory: float = 0.0
    busy: float | None = None


def measure(
    clock: Clock,
    stage: str,
    images: int,
    work: Work,
    floor: Work | None,
    turns: int,
    floor_of: str = "",
    times: float = 0.0,
    between: Work = lambda: None,
    warm: bool = True,
) -> Row:
    """Let some work and its floor take turns.

    ``between`` undoes what the work left, before each turn. With ``warm`` a first turn, in which
    caches fill, is not counted.
    """
    cuda = clock.device.type == "cuda"
    spent, floors, peaks = [], [], [0]
    usage = GpuUsage(clock.device)
    for _ in range(warm + turns):
        between()
        if cuda:
            torch.cuda.reset_peak_memory_stats(clock.device)
        with usage:
            spent.append(clock.seconds(work))
        if cuda:
            peaks.append(torch.cuda.max_memory_allocated(clock.device))
        floors.append(clock.seconds(floor) if floor else 0.0)
    counted = slice(int(warm), None)
    row = Row(stage, images, median(spent[counted]), floor_of=floor_of, times=times)
    if floor:
        row.floor = median(floors[counted])
        row.ratio = median(a / b for a, b in zip(spent[counted], floors[counted], strict=True))
    row.memory = max(peaks) / 2**20
    row.busy = usage.mean()
    return row


class GpuUsage:
    """What nvidia-smi says of a GPU's use, five times a second, while the block runs."""

    def __init__(self, device: torch.device) -> None:
        self.on = device.type == "cuda"
        # By its own number: nvidia-smi counts the cards of the machine, also those not given to us.
        uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None) if self.on else None
        self.which = ["-i", f"GPU-{uuid}"] if uuid else []
        self.found: list[float] = []

    def __enter__(self) -> None:
        self.process = None
        if self.on:
            query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
            with contextlib.suppress(OSError):
                self.process = subprocess.Popen(
                    ["nvidia-smi", *self.which, *query], stdout=subprocess.PIPE, text=True
                )

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self.process.terminate()
            text = self.process.communicate()[0]
            self.found += [float(word) for word in text.split() if word.isdecimal()]

    def mean(self) -> float | None:
        """Return the mean of all that was read; None: nothing was."""
        return sum(self.found) / len(self.found) if self.found else None


@dataclass
class Parts:
    """Seconds by part of a whole: functions in the place of others note what they take.

    On the thread of the network the device is waited for, so a whole whose parts are timed is
    slower than one that is not. In other threads, what they have computed is counted.
    """

    clock: Clock
    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the work and notes its time under a name."""

        def do(*args: Any, **kwargs: Any) -> Any:
            mine = threading.current_thread() is threading.main_thread()
            now = time.thread_time if self.clock.cpu or not mine else time.perf_counter
            if mine:
                self.clock.wait()
            begun = now()
            made = work(*args, **kwargs)
            if mine:
                self.clock.wait()
            with self._lock:
                self.seconds[name] = self.seconds.get(name, 0.0) + now() - begun
            return made

        return do

    @contextlib.contextmanager
    def watching(self, *places: tuple[Any, str, str]) -> Iterator[None]:
        """Time functions (owner, attribute or key, name of the part) while the block runs."""
        with contextlib.ExitStack() as undo:
            for owner, key, name in places:
                if isinstance(owner, dict):
                    undo.callback(owner.__setitem__, key, owner[key])
                    owner[key] = self.timed(name, owner[key])
                else:
                    undo.callback(setattr, owner, key, getattr(owner, key))
                    setattr(owner, key, self.timed(name, getattr(owner, key)))
            yield


def resident_peak() -> float:
    """Return the most memory that this process has held, MiB (on macOS the unit is another)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
