"""Score saliency maps against masks: ``python evaluate.py --trial T``.

Writes ``scores.csv`` (one row a checkpoint and set), ``scores.md``, ``scores.tex``, ``curves.npz``
and ``curves/<SET>.png|pdf`` into the trial's folder, the sheet of every round, and the curve of
score against points. Maps that another method made are scored by ``--pred_root P --gt_root G
--testsets A+B --out F``, with maps in ``P/<method>/<SET>/`` and masks in ``G/<SET>/``; without
``--testsets``, the maps in the folder P by the masks in the folder G. Nothing is scored twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config import Config
from datasets.index import MASKS_FOLDER
from datasets.maps import Pair, check_utf8
from datasets.places import Place, find_pairs, list_checkpoints, sets_to_score
from datasets.round_sheet import draw_round
from datasets.scoring import make_pool, score_set
from datasets.trial_maps import TrialMaps
from datasets.worst import read_worst
from utils import results, settings
from utils.cores import core_count
from utils.errors import UserError
from utils.metrics import CONVENTIONS, METRICS, SHOWN, SetScores, parts_of
from utils.pictures import draw_curve
from utils.run_folder import RunFolder
from utils.score_pictures import draw_worst
from utils.scores import read_scores
from utils.stages import run_stage
from utils.tallies import Kept


@dataclass(frozen=True)
class Options:
    """What is to be found out, as the command line says."""

    metrics: tuple[str, ...]
    convention: str
    allow_missing: bool
    per_image: bool
    worst: int
    sort_by: str

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics to print: the usual few, or those that were asked for."""
        return SHOWN if self.metrics == METRICS else self.metrics


