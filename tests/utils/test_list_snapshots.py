"""Which files of a folder are snapshots."""

from __future__ import annotations

from pathlib import Path

from utils.run_folder import list_snapshots, snapshot_name


def test_in_order_and_without_what_a_kill_left(tmp_path: Path) -> None:
    for epoch in (10, 9, 10000):
        (tmp_path / snapshot_name(epoch)).touch()
    (tmp_path / ".epoch_0002.partial.pth").touch()
    (tmp_path / ".epoch_0002.lock").touch()
    assert [path.stem for path in list_snapshots(tmp_path)] == [
        "epoch_0009",
        "epoch_0010",
        "epoch_10000",
    ]
    assert [path.stem for path in list_snapshots(tmp_path, 9)] == ["epoch_0009"]
    assert list_snapshots(tmp_path / "none") == []
