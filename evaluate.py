"""Score saliency maps against masks: ``python evaluate.py --trial T``.

Writes ``runs/<trial>/scores.csv`` (one row a checkpoint and set), the sheet of every round and the
curve of score against points. Maps that another method made are scored by ``python evaluate.py
--pred_root P --gt_root G --testsets A+B --out F``, with maps in ``P/<method>/<SET>/`` and masks in
``G/<SET>/``. Scores that are there already for the same maps are kept.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

import config as settings
from config import Config
from datasets.images import read_image, read_mask
from datasets.index import (
    MASKS_FOLDER,
    Sample,
    list_set,
    list_sets,
    list_split,
    split_set_names,
)
from datasets.points import by_image, read_answers, read_points
from datasets.superpixels import UNLABELLED, SuperpixelCache, spread
from utils.errors import UserError, run_script
from utils.files import read_json, write_json
from utils.metrics import ImageScores, SaliencyScores, image_scores, point_scores
from utils.pictures import SheetRow, draw_curve, draw_sheet
from utils.run_folder import VALIDATION, RunFolder, map_of
from utils.scores import read_scores, write_scores
from utils.tables import text_table


@dataclass(frozen=True)
class Place:
    """Where maps and masks lie, and where the scores go; a data root only for a trial's own."""

    predictions: Path
    masks: Path
    out: Path
    trial: str
    data_root: Path | None


WORTH_SHARING = 64
"""Maps of a set from which on starting other processes pays."""


