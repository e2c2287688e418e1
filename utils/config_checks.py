"""Which values of the settings can be meant, alone and together; ``config.py`` has the fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from utils.errors import UserError, closest

if TYPE_CHECKING:
    from config import Config


MOST_SIDE = 2**14
"""Pixels a side, or channels, that no machine trains with: larger numbers are slips of the hand."""


CHOICES = {
    "decoder": ("fine", "plain"),
    "relation": ("none", "gam", "nonlocal", "mha"),
    "mask_operation": ("x", "+", "c"),
    "triplet_of": ("image", "masked", "both"),
    "binarise": ("none", "decoder", "refiner", "both"),
    "refiner": ("none", "map", "image"),
    "label_mode": ("pixel", "region", "region_mask"),
    "oracle": ("mask", "human"),
    "pseudo_cut_by": ("smoothing", "grabcut"),
    "ensemble": ("snapshots", "newest", "deep"),
    "first_points": ("random", "grid", "object"),
    "spend": ("image", "pool"),
    "candidates": ("cells", "superpixels"),
    "optimizer": ("adamw", "sgd"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "on_nan": ("stop", "skip"),
}
"""Words that a setting may be; names that a registry knows are looked up there."""


def check_values(config: Config, defaults: Mapping[str, Any], presets: Collection[str]) -> None:
    """Check the settings of a trial, each by itself and against the others.

    Args:
        config: the settings.
        defaults: the default of every field, which a part has that is nothing without another.
        presets: names of the presets.

    Raises:
        UserError: for the first value that cannot be meant; names its flag and the rule.
    """

    def demand(good: bool, name: str, rule: str) -> None:
        if not good:
            raise UserError(f"--{name} {getattr(config, name)}: must be {rule}")

    plain = config.trial and not set(config.trial) & set("/\\\0") and config.trial[0] not in ".-"
    demand(bool(plain), "trial", "a plain folder name, without . or - at its front")
    at_least = {"epochs": 1, "batch_size": 2, "width": 1, "snapshots": 1, "rounds": 1, "size": 32}
    at_least |= {"train_every": 1, "retrain": 0}
    at_least |= {"points_per_image": 1, "superpixels": 1, "candidates_max": 1, "workers": -1}
    at_least |= {"attack_steps": 1, "attack_patches": 1, "cache_mb": 0, "seed": 0, "accumulate": 1}
    at_least |= {"reserve": 1}
    for name, least in at_least.items():
        demand(getattr(config, name) >= least, name, f"at least {least}")
        demand(getattr(config, name) < 2**32, name, "below 2^32")
    for name in ("size", "width"):
        demand(getattr(config, name) <= MOST_SIDE, name, f"at most {MOST_SIDE}")
    for name in ("contrast", "classify", "classify_masked", "triplet", "adversarial"):
        demand(0 <= getattr(config, name) < math.inf, name, "0 or more")
    demand(0 < config.triplet_margin < math.inf, "triplet_margin", "above 0")
    demand(2 <= config.binarise_k < math.inf, "binarise_k", "a finite number of at least 2")
    for name, known in {"preset": ("", *presets), **CHOICES}.items():
        value, listed = getattr(config, name), ", ".join(filter(None, known))
        demand(value in known, name, f"one of {listed}{closest(value, known)}")
    _check_parts(config, defaults)
    for name in ("lr", "backbone_lr", "weight_decay", "clip", "keep_within"):
        demand(0 <= getattr(config, name) < math.inf, name, "0 or more")
    for name in ("attack_eps", "attack_step"):
        demand(0 <= getattr(config, name) <= 255, name, "between 0 and 255")
    if config.attack != "none":
        rule = "above 0: an attack that changes nothing tells nothing; or give --attack none"
        demand(config.attack_eps > 0, "attack_eps", rule)
    demand(0 <= config.rotate <= 180, "rotate", "between 0 and 180")
    for name in ("flip", "colour", "pepper", "average"):
        demand(0 <= getattr(config, name) <= 1, name, "between 0 and 1")
    for name in ("crop", "small_scale", "first_cycle"):
        demand(0 < getattr(config, name) <= 1, name, "above 0 and at most 1")
    demand(0.25 <= config.pseudo_scale <= 4, "pseudo_scale", "between 0.25 and 4")
    demand(1 <= config.ask_scale <= 4, "ask_scale", "between 1 and 4")
    demand(0 <= config.pseudo_trust <= 1, "pseudo_trust", "between 0 and 1")
    demand(0 < config.validation_fraction < 1, "validation_fraction", "above 0 and below 1")
    demand(0 < config.candidates_percent <= 100, "candidates_percent", "above 0 and at most 100")
    for name in ("losses_dense", "losses_points"):
        weights = getattr(config, name).values()
        good = all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0
        demand(good, name, "weights of 0 or more, one above 0, like bce=1+iou=0.5")
    for name in ("losses_others", "losses_pseudo"):
        given = getattr(config, name).values()
        good = not given or (all(0 <= weight < math.inf for weight in given) and sum(given) > 0)
        demand(good, name, "empty, or weights of 0 or more, one above 0, like bce=1")
    demand(config.vote_sigma > 0, "vote_sigma", "above 0")
    demand(config.vote_kernel % 2 == 1 and config.vote_kernel > 0, "vote_kernel", "odd")
    rule = f"at most epochs ({config.epochs}): give both"
    demand(config.snapshots <= config.epochs, "snapshots", rule)
    _check_schedule(config, demand)
    _check_oracle(config, defaults, demand)
    _check_accumulation(config)
    if config.ensemble == "deep":
        rule = "at least 2 with --ensemble deep: one network is no ensemble"
        demand(config.snapshots > 1, "snapshots", rule)
        rule = "at least 2 with --ensemble deep: after one round nobody is asked"
        demand(config.rounds > 1, "rounds", rule)


def _check_oracle(
    config: Config, defaults: Mapping[str, Any], demand: Callable[[bool, str, str], None]
) -> None:
    for name in ("answer_errors", "answer_errors_border"):
        demand(0 <= getattr(config, name) <= 1, name, "between 0 and 1")
    demand(0 <= config.answer_skips < 1, "answer_skips", "at least 0 and below 1")
    demand(0 < config.answer_seconds < math.inf, "answer_seconds", "above 0")
    most = 1 - config.answer_errors
    rule = f"at most 1 less answer_errors ({most:g}): the two shares add up on a border"
    demand(config.answer_errors_border <= most, "answer_errors_border", rule)
    simulated = [
        f"--{name} {getattr(config, name)}"
        for name in ("answer_errors", "answer_errors_border", "answer_skips")
        if getattr(config, name)
    ]
    human = config.oracle == "human"
    for flags, reason, bad in (
        (simulated, "makes mistakes by itself with --oracle human: leave it out", human),
        (
            simulated,
            "has no meaning with --label_mode region_mask, whose labels are the mask itself: "
            "choose pixel or region",
            config.label_mode == "region_mask",
        ),
        (
            ["--label_mode region_mask"],
            "reads the mask, which people do not draw: choose pixel or region with --oracle human",
            human and config.label_mode == "region_mask",
        ),
        (
            ["--first_points object"],
            "has the oracle choose pixels, but people are shown pixels with --oracle human: choose "
            "random or grid",
            human and config.first_points == "object",
        ),
        (
            ["--first_points object"],
            "has no meaning with --answer_skips: nobody points at what he cannot tell: leave one "
            "out",
            config.answer_skips and config.first_points == "object",
        ),
        (
            [f"--reserve {config.reserve}"],
            "has no meaning where every pixel can be told: give --oracle human or --answer_skips, "
            f"too, or leave it at {defaults['reserve']}",
            config.reserve != defaults["reserve"] and not config.may_skip,
        ),
        (
            ["--no_wait"],
            "has no meaning without people: give --oracle human, too, or leave it out",
            not config.wait and not human,
        ),
    ):
        if flags and bad:
            raise UserError(f"{flags[0]} {reason}")


def _check_parts(config: Config, defaults: Mapping[str, Any]) -> None:
    """Raise `UserError` for a part that has no meaning without another."""
    refines = config.refiner != "none" or config.binarise == "decoder"
    for name, other, there in (
        ("relation", "grouped", config.grouped),
        ("contrast", "relation", config.relation != "none"),
        ("classify", "grouped", config.grouped),
        ("classify_masked", "classify", config.classify),
        ("mask_operation", "classify_masked", config.classify_masked),
        ("triplet", "classify", config.classify),
        ("triplet_of", "triplet", config.triplet),
        ("triplet_of", "classify_masked", config.classify_masked),
        ("triplet_margin", "triplet", config.triplet),
        ("binarise", "refiner", refines),
        ("binarise_k", "binarise", config.binarise != "none"),
        ("pseudo_cut_by", "pseudo_cut", config.pseudo_cut),
    ):
        value, off = getattr(config, name), defaults[name]
        if value != off and not there:
            raise UserError(
                f"--{name} {value} has no meaning without {other}: give --{other}, too, or turn it "
                f"off by --{name} {off}"
            )


def _check_accumulation(config: Config) -> None:
    if config.accumulate > 1 and config.grouped:
        raise UserError(
            f"--accumulate {config.accumulate}: a batch of groups is learnt from as a whole, since "
            "its images are related: give a smaller --batch_size"
        )
    if config.batch_size < 2 * config.accumulate:
        raise UserError(
            f"--accumulate {config.accumulate}: at most half of batch_size ({config.batch_size}): "
            "batch norm needs two images in each part"
        )


def _check_schedule(config: Config, demand: Callable[[bool, str, str], None]) -> None:
    parts = config.points_per_round.split("+") if config.points_per_round else []
    demand(all(part.isdecimal() and int(part) for part in parts), "points_per_round", "like 4+3+3")
    if parts:
        total, count = config.points_per_image, config.rounds
        good = len(parts) == count and sum(map(int, parts)) == total
        demand(good, "points_per_round", f"{count} numbers (rounds) that sum to {total} (points)")
    else:
        budget = config.points_per_image
        demand(config.rounds <= budget, "rounds", f"at most points_per_image ({budget})")
    if config.first_points == "object" and (config.rounds > 1 or parts):
        raise UserError(
            "--first_points object: the objects say how many points an image gets, so there is no "
            "budget to spread over rounds: give --rounds 1 and no --points_per_round"
        )
    if config.spend == "pool" and config.rounds == 1:
        raise UserError(
            "--spend pool has no meaning with --rounds 1: nothing is known of an image before the "
            "first round: give more rounds, or turn it off by --spend image"
        )
