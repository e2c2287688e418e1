"""Make saliency maps: of the test sets of a trial, or of any folder of pictures.

``python test.py --trial T`` tests the kept checkpoint of every finished training of the trial (or
``--checkpoint FILE ...``) on its test sets and its validation images; maps lie in
``runs/<trial>/preds/<checkpoint>/<SET>/``. ``python test.py --input FOLDER --checkpoint FILE
--output FOLDER`` segments any pictures. Maps are 8-bit PNG at the picture's own size.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from config import Config
from datasets.augment import resize
from datasets.images import read_image, write_png
from datasets.index import (
    EXTENSIONS,
    is_hidden,
    list_set,
    test_set_names,
)
from datasets.maps import check_utf8
from models.group_view import GroupView, view_group
from models.stored import load_model
from utils import settings
from utils.checkpoints import fingerprint, load_checkpoint
from utils.cores import core_count
from utils.device import Machine, choose_machine, make_deterministic, memory_advice
from utils.distributed import any_of, barrier, gather_objects, is_main, shard
from utils.errors import UserError
from utils.files import file_state, read_object, write_json
from utils.locks import held
from utils.progress import track
from utils.run_folder import VALIDATION, RunFolder, map_of
from utils.stages import run_stage

Job = tuple[Path, Path]
"""A picture and where its map goes."""

_ABOUT = ("arm", "round", "epoch", "val_MAE", "relation")
"""What a note says of the weights beside their fingerprint."""


class Segmenter:
    """A trained network that makes maps of picture files."""

    def __init__(self, checkpoint: Path, machine: Machine) -> None:
        self.machine = machine
        self.model, trained_with = load_model(checkpoint, machine)
        self.size: int = trained_with["size"]

    @torch.no_grad()
    def maps(
        self, pictures: Sequence[np.ndarray], view: GroupView | None = None
    ) -> list[np.ndarray]:
        """Return the saliency maps, uint8 (H, W) of each picture's size, of RGB pictures.

        Args:
            pictures: uint8 (H, W, 3) each.
            view: the network that knows the pictures' group; None: they are one.
        """
        with self.machine.autocast():
            logits = (view or self.model)(self._batch(pictures)).logits
        probs = logits.float().sigmoid()[:, 0].cpu().numpy()
        grown = []
        for prob, picture in zip(probs, pictures, strict=True):
            height, width = picture.shape[:2]
            if not np.isfinite(prob).all():
                raise UserError(
                    "the network's maps are not finite: train again, in a new trial, with "
                    "--precision fp32, or with a lower --lr if the training diverged (--input and "
                    "--precision fp32 tell)"
                )
            soft = cv2.resize(prob, (width, height), interpolation=cv2.INTER_LINEAR)
            grown.append(np.rint(soft * 255).astype(np.uint8))
        return grown

    def _batch(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        stack = np.stack([resize(picture, self.size) for picture in pictures])
        return self.machine.images(torch.from_numpy(stack).permute(0, 3, 1, 2))

    def run(self, jobs: Sequence[Job], batch_size: int, what: str) -> list[str]:
        """Make the maps that are not there yet; several processes share them.

        A network that relates images sees them group by group, a group being the pictures of one
        folder. Its maps are made anew, all of them, where one is missing: a picture that came to
        the group since, or could not be read, changes what the others have in common with it.

        Returns:
            What was wrong with each picture that could not be read; the others are done.
        """
        if self.model.parts.relation != "none":
            by_folder: dict[Path, list[Job]] = {}
            for job in jobs:
                by_folder.setdefault(job[0].parent, []).append(job)
            groups = [
                group
                for group in shard(list(by_folder.values()))
                if any(not made.exists() for _, made in group)
            ]
        else:
            starts = shard(range(0, len(jobs), batch_size))
            mine = [job for at in starts for job in jobs[at : at + batch_size]]
            groups = [[job for job in mine if not job[1].exists()]]
        todo = sum(map(len, groups))
        faults: list[str] = []
        bar = track(None, what, todo, shown=is_main())
        with ThreadPoolExecutor(core_count()) as pool, bar:
            for group in groups:
                faults += self._run_group(group, batch_size, pool, bar)
        return [fault for theirs in gather_objects(faults) for fault in theirs]

    def _run_group(
        self, jobs: Sequence[Job], batch_size: int, pool: ThreadPoolExecutor, bar: tqdm[Any]
    ) -> list[str]:
        """Make the maps of pictures that belong together, reading ahead."""
        view = None
        if self.model.parts.relation != "none":
            for _, made in jobs:  # at once: killed half way, none of the old ones is left
                made.unlink(missing_ok=True)
            with self.machine.autocast():
                view = view_group(self.model, self._pieces(jobs, batch_size, pool))
        faults: list[str] = []
        writes: list[Future] = []
        for batch in _read_ahead(pool, jobs, batch_size):
            good = [(job, picture) for job, picture in batch if not isinstance(picture, str)]
            faults += [picture for _, picture in batch if isinstance(picture, str)]
            made = self.maps([picture for _, picture in good], view) if good else []
            for done in writes:
                done.result()
            writes = [
                pool.submit(write_png, job[1], saliency)
                for (job, _), saliency in zip(good, made, strict=True)
            ]
            bar.update(len(batch))
        for done in writes:
            done.result()
        return faults

    def _pieces(
        self, jobs: Sequence[Job], batch_size: int, pool: ThreadPoolExecutor
    ) -> Iterator[torch.Tensor]:
        """Yield the pictures of a group that can be read, in batches, for its consensus."""
        for batch in _read_ahead(pool, jobs, batch_size):
            pictures = [picture for _, picture in batch if not isinstance(picture, str)]
            if pictures:
                yield self._batch(pictures)


def _read_ahead(
    pool: ThreadPoolExecutor, jobs: Sequence[Job], batch_size: int
) -> Iterator[list[tuple[Job, np.ndarray | str]]]:
    """Yield batches of pictures (or what was wrong with them), reading one batch ahead."""

    def read(job: Job) -> tuple[Job, np.ndarray | str]:
        try:
            return job, read_image(job[0])
        except UserError as error:
            return job, str(error)

    batches = [jobs[start : start + batch_size] for start in range(0, len(jobs), batch_size)]
    coming = [pool.submit(read, job) for job in batches[0]] if batches else []
    for following in [*batches[1:], []]:
        ready, coming = coming, [pool.submit(read, job) for job in following]
        yield [future.result() for future in ready]


def finished_checkpoints(config: Config) -> list[Path]:
    """Return the kept checkpoint, ``best``, of every finished training of the trial."""
    run = RunFolder(config.run_folder)
    trainings = [("dense", 0)] + [("points", r) for r in range(config.round_count)]
    trainings += [("random", r) for r in range(1, config.round_count)]
    done = [pair for pair in trainings if run.trained(*pair).exists()]
    if not done:
        raise UserError(f"{run.root}: no finished training: run train.py (or gco.sh) first")
    return [run.checkpoint(*pair, "best") for pair in done]


def test_trial(
    config: Config,
    checkpoints: Sequence[Path],
    make: Callable[[Path, Machine], Segmenter],
) -> None:
    """Make the maps of the trial's test sets and validation images.

    Args:
        config: the trial's settings.
        checkpoints: files in its folder.
        make: loads a checkpoint: `Segmenter`, or another for networks that are not ours.
    """
    run = RunFolder(config.run_folder)
    machine = choose_machine(config.device, config.precision)
    sets = {name: list_set(config.data_root, name) for name in test_set_names(config.testsets)}
    if run.validation_points.exists():
        sets[VALIDATION] = settings.training_images(config)[1]
    for checkpoint in checkpoints:
        name = run.checkpoint_name(checkpoint)
        folder = run.predictions / name
        jobs = {
            set_name: [(sample.image, folder / map_of(sample.name, set_name)) for sample in samples]
            for set_name, samples in sets.items()
        }
        if is_main():
            told = str(checkpoint.resolve().relative_to(run.root.resolve()))
            _begin(checkpoint, folder, [job for work in jobs.values() for job in work], told, True)
        barrier()
        # All decide as one, before any of them makes a map.
        if not any_of(any(not target.exists() for work in jobs.values() for _, target in work)):
            continue
        with _memory(config):
            segmenter = make(checkpoint, machine)
        for set_name, work in jobs.items():
            with _memory(config):
                faults = segmenter.run(work, config.at_a_time, f"{name} on {set_name}")
            if faults:
                raise UserError(f"{len(faults)} images could not be read; the first: {faults[0]}")


def _memory(config: Config) -> AbstractContextManager:
    what = f"making maps of {config.at_a_time} pictures at a time"
    return memory_advice(what, ["--device cpu", "with --input also a smaller --batch_size"])


def test_folder(source: Path, checkpoint: Path, target: Path, config: Config) -> int:
    """Segment every picture below a folder; return the number that could not be read."""
    if not source.is_dir():
        what = "is a file: name the folder of the pictures" if source.exists() else "no such folder"
        raise UserError(f"--input {source}: {what}")
    inside = os.path.realpath(target)
    pictures = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and not any(map(is_hidden, path.relative_to(source).parts))
        and not Path(os.path.realpath(path)).is_relative_to(inside)
        and (path.is_file() or not path.exists())  # no pipe, which would be read for ever
    )
    if Path(os.path.realpath(source)).is_relative_to(inside):
        raise UserError(f"--output {target}: holds the pictures: name another folder")
    if not pictures:
        raise UserError(f"--input {source}: no pictures ({', '.join(sorted(EXTENSIONS))}) in it")
    check_utf8((str(path.relative_to(source)) for path in pictures), source)
    jobs = [(p, (target / p.relative_to(source)).with_suffix(".png")) for p in pictures]
    owner: dict[Path, Path] = {}
    for picture, made in jobs:
        if owner.setdefault(made, picture) != picture:
            raise UserError(f"{owner[made]} and {picture} would make one map: rename one")
    if is_main():
        _begin(checkpoint, target, jobs, str(checkpoint), own=False)
    barrier()
    machine = choose_machine(config.device, config.precision)
    with _memory(config):
        segmenter = Segmenter(checkpoint, machine)
        faults = segmenter.run(jobs, config.at_a_time, f"maps into {target}")
    for fault in faults:
        print(f"left out: {fault}")
    print(f"{target}: {len(jobs) - len(faults)} maps")
    return len(faults)


def _begin(checkpoint: Path, folder: Path, jobs: Sequence[Job], told: str, own: bool) -> None:
    """Drop maps of other weights, and of pictures and groups that have changed; note what is made.

    The note holds the state of every picture whose map may lie there, of earlier calls, too.

    Args:
        checkpoint: the weights.
        folder: where maps and note lie.
        jobs: the pictures, and where their maps go.
        told: what the note calls the checkpoint.
        own: whether nothing but such maps lies there.
    """
    note, mark = folder / "made_from.json", fingerprint(checkpoint)
    states = {made.relative_to(folder).as_posix(): file_state(p) for p, made in jobs if p.exists()}
    known = read_object(note) if note.exists() else {}
    same = known.get("fingerprint") == mark
    about = _about(checkpoint, known if same else {})
    related = about["relation"] != "none"
    before = known.get("pictures")
    noted = before if isinstance(before, dict) else {}
    if not same:
        gone = {*states, *noted}
        if own:
            shutil.rmtree(folder, ignore_errors=True)
    elif before is None:  # of a version that noted no pictures
        gone = set()
    else:
        gone = _changed(states, noted, related)
    for made in gone:
        # A name from a file: it may not lead out of the folder.
        if Path(os.path.normpath(folder / made)).is_relative_to(os.path.normpath(folder)):
            (folder / made).unlink(missing_ok=True)
    groups = {os.path.dirname(made) for made in states} if related else set()
    kept = {made: s for made, s in noted.items() if same and os.path.dirname(made) not in groups}
    named = {"checkpoint": told, "fingerprint": mark, **about}
    write_json(note, {**named, "pictures": {**kept, **states}})


def _about(checkpoint: Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a note says of the weights, `_ABOUT`; the file is read unless all is known."""
    if known.keys() >= set(_ABOUT):
        return {key: known[key] for key in _ABOUT}
    state = load_checkpoint(checkpoint)
    trained_with = state["config"] if isinstance(state["config"], dict) else {}
    return {
        **{key: state.get(key) for key in _ABOUT},
        "relation": trained_with.get("relation", "none"),
    }


