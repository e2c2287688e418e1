"""How fast are the scores, beside PySODMetrics, and do both say the same?

    python benchmarks/evaluation.py --pred_root P --gt_root G --testsets A+B [--out results.json]

Maps lie in ``P/<method>/<SET>/`` (the first method is taken), masks in ``G/<SET>/``; without them
made-up pairs are scored: MAE, F-, weighted F-, S- and E-measure, which both have. Both sides score
the same pairs in turns, in one run, each in processes of its own: from arrays at the sizes asked
for and from PNG files, in one process of one thread; then from files on all cores. Medians over
the turns are printed. At last every score and curve of every pair is compared, and our time is
divided into its parts.

PySODMetrics moves NumPy and OpenCV to other versions, so it lives in an environment of its own:

    python -m venv sod && sod/bin/pip install pysodmetrics scipy pillow tqdm
    OMP_NUM_THREADS=1 sod/bin/python benchmarks/evaluation.py ...
"""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
import tempfile
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.images import read_mask
from datasets.maps import Pair, list_masks, pair_up, read_map
from datasets.scoring import make_pool, score_set
from utils.cli import Parser
from utils.cores import core_count
from utils.errors import UserError, run_script
from utils.files import write_json
from utils.metrics import CONVENTIONS, SetScores, curves, each_image, tally
from utils.tables import text_table

PAIRS = Path(__file__).resolve().parent.parent / "tests" / "golden" / "pairs.py"
CONVENTION = CONVENTIONS["pysodmetrics"]
METRICS = ("maxF", "meanF", "adpF", "wF", "S", "maxE", "meanE", "adpE", "MAE")
PARTS = frozenset({"wF", "S"})
Arrays = list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]


def their_measures() -> dict[str, Any]:
    """Return PySODMetrics' classes for what is scored, fresh.

    Raises:
        UserError: it is not installed.
    """
    try:
        import py_sod_metrics as sod
    except ImportError:
        raise UserError(
            "PySODMetrics is not installed: make an environment of its own, as "
            "the head of benchmarks/evaluation.py says"
        ) from None
    warnings.simplefilter("ignore")  # its Fmeasure announces a successor; NaN where S has none
    return {
        "MAE": sod.MAE(),
        "F": sod.Fmeasure(beta=0.3),
        "wF": sod.WeightedFmeasure(beta=1),
        "S": sod.Smeasure(alpha=0.5),
        "E": sod.Emeasure(),
    }


def score_theirs(pairs: Iterable[tuple[NDArray, NDArray]]) -> dict[str, Any]:
    """Score pairs of arrays with PySODMetrics."""
    measures = their_measures()
    for saliency, mask in pairs:
        for measure in measures.values():
            measure.step(saliency, mask)
    for measure in measures.values():
        measure.get_results()
    return measures


def score_ours(pairs: Iterable[tuple[NDArray, NDArray]]) -> NDArray:
    """Score pairs of arrays with this project's code; return the tallies."""
    tallies = np.stack([tally(*pair, CONVENTION, PARTS) for pair in pairs])
    scores = SetScores(CONVENTION, METRICS)
    scores.add(tallies)
    scores.result()
    return tallies


def read_theirs(files: Sequence[Pair]) -> Iterable[tuple[NDArray, NDArray]]:
    """Yield maps and masks as PySODMetrics' examples read them."""
    for pair in files:
        yield tuple(cv2.imread(str(p), cv2.IMREAD_GRAYSCALE) for p in (pair.saliency, pair.mask))


def score_some_theirs(files: Sequence[Pair]) -> int:
    """Score some files with PySODMetrics, in a process of a pool; return how many."""
    cv2.setNumThreads(1)
    score_theirs(read_theirs(files))
    return len(files)


def score_files_theirs(files: Sequence[Pair], pool: Executor | None) -> None:
    """Score files with PySODMetrics, dealt to the processes of a pool 16 at a time."""
    if pool is None:
        score_some_theirs(files)
    else:
        some = [files[start : start + 16] for start in range(0, len(files), 16)]
        list(pool.map(score_some_theirs, some))


def score_files_ours(files: Sequence[Pair], pool: Executor | None) -> None:
    """Score files as evaluate.py does, the log on disk included."""
    quiet = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        log = Path(folder) / "made.tally"
        kept = score_set(files, log, CONVENTION.name, PARTS, pool, "benchmark")
        kept.scores(METRICS).result()


def seconds(work: Callable[[], Any]) -> float:
    """Return how long some work takes."""
    begun = perf_counter()
    work()
    return perf_counter() - begun


FROM_ARRAYS = {"ours": score_ours, "PySODMetrics": score_theirs}
FROM_FILES = {"ours": score_files_ours, "PySODMetrics": score_files_theirs}


