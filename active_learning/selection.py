"""From an image's uncertainty map to the pixels that are asked about.

The map lives on a grid whose cells stand for single pixels of the image, one for one: its side is
the network's, or `CELLS`, or the image's where that is smaller. So no pixel is asked twice, however
small the image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from active_learning.diversity import Rule, Sites

Ints = NDArray[np.int64]

CELLS = 32
"""Cells a side of an image, of which a whole one is a candidate, and not its pixels."""


@dataclass(frozen=True)
class Grid:
    """The cells that stand for pixels of a (width x height) image; at most ``size`` a side."""

    width: int
    height: int
    size: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return min(self.height, self.size), min(self.width, self.size)

    def lines(self) -> tuple[Ints, Ints]:
        """Return the y under the centre of each row of cells, and the x of each column."""
        rows, columns = self.shape
        y = ((2 * np.arange(rows) + 1) * self.height) // (2 * rows)
        x = ((2 * np.arange(columns) + 1) * self.width) // (2 * columns)
        return y, x

    def pixels(self, rows: Ints, columns: Ints) -> Ints:
        """Return x, y (K, 2) of the pixels under the cells' centres; no two cells share one."""
        y, x = self.lines()
        return np.stack([x[columns], y[rows]], axis=1)

    def cells(self, pixels: Ints) -> tuple[Ints, Ints]:
        """Return the rows and columns of the cells in which the centres of pixels (K, 2) lie."""
        rows, columns = self.shape
        x, y = pixels.T
        return (2 * y + 1) * rows // (2 * self.height), (2 * x + 1) * columns // (2 * self.width)


@dataclass(frozen=True)
class Candidates:
    """How candidates are taken from an uncertainty map.

    Attributes:
        percent: the most uncertain share of the cells that is considered.
        most: largest number of candidates, after thinning; where more pixels are wanted, as many
            as those.
        thinned: to the best of each superpixel.
    """

    percent: float
    most: int
    thinned: bool


@dataclass(frozen=True)
class Choice:
    """What was chosen in an image.

    Attributes:
        pixels: int64 (K, 2) of x, y, in order of choice.
        reserve: int64 (R, 2) of x, y: what follows them, where somebody may not be able to tell.
        candidates: int64 (N, 2) of x, y that the diversity rule chose from.
        worth: mean score of the candidates; 0 where there are none.
    """

    pixels: Ints
    candidates: Ints
    worth: float
    reserve: Ints = field(default_factory=lambda: np.empty((0, 2), np.int64))


def choose_pixels(
    scores: NDArray[np.float32],
    features: torch.Tensor,
    colours: torch.Tensor,
    regions: NDArray[np.int32],
    points: Ints,
    count: int,
    candidates: Candidates,
    rule: Rule,
    rng: np.random.Generator,
    untold: Ints | None = None,
) -> Choice:
    """Choose the next pixels of one image.

    Cells that hold a pixel asked before, or lie in a superpixel that holds one, are left out. Of
    the rest the most uncertain, thinned to the best of each superpixel where that is wanted, are
    what the diversity rule chooses among. Where too few are left (a tiny image, few superpixels)
    the thinning, then the exclusion of superpixels, then the grid is given up, in this order, until
    ``count`` pixels are found or the image has no more.

    Args:
        scores: float32 (h, w) >= 0 on the image's `Grid`; the higher, the rather asked.
        features: float (C, h', w'), decoder features of the image.
        colours: float (3, h'', w''), mean colours of the image's cells, RGB in [0, 1].
        regions: int32 (H, W) superpixels of the image.
        points: int64 (K, 3) of x, y, label: what is known of the image.
        count: pixels wanted.
        candidates: how candidates are taken.
        rule: a diversity rule.
        rng: the image's own generator.
        untold: int64 (U, 2) of x, y: pixels that were asked and that nobody could tell.

    Returns:
        The chosen pixels, exactly ``min(count, pixels not asked before)``, all different, and not
        asked before.
    """
    height, width = regions.shape
    grid = Grid(width, height, max(scores.shape))
    y, x = grid.lines()
    region = regions[y[:, None], x[None, :]].ravel()
    before = points[:, :2] if untold is None else np.concatenate([points[:, :2], untold])
    asked = np.zeros(scores.shape, bool)
    asked[grid.cells(before)] = True
    free = ~asked.ravel()
    fresh = free & ~np.isin(region, regions[before[:, 1], before[:, 0]])
    flat = scores.ravel()

    share = min(_share(fresh, candidates.percent), candidates.most)
    best = _top(flat, fresh, max(count, share))
    pool = _thinned(flat, fresh, region, count, candidates) if candidates.thinned else best
    if len(pool) < count:
        pool = best
    if len(pool) < count:
        pool = np.concatenate([pool, _top(flat, free & ~fresh, count - len(pool))])
    rows, columns = np.unravel_index(pool, scores.shape)
    places = grid.pixels(rows, columns)

    sites, labelled = (
        _sites(features, colours, pixels, width, height) for pixels in (places, points[:, :2])
    )
    chosen = places[rule(flat[pool], sites, labelled, count, rng)]
    if len(chosen) < count:
        taken = {(int(a), int(b)) for a, b in np.concatenate([before, chosen])}
        more = random_pixels(width, height, taken, count - len(chosen), rng)
        chosen = np.concatenate([chosen, more])
    worth = float(flat[pool].mean(dtype=np.float64)) if len(pool) else 0.0
    return Choice(chosen, places, worth)


