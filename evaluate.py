"""Score saliency maps against masks: ``python evaluate.py --trial T``.

Writes ``scores.csv`` (one row a checkpoint and set), ``scores.md``, ``scores.tex``, ``curves.npz``
and ``curves/<SET>.png|pdf`` into the trial's folder, the sheet of every round, and the curve of
score against points. Maps that another method made are scored by ``--pred_root P --gt_root G
--testsets A+B --out F``, with maps in ``P/<method>/<SET>/`` and masks in ``G/<SET>/``; without
``--testsets``, the maps in the folder P by the masks in the folder G. Nothing is scored twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import config as settings
from config import Config
from datasets.images import read_image, read_mask
from datasets.index import (
    EXTENSIONS,
    IMAGES_FOLDER,
    MASKS_FOLDER,
    list_set,
    list_sets,
    list_split,
    split_set_names,
)
from datasets.label_budget import label_budget
from datasets.maps import Pair, list_masks, pair_up, read_map
from datasets.points import by_image, read_answers, read_points
from datasets.scoring import score_set
from datasets.superpixels import SuperpixelCache, spread
from utils.errors import UserError, run_script
from utils.files import atomic_path, read_json, write_json, write_text
from utils.metrics import (
    CONVENTIONS,
    LOWER_IS_BETTER,
    METRICS,
    SetScores,
    each_image,
    parts_of,
    point_scores,
)
from utils.pictures import SheetRow, draw_curve, draw_sheet
from utils.run_folder import VALIDATION, RunFolder, map_of
from utils.score_pictures import WorstRow, draw_threshold_curves, draw_worst
from utils.score_tables import latex_table, markdown_table
from utils.scores import read_scores, write_scores
from utils.tables import text_table, write_rows
from utils.tallies import Kept

SHOWN = ("maxF", "wF", "S", "meanE", "MAE")
"""The metrics of the printed tables, unless others are asked for."""

MOST_CURVES = 12
"""Methods that a figure of curves can show."""


@dataclass(frozen=True)
class Place:
    """Where maps and masks lie, and where the scores go.

    Attributes:
        predictions: ``<predictions>/<checkpoint>/<SET>/``, or the maps themselves if `plain`.
        masks: ``<masks>/<SET>/``, or the masks themselves if `plain`.
        data_root: of a trial's own sets; None for maps from elsewhere.
    """

    predictions: Path
    masks: Path
    out: Path
    trial: str
    data_root: Path | None
    plain: bool = False

    def maps_of(self, checkpoint: str, set_name: str) -> Path:
        """Return the folder of the maps of a set."""
        return self.predictions if self.plain else self.predictions / checkpoint / set_name

    def masks_of(self, set_name: str) -> Path:
        """Return the folder of the masks of a set."""
        return self.masks if self.plain else self.masks / set_name

    def log_of(self, checkpoint: str, set_name: str) -> Path:
        """Return where what is known of the maps of a set is kept."""
        return self.out / "tallies" / checkpoint / f"{set_name}.tally"


@dataclass(frozen=True)
class Wish:
    """What is to be found out, as the command line says."""

    metrics: tuple[str, ...]
    convention: str
    allow_missing: bool
    per_image: bool
    worst: int
    sort_by: str


def find_pairs(
    place: Place, checkpoint: str, set_name: str, allow_missing: bool
) -> tuple[list[Pair], int]:
    """Return maps and masks of a set, in byte order of name, and the number of missing maps.

    Of a trial, the images say which; of other maps, the masks do.

    Raises:
        UserError: the set has no masks, or maps are missing (their number, the first names) that
            may not be.
    """
    folder = place.masks_of(set_name)
    if place.data_root is not None:
        listed = [sample.mask for sample in list_set(place.data_root, set_name)]
        masks = [(path.relative_to(folder).as_posix(), path) for path in listed]
    else:
        masks = list_masks(folder)
    maps = place.maps_of(checkpoint, set_name)
    found = pair_up(masks, maps)
    if found.extra:
        print(
            f"{maps}: {len(found.extra)} maps have no mask and are left out ({first(found.extra)})"
        )
    if found.missing:
        told = f"{len(found.missing)} of {len(masks)} maps are missing ({first(found.missing)})"
        if not allow_missing or not found.pairs:
            raise UserError(f"{maps}: {told}: make them, or score the others with --allow_missing")
        print(f"{maps}: {told}: the scores are of the others")
    return found.pairs, len(found.missing)


def first(names: Sequence[str]) -> str:
    """Return the first names of a list, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def score_validation(config: Config, place: Place, checkpoint: str) -> dict[str, float]:
    """Score the maps of the held-out images at their labelled points, all pooled."""
    run = RunFolder(config.run_folder)
    held_out = training_split(config)[1]
    answers = read_answers([run.validation_points], held_out)
    values, labels = [], []
    for sample, found in zip(held_out, answers, strict=True):
        saliency = read_map(place.predictions / checkpoint / map_of(sample.name, VALIDATION))
        values.append(saliency[found[:, 1], found[:, 0]])
        labels.append(found[:, 2])
    scores = point_scores(np.concatenate(values), np.concatenate(labels))
    return {"images": len(held_out), **scores}


