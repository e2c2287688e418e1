"""The table of the label-efficiency experiment, for people and as CSV."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from benchmarks.label_arms import BASE_TRIAL
from benchmarks.label_compared import DRAWS, Compared
from benchmarks.label_kept import CONVENTION, TESTED
from benchmarks.label_scores import REFERENCE, Block, Entry, area, by_arm, ratio
from utils.score_tables import plain_markdown
from utils.significance import Spread, spread_of

COLUMNS = ("maxF", "meanF", "wF", "S", "meanE", "MAE")
"""Metrics of the printed tables; table.csv holds all."""

LEAK = "region_mask"


def markdown(entries: Sequence[Entry], blocks: Sequence[Block], seeds: Sequence[int]) -> str:
    """Return the whole table: two for each block, scores and ratios to the dense twin."""
    compared, arms = Compared(entries, blocks), by_arm(entries)
    dense, reference = arms.get("dense", {}), arms.get(REFERENCE, {})
    most = {entry.seed for entry in entries}
    text = ["# Label efficiency", "", _notes(seeds, {entry.keep_within for entry in entries}), ""]
    if lacking := [arm for arm, mine in arms.items() if len(mine) < len(most)]:
        text += [_lacking_note(lacking), ""]
    for block in blocks:
        lines = []
        for arm, mine in arms.items():
            of_this = [(block.title, arm, metric) for metric in TESTED]
            p = [known.get(one) for known in (compared.p, compared.p_of_both) for one in of_this]
            lines.append(_score_line(list(mine.values()), len(most), block, p))
        header = ["arm", "seeds", "points", "labelled %", "region error %", *COLUMNS]
        header += [f"p {metric}{also}" for also in ("", ", seeds too") for metric in TESTED]
        text += [f"## {block.title}", "", plain_markdown(header, lines), ""]
        lines = [
            _ratio_line(list(mine.values()), block, dense, reference) for mine in arms.values()
        ]
        header = ["arm", *(f"{metric} / dense" for metric in COLUMNS)]
        header += ["area maxF", "area 1 - MAE", "selection s"]
        text += [plain_markdown(header, lines), ""]
    return "\n".join(text)


def label_of(entry: Entry) -> str:
    """Return what an arm is called in tables and figures."""
    same = "" if entry.trial in (entry.arm, BASE_TRIAL) else f" (= {entry.trial})"
    return entry.arm + same + " (LEAKS the mask)" * (entry.label_mode == LEAK)


def told_p(p: float) -> str:
    """Return a p value with three decimals; one that would read as zero is said to be below."""
    return f"{p:.3f}" if p >= 0.0005 else "< 0.001"


def _score_line(
    mine: Sequence[Entry], seeds: int, block: Block, p: Sequence[float | None]
) -> list[str]:
    """Return a line of the table of scores, of one arm with all its seeds, of ``seeds`` in all."""
    scores = [told(spread_of(e.means(block.sets).get(m) for e in mine), 4) for m in COLUMNS]
    return [
        label_of(mine[0]),
        str(seeds) if len(mine) == seeds else f"{len(mine)} of {seeds}",
        _mean([entry.points for entry in mine], 1),
        _mean([entry.labelled for entry in mine], 3),
        _mean([entry.region_error for entry in mine], 1),
        *scores,
        *("-" if value is None else told_p(value) for value in p),
    ]


def _ratio_line(
    mine: Sequence[Entry],
    block: Block,
    dense: Mapping[int, Entry],
    reference: Mapping[int, Entry],
) -> list[str]:
    """Return a line of the table of ratios."""
    ratios = [told(spread_of(ratio(e, dense, block.sets, m) for e in mine), 3) for m in COLUMNS]
    areas = [
        told(spread_of(area(e, reference, metric, block.sets) for e in mine), 4)
        for metric in ("maxF", "MAE")
    ]
    return [label_of(mine[0]), *ratios, *areas, _mean([entry.selection for entry in mine], 0)]


def told(found: Spread | None, digits: int) -> str:
    """Return mean and spread as text; "-" for none."""
    if found is None:
        return "-"
    text = f"{found.mean:.{digits}f}"
    return text if found.spread is None else f"{text} ± {found.spread:.{digits}f}"


def _mean(values: Sequence[float | None], digits: int) -> str:
    found = spread_of(values)
    return "-" if found is None else f"{found.mean:.{digits}f}"


def _notes(seeds: Sequence[int], within: Collection[float]) -> str:
    """Return how to read the tables.

    Args:
        seeds: those of the tables.
        within: `Entry.keep_within` of all that is in them.
    """
    listed = ", ".join(map(str, seeds))
    errors = " or, as the arm has it, ".join(f"{count:g}" for count in sorted(within))
    return (
        f"Seeds {listed}; mean ± sample standard deviation over them. A ratio is to the dense twin "
        "of the same seed, taken before averaging. Weights: after the last round, the latest epoch "
        "whose validation error, at points for points, at masks for masks, is above the lowest by "
        f"no more standard errors of it than {errors}. Region error: wrong labels if each answer "
        "were spread over its superpixel. Area: under the curve of the score over points an image, "
        "each number of points as its last training left it, divided by its "
        f"width; of arms that begin and end with as many points as {REFERENCE}. Selection: wall "
        "time of asking after the first round, the start of its process included. p: paired "
        f"bootstrap over the images against {REFERENCE} ({DRAWS} draws), each image's scores "
        "averaged over the common seeds first, adjusted (Holm) for the arms of the table, those "
        "that are one trial counted once; it says nothing of other trainings. p, seeds too: seeds "
        "are drawn as well as images, so it speaks of other trainings, too, as far as two or three "
        "can; arms of one seed are left out, also of the adjustment. Convention "
        f"{CONVENTION}.\n\n"
        "Self-training follows the trainings. A trial's first one is taught by its own snapshots "
        "alone, in the cycles after the first, each further one until then by those of the "
        "training before, and one that knows no more answers by these throughout. So arms of other "
        "rounds (grid, object, ours_1, random_1, rounds_*) differ in the generations of their "
        "teachers, too, unless losses_pseudo is empty."
    )


def _lacking_note(arms: Sequence[str]) -> str:
    """Return what to mind of arms that were not run with every seed."""
    return (
        f"**Not of all seeds** (column seeds): {', '.join(arms)}. Their means, spreads, ratios and "
        "areas are over fewer seeds than those of the others and not to be compared with them, "
        "and ratios to a dense twin among them are over its seeds alone; p is over common seeds."
    )


def csv_rows(entries: Sequence[Entry], sets: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each arm, seed and set, with all metrics and their ratios."""
    arms = by_arm(entries)
    dense, reference = arms.get("dense", {}), arms.get(REFERENCE, {})
    rows = []
    for entry in entries:
        for name in sets:
            scores = entry.means([name])
            relative = {f"{m}/dense": ratio(entry, dense, [name], m) for m in scores}
            rows.append(
                {"arm": entry.arm, "seed": entry.seed, "set": name, "images": entry.images[name]}
                | {"points": entry.points, "labelled_percent": entry.labelled}
                | {"region_error": entry.region_error, "label_mode": entry.label_mode}
                | {"rounds": entry.asked, "convention": CONVENTION}
                | scores
                | relative
                | {"area maxF": area(entry, reference, "maxF", [name])}
                | {"area 1-MAE": area(entry, reference, "MAE", [name])}
                | {"selection_s": entry.selection, "training_s": entry.training}
            )
    return [{k: "" if v is None else v for k, v in row.items()} for row in rows]
