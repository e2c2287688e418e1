"""The settings of a trial: read from flags and its config.json, compared, checked and written.

``config.py`` says which there are.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import (
    ABSENT,
    FIELDS,
    FREE,
    HUMAN,
    MAY_GROW,
    PRESETS,
    SAMPLE,
    SAMPLE_GROUPS,
    TYPES,
    UNTIL_TRAINED,
    Config,
    Weights,
)
from utils.cli import Parser, parse_weights
from utils.errors import UserError, closest
from utils.files import read_json, write_json
from utils.locks import in_use
from utils.run_folder import LOCKS, RunFolder

if TYPE_CHECKING:
    from datasets.index import Sample

LEAST_PICTURES = 3
"""Images that a trial needs: two to train on, as batch norm does, and one to validate."""


def check_names(config: Config) -> None:
    """Look every name up in its registry.

    Raises:
        UserError: a name is unknown, names do not go together, or what one needs is not installed.
    """
    from active_learning.attacks import ATTACKS
    from active_learning.cutting import can_smooth
    from active_learning.diversity import DIVERSITY
    from active_learning.uncertainty import ACQUISITIONS
    from losses import LABEL_FREE, LOSSES
    from models import BACKBONES
    from utils.registry import look_up

    look_up(BACKBONES, config.backbone, "backbone")
    look_up(ATTACKS, config.attack, "attack")
    look_up(DIVERSITY, config.diversity, "diversity rule")
    names = (config.losses_dense, config.losses_points, config.losses_others, config.losses_pseudo)
    for name in itertools.chain(*names):
        look_up(LOSSES, name, "loss")
    for name in LABEL_FREE & config.losses_pseudo.keys():
        raise UserError(
            f"--losses_pseudo {name}: looks at no label, so pseudo labels change nothing: give it "
            "to --losses_points"
        )
    if "consistency" in config.losses_others:
        raise UserError(
            "--losses_others consistency: levels make no map of a smaller view: give it to "
            "--losses_points or --losses_dense"
        )
    # Single points fill no window of ssim.
    of_no_point = LABEL_FREE | ({"ssim"} if config.label_mode == "pixel" else set())
    for field, useless in (("losses_points", of_no_point), ("losses_dense", LABEL_FREE)):
        if not {name for name, weight in getattr(config, field).items() if weight} - useless:
            raise UserError(f"--{field}: learns nothing from the labels: add bce or iou")
    if config.pseudo_cut_by == "smoothing" and not can_smooth():
        raise UserError(
            "--pseudo_cut_by smoothing: this OpenCV has no cv2.ximgproc: install "
            "opencv-contrib-python-headless in its place, or give grabcut"
        )
    acquisition = look_up(ACQUISITIONS, config.acquisition, "acquisition function")
    if acquisition.needs_attack and config.attack == "none":
        raise UserError(
            f"--acquisition {config.acquisition} compares a clean and an attacked prediction, but "
            "--attack is none: choose an attack, or another acquisition such as entropy or bald"
        )
    alone = config.ensemble == "newest" or config.snapshots == 1
    if acquisition.needs_members and alone and config.attack == "none":
        raise UserError(
            f"--acquisition {config.acquisition} tells how far networks differ, but one alone is "
            "asked: give --snapshots 2 or more and --ensemble snapshots, or an attack"
        )
    if config.ensemble == "deep" and not acquisition.needs_model:
        raise UserError(
            f"--ensemble deep has no meaning with --acquisition {config.acquisition}, which asks "
            "no network: choose another acquisition, or --ensemble snapshots"
        )
    if config.spend == "pool" and not acquisition.needs_model:
        raise UserError(
            f"--spend pool compares the images' uncertainty, of which --acquisition "
            f"{config.acquisition} knows nothing: choose another, or --spend image"
        )


def to_dict(config: Config) -> dict[str, Any]:
    """Return the settings as plain values, in the order of the fields."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any], source: str) -> Config:
    """Make a `Config` of plain values, as read from JSON.

    Fields that ``values`` lacks get their defaults, or what `ABSENT` says.

    Raises:
        UserError: a field is unknown or has a value of the wrong type; names ``source``.
    """
    if not isinstance(values, dict):
        raise UserError(f"{source}: holds no settings: delete it or name another file")
    values = {**ABSENT, **values}
    for name, value in values.items():
        if name not in FIELDS:
            raise UserError(f"{source}: unknown setting '{name}'{closest(name, FIELDS)}")
        kind = TYPES[name]
        good = _is_weights(value) if kind == Weights else isinstance(value, kind)
        if kind is float and isinstance(value, int):
            good, values = True, {**values, name: float(value)}
        if not good or (kind is not bool and isinstance(value, bool)):
            said = " ".join(repr(value).split())[:200]
            raise UserError(f"{source}: {name} = {said} is not of type {_type_name(kind)}")
    return Config(**values)


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the fields whose values differ, as ``{name: (old value, new value)}``."""
    pairs = {name: (getattr(old, name), getattr(new, name)) for name in FIELDS}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _is_weights(value: Any) -> bool:
    numbers = (int, float)
    return isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(weight, numbers) and not isinstance(weight, bool)
        for key, weight in value.items()
    )


def _type_name(kind: Any) -> str:
    return "name=weight+name=weight" if kind == Weights else kind.__name__


def make_parser(description: str) -> Parser:
    """Return a parser with one flag a field of `Config`."""
    parser = Parser(description=description)
    group = parser.add_argument_group("settings (config.py)")
    for name, field in FIELDS.items():
        kind, default = TYPES[name], field.default
        options: dict[str, Any] = {"default": argparse.SUPPRESS}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
            hidden = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
            group.add_argument(f"--no_{name}", dest=name, action="store_false", **hidden)
        elif kind == Weights:
            default = "+".join(f"{k}={v:g}" for k, v in field.default_factory().items())  # type: ignore[misc]
            options |= {"type": parse_weights, "metavar": "NAME=WEIGHT+..."}
        else:
            options |= {"type": kind, "metavar": kind.__name__.upper()}
        text = f"{field.metadata['help']} (default: {default if default != '' else 'empty'})"
        group.add_argument(f"--{name}", help=text.replace("%", "%%"), **options)
    return parser


def resolve(flags: dict[str, Any]) -> Config:
    """Return the settings of a trial: flags over its own config.json, or over the defaults.

    Raises:
        UserError: the trial has begun with other settings, or a value cannot be meant.
    """
    defaults = Config()
    flags = {name: value for name, value in flags.items() if (name, value) != ("data_root", "")}
    trial = flags.get("trial", defaults.trial)
    path = Path(flags.get("runs", defaults.runs)) / trial / "config.json"
    if not path.exists():
        _check_begins(flags, path)
        sample = flags.get("data_root", SAMPLE["data_root"]) == SAMPLE["data_root"]
        human = flags.get("oracle") == "human"
        config = Config(**{**_start(flags.get("preset", ""), sample, human), **flags})
        _require_trainset(config)
        return config
    # Folders may have been moved or renamed since: they are where this file was found.
    saved = dataclasses.replace(from_dict(read_json(path), str(path)), trial=trial)
    human = flags.get("oracle", saved.oracle) == "human"
    sample = flags.get("data_root", saved.data_root) in ("", SAMPLE["data_root"])
    follow = _changed_start(saved, flags.get("preset", saved.preset), sample, human)
    config = dataclasses.replace(saved, **{"runs": defaults.runs, **follow, **flags})
    _require_trainset(config)
    run = RunFolder(path.parent)
    changed = _told(saved, config)
    if changed and not _has_trained(run):
        changed = _told(saved, config, FREE | UNTIL_TRAINED)
    if changed and _has_begun(run):
        losing = ", with what people answered," if run.journal.exists() else ""
        raise UserError(
            f"{path}: the trial began with other settings ({changed}): give the trial another "
            f"name, or delete its folder{losing} to begin anew"
        )
    return config


def _require_trainset(config: Config) -> None:
    if not config.trainset:
        raise UserError("--trainset is missing: name the sets in <data_root>/images to train on")


def require_same(config: Config, trained_with: dict[str, Any], checkpoint: Path) -> None:
    """Check that a training may go on from a checkpoint.

    Raises:
        UserError: it was trained with other settings; tells the difference.
    """
    theirs = dataclasses.replace(from_dict(trained_with, str(checkpoint)), trial=config.trial)
    if changed := _told(theirs, config):
        raise UserError(
            f"{checkpoint}: trained with other settings ({changed}): give the trial these, or "
            "delete the file to train anew"
        )


def _told(old: Config, new: Config, free: AbstractSet[str] = FREE) -> str:
    """Tell the fields that differ and may not change any more; empty: none."""
    changed = {
        name: (before, after)
        for name, (before, after) in differences(old, new).items()
        if name not in free and not (name in MAY_GROW and after > before)
    }
    return ", ".join(f"{name} {before} -> {after}" for name, (before, after) in changed.items())


def _start(preset: str, sample: bool, human: bool) -> dict[str, Any]:
    """Return what preset, made sample data and people set otherwise than the defaults.

    An unknown preset is told by the check of values.
    """
    chosen = {**PRESETS.get(preset, {}), **(SAMPLE if sample else {}), **(HUMAN if human else {})}
    return chosen | (SAMPLE_GROUPS if sample and chosen.get("grouped") else {})


def _changed_start(saved: Config, preset: str, sample: bool, human: bool) -> dict[str, Any]:
    """Return what other data, preset or oracle change in a trial, but for what was chosen apart."""
    before = _start(saved.preset, saved.sample, saved.oracle == "human")
    starts = (before, _start(preset, sample, human))
    old, new = ({**to_dict(Config()), **start} for start in starts)
    return {f: new[f] for f in FIELDS if new[f] != old[f] and getattr(saved, f) == old[f]}


def _check_begins(flags: dict[str, Any], path: Path) -> None:
    """Raise `UserError` for a trial named alone, as one that is there would be, but is not."""
    runs = path.parent.parent
    others = [found.parent.name for found in runs.glob("*/config.json")]
    if set(flags) <= {"trial", "runs"} and closest(path.parent.name, others):
        raise UserError(
            f"no trial '{path.parent.name}' in {runs}{closest(path.parent.name, others)} A new "
            "trial needs --data_root"
        )


def _has_begun(run: RunFolder) -> bool:
    """Whether a stage is at work on the trial, or has left anything in its folder."""
    return _is_busy(run) or any(entry.is_dir() for entry in run.root.iterdir())


def _has_trained(run: RunFolder) -> bool:
    """Whether a stage is at work on the trial, or a training has left weights."""
    return _is_busy(run) or run.has_weights


def _is_busy(run: RunFolder) -> bool:
    return any(in_use(run.lock(what)) for what in LOCKS)


def parse(
    argv: Sequence[str] | None,
    description: str,
    extend: Callable[[Parser], None] | None = None,
    standalone: Callable[[argparse.Namespace], bool] = lambda args: False,
) -> tuple[Config, argparse.Namespace]:
    """Parse a stage's command line.

    Args:
        argv: arguments without the program's name; None: those of the process.
        description: the first lines of ``--help``.
        extend: adds the stage's own arguments to the parser.
        standalone: says of the stage's own arguments whether the work belongs to no trial; no
            trial's config.json is read then.

    Returns:
        The settings of the trial and the stage's own arguments.
    """
    parser = make_parser(description)
    if extend is not None:
        extend(parser)
    namespace = vars(parser.parse(argv))
    flags = {name: namespace.pop(name) for name in FIELDS if name in namespace}
    args = argparse.Namespace(**namespace)
    if standalone(args):
        return Config(**{**SAMPLE, "testsets": "", **flags}), args
    return resolve(flags), args


def save(config: Config) -> Path:
    """Write the settings to the trial's config.json (when they changed) and return its path."""
    path = config.run_folder / "config.json"
    if not path.exists() or read_json(path) != to_dict(config):
        write_json(path, to_dict(config))
    return path


