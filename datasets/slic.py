"""SLIC superpixels of our own, for builds of OpenCV that lack them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_START = 10.0
"""Colour distance, in CIELAB as OpenCV scales it to bytes, that weighs as much as a side."""


def slic_regions(lab: NDArray[np.uint8], side: int, rounds: int, least: int) -> NDArray[np.int64]:
    """Cut an image into regions of like colour around the cells of a grid.

    SLIC with adaptive compactness: k-means over colour and place in which each pixel chooses among
    the nine regions nearest to its cell, and colours are weighed by the largest distance that the
    region showed in the round before. Then every region keeps its largest connected piece; other
    pieces, and regions smaller than ``least`` per cent of a cell, go to a neighbour.

    Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", PAMI 2012.

    Args:
        lab: uint8 (H, W, 3), CIELAB.
        side: side of a grid's cell, at least 2 pixels and at most H and W.
        rounds: of k-means, at least 1.
        least: per cent of a cell.

    Returns:
        int64 (H, W), a number a region; numbers may have gaps.
    """
    height, width = lab.shape[:2]
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    y, x = np.mgrid[:height, :width]
    home_row, home_column = y * rows // height, x * columns // width
    pixels = np.concatenate([lab.astype(np.float32), np.stack([y, x], 2).astype(np.float32)], 2)
    label = home_row * columns + home_column
    largest = np.full(rows * columns, _START**2, np.float32)
    for _ in range(rounds):
        centres = _centres(pixels, label, rows * columns)
        best = np.full((height, width), np.inf, np.float32)
        colour = np.zeros((height, width), np.float32)
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                row, column = home_row + down, home_column + right
                inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
                other = np.where(inside, row * columns + column, 0)
                apart = np.square(pixels - centres[other])
                in_colour = apart[..., :3].sum(2)
                distance = in_colour / largest[other] + apart[..., 3:].sum(2) / side**2
                closer = inside & (distance < best)
                best[closer], colour[closer] = distance[closer], in_colour[closer]
                label = np.where(closer, other, label)
        np.maximum.at(largest, label.ravel(), colour.ravel())
    return _connected(label, side * side * least // 100)


def _centres(pixels: NDArray, label: NDArray, count: int) -> NDArray:
    """Return the mean colour and place (count, 5) of each region; of an empty one far away."""
    flat, size = label.ravel(), np.bincount(label.ravel(), minlength=count)
    sums = [np.bincount(flat, pixels[..., c].ravel(), count) for c in range(5)]
    means = np.stack(sums, 1) / np.maximum(size, 1)[:, None]
    means[size == 0] = 1e6
    return means.astype(np.float32)


def _connected(label: NDArray, least: int) -> NDArray:
    """Give every pixel that is not of its region's largest piece to the nearest one that is."""
    kept = np.zeros(label.shape, bool)
    for number, place in enumerate(ndimage.find_objects(label + 1)):
        if place is None:
            continue
        pieces, count = ndimage.label(label[place] == number)
        sizes = np.bincount(pieces.ravel())[1:]
        if count and sizes.max() >= least:
            kept[place] |= pieces == sizes.argmax() + 1
    if not kept.any():
        return np.zeros_like(label)
    while not kept.all():
        # Ring by ring, so that what grows stays connected.
        near = cv2.dilate(kept.astype(np.uint8), np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], "u1"))
        ring = near.astype(bool) & ~kept
        source = np.where(kept, label + 1, 0)
        for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
            moved = np.roll(source, shift, axis)
            edge = [slice(None), slice(None)]
            edge[axis] = slice(0, 1) if shift > 0 else slice(-1, None)
            moved[tuple(edge)] = 0
            take = ring & (moved > 0)
            label = np.where(take, moved - 1, label)
            kept, ring = kept | take, ring & ~take
    return label
