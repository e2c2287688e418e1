"""Labels after questions: which pixels are asked, who answers, and that a look knows answers."""

from __future__ import annotations

import numpy as np
import pytest

import active_learning.__main__ as asking
import benchmarks.asked_labels as benchmark
import train
from benchmarks.asked_labels import WAYS, Asked, Way
from config import FIELDS
from datasets.images import read_mask
from datasets.points import read_points
from tests.small_trials import config_of, flag, run_of
from utils.device import choose_machine
from utils.errors import UserError

MACHINE = choose_machine("cpu", "fp32")


@pytest.fixture
def trained(tiny: list[str]) -> list[str]:
    """A trial whose first round is asked and trained."""
    asking.main(tiny)
    train.main(tiny)
    return tiny


def test_ways_are_of_fields_that_there_are() -> None:
    for way in WAYS.values():
        assert (way.fields or {}).keys() <= FIELDS.keys()


def test_as_many_are_asked_and_the_masks_answer(trained: list[str]) -> None:
    asked = Asked(config_of(trained), 5, MACHINE)
    assert len(asked.samples) == 5
    for way in (Way(None), Way(None, 1), Way({}), Way({"diversity": "top_k"}, 2)):
        found = asked.more(way, 3)
        for sample, known, points in zip(asked.samples, asked.known, found, strict=True):
            assert np.array_equal(points[: len(known)], known)
            assert len(points) == len(known) + 3
            assert len({(x, y) for x, y, _ in points.tolist()}) == len(points)
            mask = read_mask(sample.mask)
            assert [mask[y, x] for x, y, _ in points] == points[:, 2].tolist()


def test_what_is_asked_is_what_a_round_asks(tiny: list[str]) -> None:
    """Where nothing is left to chance: no attack, whose noise is of the round."""
    flags = [*tiny, "--attack", "none", "--acquisition", "entropy"]
    asking.main(flags)
    train.main(flags)
    asking.main(flag(flags, "round", 1))
    second = read_points(run_of(flags).points("points", 1))
    asked = Asked(config_of(flags), 10**6, MACHINE)
    found = {
        (sample.name, x, y, label)
        for sample, known, points in zip(
            asked.samples, asked.known, asked.more(Way({}), 2), strict=True
        )
        for x, y, label in points[len(known) :].tolist()
    }
    assert found == {(p.image, p.x, p.y, p.label) for p in second}


def test_later_points_know_the_answers_before_them(
    trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told, look = [], benchmark.pool_maps

    def watched(*args, answers):
        told.append(answers(0).sum() if answers else None)
        return look(*args, answers=answers)

    monkeypatch.setattr(benchmark, "pool_maps", watched)
    asked = Asked(config_of(trained), 3, MACHINE)
    first = len(asked.known[0])
    asked.more(Way({}, 2), 5)
    assert told == [first, first + 2, first + 4]
    told.clear()
    asked.more(Way({"ask_agree": False}), 2)
    assert told == [None]


def test_the_table(trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert benchmark.main([*trained, "--images", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if any(line.startswith(name) for name in WAYS)]
    assert len(rows) == len(WAYS)
    for row in rows:
        wrong, far, overlap, foreground, missed = map(float, row.split()[-5:])
        assert 0 <= far <= wrong <= 100
        assert 0 <= overlap <= 1
        assert 0 <= min(foreground, missed) <= max(foreground, missed) <= 100


def test_a_trial_that_asks_once_is_refused(tiny: list[str]) -> None:
    with pytest.raises(UserError, match="two rounds or more"):
        benchmark.main([*tiny, "--rounds", "1", "--points_per_round", ""])
