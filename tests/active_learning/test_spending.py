"""Giving out a round's points over the pool."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from active_learning.spending import CAP, shares, spend

images = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.3, 1.0]) | st.floats(0, 1e6), st.integers(0, 9)),
    max_size=12,
)


def slow_shares(worth, most, total):
    """Point by point."""
    given_out = [0] * len(worth)
    for _ in range(total):
        able = [at for at in range(len(worth)) if given_out[at] < most[at]]
        best = max(able, key=lambda at: (worth[at] / (2 * given_out[at] + 1), -given_out[at], -at))
        given_out[best] += 1
    return given_out


@given(images, st.data())
def test_shares_are_those_given_out_one_by_one(pool, data):
    worth, most = [image[0] for image in pool], [image[1] for image in pool]
    total = data.draw(st.integers(0, sum(most)))
    found = shares(worth, most, total)
    assert found.dtype == np.int64
    assert found.sum() == total
    assert (found <= most).all()
    assert found.tolist() == slow_shares(worth, most, total)
    if total < sum(most):  # more points take none away
        assert (shares(worth, most, total + 1) >= found).all()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 5))
def test_a_whole_proportion_is_kept(counts, room):
    worth = [0.125 * count for count in counts]
    assert shares(worth, [count + room for count in counts], sum(counts)).tolist() == counts


def test_known_shares():
    assert shares([5, 3, 1], [9, 9, 9], 9).tolist() == [5, 3, 1]
    assert shares([5, 3, 1], [2, 9, 9], 6).tolist() == [2, 3, 1]  # a cap: the others get the rest
    assert shares([1, 1, 1], [9, 9, 9], 5).tolist() == [2, 2, 1]  # a tie: the first
    assert shares([0, 0, 0], [1, 9, 9], 6).tolist() == [1, 3, 2]  # none is worth more
    assert shares([0, 7], [9, 2], 3).tolist() == [1, 2]
    assert shares([1, 0.1], [9, 9], 3).tolist() == [3, 0]  # an image may get none
    assert shares([], [], 0).tolist() == []


def test_both_spendings_cost_the_same_and_the_first_pixels_are_taken():
    sizes = [3 * CAP, 3 * CAP, 2, 0]  # the third image has two pixels left, the fourth none
    chosen = [np.arange(2 * size).reshape(size, 2) for size in sizes]
    asked = spend(chosen, [0.5, 0.1, 0.1, 0.9], 3)
    assert sum(map(len, asked)) == 3 + 3 + 2
    assert [len(pixels) for pixels in asked] == [6, 1, 1, 0]
    for pixels, whole in zip(asked, chosen, strict=True):
        assert (pixels == whole[: len(pixels)]).all()
