"""The arms of the label-efficiency experiment: each a list of config values, and nothing else.

An arm starts from `BASE` and the flags of the command line, and sets some fields otherwise. All
arms ask within the project's own pipeline, the snapshots of the last round as the ensemble. A
published baseline looks at images as they are, takes one candidate a superpixel, and knows neither
an attack nor neighbours nor earlier answers; what sets one apart from another is its acquisition
and its choice among candidates.

Self-training (``losses_pseudo``, on by default) follows the trainings. A trial's first one is
taught by its own snapshots alone, in the cycles after the first; each further one until then by
those of the training before, and one that knows no more answers by these throughout. So arms of
other rounds than the base's (grid, object, ours_1, random_1, rounds_*) differ in the generations of
their teachers, too, but for ``--losses_pseudo ''``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config import FIELDS, FREE, PRESETS, Config
from utils import settings
from utils.errors import UserError, closest

BASE: dict[str, Any] = {"rounds": 2, "points_per_image": 10}
"""What all arms begin with, under the flags of the command line: five random, five asked points."""

BASE_TRIAL = "base"
"""The trial of a seed that holds what arms share: the first round, and the dense twin."""


@dataclass(frozen=True)
class Arm:
    """One line of the table.

    Attributes:
        text: what it is, in a few words.
        settings: fields of `Config` that differ from the base.
        supervision: what it learns from, a name of `utils.run_folder.ARMS`.
    """

    text: str
    settings: dict[str, Any] = field(default_factory=dict)
    supervision: str = "points"


def _budget(points: int, rounds: int) -> dict[str, Any]:
    return {"points_per_image": points, "rounds": rounds, "points_per_round": ""}


def _asking(acquisition: str, diversity: str, **more: Any) -> dict[str, Any]:
    """Return the settings of a published way of asking, see the module's text."""
    alone = {**_ASTE, "attack": "none", "vote_kernel": 1, "ask_agree": False}
    return {**alone, "acquisition": acquisition, "diversity": diversity, **more}


_ASTE = PRESETS["aste"]
# Value by value, so that flags of the command line do not change it; the rounds are the base's.
_PUBLISHED = {name: value for name, value in PRESETS["paper"].items() if name != "rounds"}
_AT_ONCE = {"rounds": 1, "points_per_round": ""}
_EVERYWHERE = {"candidates_percent": 100.0, "candidates_max": 10**9}

