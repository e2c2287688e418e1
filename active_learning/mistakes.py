"""How a simulated person errs: wrong answers, more of them near borders, and "can't say".

What is drawn belongs to the seed, the image and the pixel alone: the same pixel gets the same
answer whenever, in whatever round and beside whichever others it is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.masks import border_distance
from utils.seeding import generator_for

REACH = 0.05
"""How far a border leads to errors: this share of the image's longer side."""


@dataclass(frozen=True)
class Mistakes:
    """A simulated person's faults.

    Attributes:
        seed: of the trial.
        errors: probability of a wrong answer, wherever the pixel lies.
        border: further probability on the border itself, see `error_rates`.
        skips: probability that the person can't say.
    """

    seed: int
    errors: float = 0.0
    border: float = 0.0
    skips: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.errors or self.border or self.skips)

    def say(
        self, image: str, truth: NDArray[np.bool_], pixels: Iterable[tuple[int, int]]
    ) -> list[bool | None]:
        """Return the answer for each pixel (x, y) of an image; None: can't say.

        Args:
            image: its name.
            truth: bool (H, W), what a careful person would say.
            pixels: x and y of each.
        """
        rates = error_rates(truth, self.errors, self.border)
        said: list[bool | None] = []
        for x, y in pixels:
            skip, err = generator_for(self.seed, "mistakes", image, x, y).random(2)
            wrong = bool(err < rates[y, x])
            said.append(None if skip < self.skips else bool(truth[y, x]) != wrong)
        return said


def error_rates(truth: NDArray[np.bool_], errors: float, border: float) -> NDArray[np.float32]:
    """Return the probability of a wrong answer at each pixel, float32 (H, W).

    It is ``errors + border * max(0, 1 - d / r)`` where d is the Euclidean distance in pixels from
    the pixel's centre to the border (half a pixel at least), and r is `REACH` times the image's
    longer side, but no less than one pixel. Without a border it is ``errors``.
    """
    rates = np.full(truth.shape, errors, np.float32)
    if border:
        reach = max(1.0, REACH * max(truth.shape))
        # The border lies half a pixel before the centre of the nearest pixel of the other class.
        distance = border_distance(truth) - 0.5
        rates += (border * np.clip(1 - distance / reach, 0, None)).astype(np.float32)
    return rates
