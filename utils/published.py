"""Published scores of co-salient object detection, to stand beside those of a trial.

GCoNet: Fan et al., "Group Collaborative Learning for Co-Salient Object Detection", CVPR 2021, its
table of the three test sets; scored by eval-co-sod. Of GCoNet+ the authors' page gives a picture of
the table only, so it is not here.
"""

from __future__ import annotations

from collections.abc import Mapping

CONVENTION = "eval-co-sod"
"""The convention of the published scores (see `utils.metrics`); others do not compare."""

PUBLISHED = {
    "GCoNet": {
        "CoCA": {"maxE": 0.760, "S": 0.673, "maxF": 0.544},
        "CoSOD3k": {"maxE": 0.860, "S": 0.802, "maxF": 0.777},
        "CoSal2015": {"maxE": 0.887, "S": 0.845, "maxF": 0.847},
    }
}
"""Method -> test set -> metric -> score."""


def published_lines(conventions: Mapping[str, str]) -> list[str]:
    """Return a line for each test set and each published method that was scored on it.

    Args:
        conventions: of the scores that the lines are to stand beside, by test set; upper and lower
            case of names are the same.
    """
    lines = []
    for set_name, convention in conventions.items():
        for method, by_set in PUBLISHED.items():
            scores = {name.lower(): found for name, found in by_set.items()}.get(set_name.lower())
            if scores and convention == CONVENTION:
                told = ", ".join(f"{metric} {value:.3f}" for metric, value in scores.items())
                lines.append(f"{set_name}, as published for {method}: {told}")
    return lines