def check_round(config: Config, index: int, first: int = 0) -> None:
    """Raise `UserError` unless ``--round index`` is a round of the trial, from ``first`` on."""
    last = config.round_count - 1
    if not first <= index <= last:
        raise UserError(f"--round {index}: the trial's rounds are {first} to {last}")


def training_images(config: Config) -> tuple[list[Sample], list[Sample]]:
    """Return the images that a trial trains on, and those of them held out for validation.

    Raises:
        UserError: a set is missing or cannot be listed.
    """
    from datasets.index import list_split

    fraction, grouped = config.validation_fraction, config.grouped
    return list_split(config.data_root, config.trainset, fraction, config.seed, grouped)


def _check_sets(config: Config) -> None:
    """Raise `UserError` if the data root or a named set is missing, or lacks groups it needs."""
    from datasets.index import list_set, list_sets, test_set_names

    samples = list_sets(config.data_root, config.trainset)
    if len(samples) < LEAST_PICTURES:
        raise UserError(
            f"{config.trainset}: {len(samples)} image{'s'[: len(samples) != 1]}: at least "
            f"{LEAST_PICTURES} are needed, 2 to train on and 1 to validate: put more there"
        )
    if config.grouped:
        from datasets.groups import list_groups, require_two_groups

        require_two_groups(list_groups(samples).names, config.batch_size)
    for name in test_set_names(config.testsets):
        list_set(config.data_root, name)


