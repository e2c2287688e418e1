"""Co-salient groups: which images share a class, and batches of two groups each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from datasets.index import Sample
from utils.errors import UserError
from utils.seeding import generator_for

LEAST_BATCH = 4


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of some images.

    Attributes:
        names: (set, group) of each class, sorted; its place here is the class's id. The images of
            a flat set are one class, its group empty.
        classes: int64 (N,), the class id of each image.
    """

    names: tuple[tuple[str, str], ...]
    classes: np.ndarray

    def members(self) -> list[np.ndarray]:
        """Return the places of each class's images, ascending, class by class."""
        ends = np.cumsum(np.bincount(self.classes, minlength=len(self.names)))
        return np.split(np.argsort(self.classes, kind="stable"), ends[:-1])


def list_groups(samples: Sequence[Sample]) -> Groups:
    """Group images by set and folder; a folder's name in two sets makes two classes."""
    keys = [(sample.set, sample.group) for sample in samples]
    names = tuple(sorted(set(keys)))
    ids = {name: number for number, name in enumerate(names)}
    return Groups(names, np.array([ids[key] for key in keys], np.int64))


def images_together(samples: Sequence[Sample], grouped: bool) -> list[list[int]]:
    """Return the places of the images that are looked at together: each group's, or all."""
    members = list_groups(samples).members() if grouped else [range(len(samples))]
    return [[int(index) for index in group] for group in members]


def images_apart(samples: Sequence[Sample], grouped: bool, at_a_time: int) -> list[list[int]]:
    """Return the places of the images in pieces of work that know nothing of each other.

    With groups a piece is a group; without, it is the images that are looked at at a time.
    """
    whole = images_together(samples, grouped)
    if grouped:
        return whole
    return [group[at : at + at_a_time] for group in whole for at in range(0, len(group), at_a_time)]


class GroupSampler(Sampler):
    """Batches of (epoch, index) keys, fixed by seed and epoch: one group's images, then another's.

    A group sends a hand of different images to a batch: half a batch of them, or all where it has
    fewer; so most batches are of one size. In an epoch a group sends as many hands as its images
    fill, rounded up or down by lot, and at least one; so an image comes once an epoch on average,
    and within a group none comes again before all have come. Only where one group outweighs all
    others do the others come more often, as its partners. All epochs have as many batches.

    The two groups never bear the same name (whatever the case), for "cat" of one set is no
    counterexample to "cat" of another. They come from two sets as often as the sets' sizes allow.
    """

    def __init__(self, groups: Groups, batch_size: int, seed: int) -> None:
        """Plan the epochs.

        Raises:
            UserError: fewer than two groups, images outside the group folders, or a batch that
                cannot hold two images of each of two groups.
        """
        require_two_groups(groups.names, batch_size)
        self.seed = seed
        self.epoch = 0
        self.members = groups.members()
        self.counts = np.array([len(places) for places in self.members])
        self.hand = batch_size // 2
        self.sets = _numbered([set_name for set_name, _ in groups.names])
        self.subjects = _numbered([group.casefold() for _, group in groups.names])
        # At most: how a group's hands are rounded is drawn anew in each epoch.
        most = int(np.bincount(self.subjects, -(-self.counts // self.hand)).max())
        total = int(np.maximum(self.counts, self.hand).sum()) // self.hand
        self.length = max((total + 1) // 2, most)

    def __len__(self) -> int:
        return self.length

    @property
    def smallest(self) -> int:
        """Images that every batch has: as many as the two smallest hands of two names."""
        hands = np.minimum(self.counts, self.hand)
        first = hands.argmin()
        return int(hands[first] + hands[self.subjects != self.subjects[first]].min())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = generator_for(self.seed, "groups", self.epoch)
        pairs = self._pairs(rng)
        dealers = [_deal(places, min(self.hand, len(places)), rng) for places in self.members]
        for at in rng.permutation(len(pairs)):
            chosen = np.concatenate([next(dealers[group]) for group in pairs[at]])
            yield [(self.epoch, int(index)) for index in chosen]

    def _pairs(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """Draw the two groups of each batch."""
        left, pairs = self._hands(rng), []
        while left.any():
            half = left.sum() // 2
            first = _draw(rng, left * self._pressing(left, half))
            partners = left * (self.subjects != self.subjects[first])
            elsewhere = partners * (self.sets != self.sets[first])
            second = _draw(rng, elsewhere if elsewhere.any() else partners)
            left[[first, second]] -= 1
            pairs.append((first, second))
        return pairs

    def _hands(self, rng: np.random.Generator) -> np.ndarray:
        """Draw how many hands each group sends: two a batch, no name in more than all batches."""
        # The groups laid end to end in random order and cut every `hand` images: each gets its
        # share rounded down or up, with the right odds, and the sum is the same in each epoch.
        order = rng.permutation(len(self.counts))
        cuts = np.cumsum(np.maximum(self.counts, self.hand)[order]) // self.hand
        hands = np.zeros(len(order), np.int64)
        hands[order] = np.diff(cuts, prepend=0)
        for _ in range(2 * self.length - int(hands.sum())):
            taken = np.bincount(self.subjects, hands)[self.subjects]
            hands[_draw(rng, self.counts * (taken < self.length))] += 1
        return hands

    def _pressing(self, left: np.ndarray, half: int) -> np.ndarray:
        """Return which groups one of the next batch must come from.

        A name (or a set) that makes up half of what is left has to be in every batch from here
        on; else its own groups would be left over, to be paired with each other.
        """
        for kinds in (self.subjects, self.sets):
            pressing = np.bincount(kinds, left)[kinds] >= half
            if pressing.any():
                return pressing
        return np.ones(len(left), bool)


def require_two_groups(names: Sequence[tuple[str, str]], batch_size: int) -> None:
    """Raise `UserError` where batches of two groups cannot be made."""
    for set_name, group in names:
        if not group:
            raise UserError(
                f"{set_name}: has images outside group folders, so their class is not known: put "
                "each image into its class's folder, or train without groups"
            )
    if len({group.casefold() for _, group in names}) < 2:
        sets = "+".join(sorted({set_name for set_name, _ in names}))
        raise UserError(
            f"{sets}: '{names[0][1]}' is the only group to train on, and a batch sets two groups "
            "against each other: add a group or a set of others, or train without groups"
        )
    if batch_size < LEAST_BATCH:
        raise UserError(
            f"--batch_size {batch_size}: must be at least {LEAST_BATCH} to train in groups, two "
            "images of each of two groups"
        )


def _numbered(names: Sequence[str]) -> np.ndarray:
    """Return int64 (N,): the same number for the same name, counted from 0."""
    return np.unique(names, return_inverse=True)[1]


def _draw(rng: np.random.Generator, weights: np.ndarray) -> int:
    """Draw a place with the odds ``weights`` (whole numbers)."""
    ends = np.cumsum(weights)
    return int(np.searchsorted(ends, rng.integers(ends[-1]), side="right"))


def _deal(places: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Deal hands of ``size`` different places without end, from one shuffled deck after another."""
    deck = places[:0]
    while True:
        if len(deck) >= size:
            hand, deck = deck[:size], deck[size:]
        else:
            fresh = rng.permutation(places)
            added = fresh[~np.isin(fresh, deck)][: size - len(deck)]
            hand, deck = np.concatenate([deck, added]), fresh[~np.isin(fresh, added)]
        yield hand
