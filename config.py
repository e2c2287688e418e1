"""Every knob of the project, in one place.

Edit the defaults here, or give any field as a flag of ``gco.sh`` or of a stage
(``--size 352 --losses_points bce=1+coherence=0.5``). The settings of a trial are written to
``runs/<trial>/config.json`` when it starts, and that file rules the trial from then on.

``python config.py --show`` prints the resolved settings.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from utils.cli import Parser, parse_weights
from utils.config_checks import check_values
from utils.errors import UserError, closest, run_script
from utils.files import read_json, write_json
from utils.locks import in_use
from utils.run_folder import LOCKS, RunFolder
from utils.schedule import trained_rounds

if TYPE_CHECKING:
    from datasets.index import Sample

Weights = dict[str, float]
"""Loss name -> weight; on the command line ``bce=1+iou=0.5``."""


def knob(default: Any, text: str) -> Any:
    """Return a dataclass field with its help text."""
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata={"help": text})
    return dataclasses.field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Config:
    """Settings of one trial; see each field's help text (``./gco.sh --help``)."""

    # What, and where
    trial: str = knob("sample", "name of the trial; its files lie in <runs>/<trial>/")
    runs: str = knob("runs", "folder of all trials")
    data_root: str = knob("", "folder with images/<SET>/ and gts/<SET>/; empty: made sample data")
    trainset: str = knob("", "training sets, joined by +")
    testsets: str = knob("", "test sets, joined by +")
    validation_fraction: float = knob(0.1, "share of the training images held out for validation")
    seed: int = knob(0, "seed of the split, the points, the initial weights and the batches")
    preset: str = knob(
        "", "gconet, gconet_plus or paper: start from its settings; empty: from these"
    )

    # Network
    backbone: str = knob("vgg16_bn", "encoder: a name in models/backbones.py")
    backbone_weights: str = knob("default", "default (ImageNet, downloaded), none, or a file")
    width: int = knob(64, "channels of the decoder")
    size: int = knob(256, "images are resized to size x size pixels for the network")

    # Co-salient groups, and the other parts of GCoNet+ (models/README.md)
    grouped: bool = knob(False, "batches of two co-salient groups; maps are made group by group")
    relation: str = knob("none", "relation of a group's images: gam, nonlocal, mha or none")
    contrast: float = knob(0.0, "weight of the contrast of two groups (GCM); 0: off")
    classify: float = knob(0.0, "weight of telling the group's class from an image (ACM); 0: off")
    classify_masked: float = knob(0.0, "weight of telling it from the masked image (RACM); 0: off")
    mask_operation: str = knob("x", "how image and map are joined there: x, + or c (concatenated)")
    triplet: float = knob(0.0, "weight of the triplet loss of two groups (GST); 0: off")
    triplet_of: str = knob("image", "features it compares: of the image, masked, or both")
    triplet_margin: float = knob(0.1, "margin of the triplet loss")
    binarise: str = knob("none", "binarise the map (CEM) of the decoder, the refiner, both or none")
    binarise_k: float = knob(300.0, "steepness of the binarisation")
    refiner: str = knob("none", "refine the map, seeing the map alone, the image too, or none")
    losses_others: Weights = knob({}, "losses on the maps of the decoder's levels; empty: none")
    label_smoothing: bool = knob(False, "average the losses under hard and smoothed masks")
    adversarial: float = knob(0.0, "weight of fooling a discriminator of maps; 0: off")
    freeze_backbone: bool = knob(False, "leave the encoder as its weights are")

    # Training (of one round, and of the dense twin)
    epochs: int = knob(30, "epochs of one round; the dense twin gets as many")
    batch_size: int = knob(16, "images a batch, in all (several processes share them)")
    accumulate: int = knob(
        1, "parts a batch is learnt from in, to save memory; batch norm sees the parts"
    )
    optimizer: str = knob("adamw", "adamw or sgd")
    lr: float = knob(1e-3, "peak learning rate of the decoder")
    backbone_lr: float = knob(0.1, "learning rate of the encoder, as a factor of lr")
    weight_decay: float = knob(1e-4, "weight decay (not of biases and norms)")
    clip: float = knob(1.0, "largest norm of the gradient; 0: not clipped")
    average: float = knob(
        0.1, "share of the training over which the weights that are kept are averaged; 0: none"
    )
    on_nan: str = knob(
        "stop", "a loss or gradient that is no number: stop, or skip the step (few of them)"
    )
    snapshots: int = knob(3, "snapshots kept along a training (cycles of the learning rate)")
    ensemble: str = knob(
        "snapshots",
        "whom the questions are put to: snapshots (of one training), newest (its last one alone), "
        "or deep (as many trainings from other seeds: every round but the last costs that many "
        "times the training and disk)",
    )
    first_cycle: float = knob(0.6, "share of the epochs that the first cycle takes")
    warm_start: bool = knob(False, "start a round from the last one's weights, not from scratch")
    losses_dense: Weights = knob(
        {"bce": 1.0, "iou": 1.0, "ssim": 0.5}, "losses and weights for dense masks"
    )
    losses_points: Weights = knob(
        {"bce": 0.3, "iou": 0.3, "coherence": 0.1}, "losses and weights for points"
    )
    losses_pseudo: Weights = knob(
        {"bce": 1.0, "iou": 1.0, "ssim": 0.5},
        "losses on pseudo labels, the maps of earlier snapshots, beside those on points",
    )
    pseudo_scale: float = knob(1.25, "snapshots see images enlarged by this to make pseudo labels")
    pseudo_agree: bool = knob(True, "correct those maps by the answers, and what is like them")
    pseudo_colours: bool = knob(True, "correct those maps by the picture's colours")
    pseudo_cut: bool = knob(True, "then cut them along the picture's edges (GrabCut)")
    pseudo_trust: float = knob(
        0.5,
        "least overlap (soft IoU) of a map and its cut; with less an image is taught by the grey "
        "map that was not cut; 0: no image is",
    )
    match_classes: bool = knob(
        True, "weight the two classes of asked points to their shares among those of round 0"
    )
    small_scale: float = knob(0.5, "scale of the second view that the consistency loss compares")

    # Augmentation
    flip: float = knob(0.5, "probability of a horizontal flip")
    crop: float = knob(0.75, "smallest side of a random crop, as a share of the image's; 1: none")
    rotate: float = knob(10.0, "largest rotation, degrees")
    colour: float = knob(0.2, "largest relative change of brightness, contrast and saturation")
    pepper: float = knob(0.001, "share of the pixels turned black or white")

    # Active learning
    rounds: int = knob(5, "rounds of questions, the first (random) one included")
    train_every: int = knob(
        1,
        "train after every n-th round only, and after the first and the last; each round's "
        "questions go to the newest networks, whose maps --ask_agree tells all answers",
    )
    points_per_image: int = knob(10, "questions an image in all, the first round's included")
    points_per_round: str = knob("", "questions of each round joined by +; empty: spread evenly")
    first_points: str = knob(
        "random", "round 0: random, grid (regular), or object (a point on each, one beside them)"
    )
    spend: str = knob(
        "image", "later rounds: image (each gets its points) or pool (as many, where it is unsure)"
    )
    label_mode: str = knob(
        "pixel", "pixel, region (an answer fills its superpixel) or region_mask (leaks the mask)"
    )
    superpixels: int = knob(200, "superpixels an image, about")
    oracle: str = knob("mask", "who answers: mask (simulated), or human (people, in a browser)")
    reserve: int = knob(
        5, "pixels an image and round that take the places of those that nobody can tell"
    )
    answer_errors: float = knob(0.0, "simulated answers: share of wrong ones")
    answer_errors_border: float = knob(
        0.0, "simulated answers: further share of wrong ones at an object's border"
    )
    answer_skips: float = knob(0.0, "simulated answers: share of pixels that cannot be told")
    answer_seconds: float = knob(
        3.0, "seconds that an answer takes where nobody measured it, in the report's cost (a guess)"
    )
    wait: bool = knob(True, "wait for people's answers; if not, leave when questions are open")
    attack: str = knob("pgd", "attack that uncovers uncertainty: a name in attacks.py, or none")
    attack_eps: float = knob(0.5, "largest change of a pixel value, in units of 1/255")
    attack_step: float = knob(0.125, "change of a pixel value per step, in units of 1/255")
    attack_steps: int = knob(5, "steps of the attack")
    attack_patches: int = knob(4, "patch attacks: the image is cut into n x n patches")
    acquisition: str = knob("adversarial_shift", "uncertainty of a pixel: a name in uncertainty.py")
    ask_agree: bool = knob(True, "bring maps into agreement with earlier answers before asking")
    vote_kernel: int = knob(5, "pixels a side of the neighbourhood that votes (odd; 1: none)")
    vote_sigma: float = knob(0.1, "colour difference (0..1) at which a neighbour's vote fades")
    candidates_percent: float = knob(5.0, "most uncertain share of an image that is considered")
    candidates_max: int = knob(500, "largest number of candidate points of an image")
    diversity: str = knob("facility_location", "choice among candidates: a name in diversity.py")

    # Arms run beside the points
    with_dense: bool = knob(True, "train the dense twin too (where people answer: false)")
    with_random: bool = knob(False, "train on random points too (on the sample data: true)")

    # Machine
    device: str = knob("auto", "auto, cpu, cuda or cuda:<n>")
    precision: str = knob("auto", "auto (mixed on CUDA), fp32, bf16 or fp16")
    workers: int = knob(-1, "processes that prepare batches and score maps; -1: chosen")
    deterministic: bool = knob(False, "the same result from each run on a GPU, too (slower)")
    cache_mb: int = knob(
        4096, "memory for decoded images, MiB a process; larger sets are read each time"
    )

    @property
    def run_folder(self) -> Path:
        """Folder of the trial's files."""
        return Path(self.runs) / self.trial

    @property
    def at_a_time(self) -> int:
        """Images that are looked at at a time, for memory's sake."""
        return -(-self.batch_size // self.accumulate)

    @property
    def processes(self) -> int:
        """How many processes a stage is best run by here: one a GPU."""
        from utils.device import process_count

        # Rounded down, unlike what is looked at at a time: the smallest part must do for all.
        return process_count(self.device, self.batch_size // self.accumulate)

    @property
    def sample(self) -> bool:
        """Whether the trial runs on the made sample data."""
        return self.data_root == SAMPLE["data_root"]

    @property
    def may_skip(self) -> bool:
        """Whether the oracle may be unable to tell a pixel."""
        return self.oracle == "human" or self.answer_skips > 0

    @property
    def schedule(self) -> list[int]:
        """Points an image asked in each round; their sum is the label budget."""
        if not self.points_per_round:
            even, more = divmod(self.points_per_image, self.rounds)
            return [even + (index < more) for index in range(self.rounds)]
        return [int(part) for part in self.points_per_round.split("+")]

    @property
    def trained_rounds(self) -> list[int]:
        """Rounds after which a network is trained (``train_every``)."""
        return trained_rounds(self.rounds, self.train_every)

    def trained_before(self, round_index: int) -> int | None:
        """Return the newest trained round before another; before the first there is none."""
        return max((i for i in self.trained_rounds if i < round_index), default=None)

    def __post_init__(self) -> None:
        check_values(self, {name: field.default for name, field in FIELDS.items()}, PRESETS)


SAMPLE = {
    "data_root": "data/sample",
    "trainset": "SAMPLE-TR",
    "testsets": "SAMPLE-TE",
    "backbone": "resnet18",
    "backbone_weights": "none",
    "size": 64,
    "width": 32,
    "epochs": 12,
    "batch_size": 8,
    "rounds": 3,
    "backbone_lr": 1.0,
    "crop": 0.85,
    "with_random": True,
}
"""Defaults of the run on the made sample data (no ``data_root``): small, and no download."""

SAMPLE_GROUPS = {"trainset": "SAMPLE-CO-TR", "testsets": "SAMPLE-CO-TE"}
"""Defaults beside `SAMPLE` with a preset that looks at groups."""

HUMAN = {"with_dense": False}
"""Defaults where people answer: there may be no masks."""

PRESETS: dict[str, dict[str, Any]] = {
    "gconet": {
        "grouped": True,
        "relation": "gam",
        "contrast": 8.0,
        "classify": 0.1,
        "average": 0.0,
        "losses_dense": {"iou": 1.0},
        "losses_others": {"iou": 3.0},
        "size": 224,
    },
    "gconet_plus": {
        "grouped": True,
        "relation": "gam",
        "contrast": 2.0,
        "classify": 0.025,
        "classify_masked": 0.08,
        "triplet": 0.1,
        "binarise": "decoder",
        "average": 0.0,
        "losses_dense": {"bce": 1.0, "iou": 1.0},
        "size": 256,
    },
    "paper": {
        "rounds": 10,
        "points_per_image": 10,
        "first_points": "random",
        "spend": "image",
        "label_mode": "region_mask",
        "superpixels": 500,
        "attack": "pgd",
        "attack_eps": 5.75,
        "attack_step": 0.575,
        "attack_steps": 5,
        "ensemble": "snapshots",
        "acquisition": "adversarial_shift",
        "ask_agree": False,
        "candidates_percent": 5.0,
        "diversity": "random_top",
        "losses_points": {"bce": 1.0},
        "losses_pseudo": {},
        "average": 0.0,
        "match_classes": False,
    },
}
"""Settings of the literature: gconet and gconet_plus are networks, their weights relative to the
first loss on the map (models/README.md tells how they follow from the published ones); paper is
ASTE-AL as published, which LEAKS the mask (active_learning/README.md)."""

ABSENT: dict[str, Any] = {
    "losses_pseudo": {},
    "pseudo_scale": 1.0,
    "pseudo_agree": False,
    "pseudo_colours": False,
    "pseudo_trust": 0.0,
    "ask_agree": False,
    "average": 0.0,
}
"""What settings from before a field's time stand for, where it is not today's default."""

FREE = {"device", "workers", "cache_mb", "testsets", "with_dense", "with_random", "runs", "on_nan"}
FREE |= {"wait", "answer_seconds"}
"""Fields that may change while a trial runs: they touch neither points nor weights."""

UNTIL_TRAINED = {"backbone_weights"}
"""Fields that may change until a training has begun: the first round's questions know nothing of
them, and people may have answered those before it is seen that weights cannot be had."""

LEAST_PICTURES = 3

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
TYPES = get_type_hints(Config)


def check_names(config: Config) -> None:
    """Look every name up in its registry.

    Raises:
        UserError: a name is unknown, or names do not go together.
    """
    from active_learning.attacks import ATTACKS
    from active_learning.diversity import DIVERSITY
    from active_learning.uncertainty import ACQUISITIONS
    from losses import LOSSES
    from models import BACKBONES
    from utils.registry import look_up

    look_up(BACKBONES, config.backbone, "backbone")
    look_up(ATTACKS, config.attack, "attack")
    look_up(DIVERSITY, config.diversity, "diversity rule")
    names = (config.losses_dense, config.losses_points, config.losses_others, config.losses_pseudo)
    for name in itertools.chain(*names):
        look_up(LOSSES, name, "loss")
    for name in ("coherence", "consistency"):
        if name in config.losses_pseudo:
            raise UserError(
                f"--losses_pseudo {name}: looks at no label, so pseudo labels change nothing: give "
                "it to --losses_points"
            )
    acquisition = look_up(ACQUISITIONS, config.acquisition, "acquisition function")
    if acquisition.needs_attack and config.attack == "none":
        raise UserError(
            f"--acquisition {config.acquisition} compares a clean and an attacked prediction, but "
            "--attack is none: choose an attack, or another acquisition such as entropy or bald"
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
    trial = flags.get("trial", defaults.trial)
    path = Path(flags.get("runs", defaults.runs)) / trial / "config.json"
    if not path.exists():
        _check_begins(flags, path)
        root = flags.get("data_root", defaults.data_root)
        sample = root in ("", SAMPLE["data_root"])
        human = flags.get("oracle") == "human"
        config = Config(**{**_start(flags.get("preset", ""), sample, human), **flags})
        _require_trainset(config)
        return config
    saved = from_dict(read_json(path), str(path))
    # The folder of runs may have been moved since: it is where this file was found.
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
    changed = {k: v for k, v in differences(old, new).items() if k not in free}
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
    return _is_busy(run) or any(run.root.glob("*/checkpoints/*.pth"))


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
    from datasets.index import list_set, list_sets, split_set_names

    samples = list_sets(config.data_root, config.trainset)
    if len(samples) < LEAST_PICTURES:
        raise UserError(
            f"{config.trainset}: {len(samples)} image{'s'[: len(samples) != 1]}: at least "
            f"{LEAST_PICTURES} are needed, 2 to train on and 1 to validate: put more there"
        )
    if config.grouped:
        from datasets.groups import list_groups, require_two_groups

        require_two_groups(list_groups(samples).names, config.batch_size)
    for name in split_set_names(config.testsets) if config.testsets else []:
        list_set(config.data_root, name)


def _tell_edited_defaults(config: Config) -> None:
    """Say which defaults of this file an older trial does not follow."""
    base = _start(config.preset, config.sample, config.oracle == "human")
    edited = differences(dataclasses.replace(Config(), **base), config)
    listed = [f"{name} = {mine}" for name, (_, mine) in edited.items() if name != "trial"]
    if listed:
        print(f"settings other than the defaults: {', '.join(listed)}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Resolve, check and print the settings; ``--save`` also writes them to the trial."""

    def extend(parser: Parser) -> None:
        parser.add_argument("--show", action="store_true", help="print the settings as JSON")
        parser.add_argument("--save", action="store_true", help="write them to the run folder")
        parser.add_argument("--print", nargs="+", default=[], metavar="FIELD", help="print fields")
        parser.add_argument("--diff", metavar="FILE", help="print what differs from a config.json")

    config, args = parse(argv, "Resolve the settings of a trial.", extend)
    check_names(config)
    if args.save:
        if not config.sample:
            _check_sets(config)
        save(config)
        _tell_edited_defaults(config)
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


if __name__ == "__main__":
    run_script(main)
