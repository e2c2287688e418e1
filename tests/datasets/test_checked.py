"""A training set is checked once, and again when its files change."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from datasets import check, checked
from datasets.checked import require_checked
from datasets.index import Sample
from utils.errors import UserError


@pytest.fixture
def root(sample_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample_root, tmp_path / "data"))


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each check that was made looked at masks."""
    made: list[bool] = []
    whole = checked.require_usable

    def spy(*args: object, train_masks: bool, test_masks: bool) -> None:
        made.append(train_masks)
        whole(*args, train_masks=train_masks, test_masks=test_masks)

    monkeypatch.setattr(checked, "require_usable", spy)
    return made


def test_a_sound_set_is_checked_once(root: Path, tmp_path: Path, checks: list[bool]) -> None:
    for masks in (False, False, True, True, False):
        require_checked(tmp_path / "run", str(root), "SAMPLE-TR", masks)
    assert checks == [False, True]


def test_a_check_of_masks_serves_for_images(root: Path, tmp_path: Path, checks: list[bool]) -> None:
    require_checked(tmp_path / "run", str(root), "SAMPLE-TR", masks=True)
    shutil.rmtree(root / "gts")
    require_checked(tmp_path / "run", str(root), "SAMPLE-TR", masks=False)
    assert checks == [True]


@pytest.mark.parametrize("kind", ["images", "gts"])
def test_a_changed_file_is_checked_again(
    root: Path, tmp_path: Path, checks: list[bool], kind: str
) -> None:
    require_checked(tmp_path / "run", str(root), "SAMPLE-TR", masks=True)
    victim = sorted((root / kind / "SAMPLE-TR").iterdir())[2]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    for _ in range(2):  # a set that was refused is not noted as sound
        with pytest.raises(UserError, match=victim.name):
            require_checked(tmp_path / "run", str(root), "SAMPLE-TR", masks=True)
    assert checks == [True] * 3


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each picture was decoded by a check."""
    found: Counter[str] = Counter()
    real = check.check_sample

    def spy(root: Path, sample: Sample, with_mask: bool) -> object:
        found[sample.name] += 1
        return real(root, sample, with_mask)

    monkeypatch.setattr(check, "check_sample", spy)
    return found


@pytest.mark.parametrize("masks", [True, False])
def test_what_the_check_before_a_trial_found_sound_is_not_decoded_again(
    root: Path, tmp_path: Path, looked_at: Counter[str], masks: bool
) -> None:
    flags = ["--data_root", str(root), "--trainset", "SAMPLE-TR", "--testsets", "SAMPLE-TE"]
    flags += [] if masks else ["--no-train-masks"]
    check.main([*flags, "--run_folder", str(tmp_path / "run")])
    require_checked(tmp_path / "run", str(root), "SAMPLE-TR", masks)
    assert {*looked_at.values()} == {1}
    assert len(looked_at) == 16 + 6
    if not masks:  # which it did not look at
        require_checked(tmp_path / "run", str(root), "SAMPLE-TR", masks=True)
        assert sum(looked_at.values()) == 2 * 16 + 6


def test_a_check_that_found_errors_leaves_no_note(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = min((root / "images" / "SAMPLE-TE").iterdir())
    image.write_bytes(b"")
    flags = ["--data_root", str(root), "--trainset", "SAMPLE-TR", "--testsets", "SAMPLE-TE"]
    with pytest.raises(UserError, match="1 error in the data"):
        check.main([*flags, "--run_folder", str(tmp_path / "run")])
    assert f"error: images/SAMPLE-TE/{image.name}: " in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_sets_that_cannot_be_listed_have_all_their_faults_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / "images" / "SAMPLE-TR", root / "images" / "TWIN")
    flags = ["--data_root", str(root), "--trainset", "SAMPLE-TR+TWIN", "--no-masks"]
    with pytest.raises(UserError, match="16 errors in the data"):
        check.main([*flags, "--run_folder", str(tmp_path / "run")])
    assert "set SAMPLE-TR has an image of this name" in capsys.readouterr().out


def test_a_picture_that_was_replaced_while_it_was_checked_is_checked_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checks: list[bool]
) -> None:
    real = check.check_sample

    def replace(folder: Path, sample: Sample, with_mask: bool) -> object:
        found = real(folder, sample, with_mask)
        sample.image.write_bytes(sample.image.read_bytes() + b" ")
        return found

    monkeypatch.setattr(check, "check_sample", replace)
    flags = ["--data_root", str(root), "--trainset", "SAMPLE-TR"]
    check.main([*flags, "--run_folder", str(tmp_path / "run")])
    require_checked(tmp_path / "run", str(root), "SAMPLE-TR", masks=True)
    assert checks == [True]
