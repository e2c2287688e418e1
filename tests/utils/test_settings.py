"""Settings of a trial: what may change in one, files, and the command line."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from config import FIELDS, FREE, SAMPLE, TYPES, Config, Weights
from tests.every_setting import MINE, flags_of, needs_of, refused
from utils import settings
from utils.errors import UserError
from utils.files import write_text
from utils.locks import held
from utils.run_folder import RunFolder
from utils.settings import from_dict, parse, resolve, save

ROOT = Path(__file__).resolve().parent.parent.parent

# Epochs that no default is.
LONG = max(Config().epochs, SAMPLE.get("epochs", 0)) + 1


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


def test_memory_that_is_short_may_be_spared_until_a_training_has_begun(runs):
    found = begin(runs)
    argv = ["--runs", str(runs), "--size", "32", "--batch_size", "6", "--accumulate", "3"]
    changed, _ = parse(argv, "")
    assert (changed.size, changed.batch_size, changed.accumulate) == (32, 6, 3)
    trained(found)
    refused(argv, "size 64 -> 32, batch_size 8 -> 6, accumulate 1 -> 3")


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


def test_further_trainings_may_follow_when_all_is_over_and_none_is_taken_back(runs):
    saved = begin(runs, "--retrain", "1")
    trained(saved)
    more, _ = parse(["--runs", str(runs), "--retrain", "3"], "")
    assert more.round_count == saved.round_count + 2
    settings.require_same(more, settings.to_dict(saved), Path("last.pth"))
    save(more)
    refused(["--runs", str(runs), "--retrain", "2"], r"config\.json: .*retrain 3 -> 2")
    with pytest.raises(UserError, match="retrain 3 -> 1"):
        settings.require_same(saved, settings.to_dict(more), Path("last.pth"))


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


def test_a_trial_may_be_renamed(runs):
    found = begin(runs, "--epochs", str(LONG))
    found.run_folder.rename(runs / "other")
    again, _ = parse(["--runs", str(runs), "--trial", "other"], "")
    assert again == dataclasses.replace(found, trial="other")
    refused(["--runs", str(runs), "--trial", "other", "--lr", "0.5"], r"settings \(lr 0")


def test_an_empty_data_root_is_the_sample(runs):
    flags = ["--runs", str(runs), "--data_root", ""]
    assert parse(flags, "")[0] == parse(flags[:2], "")[0]
    begin(runs, "--trial", "mine", "--data_root", "d", "--trainset", "A")
    assert parse([*flags, "--trial", "mine"], "")[0].data_root == "d"


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
    assert printed.out.split("\n") == [str(runs / "sample"), str(LONG), "1", "0", "0 2 4 5 6", ""]
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
        "retrain": 0,
        "pseudo_agree": False,
        "pseudo_finer": False,
        "pseudo_colours": False,
        "ask_scale": 1.0,
        "ask_agree": False,
        "candidates": "superpixels",
        "pseudo_trust": 0.0,
        "pseudo_alone": False,
        "keep_within": 0.0,
        "reseed": False,
        "decoder": "plain",
    }
    for name in then:
        del old[name]
    found = from_dict(old, "config.json")
    assert found == Config(lr=0.5, **then)
    assert Config().losses_pseudo
    assert Config().average