def read_map(path: Path) -> np.ndarray:
    """Read a saliency map as uint8 (H, W).

    Raises:
        UserError: it is missing, unreadable, or no 8-bit picture.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such map: run test.py first") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: unreadable ({error}): delete it and run test.py again") from None


def score_pair(pair: tuple[Path, Path]) -> ImageScores:
    """Score one (map, mask) pair of files."""
    saliency, mask = read_map(pair[0]), read_mask(pair[1])
    if saliency.shape != mask.shape:
        raise UserError(
            f"{pair[0]}: {saliency.shape[1]} x {saliency.shape[0]} pixels, its mask "
            f"{mask.shape[1]} x {mask.shape[0]}: make the map at the picture's own size"
        )
    return image_scores(saliency, mask)


def score_set(
    pairs: Sequence[tuple[Path, Path]], pool: Executor | None, what: str
) -> dict[str, float]:
    """Score the maps of one set; the result does not depend on the number of processes.

    Args:
        pairs: (map, mask) files.
        pool: processes to share the work of large sets, or None.
        what: name of the progress bar.
    """
    scores = SaliencyScores()
    bar = tqdm(total=len(pairs), desc=what, unit="image", leave=False)
    shared = pool is not None and len(pairs) >= WORTH_SHARING
    for result in pool.map(score_pair, pairs, chunksize=16) if shared else map(score_pair, pairs):
        scores.add(result)
        bar.update()
    bar.close()
    return scores.result()


def list_pairs(place: Place, checkpoint: str, set_name: str) -> list[tuple[Path, Path]]:
    """Return the (map, mask) files of a set, in order of name.

    Of a trial, the images say which; of other maps, the masks do.

    Raises:
        UserError: the set has no masks, or some maps are missing (their number, the first names).
    """
    folder = place.masks / set_name
    if place.data_root is not None:
        masks = [sample.mask for sample in list_set(place.data_root, set_name)]
    else:
        masks = sorted(path for path in folder.rglob("*.png") if not path.name.startswith("."))
    if not masks:
        raise UserError(f"{folder}: no masks (*.png): check --gt_root and --testsets")
    pairs = [(place.predictions / checkpoint / set_name / m.relative_to(folder), m) for m in masks]
    missing = [saliency for saliency, _ in pairs if not saliency.exists()]
    if missing:
        names = ", ".join(str(path) for path in missing[:3])
        raise UserError(f"{len(missing)} of {len(pairs)} maps are missing (first: {names})")
    return pairs


def score_validation(config: Config, place: Place, checkpoint: str) -> dict[str, float]:
    """Score the maps of the held-out images at their labelled points, all pooled."""
    run = RunFolder(config.run_folder)
    held_out = training_split(config)[1]
    values, labels = [], []
    for sample, found in zip(
        held_out, read_answers([run.validation_points], held_out), strict=True
    ):
        saliency = read_map(place.predictions / checkpoint / map_of(sample.name, VALIDATION))
        values.append(saliency[found[:, 1], found[:, 0]])
        labels.append(found[:, 2])
    scores = point_scores(np.concatenate(values), np.concatenate(labels))
    return {"images": len(held_out), **scores}


def training_split(config: Config) -> tuple[list[Sample], list[Sample]]:
    """Return the training and the held-out images of the trial."""
    return list_split(config.data_root, config.trainset, config.validation_fraction, config.seed)


def label_budget(config: Config, arm: str, round_index: int) -> dict[str, Any]:
    """Return points an image, labelled pixels and region-label error of rounds 0..round_index.

    Only here are masks compared with the labels that a training used; the result goes nowhere but
    into the table. It is kept in ``labels.json`` beside the round's points.
    """
    run = RunFolder(config.run_folder)
    kept = run.training(arm, round_index) / "labels.json"
    if kept.exists():
        return read_json(kept)
    train = training_split(config)[0]
    answers = read_answers(run.answers(arm, round_index + 1), train)
    regions = SuperpixelCache(run.superpixels, config.superpixels)
    pixels = labelled = spread_labels = wrong = 0
    work = zip(train, answers, strict=True)
    for sample, found in tqdm(work, "label budget", len(train), unit="image", leave=False):
        region = regions(sample)
        label_map = spread(found, region)
        known = label_map != UNLABELLED
        pixels += known.size
        asked = int(np.isin(region, region[found[:, 1], found[:, 0]]).sum())
        counts = {"pixel": len(found), "region": int(known.sum()), "region_mask": asked}
        labelled += counts[config.label_mode]
        if sample.mask.exists():
            spread_labels += int(known.sum())
            wrong += int(((label_map == 255) != read_mask(sample.mask))[known].sum())
    budget: dict[str, Any] = {
        "points": round(sum(map(len, answers)) / len(train), 4),
        "labelled_percent": round(100 * labelled / pixels, 4),
        "label_mode": config.label_mode,
    }
    if spread_labels:
        budget["region_error"] = round(100 * wrong / spread_labels, 4)
    write_json(kept, budget)
    return budget


def about(config: Config, place: Place, checkpoint: str) -> dict[str, Any]:
    """Return arm, round and label budget of a checkpoint, as far as they are known."""
    note = place.predictions / checkpoint / "made_from.json"
    made = read_json(note) if note.exists() else {}
    known = {key: made[key] for key in ("arm", "round") if key in made}
    if place.data_root is None:
        return known
    if known.get("arm") == "dense":
        known |= {"labelled_percent": 100.0}
    elif "arm" in known:
        known |= label_budget(config, known["arm"], known["round"])
    return known


def score_checkpoint(
    config: Config, place: Place, checkpoint: str, sets: Sequence[str], pool: Executor | None
) -> list[dict[str, Any]]:
    """Return the rows of one checkpoint; scores of the same maps are read back, not made again."""
    known = about(config, place, checkpoint)
    rows = []
    for set_name in sets:
        row = {"trial": place.trial, "checkpoint": checkpoint, "set": set_name, **known}
        rows.append(row | score_or_recall(config, place, checkpoint, set_name, pool))
    return rows


def score_or_recall(
    config: Config, place: Place, checkpoint: str, set_name: str, pool: Executor | None
) -> dict[str, Any]:
    """Score the maps of a set, unless the same maps and masks have been scored before.

    Scores are kept in ``<SET>.scores.json`` beside the maps, with a mark of the files they are of.
    """
    kept = place.predictions / checkpoint / f"{set_name}.scores.json"
    run = RunFolder(config.run_folder)
    if set_name == VALIDATION:
        maps = place.predictions / checkpoint / VALIDATION
        files = [run.validation_points, *sorted(maps.rglob("*.png"))]
    else:
        pairs = list_pairs(place, checkpoint, set_name)
        files = [path for pair in pairs for path in pair]
    mark = mark_of(files)
    known = read_json(kept) if kept.exists() else {}
    if known.pop("mark", None) == mark:
        return known
    if set_name == VALIDATION:
        scores = score_validation(config, place, checkpoint)
    else:
        what = f"scoring {checkpoint} on {set_name}"
        scores = {"images": len(pairs), **score_set(pairs, pool, what)}
    write_json(kept, {"mark": mark, **scores})
    return scores


def mark_of(files: Sequence[Path]) -> str:
    """Return a hash of the names, sizes and times of files; one that is missing is marked so."""
    digest = hashlib.blake2b(digest_size=12)
    for path in files:
        stat = path.stat() if path.exists() else None
        digest.update(f"{path}\0{stat and (stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def sets_to_score(config: Config, place: Place) -> list[str]:
    """Return the test sets that have masks, and the held-out split where its points are known."""
    named = split_set_names(config.testsets) if config.testsets else []
    sets = [name for name in named if (place.masks / name).is_dir()]
    for name in set(named) - set(sets):
        print(f"{place.masks / name}: no masks: the set is not scored")
    if place.data_root is not None and RunFolder(config.run_folder).validation_points.exists():
        sets.append(VALIDATION)
    if not sets:
        raise UserError(f"--testsets {config.testsets}: none has masks in {place.masks}")
    return sets


def read_sheet(config: Config, numbers: Path, answers: Path) -> list[SheetRow]:
    """Return the rows of a round's sheet: what the round stored, with images, masks, answers."""
    samples = {s.name: s for s in list_sets(config.data_root, config.trainset)}
    points = read_points(answers)
    rows = []
    with np.load(numbers, allow_pickle=False) as stored:
        for row in range(sum(1 for key in stored.files if key.startswith("name_"))):
            found = {
                name: stored[f"{name}_{row}"]
                for name in ("clean", "attacked", "scores", "candidates", "known")
                if f"{name}_{row}" in stored.files
            }
            sample = samples[str(stored[f"name_{row}"])]
            new = by_image(points, [sample.name])[0]
            labels = spread(np.concatenate([found["known"], new]), stored[f"regions_{row}"])
            mask = read_mask(sample.mask) if sample.mask.exists() else None
            image = read_image(sample.image)
            rows.append(SheetRow(image=image, mask=mask, new=new, labels=labels, **found))
    return rows