def time_arrays(side: str, files: Sequence[Pair], size: int) -> float:
    """Return the seconds one side takes for arrays; reading and resizing them does not count."""
    pairs = resized(list(read_theirs(files)), size)
    return seconds(partial(FROM_ARRAYS[side], pairs))


def time_files(side: str, files: Sequence[Pair], pool: Executor | None = None) -> float:
    """Return the seconds one side takes for files."""
    return seconds(partial(FROM_FILES[side], files, pool))


def race(jobs: dict[str, Callable[[], float]], images: int, turns: int) -> dict[str, float]:
    """Let both sides do their jobs in turns, the first not counted; return images a second."""
    times = [{side: job() for side, job in jobs.items()} for _ in range(turns + 1)][1:]
    speed = {side: images / median(turn[side] for turn in times) for side in jobs}
    return {**speed, "ratio": speed["ours"] / speed["PySODMetrics"]}


def compare_speed(files: list[Pair], sizes: Sequence[int], turns: int) -> dict[str, Any]:
    """Return images a second of both sides, each in processes of its own."""

    def race_in(pools: dict[str, Executor], job: Callable[..., float], *rest: Any) -> Any:
        jobs = {
            side: lambda side=side, pool=pool: pool.submit(job, side, files, *rest).result()
            for side, pool in pools.items()
        }
        return race(jobs, len(files), turns)

    def start(stack: contextlib.ExitStack, processes: int) -> dict[str, Executor]:
        make = partial(ProcessPoolExecutor, processes, get_context("spawn"))
        pools = {"ours": make_pool(processes), "PySODMetrics": make(cv2.setNumThreads, (1,))}
        return {side: stack.enter_context(pool) for side, pool in pools.items()}

    found, cores = {}, core_count()
    with contextlib.ExitStack() as stack:
        single = start(stack, 1)
        for size in sizes:
            what = f"arrays, {size} x {size}" if size else "arrays, as they are"
            found[what] = race_in(single, time_arrays, size)
        found["files, 1 process"] = race_in(single, time_files)
        many = start(stack, cores)
        jobs = {side: partial(time_files, side, files, many[side]) for side in many}
        found[f"files, {cores} processes"] = race(jobs, len(files), turns)
    return found


def differences(pairs: Arrays) -> dict[str, float]:
    """Return the largest difference of any image, by score and curve; NaN of theirs left out."""
    measures = score_theirs(pairs)
    tallies = score_ours(pairs)
    ours = each_image(tallies, CONVENTION, METRICS)
    our_curves = curves(tallies["counts"], CONVENTION)
    f, e = measures["F"], measures["E"]
    f_curves, e_curves = np.array(f.changeable_fms), np.array(e.changeable_ems)
    compared = {
        "MAE": (ours["MAE"], measures["MAE"].maes),
        "adpF": (ours["adpF"], f.adaptive_fms),
        "wF": (ours["wF"], measures["wF"].weighted_fms),
        "S": (ours["S"], measures["S"].sms),
        "adpE": (ours["adpE"], e.adaptive_ems),
        "maxF": (ours["maxF"], f_curves.max(axis=1)),
        "meanF": (ours["meanF"], f_curves.mean(axis=1)),
        "maxE": (ours["maxE"], e_curves.max(axis=1)),
        "meanE": (ours["meanE"], e_curves.mean(axis=1)),
        "F curve": (our_curves.f, f_curves),
        "E curve": (our_curves.e, e_curves),
        "precision curve": (our_curves.precision, f.precisions),
        "recall curve": (our_curves.recall, f.recalls),
    }
    return {
        name: float(np.nanmax(np.abs(mine - np.asarray(other))))
        for name, (mine, other) in compared.items()
    }


def profile(files: Sequence[Pair], turns: int) -> dict[str, float]:
    """Return our milliseconds an image by part, one process, medians over the turns."""
    pairs = [(read_map(pair.saliency), read_mask(pair.mask)) for pair in files]
    tallies = score_ours(pairs)

    def measure(parts: Iterable[str]) -> Callable[[], Any]:
        return lambda: [tally(*pair, CONVENTION, frozenset(parts)) for pair in pairs]

    def read() -> None:
        for pair in files:
            read_map(pair.saliency), read_mask(pair.mask)

    def curve() -> None:
        scores = SetScores(CONVENTION, METRICS)
        scores.add(tallies)
        scores.result()

    works = (read, measure(()), measure({"wF"}), measure({"S"}), curve)
    times = [[seconds(work) for work in works] for _ in range(turns)]
    reading, counting, wf, s, curved = (median(column) for column in zip(*times, strict=True))
    found = {
        "reading two PNG files": reading,
        "counting grey values": counting,
        "wF": wf - counting,
        "S": s - counting,
        "F, E, MAE from the counts": curved,
    }
    return {name: 1000 * value / len(files) for name, value in found.items()}


