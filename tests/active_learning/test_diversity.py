"""Diversity rules: contract of all, and slow or exhaustive references."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from active_learning.agreement import COLOUR, LIKENESS, NEARNESS, NOISE
from active_learning.diversity import COVER_SIMILARITY, DIVERSITY, Sites
from utils.errors import UserError

COVERING = ["facility_location", "set_cover"]
DETERMINISTIC = [name for name in DIVERSITY if name != "random_top"]


def alike(features):
    """Sites of one colour and place, which differ by their features alone."""
    return Sites(features, np.zeros((len(features), 3)), np.zeros((len(features), 2)))


def choose(name, scores, features, labelled, count, seed=0):
    sites = (some if isinstance(some, Sites) else alike(some) for some in (features, labelled))
    return DIVERSITY[name](scores, *sites, count, np.random.default_rng(seed))


def example(seed, count, labels, channels=4):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, channels)).astype(np.float32)
    return rng.random(count).astype(np.float32), features, rng.normal(size=(labels, channels))


def cosine(first, second):
    first, second = first.astype(np.float64), second.astype(np.float64)
    lengths = np.sqrt((first**2).sum()) * np.sqrt((second**2).sum())
    return float((first * second).sum() / lengths) if lengths > 0 else 0.0


def similarity(name, first, second):
    if name == "set_cover":
        return float(cosine(first, second) >= COVER_SIMILARITY)
    return max(0.0, cosine(first, second))


@pytest.mark.parametrize("name", DIVERSITY)
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.integers(1, 25), st.integers(0, 5), st.booleans())
def test_fewer_are_the_first_of_more(name, seed, count, labels, flat):
    scores, features, labelled = example(seed, count, labels)
    if flat:
        scores[:], features[: count // 2] = 0.5, 0
    whole = choose(name, scores, features, labelled, count, seed)
    assert sorted(whole) == list(range(count))
    for fewer in range(count):
        assert (choose(name, scores, features, labelled, fewer, seed) == whole[:fewer]).all()


def covered(name, scores, features, labelled, chosen):
    """Weighted coverage of the candidates by labelled and chosen points, with loops."""
    anchors = [*labelled, *(features[index] for index in chosen)]
    return sum(
        float(score) * max((similarity(name, point, anchor) for anchor in anchors), default=0.0)
        for score, point in zip(scores, features, strict=True)
    )


def slow_greedy(name, scores, features, labelled, count):
    chosen = []
    while len(chosen) < count:
        now = covered(name, scores, features, labelled, chosen)
        left = [index for index in range(len(scores)) if index not in chosen]
        gains = [
            covered(name, scores, features, labelled, [*chosen, index]) - now for index in left
        ]
        if max(gains) <= 1e-9:
            gains = [scores[index] for index in left]
        chosen.append(left[int(np.argmax(gains))])
    return chosen


@pytest.mark.parametrize("name", DIVERSITY)
@pytest.mark.parametrize(("candidates", "labels"), [(1, 0), (1, 2), (6, 0), (30, 3)])
@pytest.mark.parametrize("kind", ["plain", "zero features", "constant scores", "zero scores"])
def test_contract(name, candidates, labels, kind):
    scores, features, labelled = example(1, candidates, labels)
    if kind == "zero features":
        features[:], labelled[:] = 0, 0
    if kind.endswith("scores"):
        scores[:] = 0.0 if kind == "zero scores" else 0.4
    before = scores.copy(), features.copy(), labelled.copy()
    for count in (0, 1, 5, 50):
        chosen = choose(name, scores, features, labelled, count)
        assert chosen.dtype == np.int64
        assert chosen.shape == (min(count, candidates),)
        assert len(set(chosen.tolist())) == len(chosen)
        assert set(chosen.tolist()) <= set(range(candidates))
        assert np.array_equal(chosen, choose(name, scores, features, labelled, count))
    for kept, now in zip(before, (scores, features, labelled), strict=True):
        assert np.array_equal(kept, now)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(DETERMINISTIC),
    features=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 8), st.just(3)),
        elements=st.sampled_from([-1, 0, 0.5, 1]),
    ),
    labels=st.integers(0, 3),
    count=st.integers(0, 9),
    data=st.data(),
)
def test_properties(name, features, labels, count, data):
    scores = data.draw(
        hnp.arrays(np.float32, len(features), elements=st.sampled_from([0, 0.25, 1]))
    )
    labelled = features[:labels]
    chosen = choose(name, scores, features, labelled, count)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(features))
    # A shorter choice is the beginning of a longer one; the scale of scores and features, and the
    # generator, do not matter.
    assert np.array_equal(
        choose(name, scores, features, labelled, count // 2), chosen[: count // 2]
    )
    assert np.array_equal(choose(name, scores * 8, features * 4, labelled, count, seed=9), chosen)


@pytest.mark.parametrize("name", COVERING)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), labels=st.integers(0, 3))
def test_covering_equals_slow_greedy(name, seed, labels):
    scores, features, labelled = example(seed, 9, labels, channels=2)
    chosen = choose(name, scores, features, labelled, 9)
    assert chosen.tolist() == slow_greedy(name, scores, features, labelled, 9)


@pytest.mark.parametrize("name", COVERING)
@pytest.mark.parametrize("labels", [0, 2])
def test_covering_is_near_the_best(name, labels):
    for seed in range(6):
        scores, features, labelled = example(seed, 8, labels, channels=2)
        base = covered(name, scores, features, labelled, [])
        best = max(
            covered(name, scores, features, labelled, subset)
            for subset in itertools.combinations(range(8), 3)
        )
        reached = covered(
            name, scores, features, labelled, choose(name, scores, features, labelled, 3)
        )
        assert reached - base >= (1 - 1 / np.e) * (best - base) - 1e-9
        assert reached <= best + 1e-9


def kernel(sites, first, second):
    """Covariance of two sites of which ``sites`` holds everything, by its formula."""
    apart = (sites.colours[first] - sites.colours[second]) / COLOUR
    further = (sites.places[first] - sites.places[second]) / NEARNESS
    unlike = 1 - cosine(sites.features[first], sites.features[second])
    return np.exp(-unlike / LIKENESS - ((apart**2).sum() + (further**2).sum()) / 2)


def variances(sites, told):
    """Posterior variance at every site, given noisy answers at some (Rasmussen, eq. 2.26)."""
    count = len(sites.features)
    prior = np.array([[kernel(sites, a, b) for b in range(count)] for a in range(count)])
    among = prior[np.ix_(told, told)] + NOISE * np.eye(len(told))
    return np.diag(prior - prior[:, told] @ np.linalg.inv(among) @ prior[told])


def any_sites(rng, count):
    """Sites near enough to each other for an answer at one to tell of all."""
    features = 1 + 0.2 * rng.normal(size=(count, 3))
    return Sites(features, 0.4 * rng.random((count, 3)), 0.4 * rng.random((count, 2)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), labels=st.integers(0, 3))
def test_variance_reduction_leaves_the_least_uncertain_variance(seed, labels):
    rng = np.random.default_rng(seed)
    both, scores = any_sites(rng, 8 + labels), rng.random(8)
    sites, known = (Sites(*(x[part] for x in both)) for part in (slice(8), slice(8, None)))
    chosen, told = [], list(range(8, 8 + labels))
    while len(chosen) < 8:
        left = {
            index: scores @ variances(both, [*told, *chosen, index])[:8]
            for index in range(8)
            if index not in chosen
        }
        chosen.append(min(left, key=left.get))
    assert choose("variance_reduction", scores, sites, known, 8).tolist() == chosen


def test_variance_reduction_asks_where_an_answer_reaches_what_is_uncertain():
    # A row of places: the middle of the uncertain ones reaches them all; a lone uncertain one less.
    places = np.column_stack([np.zeros(6), [0.0, 0.1, 0.2, 0.3, 0.4, 1.0]])
    sites = Sites(np.ones((6, 1)), np.zeros((6, 3)), places)
    scores, nothing = np.array([0.2, 0.2, 0.1, 0.2, 0.2, 0.3]), alike(np.ones((0, 1)))
    assert choose("variance_reduction", scores, sites, nothing, 2).tolist() == [2, 5]
    # What an answer has told already is not asked again, though it is as uncertain.
    known = Sites(*(x[2:3] for x in sites))
    assert choose("variance_reduction", scores, sites, known, 1).tolist() == [5]
    # Nor does a place reach another colour: then the lone one weighs most.
    colours = np.linspace(0, 5, 6)[:, None].repeat(3, axis=1)
    apart = sites._replace(colours=colours)
    assert choose("variance_reduction", scores, apart, nothing, 1).tolist() == [5]


def test_variance_reduction_takes_a_site_without_feature_for_like_itself():
    colours = np.array([[0.0, 0, 0], [1, 1, 1]])
    sites = Sites(np.array([[0.0, 0], [1, 0]]), colours, np.zeros((2, 2)))
    scores, nothing = np.array([0.9, 0.5]), alike(np.ones((0, 2)))
    assert choose("variance_reduction", scores, sites, nothing, 2).tolist() == [0, 1]


@pytest.mark.parametrize("name", ["facility_location", "set_cover", "k_centre"])
def test_what_is_labelled_or_chosen_is_skipped(name):
    # 0 is as a labelled point, 1 and 2 are alike: the best choice is one of the pair, then 3.
    features = np.array([[3.0, 0, 0], [0, 1, 0], [0, 2, 0], [0, 0, 1]])
    scores = np.array([1.0, 0.9, 0.8, 0.1])
    labelled = np.array([[1.0, 0, 0]])
    assert choose(name, scores, features, labelled, 2).tolist() == [1, 3]
    # With nothing left to gain, the highest score comes next.
    assert choose(name, scores, features, labelled, 4).tolist() == [1, 3, 0, 2]
    assert choose("top_k", scores, features, labelled, 2).tolist() == [0, 1]


def test_opposite_directions_do_not_cover_each_other():
    features = np.array([[1.0, 0], [-1.0, 0], [0.0, 1.0]])
    labelled = np.array([[-1.0, 0.0]])
    scores = np.array([1.0, 1.0, 0.5])
    assert choose("facility_location", scores, features, labelled, 3).tolist() == [0, 2, 1]


@pytest.mark.parametrize("name", COVERING)
def test_copies_count_once_and_the_first_is_taken(name):
    # Rounding differs between copies in a matrix product, and must not decide.
    for seed in range(20):
        scores, features, labelled = example(seed, 5, 1, channels=33)
        scores, features = np.tile(scores, 7), np.tile(features, (7, 1))
        features = np.concatenate([features, labelled])
        chosen = choose(name, np.append(scores, 0.01), features, labelled, 6).tolist()
        assert sorted(chosen[:5]) == [0, 1, 2, 3, 4]
        # All is covered now: the highest score comes next, whatever rounding has left to gain.
        assert chosen[5] == 5 + int(np.argmax(scores[:5]))


@pytest.mark.parametrize("name", COVERING)
def test_a_candidate_without_feature_covers_itself(name):
    features = np.array([[1.0, 0], [0, 1], [0, 0], [0, 0]])
    scores = np.array([0.3, 0.2, 0.25, 0.9])
    chosen = choose(name, scores, features, np.zeros((1, 2)), 4)
    assert chosen.tolist() == [3, 0, 2, 1]


def test_k_centre_takes_the_highest_score_where_no_point_is_far():
    features, scores = np.ones((4, 2)), np.array([0.1, 0.9, 0.5, 0.7])
    assert choose("k_centre", scores, features, np.ones((1, 2)), 3).tolist() == [1, 3, 2]
    assert choose("k_centre", scores, features, np.ones((0, 2)), 3).tolist() == [1, 3, 2]


def test_set_cover_counts_the_threshold_itself():
    # The cosine of 0 and 1 is .8, a little less after rounding; 2 lies apart.
    features = np.array([[1.0, 7.0], [-17.0, 31.0], [7.0, -1.0]])
    scores = np.array([0.4, 0.3, 0.5])
    labelled = np.empty((0, 2))
    # 0 and 1 cover each other and together weigh more than 2.
    assert choose("set_cover", scores, features, labelled, 2).tolist() == [0, 2]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), labels=st.integers(0, 3))
def test_k_centre_equals_slow_loop(seed, labels):
    scores, features, labelled = example(seed, 8, labels)
    chosen = []
    while len(chosen) < 8:
        anchors = [*labelled, *(features[index] for index in chosen)]
        worth = {}
        for index in range(8):
            if index not in chosen:
                nearest = [np.sqrt(2 - 2 * cosine(features[index], anchor)) for anchor in anchors]
                worth[index] = min(nearest) if anchors else scores[index]
        chosen.append(max(worth, key=worth.get))
    assert choose("k_centre", scores, features, labelled, 8).tolist() == chosen


def test_top_k_is_in_falling_order_and_ties_go_to_the_first():
    scores = np.array([0.2, 0.9, 0.5, 0.9, 0.0])
    features, labelled = np.zeros((5, 2)), np.zeros((0, 2))
    assert choose("top_k", scores, features, labelled, 4).tolist() == [1, 3, 2, 0]
    scores, features = np.tile(scores, 100), np.tile(features, (100, 1))
    expected = sorted(range(500), key=lambda index: (-scores[index], index))
    assert choose("top_k", scores, features, labelled, 500).tolist() == expected


def test_random_top_takes_every_candidate_alike():
    scores, features, labelled = example(0, 4, 0)
    firsts = [choose("random_top", scores, features, labelled, 2, seed) for seed in range(800)]
    share = np.bincount(np.concatenate(firsts), minlength=4) / 1600
    assert np.abs(share - 0.25).max() < 0.05


@pytest.mark.parametrize("name", ["facility_location", "k_centre", "variance_reduction"])
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_length_of_features_does_not_matter(name, scale):
    scores, features, labelled = example(4, 12, 2)
    expected = choose(name, scores, features, labelled, 6)
    chosen = choose(name, scores, features.astype(np.float64) * scale, labelled, 6)
    assert np.array_equal(chosen, expected)


@pytest.mark.parametrize("name", DIVERSITY)
def test_wrong_input_is_told(name):
    scores, features, labelled = example(0, 4, 2)
    with pytest.raises(ValueError, match="expected"):
        choose(name, scores[:3], features, labelled, 2)
    with pytest.raises(ValueError, match="expected"):
        choose(name, scores, features, labelled[:, :3], 2)
    with pytest.raises(ValueError, match="expected"):
        choose(name, scores, features, labelled[0], 2)
    with pytest.raises(ValueError, match="negative"):
        choose(name, scores - 2, features, labelled, 2)
    scores[1] = np.nan
    with pytest.raises(UserError, match="not finite"):
        choose(name, scores, features, labelled, 2)