def draw_pictures(config: Config) -> list[Path]:
    """Draw the sheets of the rounds and the curve of the trial; return the files."""
    run = RunFolder(config.run_folder)
    drawn = []
    for index in range(config.rounds):
        folder = run.training("points", index)
        numbers, sheet = folder / "sheet.npz", folder / "sheet.png"
        if numbers.exists() and run.points("points", index).exists():
            if not sheet.exists():
                draw_sheet(read_sheet(config, numbers, run.points("points", index)), sheet)
            drawn.append(sheet)
    rows = read_scores(run.scores)
    if any(row["arm"] == "points" for row in rows):
        draw_curve(rows, run.curve)
        drawn.append(run.curve)
    return drawn


def main(argv: Sequence[str] | None = None) -> int:
    """Score what the command line names; see the module's text."""

    def extend(parser: Any) -> None:
        parser.add_argument("--pred_root", type=Path, help="maps: <pred_root>/<method>/<SET>/")
        parser.add_argument("--gt_root", type=Path, help="masks: <gt_root>/<SET>/")
        parser.add_argument("--out", type=Path, help="folder of scores.csv (default: the trial's)")

    config, args = settings.parse(argv, __doc__, extend, lambda args: args.pred_root is not None)
    if args.pred_root and not (args.gt_root and config.testsets):
        raise UserError("--pred_root, --gt_root and --testsets belong together")
    run = RunFolder(config.run_folder)
    foreign = args.pred_root is not None or args.gt_root is not None
    place = Place(
        predictions=args.pred_root or run.predictions,
        masks=args.gt_root or Path(config.data_root) / MASKS_FOLDER,
        out=args.out or args.pred_root or run.root,
        trial=args.pred_root.resolve().parent.name if args.pred_root else config.trial,
        data_root=None if foreign else Path(config.data_root),
    )
    if not place.predictions.is_dir():
        raise UserError(f"{place.predictions}: no maps there: run test.py first, or --pred_root")
    checkpoints = sorted(p.name for p in place.predictions.iterdir() if p.is_dir())
    if not checkpoints:
        raise UserError(f"{place.predictions}: no folder of maps (<method>/<SET>/) in it")
    sets = sets_to_score(config, place)
    workers = config.workers if config.workers >= 0 else os.cpu_count() or 1
    rows = []
    # Spawned, not forked: OpenCV's threads do not survive a fork. They start when first needed.
    with ProcessPoolExecutor(max(workers, 1), mp_context=get_context("spawn")) as pool:
        for checkpoint in checkpoints:
            some = pool if workers > 1 else None
            rows += score_checkpoint(config, place, checkpoint, sets, some)
    write_scores(place.out / "scores.csv", rows)
    shown = ("maxF", "wF", "S", "meanE", "MAE")
    lines = [
        [f"{row['checkpoint']} {row['set']}"]
        + [f"{row[name]:.4f}" if name in row else "-" for name in shown]
        for row in rows
    ]
    print(text_table(["checkpoint, set", *shown], lines))
    if not args.pred_root:
        draw_pictures(config)
    return 0


if __name__ == "__main__":
    run_script(main)
