"""The paired bootstrap against plain versions with the same draws, and against known answers."""

import itertools
import runpy
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from utils.errors import UserError
from utils.metrics.bootstrap import draw_counts, paired_bootstrap, paired_means
from utils.metrics.conventions import CONVENTIONS
from utils.metrics.summary import CHUNK, METRICS, SetScores, each_image

plain = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("plain.py"))))
PYSODMETRICS = CONVENTIONS["pysodmetrics"]


def two_methods(images, seed):
    """Return tallies of two methods of about the same quality."""
    return plain.random_tallies(images, seed), plain.random_tallies(images, seed + 1)


def drawn(images, resamples, seed):
    """Return how often each image is drawn in each resample, [resamples, images]."""
    return np.hstack(list(draw_counts(images, resamples, seed)))


def set_scores(tallies, convention=PYSODMETRICS, metrics=METRICS):
    scores = SetScores(convention, metrics)
    scores.add(tallies)
    return scores.result()


@pytest.mark.parametrize("images", [2, 30, CHUNK, CHUNK + 1, 2 * CHUNK + 90])
def test_draws_are_uniform_with_replacement(images):
    resamples = 3000
    counts = drawn(images, resamples, seed=1)
    assert counts.shape == (resamples, images)
    assert np.all(counts.sum(axis=1) == images)
    assert all(part.shape[1] <= CHUNK for part in draw_counts(images, 2, 1))
    # Multinomial: mean 1, variance 1 - 1/N, covariance -1/N; five standard errors, or the
    # largest of as many as there are images.
    assert counts.mean(axis=0) == pytest.approx(np.ones(images), abs=5 / np.sqrt(resamples))
    variance = counts.var(axis=0, ddof=1).mean()
    assert variance == pytest.approx(1 - 1 / images, abs=0.1 / np.sqrt(images))
    halves = counts[:, : images // 2].sum(axis=1)
    share = (images // 2) / images
    spread = np.sqrt(images * share * (1 - share))
    assert halves.mean() == pytest.approx(images * share, abs=5 * spread / np.sqrt(resamples))
    assert halves.std() == pytest.approx(spread, rel=0.07)
    np.testing.assert_array_equal(counts, drawn(images, resamples, seed=1))
    assert np.any(counts != drawn(images, resamples, seed=2))


@pytest.mark.parametrize("name", CONVENTIONS)
def test_equal_to_scoring_each_resample(name):
    # Each draw scored as a set of its own, image for image; two chunks.
    convention, resamples = CONVENTIONS[name], 12
    a, b = two_methods(CHUNK + 30, seed=10)
    found = paired_bootstrap(a, b, METRICS, convention, resamples, seed=3)
    rows = []
    for counts in drawn(len(a), resamples, seed=3):
        chosen = np.repeat(np.arange(len(a)), counts)
        both = [set_scores(tallies[chosen], convention) for tallies in (a, b)]
        rows.append([both[0][metric] - both[1][metric] for metric in METRICS])
    low, high = np.quantile(rows, [0.025, 0.975], axis=0)
    own = [set_scores(tallies, convention) for tallies in (a, b)]
    assert tuple(found) == METRICS
    for index, metric in enumerate(METRICS):
        comparison = found[metric]
        expected = (own[0][metric], own[1][metric], own[0][metric] - own[1][metric])
        assert comparison[:3] == pytest.approx(expected, abs=1e-12), metric
        assert comparison[3:5] == pytest.approx((low[index], high[index]), abs=1e-12), metric
        differences = [row[index] for row in rows]
        beyond = min(sum(d <= 0 for d in differences), sum(d >= 0 for d in differences))
        assert comparison.p == pytest.approx(min(1, 2 * (1 + beyond) / (1 + resamples))), metric


def test_linear_metrics_equal_to_a_plain_bootstrap():
    a, b = two_methods(300, seed=20)
    counts = drawn(len(a), 500, seed=4)
    found = paired_bootstrap(a, b, ["S", "MAE"], PYSODMETRICS, resamples=500, seed=4)
    for metric, comparison in found.items():
        one, other = (each_image(tallies, PYSODMETRICS, [metric])[metric] for tallies in (a, b))
        means = counts @ (one - other) / len(a)
        expected = np.quantile(means, [0.025, 0.975])
        assert comparison[3:5] == pytest.approx(tuple(expected), abs=1e-12)
        assert comparison.difference == pytest.approx((one - other).mean(), abs=1e-12)


def test_scores_of_images_are_compared_as_their_tallies_are():
    a, b = two_methods(300, seed=20)
    found = paired_bootstrap(a, b, ["S", "MAE"], PYSODMETRICS, resamples=500, seed=4)
    for metric, comparison in found.items():
        one, other = (each_image(tallies, PYSODMETRICS, [metric])[metric] for tallies in (a, b))
        assert paired_means([one], [other], 500, seed=4) == pytest.approx(comparison, abs=1e-12)


def test_every_set_weighs_the_same_and_draws_by_itself():
    rng = np.random.default_rng(0)
    a, b = ([rng.random(n) for n in (40, CHUNK + 20, 40)] for _ in range(2))
    found = paired_means(a, b, resamples=4000, seed=1)
    differences = [one - other for one, other in zip(a, b, strict=True)]
    assert found.a == pytest.approx(np.mean([one.mean() for one in a]))
    assert found.difference == pytest.approx(np.mean([d.mean() for d in differences]))
    # The variance of a mean of independent means; alike draws in sets of one size would add to it.
    error = np.sqrt(sum(d.var() / len(d) for d in differences)) / 3
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    alike = paired_means([a[0], -a[0]], [b[0], -b[0]], resamples=4000, seed=1)
    error = np.sqrt(differences[0].var() / 40 / 2)
    assert alike.high - alike.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    with pytest.raises(UserError, match="1 images against 1"):
        paired_means([a[0][:1]], [b[0][:1]])
    with pytest.raises(UserError, match="40 images against 39"):
        paired_means([a[0]], [b[0][:39]])


@pytest.mark.parametrize("shifts", [[2, 1, 3], [2.5, 1, -1], [-1, -2, -1.5]])
def test_trainings_may_be_drawn_as_images_are(shifts):
    """Of images that all differ alike in a training, only which are drawn of three is chance."""
    level = np.linspace(0.3, 0.6, 50)
    pair = [level + np.array(shifts)[:, None]], [np.tile(level, (3, 1))]
    fixed = paired_means(*pair, resamples=20_000)
    drawn = paired_means(*pair, resamples=20_000, draw_trainings=True)
    assert drawn.difference == fixed.difference == pytest.approx(np.mean(shifts))
    assert fixed.p == pytest.approx(2 / 20_001)
    means = np.mean(list(itertools.product(shifts, repeat=3)), axis=1)
    beyond = min(np.mean(means < 0), np.mean(means > 0))
    assert drawn.p == pytest.approx(max(fixed.p, 2 * beyond), abs=0.01)
    assert (drawn.low, drawn.high) == pytest.approx((min(means), max(means)))


def test_scores_that_are_no_numbers_are_not_compared():
    scores = np.linspace(0, 1, 9)
    spoilt = np.where(scores == 0.5, np.nan, scores)
    for pair in ((scores, spoilt), (spoilt, scores), (spoilt, spoilt)):
        with pytest.raises(UserError, match="not finite numbers"):
            paired_means(*([side] for side in pair), resamples=20)


def test_trainings_are_drawn_in_pairs():
    """What both methods owe to a seed is no difference between them."""
    level, shift = np.linspace(0, 1, 30), np.array([[1.0], [2.0], [4.0]])
    pair = [level + shift + 0.5], [level + shift]
    found = paired_means(*pair, resamples=500, draw_trainings=True)
    assert (found.low, found.difference, found.high) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize("shapes", [((3, 9), (9,)), ((9,), (3, 9)), ((2, 9), (3, 9))])
def test_other_numbers_of_trainings_are_not_compared(shapes):
    a, b = map(np.ones, shapes)
    with pytest.raises(UserError, match=r"[12] trainings against 3: compare as many"):
        paired_means([a], [b])
    with pytest.raises(UserError, match=r"[12] trainings against 3"):
        paired_means([a, b], [a, b])


def test_all_sets_draw_the_same_trainings():
    """Else what one training has more in one set and less in the other would be chance."""
    shifts, level = np.array([[1.0], [3.0], [5.0]]), np.zeros((3, 20))
    pair = [level + shifts, level - shifts + 6]
    found = paired_means(pair, [level, level], resamples=500, draw_trainings=True)
    assert (found.low, found.difference, found.high) == pytest.approx((3, 3, 3))


def test_one_training_and_several_that_are_alike_are_one_sample():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 200))
    one = paired_means([a], [b], resamples=300, seed=2)
    for many in (False, True):
        several = paired_means(
            [np.tile(a, (4, 1))], [np.tile(b, (4, 1))], 300, seed=2, draw_trainings=many
        )
        assert several == pytest.approx(one, abs=1e-12)


