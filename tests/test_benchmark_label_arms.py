"""The arms of the label-efficiency experiment: their settings, and what they share."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks.label_arms import (
    ARMS,
    ASKS_LATER,
    BASE_TRIAL,
    BUDGETS,
    PEOPLE,
    ROUNDS,
    Arm,
    as_flags,
    choose_arms,
    fault_of,
    flags_of,
    fresh,
    parse_seeds,
    plan,
    shares_first_round,
)
from config import FIELDS, FREE, PRESETS, Config
from utils import settings
from utils.errors import UserError


@pytest.mark.parametrize("name", ARMS)
def test_the_settings_of_every_arm_can_be_meant(name: str, tmp_path: Path) -> None:
    arm = ARMS[name]
    assert fault_of(flags_of({}, arm, name, 0, tmp_path)) == ""


def test_arms_named_elsewhere_exist() -> None:
    assert {*ROUNDS, *(name for names in BUDGETS.values() for name in names)} <= set(ARMS)
    assert BASE_TRIAL not in ARMS


def test_flags_are_read_as_the_settings_they_stand_for(tmp_path: Path) -> None:
    for name, arm in ARMS.items():
        fields = {k: v for k, v in arm.settings.items() if k in FIELDS}
        parsed = vars(settings.make_parser("").parse(as_flags(fields)))
        assert parsed == fields, name
    fields = {"lr": 0.00012345678, "losses_points": {"bce": 1 / 3}}
    assert vars(settings.make_parser("").parse(as_flags(fields))) == fields


def changed(config: Config, name: str) -> Config:
    """Return the settings with another value of a field, whether or not it can be meant."""
    other = copy.copy(config)
    value = getattr(config, name)
    text = "6+1+1+1+1" if name == "points_per_round" else "other"
    object.__setattr__(other, name, text if isinstance(value, (str, dict)) else not value)
    return other


@pytest.mark.parametrize("name", FIELDS)
def test_the_first_round_is_shared_if_no_field_it_depends_on_differs(name: str) -> None:
    base = Config(trainset="A")
    harmless = name in {*ASKS_LATER, *FREE, "trial", "ensemble"}
    assert shares_first_round(base, changed(base, name)) == harmless


def test_a_deep_ensemble_shares_its_first_round_with_its_like_alone() -> None:
    one, deep = Config(trainset="A"), Config(trainset="A", ensemble="deep")
    assert not shares_first_round(one, deep)
    assert not shares_first_round(deep, one)
    assert shares_first_round(deep, dataclasses.replace(deep, acquisition="bald"))


def test_a_first_round_of_as_many_points_is_shared() -> None:
    base = Config(trainset="A", rounds=2)

    def shares(**changes: Any) -> bool:
        other = dataclasses.replace(base, **changes)
        return shares_first_round(base, other) and shares_first_round(other, base)

    assert shares(rounds=4, points_per_round="5+2+2+1", train_every=3)
    assert not shares(rounds=3)
    assert not shares(rounds=1, points_per_image=5)


@pytest.mark.parametrize(
    "flags", [{}, {"rounds": 5, "superpixels": 9, "losses_points": {"iou": 1}}]
)
def test_the_published_recipe_has_the_rounds_of_the_base_and_all_else_its_own(
    flags: dict[str, Any], tmp_path: Path
) -> None:
    given = flags_of({"trainset": "A", "data_root": "D", **flags}, ARMS["paper"], "p", 0, tmp_path)
    found, published = fresh(given), {**PRESETS["paper"], "rounds": flags.get("rounds", 2)}
    assert {name: getattr(found, name) for name in published} == published
    assert found.points_per_image == 10


def test_arms_of_one_setting_are_one_trial(tmp_path: Path) -> None:
    names = ["default", "random", "ours_1", "ours_10", "random_1", "random_10", "rounds_2", "dense"]
    planned, faults = plan(names, {}, [0, 1], tmp_path)
    assert not faults
    trials = {one.arm: one.trial for one in planned}
    assert trials == {
        "default": "default",
        "ours_10": "default",
        "rounds_2": "default",
        "random": "random",
        "random_10": "random",
        "ours_1": "ours_1",
        "random_1": "ours_1",
        "dense": BASE_TRIAL,
    }
    assert {(one.arm, one.seed) for one in planned} == {(n, s) for n in names for s in (0, 1)}
    other = {one.arm: one.trial for one in plan(names, {"rounds": 5}, [0], tmp_path)[0]}
    assert other["rounds_2"] == "ours_10" != other["default"]


def test_an_unknown_arm_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARMS, "odd", Arm("", {"no_such_field": 1}))
    monkeypatch.setitem(ARMS, "odder", Arm("", {"acquisition": "guess"}))
    planned, faults = plan(["odd", "odder", "margin"], {}, [0], tmp_path)
    assert [one.arm for one in planned] == ["margin"]
    assert "no_such_field" in faults["odd"]
    assert "'guess'" in faults["odder"]


def test_seeds_and_arms_as_given() -> None:
    assert parse_seeds("3") == [0, 1, 2]
    assert parse_seeds("0,2") == [0, 2]
    assert parse_seeds("2,") == [2]
    for text in ("0", "", "a", "-1", "1.5"):
        with pytest.raises(UserError, match="--seeds"):
            parse_seeds(text)
    assert choose_arms("random,dense") == ["dense", "random"]
    erring = {arm for names in PEOPLE.values() for arm in names} - {"default", "random"}
    assert choose_arms("") == [arm for arm in ARMS if arm not in erring]
    assert len(erring) == 12
    with pytest.raises(UserError, match="did you mean 'margin'"):
        choose_arms("margins")