ARMS: dict[str, Arm] = {
    "dense": Arm("the dense twin: masks", supervision="dense"),
    "default": Arm("asked points, as config.py and the command line have them"),
    "random": Arm("uniformly random points, in as many rounds", supervision="random"),
    # Points that nobody asks a network about
    "grid": Arm("points of a regular grid, all at once", {"first_points": "grid", **_AT_ONCE}),
    "object": Arm(
        "one point on each object and one on the background (PSOD)",
        {"first_points": "object", **_AT_ONCE},
    ),
    # Other ways of asking
    "margin": Arm("margin, random among the top 5 % (PixelPick)", _asking("margin", "random_top")),
    "entropy": Arm("highest entropy of the mean", _asking("entropy", "top_k")),
    "bald": Arm("highest mutual information of label and snapshot", _asking("bald", "top_k")),
    "balent": Arm("highest balanced entropy", _asking("balent", "top_k")),
    "coreset": Arm(
        "k-centre on features, uncertainty not looked at",
        _asking("random", "k_centre", **_EVERYWHERE),
    ),
    "deep_ensemble": Arm("a deep ensemble in place of snapshots", {"ensemble": "deep"}),
    "aste": Arm("ASTE-AL's, strict: attack, vote of neighbours, facility location", _ASTE),
    "pool": Arm("points spent where the pool is most uncertain", {"spend": "pool"}),
    # aste without one of its parts
    "no_attack": Arm(
        "aste by entropy, no attack", {**_ASTE, "attack": "none", "acquisition": "entropy"}
    ),
    "balent_diverse": Arm(
        "aste by balanced entropy, no attack",
        {**_ASTE, "attack": "none", "acquisition": "balent"},
    ),
    "no_neighbours": Arm("aste without the vote of neighbours", {**_ASTE, "vote_kernel": 1}),
    "no_diversity": Arm("aste's most uncertain candidates", {**_ASTE, "diversity": "top_k"}),
    # The default with another part, or without one
    "attacked": Arm("attacked images looked at, too", {"attack": "pgd"}),
    "facility": Arm("cells that cover by features", {"diversity": "facility_location"}),
    "not_enlarged": Arm("images looked at as they are", {"ask_scale": 1.0}),
    "one_snapshot": Arm("questions to the newest snapshot alone", {"ensemble": "newest"}),
    "no_ask_agree": Arm("questions whatever was answered before", {"ask_agree": False}),
    "warm_start": Arm("rounds go on from the last one's weights", {"warm_start": True}),
    # What an answer labels
    "region": Arm("an answer fills its superpixel", {"label_mode": "region"}),
    "region_mask": Arm("LEAKS the mask inside superpixels", {"label_mode": "region_mask"}),
    "paper": Arm("the published recipe, LEAKS the mask inside superpixels", _PUBLISHED),
    # Label budgets
    "ours_1": Arm("one point, random as every first round is", _budget(1, 1)),
    **{f"ours_{n}": Arm(f"{n} points", _budget(n, 2)) for n in (3, 5, 10, 20)},
    "random_1": Arm("one random point", _budget(1, 1), "random"),
    **{f"random_{n}": Arm(f"{n} random points", _budget(n, 2), "random") for n in (3, 5, 10, 20)},
    # Rounds
    "steps_3": Arm(
        "five asked in steps of 2, 2 and 1, without a training between",
        {"rounds": 4, "points_per_round": "5+2+2+1", "train_every": 3},
    ),
    "rounds_1": Arm("ten points at once, random as every first round is", _budget(10, 1)),
    **{f"rounds_{n}": Arm(f"ten points in {n} rounds", _budget(10, n)) for n in (2, 5, 10)},
    # Losses on the points
    "loss_bce": Arm("cross-entropy alone", {"losses_points": {"bce": 0.3}}),
    "loss_iou": Arm("... and soft IoU", {"losses_points": {"bce": 0.3, "iou": 0.3}}),
    "loss_coherence": Arm(
        "... and coherence", {"losses_points": {"bce": 0.3, "iou": 0.3, "coherence": 0.1}}
    ),
    "loss_consistency": Arm(
        "... and consistency",
        {"losses_points": {"bce": 0.3, "iou": 0.3, "coherence": 0.1, "consistency": 0.3}},
    ),
    "loss_heavy": Arm(
        "as heavy as those on pseudo labels",
        {"losses_points": {"bce": 1.0, "iou": 1.0, "coherence": 0.3}},
    ),
    "points_throughout": Arm("points' losses in the last training, too", {"pseudo_alone": False}),
    "no_match": Arm("classes weighted as they were asked", {"match_classes": False}),
    # What later trainings draw
    "same_seed": Arm("later trainings draw what the first did", {"reseed": False}),
    # Pseudo labels without one of their parts, and none at all
    "no_enlarging": Arm("pseudo labels of images that are not enlarged", {"pseudo_scale": 1.0}),
    "no_finer": Arm("pseudo labels of images as a training sees them", {"pseudo_finer": False}),
    "no_agreement": Arm("pseudo labels whatever was answered", {"pseudo_agree": False}),
    "no_colours": Arm("pseudo labels whatever colours there are", {"pseudo_colours": False}),
    "smoothed": Arm("pseudo labels smoothed within edges", {"pseudo_cut_by": "smoothing"}),
    "no_cut": Arm("pseudo labels whatever edges there are", {"pseudo_cut": False}),
    "no_trust": Arm("no grey pseudo labels", {"pseudo_trust": 0.0}),
    "no_retrain": Arm("no last training on the same answers", {"retrain": 0}),
    "no_self_training": Arm("no losses on pseudo labels", {"losses_pseudo": {}}),
    # The epoch that is tested
    "lowest_epoch": Arm("the epoch of lowest held-out error", {"keep_within": 0.0}),
}