def _sites(
    features: torch.Tensor, colours: torch.Tensor, pixels: Ints, width: int, height: int
) -> Sites:
    """Return what a diversity rule knows of pixels (K, 2) of an image."""
    return Sites(
        features_at(features, pixels, width, height),
        features_at(colours, pixels, width, height),
        (pixels[:, ::-1] + 0.5) / [height, width],
    )


def _share(eligible: NDArray[np.bool_], percent: float) -> int:
    return int(np.ceil(eligible.sum() * percent / 100))


def _top(scores: NDArray[np.float32], eligible: NDArray[np.bool_], count: int) -> Ints:
    """Return the ``count`` eligible cells of highest score, best first, ties by position."""
    cells = np.flatnonzero(eligible)
    return cells[np.argsort(-scores[cells], kind="stable")[:count]]


def _thinned(
    scores: NDArray[np.float32],
    fresh: NDArray[np.bool_],
    region: NDArray[np.int32],
    count: int,
    candidates: Candidates,
) -> Ints:
    """Return the best cell of each superpixel that has one among the most uncertain cells.

    Where these are fewer than ``count``, the best cells of the next superpixels follow.
    """
    ranked = _top(scores, fresh, int(fresh.sum()))
    first = np.sort(np.unique(region[ranked], return_index=True)[1])
    inside = int((first < _share(fresh, candidates.percent)).sum())
    return ranked[first[: max(min(inside, candidates.most), count)]]


def features_at(
    features: torch.Tensor, pixels: Ints, width: int, height: int
) -> NDArray[np.float32]:
    """Read the features under pixels of the image, bilinearly.

    Args:
        features: float (C, h, w), covering the whole image.
        pixels: int64 (K, 2) of x, y.
        width: of the image, in pixels.
        height: of the image, in pixels.

    Returns:
        float32 (K, C).
    """
    size = torch.tensor([width, height], dtype=torch.float32)
    where = (torch.from_numpy(pixels).float() + 0.5) / size * 2 - 1
    read = functional.grid_sample(
        features[None].float(),
        where[None, :, None].to(features.device),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return read[0, :, :, 0].T.cpu().numpy()


def to_cells(values: torch.Tensor, grid: Grid) -> NDArray[np.float32]:
    """Return the means of a square map (S, S) over a grid's cells; float32 of the grid's shape.

    Cells that begin or end within a pixel of the map take all of it.
    """
    return functional.adaptive_avg_pool2d(values[None].float(), grid.shape)[0].cpu().numpy()


def to_grid(values: torch.Tensor, grid: Grid) -> NDArray[np.float32]:
    """Read a square map (S, S) under the centres of a grid's cells; float32 of the grid's shape."""
    if tuple(values.shape) == grid.shape:
        return values.float().cpu().numpy()
    resized = functional.interpolate(
        values[None, None].float(), size=grid.shape, mode="bilinear", align_corners=False
    )
    return resized[0, 0].cpu().numpy()


def grid_pixels(width: int, height: int, count: int) -> Ints:
    """Return the pixels under the centres of ``count`` cells (at least 1) that tile an image.

    Rows hold equally many cells, or some one more than others (10 in a square: 3 + 4 + 3), and are
    the higher for it: every cell has the same area, so the pixels are a fair sample. As many rows
    are taken as leave the longest cell nearest to a square. In an image of hardly more pixels than
    cells two rows of centres may fall on one row of pixels; there all rows are equally high.

    Returns:
        int64 (min(count, width * height), 2) of x, y, row by row, no two the same.
    """
    count = min(count, width * height)
    rows = np.arange(-(-count // width), min(height, count) + 1)
    in_a_row = np.stack([count // rows, -(-count // rows)])
    elongation = np.abs(np.log(width * count / height / in_a_row**2)).max(axis=0)
    many = rows[elongation.argmin()]
    ends = (2 * np.arange(many + 1) * count + many) // (2 * many)
    y = height * (ends[:-1] + ends[1:]) // (2 * count)
    if len(np.unique(y)) < many:
        y = (2 * np.arange(many) + 1) * height // (2 * many)
    row = np.repeat(np.arange(many), np.diff(ends))
    column = np.arange(count) - ends[row]
    x = (2 * column + 1) * width // (2 * np.diff(ends)[row])
    return np.stack([x, y[row]], axis=1).astype(np.int64)


def random_pixels(
    width: int, height: int, taken: Iterable[tuple[int, int]], count: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw ``count`` distinct pixels (fewer if the image has no more) none of which is taken.

    Returns:
        int64 (count, 2) of x, y.
    """
    busy = {y * width + x for x, y in taken}
    count = min(count, width * height - len(busy))
    chosen: list[int] = []
    if width * height <= 4 * (count + len(busy)):
        free = np.setdiff1d(np.arange(width * height), list(busy))
        chosen = rng.choice(free, count, replace=False).tolist()
    while len(chosen) < count:  # Few pixels of many are asked: a draw seldom meets a taken one.
        pixel = int(rng.integers(width * height))
        if pixel not in busy:
            busy.add(pixel)
            chosen.append(pixel)
    flat = np.array(chosen, np.int64)
    return np.stack([flat % width, flat // width], axis=1)
