"""A training set is checked once, and again when its files change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from datasets import checked
from datasets.checked import require_checked
from utils.errors import UserError


@pytest.fixture
def root(sample_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample_root, tmp_path / "data"))


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each check that was made looked at masks."""
    made: list[bool] = []
    check = checked.require_usable

    def spy(*args: object, train_masks: bool, test_masks: bool) -> None:
        made.append(train_masks)
        check(*args, train_masks=train_masks, test_masks=test_masks)

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
