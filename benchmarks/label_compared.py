"""Is an arm of the label-efficiency experiment better than the default, and would it be again?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.label_kept import TESTED, OfImages, read_images
from benchmarks.label_scores import REFERENCE, Block, Entry, by_arm
from utils.metrics import paired_means
from utils.significance import check_same_images, holm

DRAWS = 20_000
"""Of the bootstrap. No p is below two in as many, before it is multiplied by the number of tests;
a thousand images take about a third of a second, and all of it 0.2 GB of memory."""

Arms = Mapping[str, Mapping[int, Entry]]
"""Results by arm and seed."""

Trials = tuple[tuple[Path, str], ...]
"""Where the scores of an arm are kept, for each seed."""


class Compared:
    """The p values of arms against `REFERENCE`, by block, arm and metric.

    Holm's family is all arms that are tested in one block and metric; arms that are one trial are
    tested once.

    Attributes:
        p: for other images.
        p_of_both: for other images and other trainings; arms that have one seed alone in common
            with the reference are not tested.
    """

    def __init__(self, entries: Sequence[Entry], blocks: Sequence[Block]) -> None:
        self.images: dict[tuple[Path, str, str], OfImages] = {}
        self.names: dict[str, tuple[Sequence[str], Path]] = {}
        arms = by_arm(entries)
        self.p = self._adjusted(arms, blocks, draw_trainings=False)
        self.p_of_both = self._adjusted(arms, blocks, draw_trainings=True)

    def _adjusted(
        self, arms: Arms, blocks: Sequence[Block], draw_trainings: bool
    ) -> dict[tuple[str, str, str], float]:
        """Return all p values, adjusted for their number."""
        theirs = arms.get(REFERENCE, {})
        trials = {arm: _trials(mine, theirs) for arm, mine in arms.items()}
        tested = {
            of: arm
            for arm, of in trials.items()
            if of != _trials(theirs, arms[arm]) and len(of) >= (2 if draw_trainings else 1)
        }
        adjusted = {}
        for block in blocks:
            for metric in TESTED:
                found = [
                    self._p(arms[arm], theirs, block.sets, metric, draw_trainings)
                    for arm in tested.values()
                ]
                by_trials = dict(zip(tested, holm(found), strict=True))
                for arm, of in trials.items():
                    if of in by_trials:
                        adjusted[block.title, arm, metric] = by_trials[of]
        return adjusted

    def _p(
        self,
        mine: Mapping[int, Entry],
        theirs: Mapping[int, Entry],
        sets: Sequence[str],
        metric: str,
        draw_trainings: bool,
    ) -> float:
        """Return the p value of an arm, by the seeds that it has in common with the reference."""
        seeds = sorted(mine.keys() & theirs.keys())
        scores = [
            [
                np.stack([self._of_image(side[seed], name)[metric] for seed in seeds])
                for name in sets
            ]
            for side in (mine, theirs)
        ]
        return paired_means(*scores, resamples=DRAWS, draw_trainings=draw_trainings).p

    def _of_image(self, entry: Entry, set_name: str) -> OfImages:
        """Return the scores of each image of a set, in order of name."""
        key = (*entry.kept, set_name)
        if key not in self.images:
            found, self.images[key] = read_images(*key)
            names, first = self.names.setdefault(set_name, (found, entry.kept[0]))
            check_same_images(names, found, (first, entry.kept[0]))
        return self.images[key]


def _trials(mine: Mapping[int, Entry], theirs: Mapping[int, Entry]) -> Trials:
    """Return where the scores of an arm are kept, for each seed that both have."""
    return tuple(mine[seed].kept for seed in sorted(mine.keys() & theirs.keys()))
