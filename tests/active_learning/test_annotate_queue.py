from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from active_learning.annotate.queue import LEASE, Closed, Queue, _chance
from active_learning.answers import UNREADABLE, Answer, label_of
from active_learning.questions import Pixel, Question

NAMES = ("ann", "bob", "cyd")


class Memory:
    """A journal without a disk."""

    def __init__(self) -> None:
        self.rows: list[Answer] = []
        self.edits = 0
        self.writes = 0

    def read(self, edits: int = 0, known: int = 0) -> tuple[int, list[Answer]]:
        return self.edits, self.rows[known if edits == self.edits else 0 :]

    def answers(self) -> list[Answer]:
        return self.read()[1]

    def append(self, answer: Answer) -> None:
        self.extend([answer])

    def extend(self, answers: Sequence[Answer]) -> None:
        self.rows += answers
        self.writes += bool(answers)


class Name(str):
    """An image's name that tells how often any was looked at."""

    looks = 0

    def __hash__(self) -> int:
        Name.looks += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        Name.looks += 1
        return super().__eq__(other)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def questions(images: int, asked: int, spare: int = 0, index: int = 0) -> list[Question]:
    return [
        Question(f"{image}.png", 10 * index + place, image, index, place >= asked)
        for image in range(images)
        for place in range(asked + spare)
    ]


def make(*files: list[Question], closed: bool = False, **options: object) -> tuple[Queue, Clock]:
    clock = Clock()
    queue = Queue(Memory(), clock=clock, **options)  # type: ignore[arg-type]
    queue.load([(one, closed) for one in files])
    return queue, clock


def work_off(queue: Queue, name: str, said: str = "f") -> list[Pixel]:
    """Answer until there is no question; return the pixels in their order."""
    seen: list[Pixel] = []
    while found := queue.take(name, 3):
        seen.append(found[0].pixel)
        assert queue.answer(name, seen[-1], said, 1.0)
    return seen


def test_rows_keeps_an_image_together_and_mixed_does_not() -> None:
    asked = questions(8, 4)
    queue, _ = make(asked)
    assert work_off(queue, "ann") == [question.pixel for question in asked]
    queue, _ = make(asked, order="mixed")
    seen = work_off(queue, "ann")
    assert sorted(seen) == [question.pixel for question in asked]
    assert sum(a[0] == b[0] for a, b in itertools.pairwise(seen)) < 16


def test_two_annotators_are_at_two_images() -> None:
    queue, _ = make(questions(3, 2))
    ann, bob = queue.take("ann", 2), queue.take("bob", 2)
    assert {q.image for q in ann} == {"0.png"}
    assert {q.image for q in bob} == {"1.png"}
    queue.answer("ann", ann[0].pixel, "f", 1.0)
    # What was held and not answered comes again, in its place.
    assert queue.take("ann", 2)[0] == ann[1]


def test_the_last_image_is_shared() -> None:
    queue, _ = make(questions(1, 3))
    first, second = queue.take("ann", 1), queue.take("bob", 2)
    assert len(second) == 2
    assert first[0] not in second
    assert queue.take("cyd", 1) == []


def test_a_skipped_pixel_is_replaced_at_once_and_in_order() -> None:
    asked = questions(2, 2, spare=2)
    queue, _ = make(asked)
    first = queue.take("ann", 4)[0]
    queue.answer("ann", first.pixel, "s", 1.0)
    substitute = queue.take("ann", 4)[0]
    assert substitute == asked[2]
    queue.answer("ann", substitute.pixel, "s", 1.0)
    assert queue.take("ann", 4)[0] == asked[3]
    queue.answer("ann", asked[3].pixel, "s", 1.0)
    assert queue.counts().short == 1
    # Taken back, the first is asked again and its substitutes are not needed: nothing is short.
    queue.answer("ann", first.pixel, "u", 0.0)
    assert queue.take("ann", 1) == [asked[0]]
    assert queue.counts().short == 0


def test_undo_goes_back_any_number_of_answers_and_asks_each_again() -> None:
    queue, _ = make(questions(3, 3), twice=0.0)
    order = work_off(queue, "ann")
    for pixel in reversed(order):
        (last,) = queue.mine("ann", 1)
        assert last.pixel == pixel
        assert queue.answer("ann", pixel, "u", 0.0)
        assert queue.take("ann", 1)[0].pixel == pixel
    assert queue.mine("ann", 1) == []
    assert queue.counts().told == 0
    assert work_off(queue, "ann") == order