def test_same_maps_do_not_differ():
    a, _ = two_methods(CHUNK + 5, seed=30)
    for comparison in paired_bootstrap(a, a.copy(), METRICS, PYSODMETRICS, 50).values():
        assert comparison[2:] == (0, 0, 0, 1)


def test_clear_winner():
    a, b = two_methods(40, seed=40)
    b["counts"] = b["counts"][:, ::-1]  # foreground and background the other way round
    b["S"] = a["S"] - 0.3
    found = paired_bootstrap(a, b, ["maxF", "S", "AUC", "MAE"], PYSODMETRICS, 999)
    for metric, comparison in found.items():
        assert comparison.p == pytest.approx(2 / 1000), metric
        assert (comparison.low > 0) == (comparison.high > 0) == (metric != "MAE")
        assert (comparison.difference > 0) == (metric != "MAE")
    assert found["S"][2:5] == pytest.approx((0.3, 0.3, 0.3))


def test_sides_exchanged():
    a, b = two_methods(60, seed=50)
    one = paired_bootstrap(a, b, METRICS, PYSODMETRICS, 80, seed=6)
    other = paired_bootstrap(b, a, METRICS, PYSODMETRICS, 80, seed=6)
    for metric in METRICS:
        forth, back = one[metric], other[metric]
        assert back[:2] == (forth.b, forth.a)
        mirrored = (-forth.difference, -forth.high, -forth.low, forth.p)
        assert back[2:] == pytest.approx(mirrored, abs=1e-12)