def training_split(config: Config) -> tuple[list, list]:
    """Return the training and the held-out images of the trial."""
    return list_split(config.data_root, config.trainset, config.validation_fraction, config.seed)


def about(config: Config, place: Place, checkpoint: str) -> dict[str, Any]:
    """Return arm, round and label budget of a checkpoint, as far as they are known.

    The budget is kept in ``labels.json`` beside the round's points.
    """
    note = place.predictions / checkpoint / "made_from.json"
    made = read_json(note) if note.exists() and not place.plain else {}
    known = {key: made[key] for key in ("arm", "round") if key in made}
    if place.data_root is None or "arm" not in known:
        return known
    if known["arm"] == "dense":
        return known | {"labelled_percent": 100.0}
    run = RunFolder(config.run_folder)
    kept = run.training(known["arm"], known["round"]) / "labels.json"
    if not kept.exists():
        answers = run.answers(known["arm"], known["round"] + 1)
        regions = SuperpixelCache(run.superpixels, config.superpixels)
        train = training_split(config)[0]
        write_json(kept, label_budget(train, answers, regions, config.label_mode))
    return known | read_json(kept)


def score_checkpoint(
    config: Config,
    place: Place,
    checkpoint: str,
    sets: Sequence[str],
    wish: Wish,
    pool: Executor | None,
) -> Iterator[tuple[dict[str, Any], SetScores | None]]:
    """Yield the row of each set, and its scores with their curves where there are masks."""
    known = about(config, place, checkpoint)
    for set_name in sets:
        row = {"trial": place.trial, "checkpoint": checkpoint, "set": set_name, **known}
        if set_name == VALIDATION:
            yield row | score_validation(config, place, checkpoint), None
            continue
        pairs, missing = find_pairs(place, checkpoint, set_name, wish.allow_missing)
        log, parts = place.log_of(checkpoint, set_name), parts_of(wish.metrics)
        what = f"{checkpoint} on {set_name}"
        kept = score_set(pairs, log, wish.convention, parts, pool, what)
        if kept.resized:
            print(f"{what}: {kept.resized} maps were resized to their masks")
        if wish.per_image or wish.worst:
            write_images(place, kept, pairs, Path(checkpoint) / set_name, wish)
        scores = kept.scores(wish.metrics)
        notes = {"convention": wish.convention, "missing": missing, "resized": kept.resized}
        yield {**row, "images": len(pairs), **scores.result(), **notes}, scores


def write_images(place: Place, kept: Kept, pairs: Sequence[Pair], where: Path, wish: Wish) -> None:
    """Write the scores of each image, the worst first, and the sheet of the worst."""
    convention = CONVENTIONS[kept.convention]
    chunks = [each_image(chunk, convention, wish.metrics) for chunk in kept.chunks()]
    scores = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in wish.metrics}
    sign = -1 if wish.sort_by in LOWER_IS_BETTER else 1
    order = np.argsort(sign * scores[wish.sort_by], kind="stable").tolist()
    if wish.per_image:
        table = (
            {"image": kept.names[at]} | {name: f"{scores[name][at]:.6f}" for name in wish.metrics}
            for at in order
        )
        path = place.out / "per_image" / f"{where}.csv"
        write_rows(path, ("image", *wish.metrics), table)
        print(f"scores of each image: {path}")
    if wish.worst:
        rows = [
            WorstRow(
                name=pairs[at].name,
                image=find_image(pairs[at], place.masks),
                mask=read_mask(pairs[at].mask),
                saliency=read_map(pairs[at].saliency),
                scores={name: float(scores[name][at]) for name in shown_metrics(wish)},
            )
            for at in order[: wish.worst]
        ]
        path = place.out / "worst" / f"{where}.png"
        draw_worst(rows, path)
        print(f"worst by {wish.sort_by}: {path}")


