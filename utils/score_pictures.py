"""Pictures of scores: curves over the threshold of several methods, and a sheet of the worst maps.

Method and image names are any text: letters that the font lacks are drawn as a box, and long names
are cut in the middle.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from utils.errors import UserError
from utils.files import atomic_path
from utils.pictures import make_figure, save_figure
from utils.score_tables import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#e69f00")
STYLES = ("-", "--", "-.", ":")
"""Line i has colour i mod 7 and style i mod 4: 28 lines that differ, told apart without colour
vision too (colours of Okabe and Ito, without their yellow, which is too pale for a line)."""

PANELS = (
    ("recall", "precision", "recall", "precision"),
    ("threshold", "f", "threshold", "F-measure"),
    ("threshold", "e", "threshold", "E-measure"),
)
"""Horizontal and vertical curve of each panel, and their labels."""

TRIM = {"recall": 64, "threshold": 16}
"""The vertical axis of a panel need not reach down to the values of the highest and lowest
thresholds, one in so many at each end."""

LEGEND_LETTERS = {3: 24, 2: 44}
"""Letters of a method's name that fit into a legend of so many columns."""

CELL_WIDTH, CELL_HEIGHT, GAP = 176, 132, 6
TILE_WIDTH = 3 * CELL_WIDTH + 2 * GAP
"""Pixels of a picture in the sheet of the worst, between pictures, and of a row of three."""

PAPER, GROUND, INK = (255, 255, 255), (214, 220, 226), (20, 20, 20)
"""Colours of the sheet, of what a picture leaves free in its cell, and of the text."""


def draw_threshold_curves(
    curves: Mapping[str, Mapping[str, NDArray[np.float64]]], set_name: str, path_stem: Path
) -> list[Path]:
    """Draw precision against recall, and F and E against the threshold, of several methods.

    The legend gives maxF and maxE, the maxima of the curves. The vertical axes end above
    the values at the outermost thresholds (see `TRIM`), where every method falls off steeply.

    Args:
        curves: of each method ``precision``, ``recall``, ``f`` and ``e``, float64 [T], from the
            highest of T evenly spaced thresholds to the lowest (0..255 on the axis). Colours
            follow the order of the methods; 12 stay readable.
        set_name: title.
        path_stem: path of the pictures without their suffix.

    Returns:
        The files written, a PNG and a PDF; the same curves give the same bytes.

    Raises:
        UserError: there is no method.
    """
    if not curves:
        raise UserError(f"{set_name}: no curves to draw: score a method on it first")
    names = [drawable(method) for method in curves]
    columns = 3 if max(map(len, names)) <= LEGEND_LETTERS[3] else 2
    height = 2.2 + 0.15 * math.ceil(len(names) / columns)
    figure, axes = make_figure(len(PANELS), 1, 2.4, height)
    for index, values in enumerate(curves.values()):
        style = {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": STYLES[index % len(STYLES)],
            "linewidth": 1.2,
        }
        points = {**values, "threshold": np.linspace(255, 0, len(values["f"]))}
        for axis, (x, y, _, _) in zip(axes[0], PANELS, strict=True):
            axis.plot(points[x], points[y], **style)
    for axis, (_, _, x_label, y_label) in zip(axes[0], PANELS, strict=True):
        _dress(axis, x_label, y_label)
    axes[0][1].set_title(drawable(set_name), fontsize=9, parse_math=False)
    legend = figure.legend(
        axes[0][0].get_lines(),
        [""] * len(names),
        loc="outside lower center",
        ncols=min(columns, len(names)),
        fontsize=7,
        title="method (maxF, maxE)",
        title_fontsize=7,
        handlelength=3,
        frameon=False,
    )
    # Set afterwards: Matplotlib may leave out a label that starts with an underscore.
    for text, name, values in zip(legend.get_texts(), names, curves.values(), strict=True):
        name = cut_middle(name, lambda cut: len(cut) <= LEGEND_LETTERS[columns])
        best = ", ".join(shown(np.max(values[key])) for key in ("f", "e"))
        text.set(text=f"{name} ({best})", parse_math=False)
    paths = [path_stem.with_name(path_stem.name + suffix) for suffix in (".png", ".pdf")]
    for path in paths:
        save_figure(figure, path, dpi=200)
    return paths