def test_p_and_interval_agree():
    for seed in range(60, 90, 2):
        a, b = two_methods(25, seed)
        for comparison in paired_bootstrap(a, b, METRICS, PYSODMETRICS, 400).values():
            assert 0 < comparison.p <= 1
            assert comparison.low <= comparison.high
            outside = comparison.low > 0 or comparison.high < 0
            if abs(comparison.p - 0.05) > 0.01:
                assert outside == (comparison.p < 0.05)


def test_intervals_hold_the_truth_as_often_as_they_say():
    # S of two methods whose true difference is 0.02: about 95 of 100 intervals hold it (a little
    # fewer, as percentiles of 60 images are), give or take 1.3.
    rng = np.random.default_rng(70)
    sets, images = 300, 60
    tallies = plain.random_tallies(images, seed=71)
    held = below = 0
    for seed in range(sets):
        a, b = tallies.copy(), tallies.copy()
        b["S"] = rng.normal(0.7, 0.1, images)  # as hard for both
        a["S"] = b["S"] + rng.normal(0.02, 0.05, images)
        found = paired_bootstrap(a, b, ["S"], PYSODMETRICS, 300, seed)["S"]
        held += found.low <= 0.02 <= found.high
        below += found.high < 0.02
    assert 0.89 < held / sets < 0.985
    assert below / sets < 0.06


def test_memory_does_not_grow_with_the_images():
    used = []
    for images in (2 * CHUNK, 8 * CHUNK):
        a, b = two_methods(images, seed=80)
        tracemalloc.start()
        paired_bootstrap(a, b, METRICS, PYSODMETRICS, 400)
        used.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert used[1] < 1.2 * used[0]


def test_faults_are_told():
    a, b = two_methods(5, seed=90)
    with pytest.raises(UserError, match="5 images against 4"):
        paired_bootstrap(a, b[:4], METRICS, PYSODMETRICS)
    with pytest.raises(UserError, match="1 image"):
        paired_bootstrap(a[:1], b[:1], METRICS, PYSODMETRICS)
    with pytest.raises(UserError, match="did you mean 'meanF'"):
        paired_bootstrap(a, b, ["meanf"], PYSODMETRICS)
    b["S"][2] = np.nan
    with pytest.raises(UserError, match="1 of 5 maps were scored without S"):
        paired_bootstrap(a, b, ["S"], PYSODMETRICS)
    assert paired_bootstrap(a, b, ["MAE"], PYSODMETRICS, 10)["MAE"].p > 0
