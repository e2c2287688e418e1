"""Look a data set over before a run: ``python -m datasets.check --data_root D``.

Every image and mask is decoded. What would break a run is an error; what may spoil its result (an
empty mask, one picture in both training and test) is a warning.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets.faults import ERROR, WARNING, Fault, check_sample, fault_of
from datasets.group_faults import check_groups, check_mask_folders
from datasets.index import (
    IMAGES_FOLDER,
    MASKS_FOLDER,
    Sample,
    find_set,
    set_names,
    sharing_masks,
    split_set_names,
)
from datasets.passed_over import pictures_beside_sets, unread_pictures
from datasets.sound import SoundNote
from utils.background import in_background
from utils.cli import Parser
from utils.cores import core_count
from utils.errors import UserError, closest, run_script
from utils.progress import track

SHOWN = 10
MOST_THREADS = 8


@dataclass(frozen=True)
class _Part:
    """One set to check, and whether its masks are checked."""

    set: str
    masks: bool
    trained_on: bool
    tested_on: bool


def check_data(
    data_root: str | os.PathLike[str],
    trainsets: str | None = None,
    testsets: str | None = None,
    masks: bool = True,
    progress: bool = True,
    train_masks: bool | None = None,
    test_masks: bool | None = None,
) -> list[Fault]:
    """Check every image, and where asked for every mask, of some sets.

    Args:
        data_root: folder with ``images/`` and ``gts/``.
        trainsets: training sets joined by ``+``, or None.
        testsets: test sets joined by ``+``, or None. With neither, every set there is checked.
        masks: False: masks are not opened, nor looked for.
        progress: tell on standard error how far it has come.
        train_masks: overrides ``masks`` for the training sets.
        test_masks: overrides ``masks`` for the test sets, and for sets of neither kind.

    Returns:
        The faults, set by set and image by image, repeated pictures last.

    Raises:
        UserError: the data root or a named set is missing.
    """
    root = Path(data_root)
    train_masks = masks if train_masks is None else train_masks
    test_masks = masks if test_masks is None else test_masks
    parts = _parts(root, trainsets, testsets, train_masks, test_masks)
    return _check_parts(root, parts, progress)[0]


def require_usable(
    data_root: str | os.PathLike[str],
    trainsets: str | None,
    testsets: str | None,
    train_masks: bool,
    test_masks: bool,
) -> None:
    """Check the data before a run; print warnings (the first ten) on standard error.

    Raises:
        UserError: there are errors; the first ten are named.
    """
    faults = check_data(
        data_root, trainsets, testsets, train_masks=train_masks, test_masks=test_masks
    )
    warnings = [fault for fault in faults if fault.severity == WARNING]
    for fault in warnings[:SHOWN]:
        print(fault, file=sys.stderr)
    command = _command(data_root, trainsets, testsets, train_masks, test_masks)
    if len(warnings) > SHOWN:
        print(f"{len(warnings)} warnings in all; `{command}` lists them", file=sys.stderr)
    errors = [fault for fault in faults if fault.severity == ERROR]
    if errors:
        named = "; ".join(f"{fault.file} ({fault.problem})" for fault in errors[:SHOWN])
        more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        raise UserError(
            f"{_counted(len(errors), 'error')} in the data: {named}{more}: `{command}` "
            "tells what to do"
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _command(
    data_root: str | os.PathLike[str],
    trainsets: str | None,
    testsets: str | None,
    train_masks: bool,
    test_masks: bool,
) -> str:
    """Return the command that repeats a check and lists every fault."""
    words = ["python", "-m", "datasets.check", "--data_root", os.fspath(data_root)]
    words += ["--trainset", trainsets] if trainsets else []
    words += ["--testsets", testsets] if testsets else []
    if not train_masks:
        words.append("--no-train-masks" if test_masks else "--no-masks")
    return shlex.join(words)


def _parts(
    root: Path, trainsets: str | None, testsets: str | None, train_masks: bool, test_masks: bool
) -> list[_Part]:
    """Return what is to be checked, each set once."""
    known = set_names(root)
    train = split_set_names(trainsets) if trainsets else []
    test = split_set_names(testsets) if testsets else []
    for name in train + test:
        if name not in known:
            raise UserError(
                f"no set '{name}' in {root / IMAGES_FOLDER}{closest(name, known)} "
                f"(there: {', '.join(known) or 'none'})"
            )
    if not known:
        raise UserError(f"{root / IMAGES_FOLDER}: holds no set: make a folder for each set in it")
    plain = [] if train or test else known
    return [
        _Part(
            set=name,
            masks=(name in train and train_masks) or (name in test + plain and test_masks),
            trained_on=name in train,
            tested_on=name in test,
        )
        for name in dict.fromkeys(train + test + plain)
    ]


def _check_parts(root: Path, parts: list[_Part], progress: bool) -> tuple[list[Fault], int]:
    """Return the faults of the sets, and how many images were looked at."""
    faults = pictures_beside_sets(root)
    jobs: list[tuple[Sample, bool]] = []
    for part in parts:
        found, some_jobs = _check_folders(root, part)
        faults += found
        jobs += some_jobs
    digests: list[tuple[Sample, bytes]] = []
    # Few are begun ahead of the bar: a signal need not wait for all images.
    threads = min(MOST_THREADS, core_count())
    work = in_background(partial(check_sample, root), jobs, 4 * threads, threads)
    for (sample, _), (found, digest) in track(work, "checking", len(jobs), shown=progress):
        faults += found
        if digest is not None:
            digests.append((sample, digest))
    trained_on = {part.set for part in parts if part.trained_on}
    tested_on = {part.set for part in parts if part.tested_on}
    faults += _same_names([sample for sample, _ in jobs if sample.set in trained_on])
    faults += _same_pictures(digests, trained_on, tested_on)
    return faults, len(jobs)


def _check_folders(root: Path, part: _Part) -> tuple[list[Fault], list[tuple[Sample, bool]]]:
    """List a set, and tell what is wrong with its folders.

    Returns:
        The faults, and the set's images, each with whether its mask can be checked.
    """
    folder = f"{IMAGES_FOLDER}/{part.set}"
    faults = []
    if part.trained_on and part.tested_on:
        problem = "both trained on and tested on"
        faults.append(Fault(WARNING, folder, problem, "test on another set"))
    try:
        faults += unread_pictures(root, part.set)
        samples = find_set(root, part.set)
    except UserError as error:
        return [*faults, fault_of(error, root, root / folder)], []
    for sample, other in sharing_masks(samples):
        problem = f"would share the mask {sample.mask.name} with {other.name}"
        faults.append(Fault(ERROR, _image_file(sample), problem, "rename or remove one"))
    faults += check_groups(part.set, samples)
    without_masks = [(sample, False) for sample in samples]
    if not part.masks:
        return faults, without_masks
    masks_folder = root / MASKS_FOLDER / part.set
    if not os.path.isdir(masks_folder):
        severity, remedy = WARNING, "put the masks there; without them maps can be made, not scored"
        if part.trained_on:
            severity, remedy = ERROR, "put the masks there, or train from points"
        fault = Fault(severity, f"{MASKS_FOLDER}/{part.set}", "no such folder", remedy)
        return [*faults, fault], without_masks
    try:
        found, missing = check_mask_folders(masks_folder, part.set, samples)
    except UserError as error:
        return [*faults, fault_of(error, root, masks_folder)], without_masks
    return faults + found, [(sample, sample.group not in missing) for sample in samples]


def _same_names(samples: list[Sample]) -> list[Fault]:
    """Return an error for every name that two training sets share."""
    faults, first = [], {}
    for sample in samples:
        other = first.setdefault(sample.name, sample)
        if other.set != sample.set:
            problem = f"set {other.set} has an image of this name, and points files leave sets out"
            faults.append(
                Fault(
                    ERROR, _image_file(sample), problem, "rename one, or train on one of the sets"
                )
            )
    return faults


def _same_pictures(
    digests: list[tuple[Sample, bytes]], trained_on: set[str], tested_on: set[str]
) -> list[Fault]:
    """Return a warning for each picture that a set repeats, or that is in training and test.

    Where it is not known which sets are for what, any picture in two sets is told.
    """
    faults = []
    in_set: dict[tuple[str, bytes], Sample] = {}
    in_any: dict[bytes, Sample] = {}
    in_training: dict[bytes, Sample] = {}
    for sample, digest in digests:
        if sample.set in trained_on:
            in_training.setdefault(digest, sample)
        other = in_set.setdefault((sample.set, digest), sample)
        if other is not sample:
            problem = f"the same picture as {_image_file(other)}"
            remedy = "remove one" + (
                "" if other.group == sample.group else ", unless the groups' masks mean to differ"
            )
            faults.append(Fault(WARNING, _image_file(sample), problem, remedy))
            continue
        first = in_any.setdefault(digest, sample)
        if first is not sample and not (trained_on or tested_on):
            problem = f"the same picture as {_image_file(first)}, in another set"
            remedy = "a leak if one set is for training and the other for test: remove one then"
            faults.append(Fault(WARNING, _image_file(sample), problem, remedy))
    for sample, digest in digests:
        other = in_training.get(digest)
        if sample.set in tested_on - trained_on and other is not None:
            problem = f"a test picture that is trained on as {_image_file(other)}"
            remedy = "remove it from the training set"
            faults.append(Fault(WARNING, _image_file(sample), problem, remedy))
    return faults


def _image_file(sample: Sample) -> str:
    return f"{IMAGES_FOLDER}/{sample.set}/{sample.name}"


def main(argv: Sequence[str] | None = None) -> int:
    """Check the data named on the command line and print every fault; return the exit code.

    Raises:
        UserError: an argument is bad, or a run would break on the data.
    """
    parser = Parser(prog="python -m datasets.check", description=__doc__)
    parser.add_argument("--data_root", type=Path, help="holds images/ and gts/ (required)")
    parser.add_argument("--trainset", help="training sets, A+B (default: every set there)")
    parser.add_argument("--testsets", help="test sets, C+D")
    parser.add_argument("--no-masks", action="store_true", help="leave all masks alone")
    parser.add_argument(
        "--no-train-masks", action="store_true", help="leave the training sets' masks alone"
    )
    parser.add_argument(
        "--run_folder", type=Path, help="a trial's: note there which training data are sound"
    )
    options = parser.parse(argv)
    if options.data_root is None:
        raise UserError("--data_root is missing: name the folder that holds images/ and gts/")
    train_masks = not (options.no_masks or options.no_train_masks)
    parts = _parts(
        options.data_root,
        options.trainset,
        options.testsets,
        train_masks=train_masks,
        test_masks=not options.no_masks,
    )
    note = None
    if options.run_folder and options.trainset:
        place = options.run_folder, options.data_root, options.trainset
        with contextlib.suppress(UserError, OSError):  # told below, or by who reads the note
            note = SoundNote(*place, train_masks)
    faults, images = _check_parts(options.data_root, parts, progress=True)
    for fault in faults:
        print(fault)
    errors = sum(fault.severity == ERROR for fault in faults)
    print(
        f"{_counted(images, 'image')} in {_counted(len(parts), 'set')} checked: "
        f"{_counted(errors, 'error')}, {_counted(len(faults) - errors, 'warning')}",
        flush=True,  # before what goes to standard error
    )
    if errors:
        raise UserError(f"{_counted(errors, 'error')} in the data: the lines above tell what to do")
    if note is not None:
        note.write()
    return 0


if __name__ == "__main__":
    run_script(main)