def _dress(axis: Axes, x_label: str, y_label: str) -> None:
    """Set labels, limits and ticks of a panel whose lines are drawn."""
    lines = [np.asarray(line.get_ydata()) for line in axis.get_lines()]
    cuts = [len(values) // TRIM[x_label] for values in lines]
    middles = [values[cut : len(values) - cut] for values, cut in zip(lines, cuts, strict=True)]
    lowest, highest = min(map(np.min, middles)), max(map(np.max, lines))
    margin = 0.05 * max(highest - lowest, 0.02)
    axis.set_ylim(lowest - margin, highest + margin)
    axis.set_xlim(0, 1 if x_label == "recall" else 255)
    axis.set_xticks(np.linspace(0, 1, 6) if x_label == "recall" else np.arange(0, 255, 50))
    axis.set_xlabel(x_label, fontsize=8)
    axis.set_ylabel(y_label, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3, linewidth=0.5)


@dataclass(frozen=True)
class WorstRow:
    """One image of a sheet; its pictures may differ in size.

    Attributes:
        name: the image's name.
        image: uint8 (H, W, 3), or None where it is not at hand.
        mask: bool (H, W), or as `fit_cell` shrinks it.
        saliency: uint8 (H, W).
        scores: by metric, in the order they are written.
    """

    name: str
    image: NDArray[np.uint8] | None
    mask: NDArray[np.bool_ | np.uint8]
    saliency: NDArray[np.uint8]
    scores: Mapping[str, float]


def draw_worst(rows: Sequence[WorstRow], path: Path) -> None:
    """Draw image, mask and map with name and scores, as a PNG of two columns.

    The order runs down the first column, then down the second. Each picture is fitted into
    `CELL_WIDTH` x `CELL_HEIGHT` pixels.

    Raises:
        UserError: there is no row.
    """
    if not rows:
        raise UserError(f"{path}: no image to draw: score some images first")
    font = _font()
    captions = [_caption(number, row, font) for number, row in enumerate(rows, 1)]
    line_height = sum(font.getmetrics()) + 1
    step = CELL_HEIGHT + line_height * max(map(len, captions)) + 2 * GAP
    columns = min(2, len(rows))
    down = math.ceil(len(rows) / columns)
    width, top = TILE_WIDTH + 4 * GAP, 2 * GAP + line_height
    sheet = Image.new("RGB", (columns * width, top + down * step), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (row, lines) in enumerate(zip(rows, captions, strict=True)):
        x, y = 2 * GAP + index // down * width, top + index % down * step
        for title, picture in (("image", row.image), ("mask", row.mask), ("map", row.saliency)):
            sheet.paste(_cell(picture, font), (x, y))
            if index % down == 0:
                draw.text((x + CELL_WIDTH // 2, GAP), title, INK, font, anchor="ma")
            x += CELL_WIDTH + GAP
        x -= TILE_WIDTH + GAP
        for line, text in enumerate(lines):
            draw.text((x, y + CELL_HEIGHT + 2 + line * line_height), text, INK, font)
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def _caption(number: int, row: WorstRow, font: ImageFont.FreeTypeFont) -> list[str]:
    """Return the lines below a row: its number and name, then its scores, as wide as the row."""

    def fits(text: str) -> bool:
        return font.getlength(text) <= TILE_WIDTH

    lines = [cut_middle(f"{number}. {drawable(row.name)}", fits), ""]
    for name, value in row.scores.items():
        longer = f"{lines[-1]}   {name} {shown(value)}".lstrip()
        if fits(longer):
            lines[-1] = longer
        else:
            lines.append(f"{name} {shown(value)}")
    return lines


def _cell(picture: NDArray | None, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Return a picture, grey, Boolean or in colour, fitted into a cell; a note where it is None."""
    cell = Image.new("RGB", (CELL_WIDTH, CELL_HEIGHT), GROUND)
    if picture is None:
        centre = (CELL_WIDTH // 2, CELL_HEIGHT // 2)
        ImageDraw.Draw(cell).text(centre, "not at hand", INK, font, anchor="mm")
        return cell
    fitted = fit_cell(picture)
    height, width = fitted.shape[:2]
    cell.paste(Image.fromarray(fitted), ((CELL_WIDTH - width) // 2, (CELL_HEIGHT - height) // 2))
    return cell


def fit_cell(picture: NDArray[np.bool_ | np.uint8]) -> NDArray[np.uint8]:
    """Scale a picture to fill a cell one way, keeping its shape; one that does is left as it is."""
    height, width = picture.shape[:2]
    scale = min(CELL_WIDTH / width, CELL_HEIGHT / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if picture.dtype == np.bool_:
        picture = picture.astype(np.uint8) * 255
    return cv2.resize(
        picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    )


def drawable(text: str) -> str:
    """Return the text with a box for every letter that matplotlib's DejaVu Sans lacks."""
    known = _glyphs()
    return "".join(
        letter if ord(letter) in known and unicodedata.category(letter)[0] != "C" else "□"
        for letter in unicodedata.normalize("NFC", text)
    )


def cut_middle(text: str, fits: Callable[[str], bool]) -> str:
    """Return the text, with an ellipsis for so much of its middle that it fits."""
    kept, cut = len(text), text
    while not fits(cut) and kept > 1:
        kept -= 1
        cut = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return cut


def _font_path() -> Path:
    from matplotlib import get_data_path

    return Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def _font() -> ImageFont.FreeTypeFont:
    # The basic layout is there in every build of Pillow, so the picture is the same everywhere.
    return ImageFont.truetype(str(_font_path()), 13, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    """Return the code points of the letters in DejaVu Sans."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_font_path())).get_charmap())
