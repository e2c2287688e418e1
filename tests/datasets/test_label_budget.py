"""What a set of answers costs: three small images, counted by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import datasets.label_budget as budget
from datasets.index import Sample

LEFT, RIGHT = np.zeros((4, 6), np.int32), np.ones((4, 6), np.int32)
HALVES = np.hstack([LEFT[:, :2], RIGHT[:, :4]])
"""Regions of every image: 8 pixels on the left, 16 on the right."""


class Regions:
    """In place of the superpixels."""

    count = 2

    def __call__(self, sample: Sample) -> np.ndarray:
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
    found = budget.label_budget(samples, answers, Regions(), mode)
    assert found["points"] == pytest.approx(5 / 3, abs=1e-4)
    assert found["labelled_percent"] == pytest.approx(100 * labelled / 72, abs=1e-4)
    assert found["label_mode"] == mode
    assert found["region_error"] == 0  # a is right, of b the answers alone count


def test_wrong_labels_are_counted_where_a_mask_is_at_hand(tmp_path: Path) -> None:
    samples, answers = made(tmp_path)
    found = budget.label_budget(samples, answers[:1], Regions(), "pixel")
    # Spread: 8 of a, all right; 8 of b, of which 2 are background; c has no mask.
    assert found["region_error"] == pytest.approx(100 * 2 / 16, abs=1e-4)
    for sample in samples[:2]:
        sample.mask.unlink()
    assert "region_error" not in budget.label_budget(samples, answers[:1], Regions(), "pixel")


def test_a_stored_budget_serves_until_a_mask_a_picture_or_an_answer_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, answers = made(tmp_path)
    counted, real = [], budget.label_budget
    monkeypatch.setattr(budget, "label_budget", lambda *args: counted.append(0) or real(*args))

    def stored() -> dict:
        return budget.stored_budget(tmp_path / "l.json", samples, answers, Regions(), "pixel")

    first = stored()
    assert stored() == first == real(samples, answers, Regions(), "pixel")
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
