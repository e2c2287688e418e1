"""What a set of answers costs: three small images, counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import datasets.label_budget as budget
import datasets.points as points
from datasets.index import Sample

LEFT, RIGHT = np.zeros((4, 6), np.int32), np.ones((4, 6), np.int32)
HALVES = np.hstack([LEFT[:, :2], RIGHT[:, :4]])
"""Regions of every image: 8 pixels on the left, 16 on the right."""


class Regions:
    """In place of the superpixels; notes whose were read."""

    count = 2

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, sample: Sample) -> np.ndarray:
        self.read.append(sample.name)
        return HALVES


def made(folder: Path) -> tuple[list[Sample], list[Path]]:
    """Write three masks, one of them true to the regions, and answers of two rounds.

    a: object on the left, exactly; both regions asked, rightly.
    b: object is all but 2 pixels of the left; the left asked twice, with one answer each.
    c: no mask at hand; the right asked.
    """
    masks = {"a": HALVES == 0, "b": HALVES == 0}
    masks["b"][:2, 0] = False
    samples = []
    for name in "abc":
        path = folder / f"{name}.png"
        if name in masks:
            cv2.imwrite(str(path), masks[name].astype(np.uint8) * 255)
        image = folder / f"{name}.jpg"
        cv2.imwrite(str(image), np.zeros((4, 6, 3), np.uint8))
        samples.append(Sample(image.name, image, path, "T", ""))
    rounds = ["a.jpg,0,0,1,0\nb.jpg,1,0,1,0\nc.jpg,3,0,0,0\n", "a.jpg,5,3,0,1\nb.jpg,0,0,0,1\n"]
    answers = [folder / f"{index}.csv" for index in range(2)]
    for path, text in zip(answers, rounds, strict=True):
        path.write_text("image,x,y,label,round\n" + text)
    return samples, answers


@pytest.mark.parametrize(
    ("mode", "labelled"),
    [
        ("pixel", 5),  # the answers
        ("region", 24 + 2 + 16),  # of b the answers disagree, so that they alone count
        ("region_mask", 24 + 8 + 16),  # every asked region
    ],
)
def test_labels_are_counted_by_mode(tmp_path: Path, mode: str, labelled: int) -> None:
    samples, answers = made(tmp_path)
    (found,) = budget.label_budgets(samples, [answers], Regions(), mode)
    assert found["points"] == pytest.approx(5 / 3, abs=1e-4)
    assert found["labelled_percent"] == pytest.approx(100 * labelled / 72, abs=1e-4)
    assert found["label_mode"] == mode
    assert found["region_error"] == 0  # a is right, of b the answers alone count


def test_wrong_labels_are_counted_where_a_mask_is_at_hand(tmp_path: Path) -> None:
    samples, answers = made(tmp_path)
    (found,) = budget.label_budgets(samples, [answers[:1]], Regions(), "pixel")
    # Spread: 8 of a, all right; 8 of b, of which 2 are background; c has no mask.
    assert found["region_error"] == pytest.approx(100 * 2 / 16, abs=1e-4)
    for sample in samples[:2]:
        sample.mask.unlink()
    (found,) = budget.label_budgets(samples, [answers[:1]], Regions(), "pixel")
    assert "region_error" not in found


def test_a_stored_budget_serves_until_a_mask_a_picture_or_an_answer_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, answers = made(tmp_path)
    counted, real = [], budget.label_budgets
    monkeypatch.setattr(budget, "label_budgets", lambda *args: counted.append(0) or real(*args))

    def stored() -> dict:
        path = tmp_path / "l.json"
        return budget.stored_budgets({path: answers}, samples, Regions(), "pixel")[path]

    first = stored()
    assert [stored()] == [first] == real(samples, [answers], Regions(), "pixel")
    assert len(counted) == 1
    cv2.imwrite(str(samples[0].mask), np.zeros((4, 6), np.uint8))
    assert stored()["region_error"] > 0
    answers[1].write_text(answers[1].read_text() + "c.jpg,0,0,1,1\n")
    assert stored()["points"] == 2
    assert len(counted) == 3
    samples[2].mask.write_bytes(samples[1].mask.read_bytes())
    assert stored()["region_error"] > 0
    assert len(counted) == 4
    cv2.imwrite(str(samples[1].image), np.full((4, 7, 3), 255, np.uint8))  # its superpixels, too
    stored()
    assert len(counted) == 5


@pytest.mark.parametrize("mode", ["pixel", "region", "region_mask"])
def test_trainings_are_counted_in_one_pass_as_each_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    samples, answers = made(tmp_path)
    answers.append(tmp_path / "2.csv")
    answers[2].write_text("image,x,y,label,round\na.jpg,3,3,1,2\nc.jpg,0,0,1,2\n")
    trainings = {tmp_path / f"{n}.json": answers[:n] for n in (1, 2, 3)}
    alone = {
        path: budget.label_budgets(samples, [files], Regions(), mode)[0]
        for path, files in trainings.items()
    }
    assert len({found["labelled_percent"] for found in alone.values()}) > 1
    read: list[str] = []
    for module, name in ((budget, "read_mask"), (points, "read_points")):
        noted = partial(note, read, getattr(module, name))
        monkeypatch.setattr(module, name, noted)
    regions = Regions()
    assert budget.stored_budgets(trainings, samples, regions, mode) == alone
    masks, files = ["a.png", "b.png"], ["0.csv", "1.csv", "2.csv"]
    assert sorted(read) == sorted([*masks, *files])
    # Of c, which has no mask, answers that stay points take the size alone.
    assert sorted(regions.read) == ["a.jpg", "b.jpg", *["c.jpg"] * (mode != "pixel")]

    # One more training costs a look for itself alone.
    (tmp_path / "2.json").unlink()
    read.clear()
    assert budget.stored_budgets(trainings, samples, regions, mode) == alone
    assert sorted(read) == sorted([*masks, *files[:2]])


def note(read: list[str], reader: Callable[[Path], Any], path: Path) -> Any:
    read.append(path.name)
    return reader(path)