def test_nothing_to_take_back_changes_nothing() -> None:
    queue, _ = make(questions(1, 2))
    assert not queue.answer("ann", ("0.png", 0, 0), "u", 0.0)
    assert queue.journal.answers() == []


def test_an_answer_sent_twice_is_written_once() -> None:
    queue, _ = make(questions(1, 2))
    pixel = queue.take("ann", 1)[0].pixel
    assert queue.answer("ann", pixel, "f", 1.0, "one")
    assert not queue.answer("ann", pixel, "f", 1.0, "one")
    assert queue.answer("ann", pixel, "u", 1.0, "two")
    # A late copy of the first request must not bring back what was taken back since.
    assert not queue.answer("ann", pixel, "f", 1.0, "one")
    assert [row.answer for row in queue.journal.answers()] == ["f", "u"]
    # A new server does not know the request, but what stands.
    queue.answer("ann", pixel, "b", 1.0, "three")
    again = Queue(queue.journal)
    again.load([(questions(1, 2), False)])
    assert not again.answer("ann", pixel, "b", 1.0, "three")


def test_a_question_nobody_asked_is_refused() -> None:
    queue, _ = make(questions(1, 2))
    with pytest.raises(KeyError):
        queue.answer("ann", ("0.png", 99, 0), "f", 1.0)


def test_a_lease_expires_and_the_late_answer_is_a_second_opinion() -> None:
    queue, clock = make(questions(1, 1), twice=0.0)
    pixel = queue.take("ann", 1)[0].pixel
    assert queue.take("bob", 1) == []
    clock.now += LEASE / 2
    queue.leases.renew("ann")
    clock.now += LEASE * 0.75
    assert queue.take("bob", 1) == []
    clock.now += LEASE / 2
    assert queue.take("bob", 1)[0].pixel == pixel
    assert queue.answer("bob", pixel, "b", 1.0)
    assert queue.answer("ann", pixel, "f", 300.0)
    stands = queue.standing()[pixel]
    assert [one.annotator for one in stands] == ["bob", "ann"]
    assert label_of(stands) == "b"


def test_signs_of_life_come_while_others_are_counted() -> None:
    class Seen(float):
        """A time whose comparison lets another thread in."""

        def __gt__(self, other: float) -> bool:
            thread = threading.Thread(target=queue.leases.renew, args=("bob",))
            threads.append(thread)
            thread.start()
            thread.join(0.1)
            return float(self) > other

    threads: list[threading.Thread] = []
    queue = Queue(Memory(), clock=lambda: Seen(0.0))  # type: ignore[arg-type]
    queue.leases.renew("ann")
    assert queue.leases.alive() == {"ann"}
    threads[0].join()
    assert queue.leases.alive() == {"ann", "bob"}


def test_what_comes_too_late_for_a_closed_file_leaves_nothing_open() -> None:
    first = questions(1, 2, spare=1)
    queue, _ = make(first)
    work_off(queue, "ann")
    queue.load([(first, True), (questions(1, 1, index=1), False)])
    assert queue.answer("review:eve", first[0].pixel, "s", 0.0)
    with pytest.raises(Closed):
        queue.answer("ann", first[1].pixel, "u", 0.0)
    assert queue.answer("bob", first[1].pixel, "b", 1.0)
    assert (queue.counts().wanted, queue.counts().told) == (2, 1)
    assert len(work_off(queue, "bob")) == 1
    assert queue.counts().wanted == queue.counts().told


def test_the_share_is_asked_of_two_people_and_of_no_third() -> None:
    asked = questions(40, 4)
    queue, _ = make(asked, twice=0.2)
    share = {q.pixel for q in asked if _chance("twice", q.pixel) < 0.2}
    assert 12 < len(share) < 55
    work_off(queue, "ann")
    assert queue.counts().told == len(asked)
    assert set(work_off(queue, "bob", "b")) == share
    assert work_off(queue, "cyd") == []
    assert work_off(queue, "ann") == []
    assert all(label_of(stands) == "f" for stands in queue.standing().values())


def test_later_files_wait_their_turn_and_closed_ones_are_not_asked() -> None:
    first, second = questions(2, 1), questions(2, 1, index=1)
    queue, _ = make(first, second)
    # The second file begins with the image that ann is at.
    assert work_off(queue, "ann") == [q.pixel for q in [*first, *reversed(second)]]
    queue, _ = make(first, closed=True)
    assert queue.take("ann", 1) == []
    # More files, when some of it has been answered.
    queue, _ = make(first)
    queue.answer("ann", first[0].pixel, "f", 1.0)
    queue.load([(first, False), (second, False)])
    assert [q.pixel for q in queue.take("bob", 9)] == [q.pixel for q in first[1:] + second]


