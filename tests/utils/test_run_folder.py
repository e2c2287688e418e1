"""The files of a trial: which of them are snapshots."""

from __future__ import annotations

from pathlib import Path

from utils.run_folder import list_snapshots


def test_snapshots_are_listed_by_epoch_and_other_files_are_none(tmp_path: Path) -> None:
    names = ["epoch_0009.pth", "epoch_10000.pth", "epoch_0012.pth"]
    for name in [*names, "epoch_best.pth", "epoch_.pth", ".epoch_0013.pth.part", "epoch_0014.txt"]:
        (tmp_path / name).touch()
    found = [path.name for path in list_snapshots(tmp_path)]
    assert found == ["epoch_0009.pth", "epoch_0012.pth", "epoch_10000.pth"]
    assert [path.name for path in list_snapshots(tmp_path, 12)] == found[:2]
    assert list_snapshots(tmp_path / "none") == []
