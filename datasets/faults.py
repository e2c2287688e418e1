"""What can be wrong with one image and its mask."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.images import half_of, read_grey, read_image
from datasets.index import Sample
from utils.errors import UserError

ERROR, WARNING = "error", "warning"
LEAST_SIDE = 8


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the data; its text is one line.

    Attributes:
        severity: ``error`` (a run would break) or ``warning``.
        file: path below the data root.
        problem: what is wrong.
        remedy: what to do.
    """

    severity: str
    file: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.file}: {self.problem}; {self.remedy}"


def check_sample(root: Path, sample: Sample, with_mask: bool) -> tuple[list[Fault], bytes | None]:
    """Return the faults of one image and its mask, and a digest of the decoded picture."""
    faults, digest, size = [], None, None
    file = sample.image.relative_to(root).as_posix()
    try:
        image = read_image(sample.image)
    except UserError as error:
        faults.append(fault_of(error, root, sample.image))
    else:
        size = image.shape[:2]
        digest = hashlib.blake2b(image, digest_size=16, salt=b"%dx%d" % size).digest()
        if min(size) < LEAST_SIDE:
            problem = f"only {size[1]} x {size[0]} pixels"
            faults.append(Fault(WARNING, file, problem, "check that it is a picture"))
    if with_mask:
        faults += _check_mask(root, sample, size)
    return faults, digest


def _check_mask(root: Path, sample: Sample, size: tuple[int, ...] | None) -> list[Fault]:
    """Return the faults of one mask; ``size`` is its image's (H, W), None if unreadable."""
    file = sample.mask.relative_to(root).as_posix()
    if not os.path.isfile(sample.mask):
        return [Fault(ERROR, file, "no such mask", f"add it, or remove image {sample.name}")]
    try:
        values, full = read_grey(sample.mask)
    except UserError as error:
        return [fault_of(error, root, sample.mask)]
    faults = []
    if size is not None and values.shape != size:
        problem = (
            f"{values.shape[1]} x {values.shape[0]} pixels, its image {size[1]} x {size[0]} "
            "(both turned upright)"
        )
        faults.append(Fault(ERROR, file, problem, "give the mask its image's size"))
    fault = _check_values(file, values, full)
    return [*faults, fault] if fault else faults


def _check_values(file: str, values: np.ndarray, full: float) -> Fault | None:
    """Return the worst fault of a mask's values, where white is ``full``."""
    marked = values >= half_of(full)
    if marked.all():
        return Fault(WARNING, file, "all object", "check it against its image")
    if not marked.any():
        there = np.unique(values)
        if np.array_equal(there, [0]):
            return Fault(WARNING, file, "no object", "check it against its image")
        if set(there.tolist()) <= {0, 1}:
            problem = "holds only 0 and 1, so it reads as empty: these look like label indices"
            remedy = f"multiply it by {full:.0f}"
        else:
            problem = f"no value reaches half of {full:.10g} (the largest is {there[-1]})"
            remedy = f"save it with 0 and {full:.10g} only"
        return Fault(ERROR, file, problem, remedy)
    between = float(np.mean((values != 0) & (values != full)))
    if between > 0:
        problem = f"{100 * between:.2g} % of its values lie between black and white"
        return Fault(WARNING, file, problem, "it is cut at half; save it with two values")
    return None


def fault_of(error: UserError, root: Path, path: Path) -> Fault:
    """Turn a `UserError` of the form ``<path>: <problem>: <remedy>`` into a fault."""
    text = str(error).removeprefix(f"{path}: ")
    problem, _, remedy = text.rpartition(": ")
    return Fault(ERROR, path.relative_to(root).as_posix(), problem, remedy)