def _tell_changes(config: Config) -> None:
    """Say which settings are not the defaults: flags', or those of a time before an edit."""
    base = _start(config.preset, config.sample, config.oracle == "human")
    edited = differences(dataclasses.replace(Config(), **base), config)
    listed = [f"{name} = {mine}" for name, (_, mine) in edited.items() if name != "trial"]
    if listed:
        print(f"settings other than the defaults: {', '.join(listed)}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Resolve, check and print the settings; see the flags' help."""

    def extend(parser: Parser) -> None:
        parser.add_argument("--show", action="store_true", help="print the settings as JSON")
        parser.add_argument("--save", action="store_true", help="write them to the run folder")
        parser.add_argument("--check", action="store_true", help="look whether the sets are there")
        parser.add_argument("--print", nargs="+", default=[], metavar="FIELD", help="print fields")
        parser.add_argument("--diff", metavar="FILE", help="print what differs from a config.json")

    config, args = parse(argv, "Resolve the settings of a trial.", extend)
    check_names(config)
    if (args.save or args.check) and not config.sample:
        _check_sets(config)
    if args.save:
        save(config)
        _tell_changes(config)
    for name in args.print:
        if not hasattr(config, name):
            raise UserError(f"--print {name}: no such setting{closest(name, FIELDS)}")
        value = getattr(config, name)
        if isinstance(value, list):
            print(*value)
        else:
            print(int(value) if isinstance(value, bool) else value)
    if args.diff:
        if not (config.run_folder / "config.json").exists():
            raise UserError(f"{config.run_folder}: no such trial: check --trial and --runs")
        other = from_dict(read_json(args.diff), args.diff)
        for name, (theirs, mine) in differences(other, config).items():
            print(f"{name}: {theirs} there, {mine} here")
    if args.show or not (args.save or args.print or args.diff):
        print(json.dumps(to_dict(config), indent=2, ensure_ascii=False))
    return 0
