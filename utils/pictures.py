"""Pictures of a trial: the sheet of a round, and the curve of score against points."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from utils.files import atomic_path
from utils.run_folder import VALIDATION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOREGROUND, BACKGROUND, CANDIDATE = "#ffb000", "#3b6fd4", "#ffffff"
"""Colours of answers and candidates; told apart by colour-blind readers too."""

SHEET_COLUMNS = {
    "image": "image",
    "mask": "mask",
    "clean": "prediction",
    "attacked": "attacked prediction",
    "scores": "uncertainty",
    "candidates": "candidates",
    "new": "answers (new: large)",
    "labels": "spread over superpixels",
}
"""What of a `SheetRow` each column shows, and its title."""

CURVE_METRICS = ("maxF", "S", "MAE")


def make_figure(columns: int, rows: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes, made without a display and without global state.

    Args:
        columns, rows: number of axes.
        width, height: inches of one.

    Returns:
        The figure, and its axes as an object array (rows, columns).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Figure, path: Path, dpi: int = 110) -> None:
    """Write a figure, whole or not at all: a PNG, or by its suffix a PDF with embedded fonts.

    The same figure gives the same bytes: no date is written.
    """
    from matplotlib import rc_context

    metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
    # Type 42: journals refuse the default, Type 3, and text stays text.
    with atomic_path(path) as temporary, rc_context({"pdf.fonttype": 42}):
        figure.savefig(temporary, dpi=dpi, metadata=metadata)


@dataclass(frozen=True)
class SheetRow:
    """What a round saw and asked in one image of (H, W) pixels.

    Attributes:
        image: uint8 (H, W, 3).
        known: int (K, 3) of x, y, label: the answers of earlier rounds.
        new: int (M, 3) of x, y, label: the answers of this round.
        labels: uint8 (H, W), all answers spread over their superpixels: 255 foreground,
            0 background, 128 unlabelled.
        mask: bool (H, W). This and what follows is None where there is none.
        clean: float (S, S), predicted saliency on the network's grid.
        attacked: float (S, S), the same on the attacked image.
        scores: float (S, S), uncertainty.
        candidates: int (N, 2) of x, y.
    """

    image: np.ndarray
    known: np.ndarray
    new: np.ndarray
    labels: np.ndarray
    mask: np.ndarray | None = None
    clean: np.ndarray | None = None
    attacked: np.ndarray | None = None
    scores: np.ndarray | None = None
    candidates: np.ndarray | None = None


def draw_sheet(rows: Sequence[SheetRow], path: Path) -> None:
    """Draw what a round looked at and what it asked, one image a row, as a PNG.

    Columns that no row has anything for (masks, where people answer) are left out.
    """
    columns = [c for c in SHEET_COLUMNS if any(getattr(row, c) is not None for row in rows)]
    figure, axes = make_figure(len(columns), len(rows), 1.9, 1.7)
    for row, line in zip(rows, axes, strict=True):
        _draw_row(dict(zip(columns, line, strict=True)), row)
    for axis, column in zip(axes[0], columns, strict=True):
        axis.set_title(SHEET_COLUMNS[column], fontsize=8)
    save_figure(figure, path)


def _draw_row(axes: Mapping[str, Axes], row: SheetRow) -> None:
    height, width = row.image.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    pale = (row.image.astype(np.float32) * 0.5 + 127).astype(np.uint8)
    for axis in axes.values():
        axis.set_axis_off()
    axes["image"].imshow(row.image)
    for column in ("mask", "clean", "attacked"):
        if (saliency := getattr(row, column)) is not None:
            axes[column].imshow(saliency, cmap="gray", vmin=0, vmax=1, extent=extent)
    if row.scores is not None:
        axes["scores"].imshow(row.scores, cmap="magma", extent=extent)
    if row.candidates is not None:
        axes["candidates"].imshow(row.image // 3)
        axes["candidates"].scatter(*row.candidates.T, s=2, c=CANDIDATE, linewidths=0)
    axes["new"].imshow(pale)
    for found, size in ((row.known, 5), (row.new, 16)):
        colours = np.where(found[:, 2] == 1, FOREGROUND, BACKGROUND)
        axes["new"].scatter(
            found[:, 0], found[:, 1], s=size, c=colours, edgecolors="black", linewidths=0.4
        )
    tinted = pale.copy()
    for value, colour in ((255, FOREGROUND), (0, BACKGROUND)):
        tinted[row.labels == value] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    axes["labels"].imshow(tinted)


def draw_curve(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the mean score over the test sets against points an image, of the best checkpoints.

    Args:
        rows: rows of ``scores.csv`` (text or numbers).
        path: PNG to write.
    """
    rows = best_rows(rows)
    if not rows:
        return
    figure, axes = make_figure(len(CURVE_METRICS), 1, 3.6, 3.0)
    for axis, metric in zip(axes[0], CURVE_METRICS, strict=True):
        lines, levels = budget_curves(rows, metric)
        for (label, line), style in zip(lines.items(), ("o-", "s:"), strict=False):
            axis.plot(list(line), list(line.values()), style, label=label, markersize=4)
        for label, value in levels.items():
            axis.axhline(value, color="black", linestyle="--", linewidth=1, label=label)
        axis.set_xlabel("points an image")
        axis.set_ylabel(metric + (" (lower is better)" if metric == "MAE" else ""))
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=7)
    save_figure(figure, path)