def find_image(pair: Pair, masks: Path) -> np.ndarray | None:
    """Return the picture of a mask, from ``images/`` beside the masks' folder, if it is there."""
    stem = masks.parent / IMAGES_FOLDER / pair.mask.relative_to(masks).with_suffix("")
    for extension in sorted(EXTENSIONS):
        path = stem.with_name(stem.name + extension)
        if path.exists():
            return read_image(path)
    return None


def sets_to_score(config: Config, place: Place) -> list[str]:
    """Return the test sets that have masks, and the held-out split where its points are known."""
    if place.plain:
        return [place.masks.resolve().name]
    named = split_set_names(config.testsets) if config.testsets else []
    sets = [name for name in named if place.masks_of(name).is_dir()]
    for name in sorted(set(named) - set(sets)):
        print(f"{place.masks_of(name)}: no masks: the set is not scored")
    if place.data_root is not None and RunFolder(config.run_folder).validation_points.exists():
        sets.append(VALIDATION)
    if not sets:
        raise UserError(f"--testsets {config.testsets}: none has masks in {place.masks}")
    return sets


Scored = Mapping[tuple[str, str], SetScores]
"""The scores of a checkpoint on a set."""


def write_curves(place: Place, scored: Scored, draw: bool) -> None:
    """Write the curves of all checkpoints and sets as numbers, and draw them, a figure a set."""
    checkpoints = list(dict.fromkeys(checkpoint for checkpoint, _ in scored))
    sets = list(dict.fromkeys(set_name for _, set_name in scored))
    found = {key: scores.curves() for key, scores in scored.items()}
    some = next(iter(found.values()))
    arrays = {
        name: np.array([[found[c, s][name] for s in sets] for c in checkpoints])
        for name in some
        if name != "thresholds"
    }
    with atomic_path(place.out / "curves.npz") as temporary:
        np.savez_compressed(
            temporary, checkpoints=checkpoints, sets=sets, thresholds=some["thresholds"], **arrays
        )
    for set_name in sets if draw else []:
        best = sorted(checkpoints, key=lambda c: -found[c, set_name]["f"].max())[:MOST_CURVES]
        shown = {c: found[c, set_name] for c in checkpoints if c in best}
        if len(shown) < len(checkpoints):
            print(f"curves on {set_name}: of the {MOST_CURVES} checkpoints of highest maxF")
        draw_threshold_curves(shown, set_name, place.out / "curves" / set_name)


def write_tables(place: Place, rows: Sequence[Mapping[str, Any]], wish: Wish) -> None:
    """Write ``scores.csv``, and the scores on the test sets as papers print them."""
    write_scores(place.out / "scores.csv", rows)
    tested = [row for row in rows if row["set"] != VALIDATION]
    shown = shown_metrics(wish)
    if tested:
        write_text(place.out / "scores.md", markdown_table(tested, shown, wish.convention))
        write_text(place.out / "scores.tex", latex_table(tested, shown, wish.convention))
    lines = [
        [f"{row['checkpoint']} {row['set']}"]
        + [f"{row[name]:.4f}" if name in row else "-" for name in shown]
        for row in rows
    ]
    print(text_table(["checkpoint, set", *shown], lines))


def shown_metrics(wish: Wish) -> tuple[str, ...]:
    """Return the metrics to print: the usual few, or those that were asked for."""
    return SHOWN if wish.metrics == METRICS else wish.metrics


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


