"""Settings: flags, files, and what is refused."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import config as settings
from config import (
    FIELDS,
    FREE,
    HUMAN,
    PRESETS,
    SAMPLE,
    SAMPLE_GROUPS,
    TYPES,
    Config,
    Weights,
    from_dict,
    parse,
    resolve,
    save,
)
from utils.cli import parse_weights
from utils.errors import UserError
from utils.files import write_text
from utils.locks import held
from utils.run_folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent

# Epochs that no default is.
LONG = max(Config().epochs, SAMPLE.get("epochs", 0)) + 1

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
    "pseudo_scale": ("1", "2"),
    "pseudo_trust": ("0.25", "0.75"),
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
    "rounds": ("2", "1"),
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


def needs_of(name):
    """The command line of a trial in which the field may have any value."""
    return NEEDS.get(name, "").split()


def flags_of(name, config):
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


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def begin(runs, *flags):
    """Begin a trial and return its settings."""
    found, _ = parse(["--runs", str(runs), *flags], "")
    save(found)
    (found.run_folder / "round_00").mkdir()
    return found


def trained(config):
    """Leave what a training leaves."""
    write_text(RunFolder(config.run_folder).checkpoint("points", 0, "last"), "")


def refused(argv, match):
    with pytest.raises(UserError, match=match) as raised:
        parse(argv, "")
    assert "\n" not in str(raised.value)


def test_every_field_has_another_value_here():
    plain = Config()
    assert set(OTHER) <= set(FIELDS)
    for name in FIELDS:
        assert flags_of(name, plain)[1] != getattr(plain, name)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_a_flag_and_a_working_parse(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = needs_of(name)
    plain, _ = parse(base, "")
    argv, value = flags_of(name, plain)
    found, rest = parse([*base, *argv], "")
    assert getattr(found, name) == value
    assert type(getattr(found, name)) is type(getattr(plain, name))
    assert vars(rest) == {}
    follow = set(PRESETS[value]) - set(SAMPLE) | set(SAMPLE_GROUPS) if name == "preset" else set()
    follow |= set(HUMAN) if name == "oracle" else set()
    assert set(settings.differences(plain, found)) == {name, *follow}


def test_every_field_has_help_and_its_default_is_told():
    text = " ".join(settings.make_parser("About.").format_help().split())
    assert text.startswith("usage:")
    for name, field in FIELDS.items():
        assert field.metadata["help"]
        assert f"--{name}" in text
        assert " ".join(field.metadata["help"].split()) in text
    assert "SUPPRESS" not in text
    plain = Config()
    assert f"{FIELDS['backbone'].metadata['help']} (default: {plain.backbone})" in text
    assert f"{FIELDS['with_dense'].metadata['help']} (default: {plain.with_dense})" in text
    shown = text.split(f"{FIELDS['losses_points'].metadata['help']} (default: ")[1].split(")")[0]
    assert parse_weights(shown) == plain.losses_points


def test_the_sample_has_its_own_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SAMPLE, "epochs", Config().epochs + 7)
    found, _ = parse(["--size", "96"], "")
    assert found.sample
    assert found.size == 96
    assert found.epochs == SAMPLE["epochs"]
    mine, _ = parse(["--data_root", "d", "--trainset", "A"], "")
    assert not mine.sample
    assert mine.epochs == Config().epochs
    refused(["--data_root", "d"], "--trainset is missing")


HUMAN_FLAGS = ["--oracle", "human"]
SPREAD = ["--rounds", "5", "--points_per_image", "10", "--points_per_round"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--epoch", "3"], r"unknown flag --epoch; did you mean '--epochs'\?"),
        (["--bakbone=resnet18"], r"unknown flag --bakbone; did you mean '--backbone'\?"),
        (["--with-dense"], "unknown flag --with-dense; did you mean '--with_dense'"),
        (["word"], "unknown flag word"),
        (["--epochs", "many"], "--epochs: invalid int value: 'many'"),
        (["--epochs", "1.5"], "--epochs: invalid int value"),
        (["--lr", "fast"], "--lr: invalid float value"),
        (["--epochs"], "--epochs: expected one argument"),
        (["--epochs", "0"], "--epochs 0: must be at least 1"),
        (["--seed", "-1"], "--seed -1: must be at least 0"),
        (["--seed", str(2**32)], "--seed .*below 2"),
        (["--lr", "nan"], "--lr nan: must be 0 or more"),
        (["--lr", "inf"], "--lr inf: must be 0 or more"),
        (["--attack_eps", "255.5"], "--attack_eps 255.5: must be between 0 and 255"),
        (["--attack_step", "256"], "--attack_step 256.0: must be between 0 and 255"),
        (["--attack_step", "nan"], "--attack_step nan: must be between 0 and 255"),
        (["--attack_eps", "-1"], "--attack_eps -1.0: must be between 0 and 255"),
        (["--rotate", "nan"], "--rotate nan: must be between"),
        (["--rotate", "-3"], "--rotate -3.0: must be between"),
        (["--flip", "1.1"], "--flip 1.1: must be between 0 and 1"),
        (["--crop", "0"], "--crop 0.0: must be above 0"),
        (["--validation_fraction", "1"], "--validation_fraction 1.0: must be above 0"),
        (["--candidates_percent", "101"], "--candidates_percent 101"),
        (["--vote_kernel", "4"], "--vote_kernel 4: must be odd"),
        (["--vote_sigma", "0"], "--vote_sigma"),
        (["--snapshots", "10", "--epochs", "9"], "--snapshots 10: must be at most epochs"),
        (["--size", "16"], "--size 16: must be at least 32"),
        (["--size", "20000"], "--size 20000: must be at most 16384"),
        (["--width", "20000"], "--width 20000: must be at most 16384"),
        (["--cache_mb", "9" * 20], "--cache_mb 9*: must be below 2\\^32"),
        (["--optimizer", "adam"], r"--optimizer adam: .*did you mean 'adamw'\?"),
        (["--label_mode", "regions"], r"--label_mode regions: .*did you mean 'region'\?"),
        (["--precision", "fp61"], "--precision fp61: .*did you mean 'fp16'"),
        (["--on_nan", "skp"], r"--on_nan skp: .*did you mean 'skip'\?"),
        (["--accumulate", "0"], "--accumulate 0: must be at least 1"),
        (["--accumulate", "9", "--batch_size", "16"], "--accumulate 9: at most half of batch_size"),
        (["--accumulate", "2", "--grouped"], "--accumulate 2: a batch of groups .* as a whole"),
        (["--trial", "../x"], "--trial .*plain folder name"),
        (["--trial", ""], "--trial .*plain folder name"),
        (["--trial", ".."], "--trial .*plain folder name"),
        (["--ensemble", "dep"], r"--ensemble dep: .*did you mean 'deep'\?"),
        (
            ["--ensemble", "deep", "--snapshots", "1"],
            "--snapshots 1: must be at least 2 with .*deep",
        ),
        (["--ensemble", "deep", "--rounds", "1"], "--rounds 1: must be at least 2 with .*deep"),
        ([*SPREAD, "", "--rounds", "11"], "--rounds 11: must be at most points_per_image"),
        ([*SPREAD, "4+3+3"], "--points_per_round .*5 numbers"),
        ([*SPREAD, "4+2+2+2+2"], "--points_per_round .*sum to 10"),
        ([*SPREAD, "4+0+2+2+2"], r"--points_per_round 4\+0.*must be like 4\+3\+3"),
        ([*SPREAD, "4,2,2,2"], r"--points_per_round 4,.*must be like 4\+3\+3"),
        ([*SPREAD, "²+2+2+2+2"], r"--points_per_round ².*must be like 4\+3\+3"),
        ([*SPREAD, "2+2+2+2+"], r"--points_per_round 2.*must be like 4\+3\+3"),
        (["--first_points", "gird"], r"--first_points gird: .*did you mean 'grid'\?"),
        (["--first_points", "object"], "--first_points object: .*give --rounds 1 and no"),
        (
            ["--first_points", "object", "--rounds", "1", "--points_per_round", "10"],
            "--first_points object: .* no --points_per_round",
        ),
        (["--spend", "images"], r"--spend images: .*did you mean 'image'\?"),
        (["--spend", "pool", "--rounds", "1"], "--spend pool has no meaning with --rounds 1:"),
        (["--oracle", "humans"], r"--oracle humans: .*did you mean 'human'\?"),
        (["--reserve", "0"], "--reserve 0: must be at least 1"),
        (["--reserve", "3"], "--reserve 3 has no meaning where every pixel can be told"),
        (["--no_wait"], "--no_wait has no meaning without people: give --oracle human"),
        (["--answer_errors", "1.1"], "--answer_errors 1.1: must be between 0 and 1"),
        (["--answer_errors", "nan"], "--answer_errors nan: must be between 0 and 1"),
        (["--answer_errors_border", "-1"], "--answer_errors_border -1.0: must be between"),
        (
            ["--answer_errors", "0.4", "--answer_errors_border", "0.7"],
            "--answer_errors_border 0.7: must be at most 1 less answer_errors .0.6.",
        ),
        (["--answer_skips", "1"], "--answer_skips 1.0: must be at least 0 and below 1"),
        (["--answer_seconds", "0"], "--answer_seconds 0.0: must be above 0"),
        (
            ["--answer_skips", "0.1", "--label_mode", "region_mask"],
            "--answer_skips 0.1 has no meaning with --label_mode region_mask",
        ),
        (
            ["--answer_skips", "0.1", "--first_points", "object", "--rounds", "1"],
            "--first_points object has no meaning with --answer_skips",
        ),
        ([*HUMAN_FLAGS, "--answer_errors", "0.1"], "--answer_errors 0.1 makes mistakes by itself"),
        ([*HUMAN_FLAGS, "--answer_skips", "0.1"], "--answer_skips 0.1 makes mistakes by itself"),
        ([*HUMAN_FLAGS, "--answer_errors_border", "0.1"], "_border 0.1 makes mistakes by itself"),
        ([*HUMAN_FLAGS, "--preset", "paper"], "--label_mode region_mask reads the mask, which"),
        (
            [*HUMAN_FLAGS, "--first_points", "object", "--rounds", "1"],
            "--first_points object has the oracle choose pixels, but people are shown",
        ),
        (["--losses_points", "bce=much"], "--losses_points: weight 'much' of 'bce'"),
        (["--losses_points", "bce=1=2"], "--losses_points: weight '1=2' of 'bce'"),
        (["--losses_points", "bce=1+bce=2"], "--losses_points: 'bce' is given twice"),
        (["--losses_points", "bce=nan"], "--losses_points .*must be weights"),
        (["--losses_points", "bce=-1"], "--losses_points .*must be weights"),
        (["--losses_dense", "bce=0"], "--losses_dense .*must be weights"),
        (["--losses_dense", ""], "--losses_dense .*must be weights"),
        (["--losses_others", "bce=0"], "--losses_others .*must be empty, or weights"),
        (["--losses_others", "bce=-1"], "--losses_others .*must be empty, or weights"),
        (["--losses_pseudo", "bce=0"], "--losses_pseudo .*must be empty, or weights"),
        (["--contrast", "-1"], "--contrast -1.0: must be 0 or more"),
        (["--adversarial", "nan"], "--adversarial nan: must be 0 or more"),
        (["--triplet", "inf"], "--triplet inf: must be 0 or more"),
        (["--triplet_margin", "0"], "--triplet_margin 0.0: must be above 0"),
        (["--binarise_k", "1"], "--binarise_k 1.0: must be a finite number of at least 2"),
        (["--binarise_k", "inf"], "--binarise_k inf: must be a finite number"),
        (["--preset", "gconet+"], r"--preset gconet\+: must be one of .*did you mean 'gconet'\?"),
        (["--relation", "gamm"], r"--relation gamm: .*did you mean 'gam'\?"),
        (["--mask_operation", "*"], r"--mask_operation \*: must be one of x, \+, c"),
        (["--triplet_of", "mask"], r"--triplet_of mask: .*did you mean 'masked'\?"),
        (["--binarise", "decode"], r"--binarise decode: .*did you mean 'decoder'\?"),
        (["--refiner", "images"], r"--refiner images: .*did you mean 'image'\?"),
        (["--relation", "gam"], "--relation gam has no meaning without grouped: give --grouped"),
        (["--grouped", "--contrast", "2"], "--contrast 2.0 has no meaning without relation"),
        (["--classify", "1"], "--classify 1.0 has no meaning without grouped"),
        (["--grouped", "--classify_masked", "1"], "--classify_masked .* without classify:"),
        (["--grouped", "--triplet", "1"], "--triplet 1.0 has no meaning without classify:"),
        (
            ["--grouped", "--classify", "1", "--triplet", "1", "--triplet_of", "both"],
            "--triplet_of both has no meaning without classify_masked:",
        ),
        (["--binarise", "both"], "--binarise both has no meaning without refiner:"),
        (["--binarise_k", "50"], "--binarise_k 50.0 .* without binarise: .*_k 300"),
        (["--mask_operation", "c"], "--mask_operation c .* without classify_masked"),
        (["--triplet_margin", "1"], "--triplet_margin 1.0 has no meaning without triplet:"),
        (["--preset", "gconet", "--no-grouped"], "--relation gam has no meaning without grouped"),
    ],
)
def test_values_that_cannot_be_meant(argv, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(argv, told)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("backbone", "resnet81", r"unknown backbone 'resnet81'; did you mean 'resnet18'\?"),
        ("attack", "pdg", r"unknown attack 'pdg'; did you mean 'pgd'\?"),
        ("acquisition", "entropi", r"unknown acquisition function .*'entropy'\?"),
        ("diversity", "facility", r"unknown diversity rule .*'facility_location'\?"),
        ("losses_points", {"coherense": 1.0}, r"unknown loss .*'coherence'\?"),
        ("losses_dense", {"uoi": 1.0}, "unknown loss 'uoi'"),
        ("losses_pseudo", {"coherence": 1.0}, "--losses_pseudo coherence: looks at no label"),
        ("attack", "none", "compares a clean and an attacked prediction"),
    ],
)
def test_wrong_names_are_told_with_the_closest(field, value, told):
    config = Config(**{"acquisition": "adversarial_shift", field: value})
    with pytest.raises(UserError, match=told) as raised:
        settings.check_names(config)
    assert "\n" not in str(raised.value)


def test_the_defaults_go_together():
    settings.check_names(Config())
    settings.check_names(Config(**SAMPLE))
    settings.check_names(Config(attack="none", acquisition="entropy"))
    assert set(SAMPLE) <= set(FIELDS)
    assert set(FIELDS) > FREE


MINE = ["--data_root", "d", "--trainset", "A"]


def test_a_deep_ensemble_is_not_trained_to_be_ignored():
    settings.check_names(Config(ensemble="deep"))
    with pytest.raises(UserError, match="--ensemble deep has no meaning with --acquisition random"):
        settings.check_names(Config(ensemble="deep", acquisition="random"))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_where_the_settings_start_from(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset = PRESETS[name]
    plain, _ = parse(MINE, "")
    found, _ = parse([*MINE, "--preset", name], "")
    changed = settings.differences(plain, found)
    assert {key: new for key, (_, new) in changed.items()} | preset == {**preset, "preset": name}
    settings.check_names(found)
    # Flags are stronger than the preset, and the sample's size is stronger too.
    assert parse([*MINE, "--preset", name, "--epochs", "7"], "")[0].epochs == 7
    sample = parse(["--preset", name], "")[0]
    sets = SAMPLE_GROUPS if found.grouped else SAMPLE
    assert (sample.size, sample.trainset) == (SAMPLE["size"], sets["trainset"])


def test_presets_are_of_values_that_can_be_meant():
    for preset in PRESETS.values():
        config = Config(**preset)
        assert all(type(value) is type(getattr(Config(), k)) for k, value in preset.items())
        settings.check_names(config)


def test_a_preset_given_later_is_followed_or_refused(runs):
    argv = ["--runs", str(runs), *MINE]
    found = begin(runs, *MINE, "--preset", "gconet", "--lr", "0.5")
    assert parse(["--runs", str(runs), "--preset", "gconet"], "")[0] == found
    later = ["--runs", str(runs), "--preset", "gconet_plus"]
    refused(later, "preset gconet -> gconet_plus, .*binarise none -> decoder.*losses_others")
    # Nothing has been made of the settings yet: they are those of the new preset throughout.
    (found.run_folder / "round_00").rmdir()
    changed, _ = parse(later, "")
    fresh, _ = parse([*argv, "--trial", "fresh", "--preset", "gconet_plus", "--lr", "0.5"], "")
    assert set(settings.differences(changed, fresh)) == {"trial"}


@given(st.integers(1, 60), st.data())
def test_the_schedule_sums_to_the_budget(budget, data):
    rounds = data.draw(st.integers(1, budget))
    schedule = Config(points_per_image=budget, rounds=rounds).schedule
    assert sum(schedule) == budget
    assert len(schedule) == rounds
    assert min(schedule) >= 1
    assert max(schedule) - min(schedule) <= 1


def test_the_newest_round_before_that_is_trained():
    config = dataclasses.replace(Config(), rounds=6, train_every=2)
    assert [config.trained_before(index) for index in range(1, 6)] == [0, 0, 2, 2, 4]
    assert config.trained_before(0) is None
    config = dataclasses.replace(config, train_every=7)
    assert {config.trained_before(index) for index in range(1, 6)} == {0}


def test_a_schedule_of_ones_own():
    config = Config(points_per_image=10, rounds=3, points_per_round="4+3+3")
    assert config.schedule == [4, 3, 3]
    assert Config(points_per_image=7, rounds=3).schedule == [3, 2, 2]


def test_saved_settings_rule(runs):
    first = begin(runs, "--epochs", str(LONG), "--losses_points", "bce=1+coherence=0.5")
    again, _ = parse(["--runs", str(runs)], "")
    assert again == first
    # The same value given again is no change.
    assert parse(["--runs", str(runs), "--epochs", str(LONG)], "")[0] == first
    assert parse(["--runs", str(runs), "--lr", f"{first.lr:e}"], "")[0] == first
    # Another trial begins anew.
    assert parse(["--runs", str(runs), "--trial", "other"], "")[0].epochs != LONG


def test_edited_defaults_do_not_reach_a_trial_that_has_begun(runs, monkeypatch):
    before = begin(runs).epochs
    monkeypatch.setitem(SAMPLE, "epochs", LONG)
    assert parse(["--runs", str(runs)], "")[0].epochs == before != LONG


def test_settings_may_change_until_a_stage_has_left_something(runs):
    found = begin(runs)
    (found.run_folder / "round_00").rmdir()
    assert parse(["--runs", str(runs), "--lr", "0.5"], "")[0].lr == 0.5


def test_weights_that_cannot_be_had_may_be_changed_until_a_training_has_begun(runs):
    found = begin(runs)
    run = RunFolder(found.run_folder)
    argv = ["--runs", str(runs), "--backbone_weights", "other.pth"]
    assert parse(argv, "")[0].backbone_weights == "other.pth"
    refused([*argv, "--lr", "0.5"], r"other settings \(lr 0\.001 -> 0\.5\): give the trial")
    with held(run.lock("points"), "the points arm"):
        refused(argv, "backbone_weights none -> other.pth")
    trained(found)
    refused(argv, "backbone_weights none -> other.pth")


def test_who_is_told_to_delete_a_trial_is_told_of_its_answers(runs):
    run = RunFolder(begin(runs).run_folder)
    argv = ["--runs", str(runs), "--lr", "0.5"]
    refused(argv, "delete its folder to begin")
    write_text(run.journal, "")
    refused(argv, "delete its folder, with what people answered, to begin")


def test_a_trial_begun_on_the_sample_by_mistake_is_not_left_with_its_settings(runs):
    # --data_root was forgotten: the sample's settings are saved, and then nothing is found there.
    save(parse(["--runs", str(runs), "--trainset", "MINE", "--size", "96"], "")[0])
    data = ["--runs", str(runs), "--data_root", "mine"]
    found, _ = parse(data, "")
    assert (found.trainset, found.size) == ("MINE", 96)
    wanted = Config(runs=str(runs), data_root="mine", trainset="MINE", size=96)
    assert found == wanted
    save(parse(["--runs", str(runs), "--trainset", "SAMPLE-TR"], "")[0])
    refused(data, "--trainset is missing")


def test_too_few_pictures_are_told_before_anything_is_asked(runs, tmp_path):
    folder = tmp_path / "data" / "images" / "MINE"
    folder.mkdir(parents=True)
    argv = ["--runs", str(runs), "--data_root", str(tmp_path / "data"), "--trainset", "MINE"]
    for name, told in (("a", "1 image: at least 3"), ("b", "2 images: at least 3"), ("c", None)):
        (folder / f"{name}.png").write_bytes(b"")
        if told is None:
            assert settings.main([*argv, "--save"]) == 0
        else:
            with pytest.raises(UserError, match=f"MINE: {told} are needed"):
                settings.main([*argv, "--save"])


def test_a_misspelt_trial_is_not_begun(runs):
    begin(runs, "--trial", "mine")
    refused(["--runs", str(runs), "--trial", "mnie"], r"no trial 'mnie' .* did you mean 'mine'\?")
    # With a setting it is meant as a new one: t11 beside t10.
    assert parse(["--runs", str(runs), "--trial", "mnie", "--seed", "3"], "")[0].seed == 3


def test_the_sample_settings_hold_where_the_sample_data_are_named(runs):
    named, _ = parse(["--runs", str(runs), "--data_root", SAMPLE["data_root"]], "")
    assert named == parse(["--runs", str(runs)], "")[0]


@pytest.mark.parametrize("name", sorted(set(FIELDS) - FREE - {"trial"}))
def test_a_changed_flag_is_refused_with_old_and_new(name, runs):
    old = begin(runs, *needs_of(name))
    trained(old)
    argv, value = flags_of(name, old)
    told = rf"config\.json: .*{name} {re.escape(str(getattr(old, name)))} -> "
    refused(["--runs", str(runs), *argv], told + re.escape(str(value)))


@pytest.mark.parametrize("name", sorted(FREE - {"runs"}))
def test_free_fields_may_change_and_stay_changed(name, runs):
    argv, value = flags_of(name, begin(runs, *needs_of(name)))
    changed, _ = parse(["--runs", str(runs), *argv], "")
    assert getattr(changed, name) == value
    save(changed)
    assert getattr(parse(["--runs", str(runs)], "")[0], name) == value


def test_runs_may_be_moved(runs, tmp_path, monkeypatch):
    begin(runs)
    moved = tmp_path / "moved"
    runs.rename(moved)
    found, _ = parse(["--runs", str(moved)], "")
    assert found.run_folder == moved / "sample"
    # Found in the default folder, they are used there, not where they once were.
    monkeypatch.chdir(tmp_path)
    moved.rename("runs")
    assert parse([], "")[0].run_folder == Path("runs/sample")


def test_saving_twice_leaves_the_file_alone(runs):
    config = begin(runs)
    path = runs / "sample" / "config.json"
    os.utime(path, (1, 1))
    assert save(config) == path
    assert path.stat().st_mtime == 1
    assert json.loads(path.read_text()) == dataclasses.asdict(config)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([], "holds no settings"),
        ("text", "holds no settings"),
        (None, "holds no settings"),
        ({"epoch": 3}, r"unknown setting 'epoch'; did you mean 'epochs'\?"),
        ({"epochs": "3"}, "epochs = '3' is not of type int"),
        ({"epochs": 3.0}, "epochs = 3.0 is not of type int"),
        ({"epochs": True}, "epochs = True is not of type int"),
        ({"epochs": None}, "epochs = None is not of type int"),
        ({"lr": "0.1"}, "lr = '0.1' is not of type float"),
        ({"lr": False}, "lr = False is not of type float"),
        ({"warm_start": 1}, "warm_start = 1 is not of type bool"),
        ({"trial": 3}, "trial = 3 is not of type str"),
        ({"losses_dense": "bce=1"}, "losses_dense = 'bce=1' is not of type name=weight"),
        ({"losses_dense": {"bce": "1"}}, "losses_dense .*name=weight"),
        ({"losses_dense": {"bce": True}}, "losses_dense .*name=weight"),
        ({"losses_dense": ["bce"]}, "losses_dense .*name=weight"),
        ({"epochs": -1}, "--epochs -1: must be at least 1"),
    ],
)
def test_files_with_wrong_content(values, told):
    with pytest.raises(UserError, match=told) as raised:
        from_dict(values, "a.json")
    assert "\n" not in str(raised.value)
    if not str(raised.value).startswith("--"):
        assert str(raised.value).startswith("a.json: ")


def test_files_are_read_back():
    config = Config(**SAMPLE)
    through_json = json.loads(json.dumps(settings.to_dict(config)))
    assert from_dict(through_json, "a.json") == config
    found = from_dict({"lr": 1, "losses_dense": {"bce": 1}}, "a.json")
    assert type(found.lr) is float
    assert found.epochs == Config().epochs
    assert all(kind in (str, int, float, bool, Weights) for kind in TYPES.values())


def test_a_damaged_file_is_told_by_path(runs):
    begin(runs)
    path = runs / "sample" / "config.json"
    path.write_text(path.read_text()[:-20])
    refused(["--runs", str(runs)], re.escape(str(path)) + ".*not readable as JSON")


def test_settings_cannot_be_changed_by_accident():
    config, before = Config(), dict(Config().losses_dense)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3
    config.losses_dense["bce"] = 99.0
    assert Config().losses_dense == before


def test_where_people_answer_no_masks_are_needed_unless_asked_for(runs):
    flags = ["--runs", str(runs), "--oracle", "human"]
    assert parse(flags[:2], "")[0].with_dense
    assert not parse(flags, "")[0].with_dense
    assert parse([*flags, "--with_dense"], "")[0].with_dense
    # In a trial that has not begun, the default follows, and what was chosen apart stays.
    save(parse(flags[:2], "")[0])
    assert not parse(flags, "")[0].with_dense
    save(parse([*flags, "--with_dense"], "")[0])
    assert parse(flags[:2], "")[0].with_dense
    assert parse(flags, "")[0].with_dense


def test_both_spellings_of_no(runs):
    for flag in ("--no_with_dense", "--no-with_dense"):
        assert not parse(["--runs", str(runs), flag], "")[0].with_dense
    assert parse(["--runs", str(runs), "--no_with_dense", "--with_dense"], "")[0].with_dense
    found, _ = parse(["--runs", str(runs), "--oracle", "human", "--no_wait"], "")
    assert not found.wait
    assert "--no_" not in settings.make_parser("").format_help()
    refused(["--no_epochs"], "unknown flag --no_epochs")


def test_resolve_reads_only_the_trials_own_file(runs):
    begin(runs, "--trial", "a", "--epochs", str(LONG))
    assert resolve({"runs": str(runs), "trial": "b"}).epochs != LONG
    assert resolve({"runs": str(runs), "trial": "a"}).epochs == LONG


def test_main_prints_and_saves(runs, capsys):
    argv = ["--runs", str(runs), "--epochs", str(LONG), "--with_dense", "--no-warm_start"]
    argv += ["--rounds", "6", "--train_every", "2"]
    assert settings.main([*argv, "--show"]) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == LONG
    assert not runs.exists()
    names = ["run_folder", "epochs", "with_dense", "warm_start", "trained_rounds"]
    settings.main([*argv, "--save", "--print", *names])
    printed = capsys.readouterr()
    assert printed.out.split("\n") == [str(runs / "sample"), str(LONG), "1", "0", "0 2 4 5", ""]
    assert f"epochs = {LONG}" in printed.err
    assert (runs / "sample" / "config.json").exists()
    with pytest.raises(UserError, match=r"--print epoch: .*did you mean 'epochs'\?"):
        settings.main([*argv, "--print", "epoch"])


def test_the_command_line_tells_faults_in_one_line(runs):
    command = [sys.executable, "config.py", "--runs", str(runs), "--losses_points", "bce=x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"error: argument --losses_points: weight 'x' [^\n]*\n", done.stderr)


def test_a_difference_to_a_trial_that_is_not_there_is_refused(tmp_path):
    save(Config(runs=str(tmp_path), trial="a", data_root="D", trainset="T"))
    other = str(tmp_path / "a" / "config.json")
    with pytest.raises(UserError, match="no such trial: check --trial and --runs"):
        settings.main([*MINE, "--runs", str(tmp_path), "--trial", "zzz", "--diff", other])


def test_differences_to_another_trial_are_told(tmp_path, capsys):
    for name, epochs in (("a", 7), ("b", 8)):
        save(Config(runs=str(tmp_path), trial=name, data_root="D", trainset="T", epochs=epochs))
    other = str(tmp_path / "b" / "config.json")
    settings.main(["--runs", str(tmp_path), "--trial", "a", "--diff", other])
    assert capsys.readouterr().out.splitlines() == [
        "trial: b there, a here",
        "epochs: 8 there, 7 here",
    ]


def test_settings_from_before_a_field_mean_what_they_meant():
    old = settings.to_dict(Config(lr=0.5))
    then = {"losses_pseudo": {}, "pseudo_scale": 1.0, "average": 0.0, "spend": "image"}
    then |= {
        "pseudo_agree": False,
        "pseudo_colours": False,
        "ask_agree": False,
        "pseudo_trust": 0.0,
    }
    for name in then:
        del old[name]
    found = from_dict(old, "config.json")
    assert found == Config(lr=0.5, **then)
    assert Config().losses_pseudo
    assert Config().average