ERRORS = (5, 10, 20)
"""Percent of wrong answers of simulated people."""


def _erring(name: str, field_name: str, told: str) -> dict[str, Arm]:
    """Return arms whose people err, asked points and random ones."""
    found = {}
    for percent in ERRORS:
        for start, who in (("", "points"), ("random_", "random")):
            text = f"{told.format(percent)}{', random points' * (who == 'random')}"
            found[f"{start}{name}_{percent}"] = Arm(text, {field_name: percent / 100}, who)
    return found


_ERRING = {
    **_erring("errors", "answer_errors", "{} % of the answers wrong"),
    **_erring("border", "answer_errors_border", "up to {} % wrong, the nearer to a border"),
}
ARMS |= _ERRING

PEOPLE = {
    f"{points} points, errors {where}": (first, *(f"{start}{name}_{n}" for n in ERRORS))
    for name, where in (("errors", "anywhere"), ("border", "at borders"))
    for points, first, start in (("asked", "default", ""), ("random", "random", "random_"))
}
"""Arms that make one line of the figure of annotators.py each, from no errors to most."""

BUDGETS = {
    "asked points": ("ours_1", "ours_3", "ours_5", "ours_10", "ours_20"),
    "random points": ("random_1", "random_3", "random_5", "random_10", "random_20"),
}
"""Arms that make one line of the figure each, by their last rounds."""

ROUNDS = (
    "default",
    "aste",
    "random",
    "margin",
    "entropy",
    "bald",
    "balent",
    "coreset",
    "deep_ensemble",
)
"""Arms whose scores the figure shows after every round."""

ASKS_LATER = frozenset(
    {"acquisition", "attack", "attack_eps", "attack_step", "attack_steps", "attack_patches"}
    | {"ask_scale", "ask_agree", "vote_kernel", "vote_sigma"}
    | {"candidates", "candidates_percent", "candidates_max", "diversity", "spend"}
    | {"train_every", "retrain", "pseudo_alone", "reseed"}
)
"""Fields that count from the second round on alone; see `shares_first_round`."""


def shares_first_round(base: Config, arm: Config) -> bool:
    """Tell whether an arm may start from the base trial's first round.

    It may where both agree in every field but those of `ASKS_LATER` and those that touch no result
    (`config.FREE`, the trial's name), and where the first of several rounds asks as many. A run
    from scratch would give the very same round: its points and the validation points are drawn from
    seed, round and image name (`Pool.choose_first`), as many as the schedule begins with and
    points_per_image; its training reads those points, the pictures and the seed, and draws its
    batches and initial weights from the seed alone. The fields of `ASKS_LATER` count where a
    later round is asked, or said to be trained, or is, and nowhere else. The ledger then holds the
    same questions, and superpixels follow from picture and count.

    ``ensemble`` may differ, too, but for a deep one: its first round trains more networks.
    """
    ignored = FREE | ASKS_LATER | {"trial"}
    if "deep" not in (base.ensemble, arm.ensemble):
        ignored |= {"ensemble"}
    if min(base.rounds, arm.rounds) > 1 and base.schedule[0] == arm.schedule[0]:
        ignored |= {"rounds", "points_per_round"}
    return not settings.differences(base, arm).keys() - ignored


@dataclass(frozen=True)
class Planned:
    """An arm that can be run with one seed.

    Attributes:
        arm: its name in `ARMS`.
        seed: the seed.
        trial: the trial that holds its result; another arm's where both are one and the same.
        flags: the trial's fields as given, the seed and the name included.
        supervision: what it learns from; where all points are of the first, random round,
            ``points`` for a random arm too.
    """

    arm: str
    seed: int
    trial: str
    flags: dict[str, Any]
    supervision: str

    @property
    def folder(self) -> Path:
        """The trial's folder."""
        return Path(self.flags["runs"]) / self.trial

    def at(self, folder: Path) -> Planned:
        """Return the same trial in the seed's folder below another."""
        flags = {**self.flags, "runs": str(folder / Path(self.flags["runs"]).name)}
        return dataclasses.replace(self, flags=flags)