@dataclass
class Scored:
    """All scores of an evaluation; the keys are (checkpoint, set).

    Attributes:
        rows: of ``scores.csv``.
        scores: with their curves, where whole maps were scored.
        worst: the worst maps and the scores of each.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[results.Cell, SetScores] = field(default_factory=dict)
    worst: dict[results.Cell, list[tuple[Pair, dict[str, float]]]] = field(default_factory=dict)


def score_checkpoint(
    maps: TrialMaps,
    checkpoint: str,
    sets: Sequence[str],
    options: Options,
    pool: Executor | None,
    scored: Scored,
) -> None:
    """Score the maps of a checkpoint; add to ``scored`` what was found."""
    place, known = maps.place, maps.about[checkpoint]
    for set_name in sets:
        row = {"trial": place.trial, "checkpoint": checkpoint, "set": set_name, **known}
        if place.is_held_out(set_name):
            scored.rows.append(row | maps.score_held_out(checkpoint))
            continue
        pairs, missing, extra = find_pairs(place, checkpoint, set_name, options.allow_missing)
        what = f"{checkpoint} on {set_name}"
        if not pairs:
            print(f"{what}: nothing to score: left out of all tables")
            continue
        log = place.log_of(checkpoint, set_name, options.convention)
        kept = score_set(pairs, log, options.convention, parts_of(options.metrics), pool, what)
        if kept.resized:
            print(f"{what}: {kept.resized} maps were resized to their masks")
        scores, cell = kept.scores(options.metrics), (checkpoint, set_name)
        notes = {"convention": kept.convention, "missing": missing, "extra": extra}
        notes["resized"] = kept.resized
        scored.rows.append({**row, "images": len(pairs), **scores.result(), **notes})
        scored.scores[cell] = scores
        if options.per_image or options.worst:
            scored.worst[cell] = look_at_images(place, kept, pairs, cell, options)


def look_at_images(
    place: Place, kept: Kept, pairs: Sequence[Pair], cell: results.Cell, options: Options
) -> list[tuple[Pair, dict[str, float]]]:
    """Write the scores of each image if asked to; return the worst maps with theirs."""
    scores = results.image_scores(kept, options.metrics)
    order = results.worst_first(scores, options.sort_by)
    if options.per_image:
        path = place.out / "per_image" / cell[0] / f"{cell[1]}.csv"
        with place.writing():
            results.write_image_scores(path, kept.names, scores, order)
    return [
        (pairs[at], {name: float(scores[name][at]) for name in options.shown})
        for at in order[: options.worst]
    ]


def draw_trial(config: Config) -> None:
    """Draw the sheets of the rounds and the curve of the trial."""
    run = RunFolder(config.run_folder)
    for index in range(config.rounds):
        draw_round(run, index, config.data_root, config.trainset)
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


def read_options(config: Config, args: Any) -> Options:
    """Return what the command line asks for.

    Raises:
        UserError: the flags contradict each other.
    """
    metrics = tuple(name for name in METRICS if name in args.metrics)
    sort_by = args.sort_by or ("S" if "S" in metrics else metrics[0])
    if sort_by not in metrics:
        raise UserError(f"--sort_by {sort_by}: not among --metrics: add it there")
    if args.worst < 0:
        raise UserError(f"--worst {args.worst}: must be 0 or more")
    convention = args.convention
    if convention is None:
        convention = "eval-co-sod" if config.grouped else "pysodmetrics"
        print(f"convention: {convention} (--convention names another)")
    return Options(metrics, convention, args.allow_missing, args.per_image, args.worst, sort_by)


def add_arguments(parser: Any) -> None:
    """Add what only evaluation knows to its command line."""
    flag = parser.add_argument
    flag("--pred_root", type=Path, help="maps: <pred_root>/<method>/<SET>/")
    flag("--gt_root", type=Path, help="masks: <gt_root>/<SET>/")
    flag("--out", type=Path, help="folder of the results (default: the trial's)")
    flag("--metrics", nargs="+", choices=METRICS, default=METRICS, metavar="METRIC")
    told = "how to count (default: pysodmetrics; of a grouped trial eval-co-sod)"
    flag("--convention", choices=CONVENTIONS, help=told)
    flag("--allow_missing", action="store_true", help="score what is there of maps and masks")
    flag("--per_image", action="store_true", help="write each image's scores")
    flag("--worst", type=int, default=0, metavar="N", help="draw the N worst maps")
    flag("--sort_by", choices=METRICS, help="what worst means (default: S)")
    flag("--no_figures", action="store_true", help="draw no curves")


def draw_all_worst(place: Place, scored: Scored, metric: str) -> None:
    """Draw the sheets of the worst maps."""
    for (checkpoint, set_name), worst in scored.worst.items():
        if worst:
            path = place.out / "worst" / checkpoint / f"{set_name}.png"
            # Of one plain folder of masks, the pictures' folder lies beside its parent.
            masks = place.masks.parent if place.plain else place.masks
            draw_worst([read_worst(pair, masks, scores) for pair, scores in worst], path)
            print(f"worst by {metric}: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Score what the command line names; see the module's text."""
    config, args = settings.parse(
        argv, __doc__, add_arguments, lambda args: args.pred_root is not None
    )
    options, place = read_options(config, args), locate(config, args)
    sets = sets_to_score(
        place, config.testsets, RunFolder(config.run_folder).validation_points.exists()
    )
    check_utf8(sets, place.masks)
    workers = config.workers if config.workers >= 0 else core_count()
    scored = Scored()
    maps = TrialMaps(config, place, list_checkpoints(place, sets))
    with make_pool(workers) as pool:
        for checkpoint in maps.about:
            shared = pool if workers > 1 else None
            score_checkpoint(maps, checkpoint, sets, options, shared, scored)
    if not scored.rows:
        raise UserError(f"{place.predictions}: nothing was scored: all maps or masks are missing")
    with place.writing():
        # Numbers first: what can go wrong with a picture must not cost them.
        results.write_tables(place.out, scored.rows, list(scored.scores), options.shown)
        if scored.scores:
            results.save_curves(place.out, scored.scores)
        draw_all_worst(place, scored, options.sort_by)
        if scored.scores and not args.no_figures:
            results.draw_curves(place.out, scored.scores)
        if place.data_root is not None and place.out == RunFolder(config.run_folder).root:
            draw_trial(config)
    return 0


if __name__ == "__main__":
    run_stage(main, together=False)
