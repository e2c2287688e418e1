"""Other values of every setting, as typed, and what a command line says to them."""

from __future__ import annotations

from typing import Any

import pytest

from config import TYPES, Config
from utils.errors import UserError
from utils.settings import parse

MINE = ["--data_root", "d", "--trainset", "A"]

# Two valid values for each field, as typed, and the parsed value where it is not the same text. The
# tests take one that the settings at hand do not have, so that defaults can be edited freely.
OTHER = {
    "trial": ("t 1", "t 2"),
    "runs": ("elsewhere", "runs 2"),
    "data_root": ("some/where", "else/where"),
    "trainset": ("A+B", "C"),
    "testsets": ("C", "D+E"),
    "validation_fraction": ("0.2", "0.3"),
    "seed": ("7", "8"),
    "backbone": ("resnet50", "vgg16"),
    "backbone_weights": ("w.pth", "v.pth"),
    "width": ("40", "48"),
    "decoder": ("plain", "fine"),
    "size": ("352", "384"),
    "preset": ("gconet", "gconet_plus"),
    "relation": ("nonlocal", "mha"),
    "contrast": ("2", "3"),
    "classify": ("0.2", "0.3"),
    "classify_masked": ("0.2", "0.3"),
    "mask_operation": ("+", "c"),
    "triplet": ("0.2", "0.3"),
    "triplet_of": ("masked", "both"),
    "triplet_margin": ("0.2", "0.3"),
    "binarise": ("decoder", "both"),
    "binarise_k": ("50", "60"),
    "refiner": ("map", "image"),
    "losses_pseudo": (("bce=2+iou", {"bce": 2.0, "iou": 1.0}), ("bce=3", {"bce": 3.0})),
    "pseudo_cut_by": ("grabcut", "smoothing"),
    "pseudo_scale": ("1", "2"),
    "pseudo_trust": ("0.25", "0.75"),
    "keep_within": ("0", "0.5"),
    "losses_others": (("bce=2+iou", {"bce": 2.0, "iou": 1.0}), ("bce=3", {"bce": 3.0})),
    "adversarial": ("0.2", "0.3"),
    "epochs": ("201", "202"),
    "batch_size": ("5", "6"),
    "optimizer": ("sgd", "adamw"),
    "lr": ("0.02", "0.03"),
    "backbone_lr": ("0.5", "0.25"),
    "weight_decay": ("0", "0.01"),
    "clip": ("0", "2"),
    "average": ("0", "0.2"),
    "snapshots": ("1", "2"),
    "ensemble": ("newest", "deep", "snapshots"),
    "first_cycle": ("1", "0.5"),
    "losses_dense": (("bce=2+iou", {"bce": 2.0, "iou": 1.0}), ("bce=3", {"bce": 3.0})),
    "losses_points": (("bce=1+iou=0.5", {"bce": 1.0, "iou": 0.5}), ("bce=3", {"bce": 3.0})),
    "small_scale": ("0.25", "0.75"),
    "flip": ("0", "1"),
    "crop": ("1", "0.9"),
    "rotate": ("0", "5"),
    "colour": ("1", "0"),
    "pepper": ("0", "0.5"),
    "train_every": ("2", "3"),
    "rounds": ("3", "1"),
    "retrain": ("0", "2"),
    "points_per_image": ("60", "70"),
    "first_points": ("grid", "random"),
    "spend": ("pool", "image"),
    "label_mode": ("region", "pixel"),
    "superpixels": ("300", "400"),
    "oracle": ("human", "mask"),
    "reserve": ("3", "4"),
    "answer_errors": ("0.1", "0.2"),
    "answer_errors_border": ("0.1", "0.2"),
    "answer_skips": ("0.1", "0.2"),
    "answer_seconds": ("2.5", "4"),
    "accumulate": ("2", "3"),
    "on_nan": ("skip", "stop"),
    "attack": ("none", "pgd"),
    "attack_eps": ("4", "3"),
    "attack_step": ("1", "2"),
    "attack_steps": ("2", "3"),
    "attack_patches": ("2", "3"),
    "acquisition": ("entropy", "bald"),
    "vote_kernel": ("1", "3"),
    "vote_sigma": ("0.2", "0.3"),
    "ask_scale": ("1.5", "2"),
    "candidates": ("cells", "superpixels"),
    "candidates_percent": ("100", "50"),
    "candidates_max": ("50", "60"),
    "diversity": ("none", "facility_location"),
    "device": ("cpu", "cuda"),
    "precision": ("bf16", "fp32"),
    "workers": ("0", "1"),
    "cache_mb": ("0", "1"),
}


# What some fields have no meaning without.
NEEDS = {
    "relation": "--grouped",
    "contrast": "--grouped --relation gam",
    "classify": "--grouped",
    "classify_masked": "--grouped --classify 0.5",
    "triplet": "--grouped --classify 0.5",
    "mask_operation": "--grouped --classify 0.5 --classify_masked 0.5",
    "triplet_of": "--grouped --classify 0.5 --classify_masked 0.5 --triplet 0.5",
    "triplet_margin": "--grouped --classify 0.5 --triplet 0.5",
    "binarise": "--refiner map",
    "binarise_k": "--binarise decoder",
    "data_root": "--data_root data/mine --trainset MINE",
    "reserve": "--answer_skips 0.5",
    "wait": "--oracle human",
}


def needs_of(name: str) -> list[str]:
    """The command line of a trial in which the field may have any value."""
    return NEEDS.get(name, "").split()


def flags_of(name: str, config: Config) -> tuple[list[str], Any]:
    """The command line that gives a field a value that ``config`` does not have, and that value."""
    current = getattr(config, name)
    if isinstance(current, bool):
        return [f"--no-{name}" if current else f"--{name}"], not current
    if name == "points_per_round":
        parts = ["1"] * (config.rounds - 1)
        values = tuple(
            "+".join(order)
            for first in [str(config.points_per_image - len(parts))]
            for order in ([first, *parts], [*parts, first])
        )
    else:
        values = OTHER[name]
    for value in values:
        text, parsed = value if isinstance(value, tuple) else (value, TYPES[name](value))
        if parsed != current:
            return [f"--{name}", text], parsed
    raise AssertionError(f"{name}: both values here are the settings' own")


def refused(argv: list[str], match: str) -> None:
    """Check that a command line is refused, in one line."""
    with pytest.raises(UserError, match=match) as raised:
        parse(argv, "")
    assert "\n" not in str(raised.value)