def test_a_pixel_of_two_files_is_asked_once() -> None:
    first = questions(2, 2)
    queue, _ = make(first, [first[1]._replace(round=1), *questions(2, 1, index=1)])
    assert len(work_off(queue, "ann")) == 6
    assert queue.counts().told == queue.counts().wanted == 7


def test_what_others_write_into_the_journal_is_taken_up() -> None:
    queue, _ = make(questions(1, 2))
    queue.take("ann", 2)
    time = "2026-01-31T12:00:00Z"
    queue.journal.append(Answer("0.png", 0, 0, "f", 0, "imported", 0.0, time))
    assert [q.x for q in queue.take("ann", 2)] == [1]


def test_an_edited_journal_is_taken_up_as_a_whole() -> None:
    """One answer became "can't say", which wants the reserve; the other image's have gone."""
    queue, _ = make(questions(2, 2, spare=1), twice=1.0)
    work_off(queue, "ann")
    work_off(queue, "bob")
    assert queue.counts() == (4, 4, 0)
    rows = queue.journal.rows
    rows[:] = [row for row in rows if row.annotator == "ann" and row.image == "0.png"]
    rows[0] = rows[0]._replace(answer="s")
    queue.journal.edits += 1
    asked = {("0.png", 2, 0), ("1.png", 0, 1), ("1.png", 1, 1)}
    assert {q.pixel for q in queue.take("ann", 9)} == asked
    assert queue.counts() == (4, 1, 0)
    assert [one.pixel for one in queue.mine("ann", 9)] == [row.pixel for row in rows[::-1]]
    assert queue.mine("bob", 9) == []
    # His second opinions have gone; what ann holds is hers.
    assert {q.pixel for q in queue.take("bob", 9)} == {row.pixel for row in rows}
    work_off(queue, "ann")
    assert queue.counts() == (4, 4, 0)


def test_an_image_that_cannot_be_shown_is_complete_and_asked_of_nobody() -> None:
    queue, _ = make(questions(2, 2, spare=1), twice=1.0)
    queue.answer("ann", ("0.png", 0, 0), "f", 1.0)
    queue.skip_image("0.png")
    # Not for a second opinion either: it would come again and again, and never be seen.
    assert {q.image for q in queue.take("bob", 9)} == {"1.png"}
    said = [row.answer for row in queue.journal.answers() if row.annotator == UNREADABLE]
    assert said == ["s", "s"]
    assert queue.counts().short == 1
    assert queue.leases.alive() == {"ann", "bob"}
    # Nor is anything asked about it in a later round.
    first = questions(2, 2, spare=1)
    queue.load([(first, False), (questions(2, 1, index=1), False)])
    work_off(queue, "ann")
    work_off(queue, "bob")
    assert not [q for q in queue.take("cyd", 9) if q.image == "0.png"]
    assert queue.counts().told == queue.counts().wanted


def test_a_skipped_image_whose_lines_are_deleted_is_asked_about_again() -> None:
    queue, _ = make(questions(2, 2), twice=1.0)
    queue.skip_image("0.png")
    work_off(queue, "ann")
    rows = queue.journal.rows
    rows[:] = [row for row in rows if row.annotator != UNREADABLE]
    queue.journal.edits += 1
    assert work_off(queue, "ann") == [("0.png", 0, 0), ("0.png", 1, 0)]
    assert queue.counts() == (4, 4, 0)
    # One that cannot be shown even so is left alone again, edited just then or not.
    rows.pop()
    queue.journal.edits += 1
    queue.skip_image("0.png")
    assert rows[-1].annotator == UNREADABLE
    assert {q.image for q in queue.take("bob", 9)} == {"1.png"}


def test_what_a_closed_round_had_in_reserve_may_be_answered_in_a_later_one() -> None:
    first = questions(1, 1, spare=1)
    queue, _ = make(first)
    work_off(queue, "ann")
    asked_later = first[1]._replace(round=1, reserve=False)
    queue.load([(first, True), ([asked_later], False)])
    assert work_off(queue, "ann") == [asked_later.pixel]
    assert [one.pixel for one in queue.mine("ann", 9)] == [asked_later.pixel]
    assert queue.answer("ann", asked_later.pixel, "u", 0.0)
    assert queue.take("ann", 1) == [asked_later]


