"""How many points are as good as masks, and which way of asking gets there?

    python benchmarks/label_efficiency.py --data_root D --trainset T --testsets A+B \
        [--seeds 3] [--arms default,random,margin] [--hard B] [--jobs 2] [any flag of gco.sh]

Every arm (``--list``) is a plain list of config values over the flags of this command line and a
schedule of ten points in two rounds. With each seed it is a trial in ``<out>/seed_<s>/<arm>``; the
dense twin and the first round, where an arm's settings leave it as it is, are trained once a seed
(``base``). Interrupted, the same command goes on; what is done is not done again; more arms, seeds
and test sets may be added later. An arm that fails is told, and the others go on.

``--pack FOLDER`` writes what the results are read from, some tens of kB a trial. With
``--kept FOLDER`` they are read from there, on any machine, and only what is lacking is run, with
``base`` where an arm begins with it.

Every test set is scored by the ``best`` weights of every round, chosen on the trial's own
validation images: at random points for points, at masks for masks. ``<out>`` gets ``table.md``,
``table.csv``, ``figure.png`` and ``results.json``.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.label_arms import (
    ARMS,
    BASE_TRIAL,
    Arm,
    Planned,
    as_flags,
    choose_arms,
    flags_of,
    fresh,
    needs_base,
    parse_seeds,
    plan,
)
from benchmarks.label_figure import draw
from benchmarks.label_kept import PATHS, pack, without_folders
from benchmarks.label_runs import prepare_data, run_all
from benchmarks.label_scores import Entry, blocks_of, read_entry
from benchmarks.label_stages import Journal, Stages, made_with
from benchmarks.label_table import csv_rows, markdown
from config import FIELDS, Config
from datasets.index import list_sets, split_set_names
from utils import settings
from utils.device import choose_machine
from utils.errors import UserError, closest
from utils.files import write_json, write_text
from utils.settings import to_dict
from utils.stages import run_stage
from utils.tables import write_rows

OURS = ("trial", "runs", "seed")


def parse(argv: Sequence[str] | None, text: str = __doc__) -> tuple[Namespace, dict[str, Any]]:
    """Return the benchmark's own arguments, and the config fields that were given; help is text.

    Raises:
        UserError: a flag is unknown, or is the benchmark's to choose.
    """
    parser = settings.make_parser(text)
    parser.formatter_class = RawDescriptionHelpFormatter
    flag = parser.add_argument
    flag("--arms", default="", help="names joined by commas (default: all, see --list)")
    flag("--seeds", default="3", help="their number, or seeds joined by commas (default: 3)")
    flag("--hard", default="", help="test sets averaged apart from the others, joined by +")
    flag("--out", type=Path, default=Path("runs/label_efficiency"), help="folder of it all")
    flag("--jobs", type=int, default=1, help="trials run at once (default: 1)")
    flag("--keep", action="store_true", help="keep maps, snapshots and last weights")
    flag("--report", action="store_true", help="only read what is there and write the table")
    flag("--pack", type=Path, help="write what is kept of each finished trial to this folder")
    told = "folder of such trials, which are not run again; may be given several times"
    flag("--kept", type=Path, action="append", default=[], help=told)
    flag("--list", action="store_true", help="print the arms and leave")
    found = vars(parser.parse(argv))
    flags = {name: found.pop(name) for name in FIELDS if name in found}
    for name in OURS:
        if name in flags:
            raise UserError(f"--{name} is chosen here: give --seeds and --out instead")
    args = Namespace(**found)
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: must be at least 1")
    return args, flags


def list_arms() -> None:
    """Print every arm with its settings as flags."""
    for name, arm in ARMS.items():
        given = shlex.join(as_flags(arm.settings)) or "-"
        lacking = [field for field in arm.settings if field not in FIELDS]
        note = f"  [config.py has no field {', '.join(lacking)}]" if lacking else ""
        print(f"{name:18}{arm.text}: {given} ({arm.supervision}){note}")


def sets_of(base: Config, hard: str) -> tuple[list[str], list[str]]:
    """Return the test sets, and those of them that are averaged apart.

    Raises:
        UserError: there is none, or a hard one is not among them.
    """
    if not base.testsets:
        raise UserError("--testsets is missing: name the sets to compare the arms on")
    sets = split_set_names(base.testsets)
    apart = split_set_names(hard) if hard else []
    for name in apart:
        if name not in sets:
            raise UserError(f"--hard: '{name}' is no test set of --testsets{closest(name, sets)}")
    return sets, apart


def run(
    planned: Sequence[Planned], bases: dict[int, Planned], stages: Stages, keep: bool
) -> list[str]:
    """Run all trials, telling of each as it ends; return what failed, a line each.

    Args:
        planned: what is to be run.
        bases: the base trial of each seed, run where any of these needs it.
        stages: runs the stages.
        keep: leave maps and weights where they are.
    """
    trials = {
        (one.seed, BASE_TRIAL): bases[one.seed]
        for one in planned
        if needs_base(one, bases[one.seed])
    }
    for one in planned:
        trials.setdefault((one.seed, one.trial), one)
    work = [(one, bases[one.seed]) for one in trials.values()]  # base trials come first
    failed = []
    for number, (one, fault) in enumerate(run_all(work, stages, keep), start=1):
        what = f"seed {one.seed}, {one.trial}"
        print(f"[{number}/{len(work)}] {what}: {'FAILED' if fault else 'done'}", flush=True)
        if fault:
            failed.append(f"{what}: {fault}")
    return failed


def read_all(
    planned: Sequence[Planned], sets: Sequence[str], kept: Sequence[Path] = ()
) -> tuple[list[Entry], list[str]]:
    """Return the results that are there and, a line each, why some of them are left out.

    Args:
        planned: what is looked for.
        sets: test sets of which the scores are wanted.
        kept: folders of what is kept of trials, see `label_kept`; they come before the trials' own.
    """
    entries, faults = [], []
    for one in planned:
        try:
            places = [*(one.at(folder) for folder in kept), one]
            entry = next(filter(None, (read_entry(at, sets) for at in places)), None)
        except UserError as error:
            faults.append(f"seed {one.seed}, {one.arm}: left out: {error}")
            continue
        entries += [entry] if entry else []
    return entries, faults


def training_images_of(config: Config) -> str:
    """Return a hash of the names of all training images, those that validate among them.

    Raises:
        UserError: a set is missing or cannot be listed.
    """
    names = [sample.name for sample in list_sets(config.data_root, config.trainset)]
    return hashlib.blake2b("\0".join(names).encode(), digest_size=8).hexdigest()


def require_same_images(entries: Sequence[Entry], images: str = "") -> None:
    """Raise `UserError` unless all were trained on the same images, as far as that is known.

    Args:
        entries: the results.
        images: what `training_images_of` says of those that more are to be trained on; empty:
            none are.
    """
    for entry in entries:
        for of_entry in (made.get("images", "") for made in entry.made):
            images = images or of_entry
            if of_entry not in ("", images):
                raise UserError(
                    f"{entry.kept[0].parent}: was trained on other images than the set of that "
                    "name has here, or than other results of this table: make the set as it was "
                    "then, or leave it out (--kept, --out)"
                )


def trials_of(entries: Sequence[Entry]) -> list[Path]:
    """Return the folders of the trials that results were read from."""
    own = {entry.kept[0].parent.with_name(entry.trial) for entry in entries}
    shared = {folder.with_name(BASE_TRIAL) for folder in own if Journal(folder).shared}
    return sorted(own | shared)


def about(base: Config, entries: Sequence[Entry], seeds: Sequence[int]) -> dict[str, Any]:
    """Return what made the numbers: nothing in it names a machine or a place on one.

    What the trials were trained with is theirs to tell; another run may have trained them.
    """
    fields = {name: value for name, value in to_dict(base).items() if name not in OURS}
    trained: list[dict[str, Any]] = []
    for made in (made for entry in entries for made in entry.made):
        trained += [made] if made not in trained else []
    return {
        "settings": {k: without_folders(v) if k in PATHS else v for k, v in fields.items()},
        "seeds": list(seeds),
        "trained": trained,
    }


def report(
    entries: Sequence[Entry],
    made: dict[str, Any],
    sets: Sequence[str],
    hard: Sequence[str],
    out: Path,
) -> None:
    """Write table, figure and results, and say where."""
    blocks = blocks_of(sets, hard)
    write_text(out / "table.md", markdown(entries, blocks, made["seeds"]))
    rows = csv_rows(entries, sets)
    write_rows(out / "table.csv", list(dict.fromkeys(name for row in rows for name in row)), rows)
    draw(entries, blocks[0], out / "figure.png")
    arms: dict[str, Any] = {}
    for entry in entries:
        known = {"settings": shlex.join(as_flags(ARMS[entry.arm].settings)), "rounds": {}}
        arms.setdefault(entry.arm, known)["rounds"][entry.seed] = [
            {"points": points, **entry.means(blocks[0].sets, index)}
            for index, (points, _) in enumerate(entry.rounds)
        ]
    write_json(out / "results.json", {**made, "mean over": blocks[0].sets, "arms": arms})
    print(f"{len(entries)} results: {out / 'table.md'}, table.csv, figure.png, results.json")


class Outcome(NamedTuple):
    """What an experiment has found: the settings of its first seed, its sets, results and faults.

    ``hard`` are the sets that are averaged apart; ``failed`` says what is lacking, a line each.
    """

    base: Config
    seeds: list[int]
    sets: list[str]
    hard: list[str]
    entries: list[Entry]
    failed: list[str]


def carry_out(
    args: Namespace, flags: dict[str, Any], names: Sequence[str], command: str
) -> Outcome:
    """Run the arms, unless only a report is wanted, and read what is there of their results.

    Args:
        args, flags: see `parse`.
        names: of the arms.
        command: how this was called, for the record.
    """
    seeds, bases = parse_seeds(args.seeds), {}
    for seed in seeds:
        fields = flags_of(flags, Arm(""), BASE_TRIAL, seed, args.out)
        bases[seed] = Planned("default", seed, BASE_TRIAL, fields, "points")
    base = fresh(bases[seeds[0]].flags)
    settings.check_names(base)
    sets, hard = sets_of(base, args.hard)
    planned, left_out = plan(list(dict.fromkeys(["dense", *names])), flags, seeds, args.out)
    failed = [f"{name}: left out: {reason}" for name, reason in left_out.items()]
    if not args.report:
        device = choose_machine(base.device, base.precision).device.type
        images = training_images_of(base)
        stages = Stages(args.jobs, made_with(command, device, images))
        prepare_data(base, stages, args.out)
        places = [[one.at(folder) for folder in args.kept] for one in planned]
        known = [next(filter(None, (read_entry(at, sets) for at in mine)), None) for mine in places]
        require_same_images([entry for entry in known if entry], images)
        left = [one for one, entry in zip(planned, known, strict=True) if entry is None]
        failed += run(left, bases, stages, args.keep)
    entries, faults = read_all(planned, sets, args.kept)
    require_same_images(entries)
    return Outcome(base, seeds, sets, hard, entries, failed + faults)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the arms and write the report; see the module's text."""
    words = list(sys.argv[1:] if argv is None else argv)
    args, flags = parse(argv)
    if args.list:
        list_arms()
        return 0
    command = shlex.join(without_folders(word) for word in words)
    found = carry_out(args, flags, choose_arms(args.arms), command)
    if found.entries:
        made = about(found.base, found.entries, found.seeds)
        report(found.entries, made, found.sets, found.hard, args.out)
        if args.pack:
            pack(trials_of(found.entries), args.pack)
    for line in found.failed:
        print(line, file=sys.stderr)
    return 1 if found.failed else 0


if __name__ == "__main__":
    run_stage(main, together=False)
