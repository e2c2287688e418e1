"""Spending a round's points over the pool instead of evenly over its images (``--spend pool``).

An image's pixels come in order of choice, so that fewer of them are the first of them. What is left
to decide is how many each image gets, from one number an image: the mean score of its candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

CAP = 3
"""An image gets at most this many times the points that an even spending would give it."""


def shares(worth: Sequence[float], most: Sequence[int], total: int) -> Ints:
    """Give out points in proportion to the images' worth, each image at most so many.

    One by one, the next point goes to the image with the largest ``worth / (2 given + 1)``, among
    those that can take one; ties go to the image with fewer, then to the first. This is the method
    of Webster (1832) and Sainte-Lague (1910): the proportion rounded to whole points without
    favour to the small or the large, and no image gets fewer where there are more to give out.

    In proportion, since one more answer tells the less, the more an image has: all to the worthiest
    would spend a round on the few images that no answer helps.

    Args:
        worth: N finite numbers >= 0; where all are 0 every image counts alike.
        most: N numbers of points that the images can take.
        total: points to give out, at most the sum of ``most``.

    Returns:
        int64 (N,) that sum to ``total``.
    """
    takes = np.asarray(most, np.int64)
    place = np.arange(takes.max(initial=0))[:, None]
    # A column an image, a row for its first, second, ... point: read by rows, ties are as stated.
    value = np.where(place < takes, np.asarray(worth, np.float64) / (2 * place + 1), -1.0)
    given = np.argsort(-value.ravel(), kind="stable")[:total] % max(len(takes), 1)
    return np.bincount(given, minlength=len(takes)).astype(np.int64)


def spend(chosen: Sequence[Ints], worth: Sequence[float], count: int) -> list[Ints]:
    """Return what each image is asked, when the pool shares the points of an even spending.

    Args:
        chosen: the pixels of each image, (K, 2) in order of choice; `CAP` times ``count``, fewer
            only where an image has no more.
        worth: of each image, as for `shares`.
        count: points an image in an even spending, which an image that has fewer pixels left gets
            all of. So both spendings cost the same.
    """
    most = [len(pixels) for pixels in chosen]
    given = shares(worth, most, sum(min(count, size) for size in most))
    return [pixels[:size] for pixels, size in zip(chosen, given, strict=True)]
