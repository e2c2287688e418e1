"""Groups and their batches: two classes each, every image about once, by seed and epoch alone."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from datasets.groups import GroupSampler, list_groups
from datasets.index import Sample
from utils.errors import UserError


def samples_of(*sets):
    """Return samples; each set is given as {group: number of images}, the sets being A, B, ..."""
    return [
        Sample(f"{group}/{i}.png", Path("i"), Path("m"), name, group)
        for name, groups in zip("ABCDE", sets, strict=False)
        for group, count in groups.items()
        for i in range(count)
    ]


def epoch_of(sampler, epoch):
    """Return the batches of an epoch as lists of indices."""
    sampler.epoch = epoch
    batches = list(sampler)
    assert {key[0] for keys in batches for key in keys} == {epoch}
    return [[index for _, index in keys] for keys in batches]


def halves(batch, classes):
    """Cut a batch where its class changes; return the class and the images of each part."""
    found = [classes[index] for index in batch]
    cuts = [at for at in range(1, len(batch)) if found[at] != found[at - 1]]
    assert len(cuts) == 1, found
    return (found[0], batch[: cuts[0]]), (found[-1], batch[cuts[0] :])


def hands_of(batches, classes):
    """Return how many batches each class is in."""
    return Counter(int(part[0]) for batch in batches for part in halves(batch, classes))


def test_classes_are_sorted_sets_and_groups():
    samples = samples_of({"dog": 2, "cat": 1}, {"cat": 3})
    mixed = [samples[at] for at in (4, 0, 2, 5, 1, 3)]
    groups = list_groups(mixed)
    assert groups.names == (("A", "cat"), ("A", "dog"), ("B", "cat"))
    assert groups.classes.dtype == np.int64
    assert groups.classes.tolist() == [2, 1, 0, 2, 1, 2]
    assert [places.tolist() for places in groups.members()] == [[2], [1, 4], [0, 3, 5]]


def test_a_flat_set_is_one_class():
    groups = list_groups(samples_of({"": 3}))
    assert groups.names == (("A", ""),)
    assert groups.classes.tolist() == [0, 0, 0]


# Names are the sets' own but for the first, which every set may have.
group_counts = st.lists(
    st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=4
).filter(lambda sets: sum(map(len, sets)) > 1)


def drawn_sets(counts, shared):
    return [
        {"Cat" if shared and not g else f"{s}-{g}": n for g, n in enumerate(groups)}
        for s, groups in enumerate(counts)
    ]


def test_the_smallest_batch_is_of_the_two_smallest_hands_of_two_names():
    counts = {"cat": 2, "dog": 3, "owl": 9, "fox": 9}
    sampler = GroupSampler(list_groups(samples_of(counts)), 16, 0)
    sizes = {len(batch) for epoch in range(40) for batch in epoch_of(sampler, epoch)}
    assert sampler.smallest == min(sizes) == 2 + 3
    named_alike = GroupSampler(list_groups(samples_of({"Cat": 2, "owl": 9}, {"cat": 3})), 16, 0)
    assert named_alike.smallest == 2 + 8


@settings(deadline=None, max_examples=60)
@given(group_counts, st.booleans(), st.integers(4, 33), st.integers(0, 9), st.integers(0, 50))
def test_any_groups_make_good_batches(counts, shared, batch_size, seed, epoch):
    samples = samples_of(*drawn_sets(counts, shared))
    names = [sample.group for sample in samples]
    assume(len(set(names)) > 1)
    groups = list_groups(samples)
    sampler = GroupSampler(groups, batch_size, seed)
    batches = epoch_of(sampler, epoch)
    assert len(batches) == len(sampler)
    members = np.bincount(groups.classes)
    half = batch_size // 2
    for batch in batches:
        assert len(set(batch)) == len(batch) >= sampler.smallest
        (one, ones), (other, others) = halves(batch, groups.classes)
        assert groups.names[one][1] != groups.names[other][1]
        assert len(ones) == min(half, members[one])
        assert len(others) == min(half, members[other])
    # Each image of a group comes as often as the others, give or take one.
    views = np.bincount(np.concatenate(batches), minlength=len(samples))
    hands = hands_of(batches, groups.classes)
    for number, places in enumerate(groups.members()):
        assert np.ptp(views[places]) <= 1
        assert views[places].sum() == hands[number] * min(half, len(places))
        assert hands[number] >= max(1, len(places) // half)
    # No more batches than two groups in each, or one name in all of them, ask for.
    most = max(
        sum(
            -(-members[number] // half) for number, key in enumerate(groups.names) if key[1] == name
        )
        for name in names
    )
    needed = np.maximum(members, half).sum() // half
    assert len(batches) == max(-(-needed // 2), most)


@settings(deadline=None, max_examples=60)
@given(group_counts, st.integers(4, 33), st.integers(0, 50))
def test_groups_of_a_batch_come_from_two_sets_wherever_they_can(counts, batch_size, epoch):
    samples = samples_of(*drawn_sets(counts, shared=False))
    groups = list_groups(samples)
    batches = epoch_of(GroupSampler(groups, batch_size, 0), epoch)
    hands = Counter()
    for number, count in hands_of(batches, groups.classes).items():
        hands[groups.names[number][0]] += count
    alike = sum(samples[batch[0]].set == samples[batch[-1]].set for batch in batches)
    # What is left of the largest set when each other group has been set against it.
    assert alike == max(0, max(hands.values()) - len(batches))


@settings(deadline=None, max_examples=60)
@given(group_counts, st.integers(4, 33), st.integers(0, 9), st.integers(0, 50))
def test_the_order_belongs_to_seed_and_epoch(counts, batch_size, seed, epoch):
    assume(sum(map(sum, counts)) > 30)
    groups = list_groups(samples_of(*drawn_sets(counts, shared=False)))
    sampler = GroupSampler(groups, batch_size, seed)
    first = epoch_of(sampler, epoch)
    assert epoch_of(sampler, epoch + 1) != first
    assert epoch_of(sampler, epoch) == first
    assert epoch_of(GroupSampler(groups, batch_size, seed), epoch) == first
    assert epoch_of(GroupSampler(groups, batch_size, seed + 1), epoch) != first


def test_images_come_once_an_epoch_on_average_and_meet_all_groups():
    # Shares of 1.5, 1.375, 2.125, 1, 1.125 and 2.75 hands of eight: none may be rounded one way.
    counts = {"a": 12, "b": 11, "c": 17, "d": 8, "e": 9, "f": 22}
    samples = samples_of(counts)
    groups = list_groups(samples)
    sampler = GroupSampler(groups, 16, 0)
    views, pairs = np.zeros(len(samples)), set()
    for epoch in range(200):
        for batch in epoch_of(sampler, epoch):
            views[batch] += 1
            pairs.add(frozenset(groups.classes[batch].tolist()))
    # One hand of the epoch's eleventh pair is drawn to fill up, hence a little above one.
    assert len(sampler) == 5
    assert views.mean() / 200 == pytest.approx(10 * 8 / 79)
    for places in groups.members():
        assert views[places].mean() / 200 == pytest.approx(1.03, abs=0.1)
    assert (np.abs(views / 200 - 1.03) < 0.2).all()
    assert len(pairs) == 15


def test_a_group_that_outweighs_all_others_is_always_set_against_one():
    samples = samples_of({"many": 40, "few": 3, "one": 1})
    groups = list_groups(samples)
    batches = epoch_of(GroupSampler(groups, 8, 0), 0)
    assert len(batches) == 10
    hands = hands_of(batches, groups.classes)
    names = {groups.names[number][1]: count for number, count in hands.items()}
    assert names["many"] == 10
    assert min(names["few"], names["one"]) >= 1
    assert set().union(*batches) == set(range(44))


def test_a_name_in_two_sets_is_one_subject_whatever_its_case():
    samples = samples_of({"cat": 8, "dog": 8}, {"CAT": 8, "bird": 8})
    groups = list_groups(samples)
    for epoch in range(20):
        for batch in epoch_of(GroupSampler(groups, 8, 0), epoch):
            (one, _), (other, _) = halves(batch, groups.classes)
            assert {groups.names[number][1] for number in (one, other)} != {"cat", "CAT"}


@pytest.mark.parametrize(
    ("sets", "batch_size", "told"),
    [
        ([{"cat": 9}], 8, "A: 'cat' is the only group"),
        ([{"cat": 9}, {"Cat": 9}], 8, r"A\+B: 'cat' is the only group"),
        ([{"cat": 9, "dog": 9}, {"": 9}], 8, "B: has images outside group folders"),
        ([{"cat": 9, "": 1}], 8, "A: has images outside group folders"),
        ([{"cat": 9, "dog": 9}], 3, "--batch_size 3: must be at least 4"),
    ],
)
def test_what_cannot_be_trained_in_groups(sets, batch_size, told):
    with pytest.raises(UserError, match=told) as raised:
        GroupSampler(list_groups(samples_of(*sets)), batch_size, 0)
    assert "\n" not in str(raised.value)