def draw_pictures(config: Config) -> None:
    """Draw the sheets of the rounds and the curve of the trial."""
    run = RunFolder(config.run_folder)
    for index in range(config.rounds):
        folder = run.training("points", index)
        numbers, sheet = folder / "sheet.npz", folder / "sheet.png"
        asked = run.points("points", index)
        if numbers.exists() and asked.exists() and not sheet.exists():
            draw_sheet(read_sheet(config, numbers, asked), sheet)
    rows = read_scores(run.scores)
    if any(row["arm"] == "points" for row in rows):
        draw_curve(rows, run.curve)


def locate(config: Config, args: Any) -> Place:
    """Return where everything lies, as the command line says."""
    run = RunFolder(config.run_folder)
    if (args.pred_root is None) != (args.gt_root is None):
        raise UserError("--pred_root and --gt_root belong together")
    if args.pred_root is None:
        masks, root = Path(config.data_root) / MASKS_FOLDER, Path(config.data_root)
        place = Place(run.predictions, masks, args.out or run.root, config.trial, root)
    else:
        trial = args.pred_root.resolve().parent.name
        out = args.out or args.pred_root
        plain = not config.testsets
        if plain and args.out is None:
            raise UserError("--out is missing: name the folder for the scores")
        place = Place(args.pred_root, args.gt_root, out, trial, None, plain)
    if not place.predictions.is_dir():
        raise UserError(f"{place.predictions}: no maps there: run test.py first, or --pred_root")
    return place


def list_checkpoints(place: Place) -> list[str]:
    """Return the names of the checkpoints or methods that made the maps."""
    if place.plain:
        return [place.predictions.resolve().name]
    mine = {"tallies", "curves", "per_image", "worst"} if place.out == place.predictions else set()
    folders = sorted(path.name for path in place.predictions.iterdir() if path.is_dir())
    found = [name for name in folders if name not in mine and not name.startswith(".")]
    if not found:
        raise UserError(f"{place.predictions}: no folder of maps (<method>/<SET>/) in it")
    return found


def add_arguments(parser: Any) -> None:
    """Add what only evaluation knows to its command line."""
    parser.add_argument("--pred_root", type=Path, help="maps: <pred_root>/<method>/<SET>/")
    parser.add_argument("--gt_root", type=Path, help="masks: <gt_root>/<SET>/")
    parser.add_argument("--out", type=Path, help="folder of the results (default: the trial's)")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=METRICS, metavar="METRIC")
    parser.add_argument("--convention", choices=CONVENTIONS, default="pysodmetrics")
    parser.add_argument(
        "--allow_missing", action="store_true", help="score the maps that are there"
    )
    parser.add_argument("--per_image", action="store_true", help="write each image's scores")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="draw the N worst maps")
    parser.add_argument("--sort_by", choices=METRICS, help="what worst means (default: S)")
    parser.add_argument("--no_figures", action="store_true", help="draw no curves")


def main(argv: Sequence[str] | None = None) -> int:
    """Score what the command line names; see the module's text."""
    config, args = settings.parse(
        argv, __doc__, add_arguments, lambda args: args.pred_root is not None
    )
    metrics = tuple(name for name in METRICS if name in args.metrics)
    sort_by = args.sort_by or ("S" if "S" in metrics else metrics[0])
    if sort_by not in metrics:
        raise UserError(f"--sort_by {sort_by}: not among --metrics: add it there")
    options = (args.allow_missing, args.per_image, args.worst, sort_by)
    wish = Wish(metrics, args.convention, *options)
    place = locate(config, args)
    sets = sets_to_score(config, place)
    workers = config.workers if config.workers >= 0 else os.cpu_count() or 1
    rows, scored = [], {}
    # Spawned, not forked: OpenCV's threads do not survive a fork. They start when first needed.
    with ProcessPoolExecutor(max(workers, 1), mp_context=get_context("spawn")) as pool:
        for checkpoint in list_checkpoints(place):
            shared = pool if workers > 1 else None
            for row, scores in score_checkpoint(config, place, checkpoint, sets, wish, shared):
                rows.append(row)
                if scores is not None:
                    scored[checkpoint, row["set"]] = scores
    write_tables(place, rows, wish)
    if scored:
        write_curves(place, scored, not args.no_figures)
    if place.data_root is not None and place.out == RunFolder(config.run_folder).root:
        draw_pictures(config)
    return 0


if __name__ == "__main__":
    run_script(main)