def find_files(pred_root: Path, gt_root: Path, sets: Sequence[str], most: int) -> list[Pair]:
    """Return maps and masks of the first method, as many of each set.

    Raises:
        UserError: a folder is missing, or no map has a mask.
    """
    methods = sorted(path for path in pred_root.glob("*") if path.is_dir())
    if not methods:
        raise UserError(f"{pred_root}: no folder of maps (<method>/<SET>/) in it")
    files: list[Pair] = []
    for name in sets:
        found = pair_up(list_masks(gt_root / name), methods[0] / name).pairs
        files += found[:: max(1, len(found) * len(sets) // most)] if found else []
    if not files:
        raise UserError(f"{methods[0]}: no map of {'+'.join(sets)} has a mask in {gt_root}")
    return files[:most]


def make_files(folder: Path, number: int) -> list[Pair]:
    """Write made-up maps and masks of about 300 x 400 pixels."""
    made = runpy.run_path(str(PAIRS))
    files = []
    for index in range(number):
        height, width = (300, 400) if index % 3 else (400, 300)
        mask = made["blobs"](index, height, width, 55 + index % 40, 8 + index % 17)
        saliency = made["rough"](mask, index, 2 + index % 9, 1 + index % 6, 4 + index % 30)
        paths = [folder / f"{kind}_{index:04d}.png" for kind in ("map", "mask")]
        for path, image in zip(paths, (saliency, mask), strict=True):
            cv2.imwrite(str(path), image)
        files.append(Pair(f"{index:04d}", *paths))
    return files


def resized(pairs: Arrays, size: int) -> Arrays:
    """Return the pairs as squares of this size, or as they are where it is 0."""
    if size == 0:
        return pairs
    linear, nearest = cv2.INTER_LINEAR, cv2.INTER_NEAREST
    return [
        (
            cv2.resize(saliency, (size, size), interpolation=linear),
            cv2.resize(mask, (size, size), interpolation=nearest),
        )
        for saliency, mask in pairs
    ]


def run(files: list[Pair], sizes: Sequence[int], turns: int) -> dict[str, Any]:
    """Return all that is measured; see the module's text."""
    cv2.setNumThreads(1)
    read = [(file, pair) for file, pair in zip(files, read_theirs(files), strict=True)]
    read = [(file, pair) for file, pair in read if pair[0].shape == pair[1].shape]
    if not read:
        raise UserError("no map is as large as its mask: make maps at the masks' own sizes")
    files, pairs = [file for file, _ in read], [pair for _, pair in read]
    return {
        "images": len(files),
        "pixels": float(np.mean([mask.size for _, mask in pairs])),
        "images_per_second": compare_speed(files, sizes, turns),
        "largest_difference": differences(pairs),
        "ms_per_image": profile(files, turns),
    }


def show(found: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"{found['images']} images of {found['pixels']:.0f} pixels on average; images a second:")
    rows = [
        [what, f"{row['ours']:.0f}", f"{row['PySODMetrics']:.0f}", f"{row['ratio']:.1f}"]
        for what, row in found["images_per_second"].items()
    ]
    print(text_table(["", "ours", "PySODMetrics", "ratio"], rows))
    print("\nlargest difference to PySODMetrics of any image:")
    rows = [[name, f"{value:.1e}"] for name, value in found["largest_difference"].items()]
    print(text_table(["score", "difference"], rows))
    parts = found["ms_per_image"]
    whole = sum(parts.values())
    print(f"\nour {whole:.2f} ms an image, files as they are, 1 process:")
    rows = [[name, f"{ms:.3f}", f"{ms / whole:.0%}"] for name, ms in parts.items()]
    print(text_table(["part", "ms", "share"], rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; see the module's text."""
    parser = Parser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="pairs to score, at most")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[352, 0], help="sides in pixels; 0: as they are"
    )
    parser.add_argument("--turns", type=int, default=5, help="how often each side scores them")
    parser.add_argument("--pred_root", type=Path, help="maps: <pred_root>/<method>/<SET>/")
    parser.add_argument("--gt_root", type=Path, help="masks: <gt_root>/<SET>/")
    parser.add_argument("--testsets", help="names of sets, joined by +")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    args = parser.parse(argv)
    real = [args.pred_root, args.gt_root, args.testsets]
    if any(real) and not all(real):
        raise UserError("--pred_root, --gt_root and --testsets belong together: give all or none")
    if args.images < 1 or args.turns < 1 or min(args.sizes) < 0:
        raise UserError("--images and --turns must be 1 or more, --sizes 0 or more: change them")
    their_measures()
    with tempfile.TemporaryDirectory() as folder:
        if all(real):
            sets = args.testsets.split("+")
            files = find_files(args.pred_root, args.gt_root, sets, args.images)
        else:
            files = make_files(Path(folder), args.images)
        found = run(files, args.sizes, args.turns)
    show(found)
    if args.out:
        write_json(args.out, found)
    return 0


if __name__ == "__main__":
    run_script(main)