def test_what_is_closed_is_not_gone_through_at_every_reply() -> None:
    first = [one._replace(image=Name(one.image)) for one in questions(50, 4)]
    second = questions(1, 3, index=1)
    queue, _ = make(first)
    work_off(queue, "ann")
    assert len(queue.mine("ann", 999)) == 200
    queue.load([(first, True), (second, False)])
    queue.answer("bob", first[0].pixel, "b", 1.0)  # a second opinion, in use like the first
    seen = work_off(queue, "ann")
    for edits in (0, 1):  # after an edit all is taken up anew
        queue.journal.edits = edits
        queue.take("ann", 1)
        looks = Name.looks
        assert [one.pixel for one in queue.mine("ann", 30)] == seen[::-1]
        assert queue.mine("bob", 30) == []
        assert Name.looks == looks


def test_an_answer_that_another_arm_is_asked_for_too_may_be_changed_again() -> None:
    first = questions(1, 2)
    queue, _ = make(first)
    work_off(queue, "ann")
    queue.load([(first, True)])
    assert queue.mine("ann", 9) == []
    queue.load([(first, True), (first[:1], False)])
    assert [one.pixel for one in queue.mine("ann", 9)] == [first[0].pixel]


def test_the_questions_of_a_picture_are_skipped_in_one_go() -> None:
    asked = [one._replace(image=Name(one.image)) for one in questions(100, 4)]
    queue, _ = make(asked)
    Name.looks = 0
    queue.skip_image("7.png")
    assert queue.journal.writes == 1
    assert [row.pixel for row in queue.journal.rows] == [q.pixel for q in asked[28:32]]
    assert Name.looks < 100
    queue.skip_image("8.png")
    # Asked about in the next round, too, they are skipped together.
    queue.load([(asked, True), (questions(100, 1, index=1), False)])
    assert {row.image for row in queue.journal.rows[8:]} == {"7.png", "8.png"}
    assert queue.journal.writes == 3


def test_who_reviews_shares_no_questions() -> None:
    queue, _ = make(questions(1, 2))
    queue.take("ann", 1)
    queue.answer("review:ann", ("0.png", 0, 0), "f", 0.0)
    assert queue.leases.alive() == {"ann"}


@example(  # bob comes back by an undo, when what he held is with others
    steps=[
        *(("ann", "t", 1), ("bob", "f", 2), ("ann", "w", 1), ("ann", "w", 1), ("cyd", "t", 3)),
        *(("ann", "t", 1), ("bob", "u", 1), ("ann", "t", 1)),
    ],
    order="rows",
    expires=True,
)
@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from("ttffffbsuw"), st.integers(1, 4)),
        max_size=60,
    ),
    order=st.sampled_from(("rows", "mixed")),
    expires=st.booleans(),
)
def test_any_interleaving(steps: list[tuple[str, str, int]], order: str, expires: bool) -> None:
    asked = questions(5, 3, spare=2)
    queue, clock = make(asked, order=order, twice=0.2)
    share = {q.pixel for q in asked if _chance("twice", q.pixel) < 0.2}
    held: dict[str, set[Pixel]] = {}
    for name, act, count in steps:
        if act == "w" and expires:
            clock.now += LEASE * 0.6
        elif act == "u":
            if mine := queue.mine(name, 1):
                queue.answer(name, mine[0].pixel, "u", 0.0)
        else:
            found = queue.take(name, count)
            held[name] = {q.pixel for q in found}
            others = held.keys() - {name}
            for absent in others - queue.leases.alive():
                held[absent] -= held[name]  # it stays so when they come back
            assert all(held[name].isdisjoint(held[other]) for other in others)
            if act != "t" and found:
                assert queue.answer(name, found[0].pixel, act, 1.0)
                held[name].remove(found[0].pixel)
    clock.now += 2 * LEASE
    work_off(queue, "ann")
    work_off(queue, "bob")
    counts = queue.counts()
    assert counts.told == counts.wanted
    assert counts.wanted + counts.short == 15
    assert work_off(queue, "cyd") == []
    answered: dict[Pixel, set[str]] = {}
    for row in queue.journal.answers():
        answered.setdefault(row.pixel, set()).add(row.annotator)
    if not expires and not any(act == "u" for _, act, _ in steps):
        assert all(len(who) == 1 for pixel, who in answered.items() if pixel not in share)
        assert all(len(who) <= 2 for who in answered.values())
    # A new server, which remembers nothing, finds the same.
    again = Queue(queue.journal, order=order)
    again.load([(asked, False)])
    assert again.counts() == counts
    assert again.standing() == queue.standing()
