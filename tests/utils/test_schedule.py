"""The cycles of the learning rate: known values, and every small case."""

import itertools

import pytest

from utils.schedule import cyclic_cosine, snapshot_epochs, trained_rounds

SHARES = (0.01, 0.3, 0.6, 1.0)


@pytest.mark.parametrize(
    ("rounds", "every", "retrain", "expected"),
    [
        (5, 1, 0, [0, 1, 2, 3, 4]),
        (5, 2, 0, [0, 2, 4]),
        (6, 4, 0, [0, 4, 5]),
        (5, 9, 0, [0, 4]),
        (1, 3, 0, [0]),
        (1, 3, 2, [0, 1, 2]),
        (4, 3, 1, [0, 3, 4]),
        (3, 4, 2, [0, 2, 3, 4]),
    ],
)
def test_rounds_that_are_trained(rounds, every, retrain, expected):
    assert trained_rounds(rounds, every, retrain) == expected


@pytest.mark.parametrize(
    ("epochs", "snapshots", "share", "expected"),
    [
        (30, 3, 0.6, [18, 24, 30]),
        (30, 1, 0.6, [30]),
        (10, 3, 0.6, [6, 8, 10]),
        (5, 5, 0.6, [1, 2, 3, 4, 5]),
        (10, 3, 1.0, [8, 9, 10]),
        (10, 2, 0.01, [1, 10]),
    ],
)
def test_known_snapshot_epochs(epochs, snapshots, share, expected):
    assert snapshot_epochs(epochs, snapshots, share) == expected


def test_snapshots_are_distinct_and_end_with_the_training():
    for epochs in range(1, 41):
        for snapshots, share in itertools.product(range(1, epochs + 1), SHARES):
            ends = snapshot_epochs(epochs, snapshots, share)
            assert len(ends) == snapshots
            assert ends[-1] == epochs
            gaps = [b - a for a, b in itertools.pairwise([0, *ends])]
            assert min(gaps) >= 1
            # The later cycles are alike in length.
            assert max(gaps[1:], default=0) - min(gaps[1:], default=0) <= 1


def test_known_factors():
    ends = [600, 800, 1000]
    factor = [cyclic_cosine(step, 1000, ends) for step in range(1000)]
    assert factor[300] == pytest.approx(0.5)
    assert factor[150] == pytest.approx(0.5 * (1 + 0.5**0.5))
    assert factor[600] == pytest.approx(0.5)
    assert factor[700] == pytest.approx(0.25)
    assert factor[800] == pytest.approx(0.5)
    # Warm-up: 3 percent of the steps, in equal parts.
    assert factor[0] == pytest.approx(1 / 30)
    assert factor[14] == pytest.approx(0.5, abs=2e-3)
    assert factor[29] == pytest.approx(1.0, abs=7e-3)
    assert max(factor) == max(factor[29:31])


def test_factors_fall_within_a_cycle_and_end_near_nothing():
    ends = [600, 800, 1000]
    factor = [cyclic_cosine(step, 1000, ends) for step in range(1000)]
    for start, end in ((30, 600), (600, 800), (800, 1000)):
        assert all(b < a for a, b in itertools.pairwise(factor[start:end]))
        assert 0 < factor[end - 1] < 1e-3


def test_factors_are_in_range_for_all_small_trainings():
    for epochs in range(1, 13):
        for snapshots, per_epoch in itertools.product(range(1, epochs + 1), (1, 3)):
            steps = epochs * per_epoch
            ends = [end * per_epoch for end in snapshot_epochs(epochs, snapshots, 0.6)]
            factors = [cyclic_cosine(step, steps, ends) for step in range(steps)]
            assert all(0 < factor <= 1 for factor in factors)
            # Restarts: a cycle's first step is its highest.
            for start, end in itertools.pairwise(ends):
                assert factors[start] == pytest.approx(0.5)
                assert max(factors[start:end]) == factors[start]


def test_after_the_last_step_nothing_is_learnt():
    assert cyclic_cosine(10, 10, [6, 10]) == 0.0
    assert cyclic_cosine(99, 10, [6, 10]) == 0.0
