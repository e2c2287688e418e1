"""Every setting: its flag, its text, its values; presets and schedules."""

import dataclasses
from pathlib import Path

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import FIELDS, FREE, HUMAN, PRESETS, SAMPLE, SAMPLE_GROUPS, Config
from tests.every_setting import MINE, OTHER, flags_of, needs_of, refused
from utils import settings
from utils.cli import parse_weights
from utils.errors import UserError
from utils.settings import parse


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
        (
            ["--attack", "pgd", "--attack_eps", "0"],
            "--attack_eps 0.0: must be above 0: an attack that changes nothing",
        ),
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
        (["--trial=-x"], "--trial -x: must be a plain folder name, without . or - at its front"),
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
        (
            ["--no-pseudo_cut", "--pseudo_cut_by", "smoothing"],
            "--pseudo_cut_by smoothing has no meaning without pseudo_cut: give --pseudo_cut, too",
        ),
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
        ("losses_pseudo", {"bce": 1.0, "reg": 1.0}, "--losses_pseudo reg: looks at no label"),
        ("losses_others", {"consistency": 1.0}, "--losses_others consistency: levels make no map"),
        ("losses_points", {"coherence": 1.0, "bce": 0.0}, "--losses_points: learns nothing from"),
        ("losses_points", {"ssim": 1.0, "reg": 1.0}, "--losses_points: learns nothing from"),
        ("losses_dense", {"reg": 1.0}, "--losses_dense: learns nothing from the labels: add bce"),
        ("attack", "none", "compares a clean and an attacked prediction"),
    ],
)
def test_wrong_names_are_told_with_the_closest(field, value, told):
    config = Config(**{"acquisition": "adversarial_shift", field: value})
    with pytest.raises(UserError, match=told) as raised:
        settings.check_names(config)
    assert "\n" not in str(raised.value)


def test_the_defaults_go_together():
    settings.check_names(Config(losses_points={"ssim": 1.0}, label_mode="region"))
    settings.check_names(Config(losses_dense={"ssim": 1.0}))
    settings.check_names(Config())
    settings.check_names(Config(**SAMPLE))
    settings.check_names(Config(attack="none", acquisition="entropy"))
    assert set(SAMPLE) <= set(FIELDS)
    assert set(FIELDS) > FREE


def test_smoothing_wants_the_contrib_modules(monkeypatch):
    smoothing = Config(pseudo_cut_by="smoothing")
    settings.check_names(smoothing)
    monkeypatch.delattr(cv2, "ximgproc")
    settings.check_names(Config())
    with pytest.raises(
        UserError, match=r"no cv2\.ximgproc: install opencv-contrib-python-headless"
    ):
        settings.check_names(smoothing)


def test_a_deep_ensemble_is_not_trained_to_be_ignored():
    settings.check_names(Config(ensemble="deep"))
    with pytest.raises(UserError, match="--ensemble deep has no meaning with --acquisition random"):
        settings.check_names(Config(ensemble="deep", acquisition="random"))


@pytest.mark.parametrize("name", ["bald", "variance", "balent"])
def test_one_network_is_not_asked_how_far_networks_differ(name):
    plain = Config(acquisition=name, attack="none")
    settings.check_names(plain)
    for changes in ({"ensemble": "newest"}, {"snapshots": 1}):
        with pytest.raises(UserError, match=f"{name} tells how far networks differ, but one alone"):
            settings.check_names(dataclasses.replace(plain, **changes))
        # The attacked image makes it two predictions.
        settings.check_names(dataclasses.replace(plain, attack="pgd", **changes))
        settings.check_names(dataclasses.replace(plain, acquisition="entropy", **changes))


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


@given(st.integers(1, 60), st.data())
def test_the_schedule_sums_to_the_budget(budget, data):
    rounds = data.draw(st.integers(1, budget))
    schedule = Config(points_per_image=budget, rounds=rounds).schedule
    assert sum(schedule) == budget
    assert len(schedule) == rounds + 1
    assert schedule.pop() == 0
    assert min(schedule) >= 1
    assert max(schedule) - min(schedule) <= 1


def test_the_newest_round_before_that_is_trained():
    config = dataclasses.replace(Config(), rounds=6, train_every=2)
    assert [config.trained_before(index) for index in range(1, 6)] == [0, 0, 2, 2, 4]
    assert config.trained_before(0) is None
    config = dataclasses.replace(config, train_every=7)
    assert {config.trained_before(index) for index in range(1, 6)} == {0}


def test_a_schedule_of_ones_own():
    config = Config(points_per_image=10, rounds=3, points_per_round="4+3+3", retrain=2)
    assert config.schedule == [4, 3, 3, 0, 0]
    assert config.round_count == 5
    assert Config(points_per_image=7, rounds=3, retrain=0).schedule == [3, 2, 2]


def test_no_training_is_repeated_that_nobody_new_teaches():
    assert Config(retrain=2).further_trainings == 2
    alone = Config(retrain=2, losses_pseudo={})
    assert alone.further_trainings == 0
    assert alone.schedule == [5, 5]
    assert alone.trained_rounds == [0, 1]
    assert Config(retrain=2, losses_pseudo={}, warm_start=True).round_count == 4


def test_one_round_has_no_random_arm_beside_it():
    assert Config(with_random=True).random_arm
    assert not Config(with_random=True, rounds=1).random_arm
    assert not Config().random_arm


def test_settings_cannot_be_changed_by_accident():
    config, before = Config(), dict(Config().losses_dense)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3
    config.losses_dense["bce"] = 99.0
    assert Config().losses_dense == before


def test_aste_asks_as_the_kept_results_of_that_name_were_asked():
    kept = Path(__file__).parent.parent / "benchmarks/results/label_efficiency_aste_cpu"
    path = kept / "seed_0/default/config.json"
    then = settings.from_dict(settings.read_json(path), path.name)
    assert {name: getattr(then, name) for name in PRESETS["aste"]} == PRESETS["aste"]
    assert then.ask_agree
