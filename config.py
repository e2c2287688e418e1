"""Every knob of the project, in one place.

Edit the defaults here, or give any field as a flag of ``gco.sh`` or of a stage
(``--size 352 --losses_points bce=1+coherence=0.5``). The settings of a trial are written to
``runs/<trial>/config.json`` when it starts, and that file rules the trial from then on.

``python config.py --show`` prints the resolved settings.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from utils.config_checks import check_values
from utils.errors import run_script
from utils.schedule import trained_rounds

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
    seed: int = knob(0, "seed of all that is drawn: the split, points, initial weights, batches")
    preset: str = knob(
        "", "gconet, gconet_plus, aste or paper: start from its settings; empty: from these"
    )

    # Network
    backbone: str = knob("vgg16_bn", "encoder: a name in models/backbones.py")
    backbone_weights: str = knob("default", "default (ImageNet, downloaded), none, or a file")
    width: int = knob(64, "channels of the decoder")
    decoder: str = knob(
        "fine", "fine (deep, maps of the image's own size) or plain (of the finest features' size)"
    )
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
    keep_within: float = knob(
        1.0,
        "the latest epoch is kept whose held-out error is within so many standard errors of the "
        "lowest; 0: that of the lowest",
    )
    on_nan: str = knob(
        "stop", "a loss or gradient that is no number: stop, or skip the step (few of them)"
    )
    snapshots: int = knob(
        3, "snapshots kept along a training (where they teach or are asked, each ends a cycle)"
    )
    ensemble: str = knob(
        "snapshots",
        "whom the questions are put to: snapshots (of one training), newest (its last one alone), "
        "or deep (as many trainings from other seeds: every round that another asks after costs "
        "that many times the training and disk)",
    )
    first_cycle: float = knob(0.6, "share of the epochs before the first snapshot")
    reseed: bool = knob(
        True,
        "later trainings draw initial weights (but for --warm_start), batches and augmentation of "
        "their own; if not, they draw what a trial's first did",
    )
    warm_start: bool = knob(False, "start a round from the last one's weights, not from scratch")
    losses_dense: Weights = knob(
        {"bce": 1.0, "iou": 1.0, "ssim": 0.5}, "losses and weights for dense masks"
    )
    losses_points: Weights = knob(
        {"bce": 0.3, "iou": 0.3, "coherence": 0.1},
        "losses and weights for points; with --pseudo_alone not after the last answers",
    )
    losses_pseudo: Weights = knob(
        {"bce": 1.0, "iou": 1.0, "ssim": 0.5},
        "losses on pseudo labels, the maps of earlier snapshots; empty: there are none",
    )
    pseudo_scale: float = knob(1.25, "snapshots see images enlarged by this to make pseudo labels")
    pseudo_finer: bool = knob(
        True, "in the pictures' own detail, and cut at 256 pixels, where a training sees fewer"
    )
    pseudo_agree: bool = knob(True, "correct those maps by the answers, and what is like them")
    pseudo_colours: bool = knob(True, "correct those maps by the picture's colours")
    pseudo_cut: bool = knob(True, "then cut them along the picture's edges")
    pseudo_cut_by: str = knob("grabcut", "how: grabcut, or smoothing (within edges; faster)")
    pseudo_trust: float = knob(
        0.5,
        "least overlap (soft IoU) of a map and its cut (or itself at one half); with less an image "
        "is taught by the grey map; 0: no image is",
    )
    pseudo_alone: bool = knob(
        True, "trainings after the last answers learn from these alone, without --losses_points"
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
    rounds: int = knob(2, "rounds of questions, the first (random) one included")
    retrain: int = knob(
        1,
        "rounds after these that ask nothing: each trains again, taught by the training before "
        "(left out with --losses_pseudo '', unless with --warm_start); may be raised later",
    )
    train_every: int = knob(
        1,
        "train after the first round, every n-th one after it, and the last that asks; a round's "
        "questions go to the newest networks, whose maps --ask_agree tells all answers",
    )
    points_per_image: int = knob(10, "questions an image in all, the first round's included")
    points_per_round: str = knob(
        "", "questions of each round that asks, joined by +; empty: spread evenly"
    )
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
    attack: str = knob("none", "attack that uncovers uncertainty: a name in attacks.py, or none")
    attack_eps: float = knob(0.5, "largest change of a pixel value, in units of 1/255")
    attack_step: float = knob(0.125, "change of a pixel value per step, in units of 1/255")
    attack_steps: int = knob(5, "steps of the attack")
    attack_patches: int = knob(4, "patch attacks: the image is cut into n x n patches")
    acquisition: str = knob("margin", "uncertainty of a pixel: a name in uncertainty.py")
    ask_scale: float = knob(
        1.25,
        "snapshots see images enlarged by about this (to multiples of 32 pixels) to be asked",
    )
    ask_agree: bool = knob(True, "bring maps into agreement with earlier answers before asking")
    vote_kernel: int = knob(1, "pixels a side of the neighbourhood that votes (odd; 1: none)")
    vote_sigma: float = knob(0.1, "colour difference (0..1) at which a neighbour's vote fades")
    candidates: str = knob(
        "cells",
        "what is chosen among: superpixels (the most uncertain pixel of each) or cells (32 a side, "
        "the middle of each, by its mean uncertainty; with --diversity top_k neighbours are asked)",
    )
    candidates_percent: float = knob(25.0, "most uncertain share of an image that is considered")
    candidates_max: int = knob(500, "largest number of candidate points of an image")
    diversity: str = knob("variance_reduction", "choice among candidates: a name in diversity.py")

    # Arms run beside the points
    with_dense: bool = knob(True, "train the dense twin too (where people answer: false)")
    with_random: bool = knob(False, "train on random points too (on the sample data: true)")

    # Machine
    device: str = knob("auto", "auto, cpu, cuda or cuda:<n>")
    precision: str = knob("auto", "auto (mixed on CUDA), fp32, bf16 or fp16")
    workers: int = knob(-1, "processes that prepare batches and score maps; -1: chosen")
    deterministic: bool = knob(False, "the same result from each run on a GPU, too (slower)")
    cache_mb: int = knob(
        4096,
        "memory for decoded images, and as much for masks, of each set, MiB a process; what "
        "does not fit is read each time",
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
    def further_trainings(self) -> int:
        """Rounds that only train again: ``retrain``, but where that would change nothing.

        Without snapshots to teach it (``losses_pseudo``) or weights to go on from, each of them
        would be the last training over again, by other draws at most (``reseed``).
        """
        return self.retrain if self.losses_pseudo or self.warm_start else 0

    @property
    def round_count(self) -> int:
        """Rounds in all, those that only train again included."""
        return self.rounds + self.further_trainings

    @property
    def random_arm(self) -> bool:
        """Whether an arm of random points is run: one round alone is random anyway."""
        return self.with_random and self.rounds > 1

    @property
    def schedule(self) -> list[int]:
        """Points an image asked in each round; their sum is the label budget."""
        even, more = divmod(self.points_per_image, self.rounds)
        spread = [even + (index < more) for index in range(self.rounds)]
        given = [int(part) for part in self.points_per_round.split("+") if part]
        return (given or spread) + [0] * self.further_trainings

    @property
    def trained_rounds(self) -> list[int]:
        """Rounds after which a network is trained (``train_every``)."""
        return trained_rounds(self.rounds, self.train_every, self.further_trainings)

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
    "rounds": 2,
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
    "aste": {
        "attack": "pgd",
        "attack_eps": 0.5,
        "attack_step": 0.125,
        "attack_steps": 5,
        "acquisition": "adversarial_shift",
        "vote_kernel": 5,
        "vote_sigma": 0.1,
        "ask_scale": 1.0,
        "candidates": "superpixels",
        "candidates_percent": 5.0,
        "diversity": "facility_location",
    },
    "paper": {
        "rounds": 10,
        "retrain": 0,
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
        "vote_kernel": 5,
        "ask_scale": 1.0,
        "ask_agree": False,
        "candidates": "superpixels",
        "candidates_percent": 5.0,
        "diversity": "random_top",
        "losses_points": {"bce": 1.0},
        "losses_pseudo": {},
        "average": 0.0,
        "match_classes": False,
    },
}
"""Settings of the literature: gconet and gconet_plus are networks, their weights relative to the
first loss on the map (models/README.md tells how they follow from the published ones); aste asks
as ASTE-AL does, by an attack, snapshots, neighbours' votes and diversity, but is strict, and knows
what was answered before, which is ours; paper is ASTE-AL as published, which LEAKS the mask
(active_learning/README.md). On the sample data `SAMPLE` wins over a preset: two rounds, not ten."""

ABSENT: dict[str, Any] = {
    "decoder": "plain",
    "losses_pseudo": {},
    "pseudo_scale": 1.0,
    "pseudo_finer": False,
    "pseudo_agree": False,
    "pseudo_colours": False,
    "pseudo_trust": 0.0,
    "pseudo_alone": False,
    "keep_within": 0.0,
    "reseed": False,
    "ask_scale": 1.0,
    "ask_agree": False,
    "candidates": "superpixels",
    "average": 0.0,
    "retrain": 0,
}
"""What settings from before a field's time stand for, where it is not today's default.

For pseudo_alone and keep_within that is wrong of trials begun by commits 6975270 and 040e403 to
07c6e0b, which did as by default today before there was a setting: they go on as older ones would.
"""

FREE = {"device", "workers", "cache_mb", "testsets", "with_dense", "with_random", "runs", "on_nan"}
FREE |= {"wait", "answer_seconds"}
"""Fields that may change while a trial runs: they touch neither points nor weights."""

MAY_GROW = {"retrain"}
"""Fields that may be raised while a trial runs, or when it has ended: what is there stays valid."""

UNTIL_TRAINED = {"backbone_weights", "batch_size", "accumulate", "size"}
"""Fields that may change until a training has begun: the first round's questions know nothing of
them, and people may have answered those before it is seen that weights cannot be had, or that
memory is short."""

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
TYPES = get_type_hints(Config)

if __name__ == "__main__":
    from utils.settings import main

    run_script(main)
