"""The load test, small; and that it would tell an answer that is lost or doubled."""

from __future__ import annotations

import json
from pathlib import Path

from active_learning.answers import Answer, Journal, now
from benchmarks import annotation_load as benchmark
from utils.run_folder import RunFolder


def test_eight_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    flags = ["--images", "8", "--answered", "100", "--out", str(out), "--folder", str(tmp_path)]
    assert benchmark.main(flags) == 0
    found = json.loads(out.read_text())
    assert found["lost"] == found["doubled"] == 0
    assert found["pixels"] == found["about"]["questions"] > 50
    assert found["answered_before"] == 100
    assert found["acknowledged"] == found["in_journal"]
    assert found["in_journal"] == found["pixels"] + found["asked_twice_on_purpose"]


def test_what_is_lost_or_doubled_is_counted(tmp_path: Path) -> None:
    config, _ = benchmark.make_trial(tmp_path, 3)
    journal = Journal(RunFolder(config.run_folder).journal)
    for name, x in (("a", 0), ("a", 0), ("b", 1), ("c", 1), ("d", 1)):
        journal.append(Answer("image", x, 0, "f", 0, name, 1.0, now()))
    person = benchmark.Annotator("a", 1, "load")
    person.told = [("image", 0, 0), ("image", 5, 0), ("image", 6, 0)]
    found = benchmark.compare(config, [person])
    assert found["lost"] == 2
    assert found["doubled"] == 2  # a's second answer, and a third annotator of one pixel