def needs_base(planned: Planned, base: Planned) -> bool:
    """Tell whether an arm is the base trial's, or may start from its first round."""
    is_base = planned.trial == BASE_TRIAL
    return is_base or shares_first_round(fresh(base.flags), fresh(planned.flags))


def flags_of(flags: Mapping[str, Any], arm: Arm, trial: str, seed: int, runs: Path) -> dict:
    """Return the fields of an arm's trial: `BASE`, the command line, the arm, the trial."""
    own = {"trial": trial, "seed": seed, "runs": str(runs / f"seed_{seed}")}
    return {**BASE, **flags, **arm.settings, **own}


def fault_of(flags: Mapping[str, Any]) -> str:
    """Say why an arm cannot be run by this version with these flags; empty: it can."""
    unknown = [name for name in flags if name not in FIELDS]
    if unknown:
        return f"config.py has no field {', '.join(unknown)}"
    try:
        settings.check_names(fresh(flags))
    except UserError as error:
        return str(error)
    return ""


def fresh(flags: Mapping[str, Any]) -> Config:
    """Return the settings of a new trial, whatever trial is there already."""
    return settings.resolve({**flags, "runs": str(Path(flags["runs"]) / "no such folder")})


def plan(
    names: Sequence[str], flags: Mapping[str, Any], seeds: Sequence[int], runs: Path
) -> tuple[list[Planned], dict[str, str]]:
    """Return what is to be run, seed by seed, and why arms are left out: ``{arm: reason}``.

    Arms of the same settings are one trial, named after the first of them in `ARMS`, so that
    ``ours_10`` is not trained beside ``default``.
    """
    trials: dict[tuple[str, str], str] = {}
    told: dict[str, tuple[str, str]] = {}
    faults: dict[str, str] = {}
    for name, arm in ARMS.items():
        given = flags_of(flags, arm, BASE_TRIAL, seeds[0], runs)
        if fault := fault_of(given):
            faults |= {name: fault} if name in names else {}
            continue
        chosen = fresh(given)
        drawn = arm.supervision == "random" and chosen.rounds == 1
        supervision = "points" if drawn else arm.supervision
        # Weights are dictionaries, which no key can hold.
        key = (supervision, repr(dataclasses.astuple(chosen)))
        first = BASE_TRIAL if supervision == "dense" else name
        told[name] = (trials.setdefault(key, first), supervision)
    planned = [
        Planned(name, seed, trial, flags_of(flags, ARMS[name], trial, seed, runs), supervision)
        for seed in seeds
        for name in names
        if name not in faults
        for trial, supervision in [told[name]]
    ]
    return planned, faults


def choose_arms(text: str) -> list[str]:
    """Return the arms named in ``text``, joined by commas.

    An empty text stands for all of them but those whose people err, which are another experiment's
    (annotators.py).

    Raises:
        UserError: a name is unknown.
    """
    names = list(dict.fromkeys(filter(None, text.split(","))))
    names = names or [name for name in ARMS if name not in _ERRING]
    for name in names:
        if name not in ARMS:
            raise UserError(f"--arms: unknown arm '{name}'{closest(name, ARMS)} (see --list)")
    return [name for name in ARMS if name in names]


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of ``3`` (0, 1 and 2) or of ``0,2`` or ``2,`` (these).

    Raises:
        UserError: the text is neither.
    """
    parts = [part for part in text.split(",") if part]
    if not parts or not all(part.isdecimal() for part in parts) or text == "0":
        raise UserError(f"--seeds {text}: give a number of seeds, or seeds with commas (0,2 or 2,)")
    found = [int(part) for part in parts] if "," in text else list(range(int(text)))
    return list(dict.fromkeys(found))


def as_flags(fields: Mapping[str, Any]) -> list[str]:
    """Return fields as they are given on a command line."""
    text: list[str] = []
    for name, value in fields.items():
        if isinstance(value, bool):
            text.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, dict):
            text += [f"--{name}", "+".join(f"{k}={v}" for k, v in value.items()) or ""]
        else:
            text += [f"--{name}", str(value)]
    return text