def _changed(states: Mapping[str, str], noted: Mapping[str, str], related: bool) -> set[str]:
    """Return the maps to be made anew: of pictures that have changed, and of related ones.

    A picture that has left its group changes what the others have in common with it.

    Args:
        states: of the pictures, by their maps.
        noted: those of before.
        related: whether the network relates the pictures of a folder.
    """
    changed = {made for made in states if noted.get(made) != states[made]}
    left = {os.path.dirname(made) for made in noted.keys() - states.keys()} if related else set()
    return changed | {made for made in states if os.path.dirname(made) in left}


def main(argv: Sequence[str] | None = None) -> int:
    """Make the maps that the command line asks for; see the module's text."""

    def extend(parser: Any) -> None:
        parser.add_argument("--checkpoint", type=Path, nargs="+", default=[], help=".pth files")
        parser.add_argument("--input", type=Path, help="folder of pictures to segment")
        parser.add_argument("--output", type=Path, help="folder for their maps")

    config, args = settings.parse(argv, __doc__, extend, lambda args: args.input is not None)
    if config.deterministic:
        make_deterministic()
    if args.input is None and args.output is None:
        checkpoints = args.checkpoint or finished_checkpoints(config)
        run = RunFolder(config.run_folder)
        with held(run.lock("maps"), f"{run.root}, making maps,"):
            test_trial(config, checkpoints, Segmenter)
        return 0
    if not (args.input and args.output and len(args.checkpoint) == 1):
        raise UserError("--input, --output and one --checkpoint belong together")
    faults = test_folder(args.input, args.checkpoint[0], args.output, config)
    return 2 if faults else 0


if __name__ == "__main__":
    run_stage(main)
