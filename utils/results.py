"""The files that an evaluation leaves: tables, curves, scores of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.files import atomic_path, write_text
from utils.metrics import CONVENTIONS, LOWER_IS_BETTER, SetScores, each_image
from utils.score_pictures import draw_threshold_curves
from utils.score_tables import latex_table, markdown_table
from utils.scores import write_scores
from utils.tables import text_table, write_rows
from utils.tallies import Kept

MOST_CURVES = 12
"""Methods that a figure of curves can show."""

Cell = tuple[str, str]
"""A checkpoint and a set."""


def write_tables(
    out: Path, rows: Sequence[Mapping[str, Any]], tested: Sequence[Cell], shown: Sequence[str]
) -> None:
    """Write ``scores.csv`` and print it; write the scores on test sets as papers print them.

    Args:
        out: folder of the results.
        rows: see `utils.scores`; all those on test sets are of one convention.
        tested: what of the rows is of test sets.
        shown: metrics of the tables.
    """
    write_scores(out / "scores.csv", rows)
    on_test = [row for row in rows if (row["checkpoint"], row["set"]) in tested]
    if on_test:
        convention = on_test[0]["convention"]
        write_text(out / "scores.md", markdown_table(on_test, shown, convention))
        write_text(out / "scores.tex", latex_table(on_test, shown, convention))
    lines = [
        [f"{row['checkpoint']} {row['set']}"]
        + [f"{row[name]:.4f}" if name in row else "-" for name in shown]
        for row in rows
    ]
    print(text_table(["checkpoint, set", *shown], lines))


def save_curves(out: Path, scores: Mapping[Cell, SetScores]) -> None:
    """Write the averaged curves to ``curves.npz``: [checkpoint, set, threshold], NaN where none."""
    curves = {cell: of_cell.curves() for cell, of_cell in scores.items()}
    checkpoints, sets = (list(dict.fromkeys(names)) for names in zip(*curves, strict=True))
    first = next(iter(curves.values()))
    arrays = {}
    for name in first.keys() - {"thresholds"}:
        arrays[name] = np.full((len(checkpoints), len(sets), len(first[name])), np.nan)
        for (checkpoint, set_name), curve in curves.items():
            arrays[name][checkpoints.index(checkpoint), sets.index(set_name)] = curve[name]
    with atomic_path(out / "curves.npz") as temporary:
        np.savez_compressed(
            temporary, checkpoints=checkpoints, sets=sets, thresholds=first["thresholds"], **arrays
        )


def draw_curves(out: Path, scores: Mapping[Cell, SetScores]) -> None:
    """Draw the curves, a figure a set, of the `MOST_CURVES` checkpoints of highest maxF."""
    for set_name in dict.fromkeys(set_name for _, set_name in scores):
        of_set = {c: one.curves() for (c, where), one in scores.items() if where == set_name}
        best = sorted(of_set, key=lambda c: -of_set[c]["f"].max())[:MOST_CURVES]
        if len(best) < len(of_set):
            print(f"curves on {set_name}: of the {MOST_CURVES} checkpoints of highest maxF")
        kept = {checkpoint: curve for checkpoint, curve in of_set.items() if checkpoint in best}
        draw_threshold_curves(kept, set_name, out / "curves" / set_name)


def image_scores(kept: Kept, metrics: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return the scores of each image of a set, [N], in order of name."""
    convention = CONVENTIONS[kept.convention]
    chunks = [each_image(chunk, convention, metrics) for chunk in kept.chunks()]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in metrics}


def worst_first(scores: Mapping[str, NDArray[np.float64]], metric: str) -> list[int]:
    """Return the places of the images by a metric, the worst first, equal ones by name."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return np.argsort(sign * scores[metric], kind="stable").tolist()


def write_image_scores(
    path: Path,
    names: Sequence[str],
    scores: Mapping[str, NDArray[np.float64]],
    order: Sequence[int],
) -> None:
    """Write the scores of each image as CSV, in the order given, and say where."""
    rows = (
        {"image": names[at]} | {name: f"{values[at]:.6f}" for name, values in scores.items()}
        for at in order
    )
    write_rows(path, ("image", *scores), rows)
    print(f"scores of each image: {path}")
