"""How much do wrong answers cost? Score against the share of them, random points beside ours.

    python benchmarks/annotators.py --data_root D --trainset T --testsets A+B [--seeds 3]
        [--hard B] [--jobs 2] [--report] [any flag of gco.sh]

Simulated people answer 0, 5, 10 and 20 % of the questions wrongly: anywhere, or only near objects'
borders, where the share fades with the distance (`active_learning/mistakes.py`). The validation
points, by which checkpoints are chosen, are their answers, too. The arms are those of
label_efficiency.py, run as it runs them: with ``--out`` of such an experiment what it has is not
trained again. Interrupted, the same command goes on.

``<out>`` gets ``annotators.md``, ``annotators.csv`` and ``annotators.png``. The horizontal axis is
the share of wrong answers among those that were trained on, as found by the masks afterwards.
"""

from __future__ import annotations

import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.label_arms import ARMS, PEOPLE
from benchmarks.label_efficiency import Outcome, carry_out, parse
from benchmarks.label_figure import Line, draw_lines
from benchmarks.label_kept import without_folders
from benchmarks.label_scores import Block, Entry, blocks_of, by_arm
from benchmarks.label_table import COLUMNS, told
from datasets.index import list_sets
from datasets.points import Point, read_points
from datasets.points_beside_masks import truths
from utils.errors import UserError
from utils.files import write_text
from utils.run_folder import RunFolder
from utils.score_tables import plain_markdown
from utils.significance import spread_of
from utils.stages import run_stage
from utils.tables import write_rows

Shares = Mapping[tuple[str, int], float]
"""Percent of wrong answers by arm and seed."""


def trained_on(entry: Entry, out: Path) -> list[Point]:
    """Return the answers that an arm was trained on with one seed."""
    run = RunFolder(out / f"seed_{entry.seed}" / entry.trial)
    files = run.answers(ARMS[entry.arm].supervision, entry.asked)
    return [point for path in files if path.exists() for point in read_points(path)]


def wrong_shares(found: Outcome, out: Path) -> Shares:
    """Return how many of the answers were wrong, by the masks.

    Raises:
        UserError: no mask is there, or points or masks cannot be read.
    """
    lines = {arm for arms in PEOPLE.values() for arm in arms}
    points = {(e.arm, e.seed): trained_on(e, out) for e in found.entries if e.arm in lines}
    pixels: dict[str, set[tuple[int, int]]] = {}
    for point in (point for mine in points.values() for point in mine):
        pixels.setdefault(point.image, set()).add((point.x, point.y))
    truth = truths(pixels, list_sets(found.base.data_root, found.base.trainset))
    shares = {}
    for key, mine in points.items():
        known = [p for p in mine if (p.image, p.x, p.y) in truth]
        if not known:
            raise UserError(f"{found.base.data_root}: no masks of the training images: put them in")
        wrong = sum((p.label == 1) != truth[p.image, p.x, p.y].on_object for p in known)
        shares[key] = 100 * wrong / len(known)
    return shares


def error_lines(entries: Sequence[Entry], shares: Shares) -> list[Line]:
    """Return the lines of the figure, as far as their arms are there."""
    arms = by_arm(entries)
    lines = []
    for name, of_line in PEOPLE.items():
        places = []
        for mine in (list(arms[arm].values()) for arm in of_line if arm in arms):
            at = statistics.fmean(shares[e.arm, e.seed] for e in mine)
            places.append((at, [(entry, -1) for entry in mine]))
        lines += [Line(name, places)] if len(places) > 1 else []
    return lines


def markdown(entries: Sequence[Entry], shares: Shares, blocks: Sequence[Block]) -> str:
    """Return the scores of every line by its errors, a table a block."""
    arms = by_arm(entries)
    lines_of = [(name, arm) for name, of_line in PEOPLE.items() for arm in of_line]
    text = ["# Wrong answers", "", "Mean ± sample standard deviation over the seeds.", ""]
    for block in blocks:
        lines = []
        for name, arm in [*lines_of, ("dense masks", "dense")]:
            mine = list(arms.get(arm, {}).values())
            if mine:
                wrong = told(spread_of(shares.get((e.arm, e.seed)) for e in mine), 2)
                scores = (spread_of(e.means(block.sets).get(m) for e in mine) for m in COLUMNS)
                cells = [told(score, 4) for score in scores]
                lines.append([name, arm, str(len(mine)), wrong, *cells])
        header = ["line", "arm", "seeds", "wrong answers %", *COLUMNS]
        text += [f"## {block.title}", "", plain_markdown(header, lines), ""]
    return "\n".join(text)


def csv_rows(found: Outcome, shares: Shares) -> list[dict[str, Any]]:
    """Return a row for each arm, seed and set."""
    return [
        {"arm": entry.arm, "seed": entry.seed, "set": name}
        | {"wrong_percent": f"{shares[entry.arm, entry.seed]:.4f}", "points": entry.points}
        | entry.means([name])
        for entry in found.entries
        if (entry.arm, entry.seed) in shares
        for name in found.sets
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the arms and write the report; see the module's text."""
    words = list(sys.argv[1:] if argv is None else argv)
    args, flags = parse(argv, __doc__)
    if args.arms or args.list:
        raise UserError("--arms and --list go with label_efficiency.py: the arms are chosen here")
    if args.kept or args.pack:
        raise UserError("--kept and --pack go with label_efficiency.py: they hold no answers")
    names = list(dict.fromkeys(arm for arms in PEOPLE.values() for arm in arms))
    command = shlex.join(without_folders(word) for word in words)
    found = carry_out(args, flags, names, command)
    if any(entry.arm in names for entry in found.entries):
        shares, blocks = wrong_shares(found, args.out), blocks_of(found.sets, found.hard)
        write_text(args.out / "annotators.md", markdown(found.entries, shares, blocks))
        rows = csv_rows(found, shares)
        write_rows(args.out / "annotators.csv", list(rows[0]), rows)
        parts = {"": error_lines(found.entries, shares)}
        path = args.out / "annotators.png"
        draw_lines(parts, found.entries, blocks[0], path, "wrong answers, percent")
        print(f"{args.out / 'annotators.md'}, annotators.csv, annotators.png")
    for line in found.failed:
        print(line, file=sys.stderr)
    return 1 if found.failed else 0


if __name__ == "__main__":
    run_stage(main, together=False)
