"""Faults of the user: one line that names the file and the remedy, exit code 2, nothing lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import active_learning.__main__ as asking
import evaluate
import select_best
import test as testing
import train
from utils import settings
from utils.checkpoints import load_checkpoint, save_checkpoint
from utils.errors import UserError, run_script

ROOT = Path(__file__).resolve().parent.parent
MAINS = {
    "ask": asking.main,
    "train": train.main,
    "test": testing.main,
    "evaluate": evaluate.main,
    "select_best": select_best.main,
}


def run_main(
    stage: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[str]]:
    """Run a stage as its script does; return the exit code and the lines that tell errors."""
    with pytest.raises(SystemExit) as left:
        run_script(lambda: MAINS[stage](flags))
    told = capsys.readouterr().err.splitlines()
    return left.value.code, [line for line in told if line.startswith("error:")]


def fails(stage: str, flags: list[str], capsys: pytest.CaptureFixture[str], *needles: str) -> None:
    """The stage leaves with 2 and one line that holds every needle."""
    code, told = run_main(stage, flags, capsys)
    assert code == 2
    assert len(told) == 1
    for needle in needles:
        assert needle in told[0]


@pytest.fixture
def copied(sample_root: Path, tmp_path: Path) -> Path:
    """A copy of the sample data that may be spoilt."""
    return Path(shutil.copytree(sample_root, tmp_path / "spoilt"))


@pytest.mark.parametrize("stage", list(MAINS))
def test_wrong_flag_names_the_closest(
    stage: str, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fails(stage, [*tiny, "--bacbone", "vgg16"], capsys, "--bacbone", "--backbone")


@pytest.mark.parametrize(
    ("flags", "needles"),
    [
        (["--backbone", "resnet-50"], ["resnet-50", "resnet50"]),
        (["--acquisition", "adverserial_shift"], ["adversarial_shift"]),
        (["--diversity", "facility"], ["facility_location"]),
        (["--attack", "pdg"], ["pgd"]),
        (["--acquisition", "adversarial_shift"], ["--attack", "adversarial_shift"]),
        (["--losses_points", "bce=1+coherance=1"], ["coherence"]),
        (["--label_mode", "regions"], ["region"]),
        (["--size", "many"], ["--size", "many"]),
        (["--rounds", "99"], ["--rounds 99"]),
        (["--points_per_round", "1+1"], ["--points_per_round", "sum to 4"]),
        (["--device", "cuda:77"], ["cuda:77", "cpu"]),
    ],
)
def test_wrong_values(
    flags: list[str], needles: list[str], tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = [*tiny] if "--device" not in flags else tiny[: tiny.index("--device")]
    fails("train", [*kept, "--arm", "dense", *flags], capsys, *needles)


def test_missing_data_root(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    fails("ask", [*tiny, "--data_root", "nowhere"], capsys, "nowhere", "--data_root")


def test_unknown_set(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    fails("ask", [*tiny, "--trainset", "SAMPLE-TRR"], capsys, "SAMPLE-TRR", "SAMPLE-TR")


def test_set_without_images(
    tiny: list[str], copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / "images/SAMPLE-TR")
    (copied / "images/SAMPLE-TR").mkdir()
    fails("ask", [*tiny, "--data_root", str(copied)], capsys, "SAMPLE-TR", "no images")


def test_image_without_mask(
    tiny: list[str], copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = sorted((copied / "gts/SAMPLE-TR").iterdir())[3]
    mask.unlink()
    flags = [*tiny, "--data_root", str(copied)]
    fails("train", [*flags, "--arm", "dense"], capsys, mask.stem)


def test_one_corrupt_file_among_many(
    tiny: list[str], copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = sorted((copied / "images/SAMPLE-TR").iterdir())[5]
    image.write_bytes(image.read_bytes()[:500])
    fails("ask", [*tiny, "--data_root", str(copied)], capsys, image.name, "datasets.check")


def test_points_file_edited_by_hand(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    asking.main(tiny)
    runs = Path(tiny[tiny.index("--runs") + 1])
    points = runs / "tiny/round_00/points.csv"
    text = points.read_text()
    first = text.splitlines()[1].split(",")
    for line, needles in (
        (f"{first[0]},9999,0,1,0", ["(9999, 0)", first[0]]),
        ("sample_0000X.jpg,1,1,1,0", ["sample_0000X.jpg"]),
        (f"{first[0]},1,1,2,0", ["label 2", "line"]),
        (f"{first[0]},one,1,1,0", ["line"]),
    ):
        points.write_text(text + line + "\n")
        fails("train", tiny, capsys, str(points), *needles)
    points.write_text(text)
    train.main(tiny)


def test_checkpoints_of_another_architecture_damaged_or_foreign(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*tiny, "--arm", "dense"])
    runs = Path(tiny[tiny.index("--runs") + 1])
    good = runs / "tiny/dense/checkpoints/best.pth"
    state = load_checkpoint(good)
    other, cut, foreign = tmp_path / "other.pth", tmp_path / "cut.pth", tmp_path / "foreign.pth"
    save_checkpoint(other, {**state, "config": {**state["config"], "backbone": "resnet18"}})
    cut.write_bytes(good.read_bytes()[:5000])
    torch.save({"weight": torch.zeros(3)}, foreign)
    images = Path(tiny[tiny.index("--data_root") + 1]) / "images/SAMPLE-TE"
    base = [*tiny, "--input", str(images), "--output", str(tmp_path / "maps"), "--checkpoint"]
    fails("test", [*base, str(other)], capsys, "other.pth", "another architecture")
    fails("test", [*base, str(cut)], capsys, "cut.pth", "damaged")
    fails("test", [*base, str(foreign)], capsys, "foreign.pth", "not a checkpoint")
    fails("test", [*base, str(tmp_path / "none.pth")], capsys, "none.pth", "no such")


def test_a_checkpoint_of_other_switches_is_not_trained_on(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*tiny, "--arm", "dense"])
    folder = Path(tiny[tiny.index("--runs") + 1]) / "tiny/dense"
    last = folder / "checkpoints/last.pth"
    state = load_checkpoint(last)
    switched = {"grouped": True, "relation": "mha", "trial": "another", "workers": 3}
    save_checkpoint(last, {**state, "config": {**state["config"], **switched}})
    (folder / "trained.json").unlink()
    told = "grouped True -> False, relation mha -> none):"
    fails("train", [*tiny, "--arm", "dense"], capsys, "last.pth", told)
    assert load_checkpoint(last)["config"]["relation"] == "mha"


def test_stages_in_the_wrong_order_say_what_to_run(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fails("train", tiny, capsys, "points.csv", "first")
    fails("ask", [*tiny, "--round", "1"], capsys, "points.csv")
    fails("test", tiny, capsys, "train.py")
    fails("evaluate", tiny, capsys, "test.py")
    fails("select_best", tiny, capsys, "scores.csv")


def test_changed_settings_are_refused_and_nothing_is_lost(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asking.main(tiny)
    runs = Path(tiny[tiny.index("--runs") + 1])
    before = (runs / "tiny/config.json").read_bytes()
    fails("train", [*tiny, "--lr", "0.5"], capsys, "lr 0.001 -> 0.5", "config.json")
    assert (runs / "tiny/config.json").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    fails("ask", [*tiny, "--runs", str(locked / "runs")], capsys, "permission")


def test_disk_full_while_saving_keeps_the_last_whole_epoch(tiny: list[str], tmp_path: Path) -> None:
    """A disk of 4 MiB takes the first files and no checkpoint; a larger one goes on."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        command = [sys.executable, str(ROOT / "train.py"), *tiny, "--arm", "dense"]
        command += ["--runs", str(small)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert len(told) == 1
        assert "cannot write" in told[0]
        assert "disk" in told[0]
        assert not list(small.rglob("*.pth"))
        assert (small / "tiny/config.json").exists()
        subprocess.run(["mount", "-o", "remount,size=900m", str(small)], check=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr[-500:]
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("testsets", ["validation", "SAMPLE-TE+validation"])
def test_a_test_set_named_as_the_held_out_split_is_refused_before_any_training(
    tiny: list[str], testsets: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="'validation' is the held-out split: rename that set"):
        settings.main([*tiny, "--testsets", testsets, "--save"])
    assert not Path(tiny[tiny.index("--runs") + 1]).exists()