def best_rows(rows: Sequence[Mapping[str, Any]], held_out: bool = False) -> list[Mapping[str, Any]]:
    """Return the rows of the best checkpoints on test sets, or on the held-out points."""
    return [
        row
        for row in rows
        if (row["set"] == VALIDATION) == held_out
        and row["checkpoint"].endswith("-best")
        and row["maxF"] != ""
    ]


def budget_curves(
    rows: Sequence[Mapping[str, Any]], metric: str
) -> tuple[dict[str, dict[float, float]], dict[str, float]]:
    """Return the mean score over the sets against points an image.

    Args:
        rows: of the best checkpoints, see `best_rows`.
        metric: a column; rows without a value are passed over.

    Returns:
        Lines, of each its scores by points an image, after the last training on as many, and
        levels: the dense twin's score. Names tell of a leak. The random line begins where the asked
        one does, with the points they share.
    """
    last = {(row["arm"], row["points"]): row["round"] for row in sorted(rows, key=_round_of)}
    rows = [row for row in rows if row["round"] == last[row["arm"], row["points"]]]
    leak = " (LEAKS masks)" * any(row["label_mode"] == "region_mask" for row in rows)
    found = {arm: _mean_by(rows, arm, metric, "points") for arm in ("points", "random")}
    if found["random"] and found["points"]:
        first, value = next(iter(found["points"].items()))
        found["random"] = {first: value} | found["random"]
    names = {"points": "asked points" + leak, "random": "random points" + leak}
    lines = {names[arm]: line for arm, line in found.items() if line}
    dense = _mean_by(rows, "dense", metric, "arm")
    return lines, {"dense masks": dense["dense"]} if dense else {}


def _round_of(row: Mapping[str, Any]) -> int:
    return int(row["round"] or 0)


def _mean_by(
    rows: Sequence[Mapping[str, Any]], arm: str, metric: str, key: str
) -> dict[Any, float]:
    """Return ``{value of key: mean of the metric over sets}`` of one arm, in order of key."""
    found: dict[Any, list[float]] = {}
    for row in rows:
        if row["arm"] == arm and row[metric] != "" and row[key] != "":
            value = float(row[key]) if key == "points" else row[key]
            found.setdefault(value, []).append(float(row[metric]))
    return {value: float(np.mean(found[value])) for value in sorted(found)}


def data_uri(path: Path, most: int) -> str | None:
    """Return a picture as an address that holds it, of at most ``most`` bytes before its encoding.

    A PNG that fits stays what it is; another becomes a JPEG, shrunk as far as it must be.

    Returns:
        The address; None where the file is no picture, or too large at a fifth of its size.
    """
    data = path.read_bytes()
    if len(data) <= most and data.startswith(b"\x89PNG"):
        return "data:image/png;base64," + base64.b64encode(data).decode()
    try:
        with Image.open(path) as picture:
            whole = picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    for share in (1, 0.8, 0.6, 0.45, 0.33, 0.25, 0.2):
        size = [max(1, round(side * share)) for side in whole.size]
        stream = io.BytesIO()
        whole.resize((size[0], size[1])).save(stream, "JPEG", quality=82)
        if stream.tell() <= most:
            return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
    return None
