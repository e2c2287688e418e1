"""gco.sh where people answer: without masks, killed and taken up again, it learns the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

import active_learning.__main__ as asking
import train
from active_learning.answers import Answer, Journal, now
from active_learning.people import OpenQuestions
from active_learning.questions import question_files
from datasets.images import read_mask
from datasets.index import list_sets
from datasets.points import read_points
from utils.checkpoints import load_checkpoint
from utils.files import read_json
from utils.locks import held
from utils.run_folder import RunFolder
from utils.tables import read_rows

ROOT = Path(__file__).resolve().parent.parent


class Trial:
    """A trial of a data root without masks, and a person who knows them."""

    def __init__(self, flags: list[str], sample_root: Path, folder: Path) -> None:
        self.log = folder / "log"
        images = folder / "data" / "images"
        images.mkdir(parents=True)
        (images / "SAMPLE-TR").symlink_to(sample_root / "images" / "SAMPLE-TR")
        self.flags = [*flags, "--testsets", "", "--epochs", "1", "--snapshots", "1"]
        self.flags += ["--retrain", "1"]
        self.human = ["--data_root", str(folder / "data"), "--oracle", "human"]
        self.run = RunFolder(folder / "runs" / "tiny")
        self.masks = {s.name: s.mask for s in list_sets(sample_root, "SAMPLE-TR")}

    def start(self, *more: str) -> subprocess.Popen:
        command = [str(ROOT / "gco.sh"), *self.flags, *more]
        env = {**os.environ, "GCO_PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
        with open(self.log, "w", encoding="utf-8") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, env=env, cwd=ROOT, start_new_session=True
            )

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def until(self, text: str, process: subprocess.Popen) -> None:
        end = time.monotonic() + 120
        while text not in self.said():
            assert process.poll() is None, self.said()
            assert time.monotonic() < end
            time.sleep(0.05)

    def answer(self, most: int | None = None) -> int:
        """Answer what is open, or some of it; return how much that was."""
        journal = Journal(self.run.journal)
        waiting = OpenQuestions(question_files(self.run), journal).list()[:most]
        for image, x, y, index, _ in waiting:
            said = "bf"[int(read_mask(self.masks[image])[y, x])]
            journal.append(Answer(image, x, y, said, index, "ann", 0.5, now()))
        return len(waiting)


def test_a_person_answers_and_masks_would_teach_the_same(
    tiny: list[str], sample_root: Path, tmp_path: Path
) -> None:
    trial = Trial(tiny, sample_root, tmp_path)
    run = trial.run
    # A server runs already, as far as the lock tells; the stage waits for what it takes in.
    with held(run.lock("annotate"), "questions"):
        process = trial.start(*trial.human)
        trial.until("36 questions wait for answers; a server runs already", process)
        asked = run.questions("points", 0).read_bytes()
        assert trial.answer(7) == 7
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process = trial.start(*trial.human)
        trial.until("29 questions wait for answers; a server runs already", process)
        assert trial.answer() == 29
        trial.until("28 questions wait for answers", process)
        assert trial.answer() == 28
        assert process.wait(240) == 0, trial.said()
    assert run.questions("points", 0).read_bytes() == asked
    assert not run.training("dense", 0).exists()
    assert [row["set"] for row in read_rows(run.scores, ("set",))] == ["validation"] * 3
    assert read_json(run.best)["name"] == "round_02-best"
    assert "held-out images: maxF " in trial.said()
    assert f"{run.points('points', 2)}: nothing is asked" in trial.said()
    assert len(read_points(run.ledger)) == 36 + 28

    masks = RunFolder(tmp_path / "masks" / "tiny")
    flags = [*trial.flags, "--runs", str(masks.root.parent)]
    for index in ("0", "1", "2"):
        for stage in (asking, train):
            assert stage.main([*flags, "--round", index]) == 0
    assert_same(run, masks)


def assert_same(human: RunFolder, masks: RunFolder) -> None:
    """Points and weights are the same, whoever answered."""
    for index in range(2):
        one, other = (run.points("points", index) for run in (human, masks))
        assert read_points(one) == read_points(other)
        rows = read_rows(one, ("annotator", "seconds"))
        assert {(row["annotator"], row["seconds"]) for row in rows} == {("ann", "0.5")}
    first, second = (
        load_checkpoint(run.checkpoint("points", 2, "last"))["model"] for run in (human, masks)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
