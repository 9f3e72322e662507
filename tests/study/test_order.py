"""Sides and orders of raters."""

from __future__ import annotations

from collections import Counter

from unclip.study.order import BLOCK, Order, arm_on, left_arm


def vote_through(study, rater, counts, enough=None):
    """The pairs in the order in which one who judges all sees them."""
    order, seen = Order(study, rater, enough), []
    while found := order.upcoming(seen, counts, 1):
        assert order.left(seen, counts) > 0
        seen.append(found[0].id)
        counts[found[0].id] += 1
    assert order.left(seen, counts) == 0
    return seen


def test_a_rater_sees_every_pair_once_and_again_in_the_same_order(study):
    seen = vote_through(study, "Ada", Counter())
    assert sorted(seen) == sorted(study.pairs)
    assert vote_through(study, "Ada", Counter()) == seen
    assert vote_through(study, "Grace", Counter()) != seen


def test_no_catch_pair_is_left_when_the_others_are_judged(study):
    for number in range(8):
        assert len(vote_through(study, f"rater {number}", Counter())) == len(study.pairs)


def test_questions_come_in_blocks_and_catch_pairs_are_spread(study):
    seen = [study.pairs[pair] for pair in vote_through(study, "Ada", Counter())]
    for block in range(3):
        assert len({pair.question for pair in seen[block * BLOCK : (block + 1) * BLOCK]}) == 1
    for question in study.questions:
        own = [pair.catch for pair in seen if pair.question == question]
        length = len(own) / 3
        places = [int(k // length) for k, catch in enumerate(own) if catch]
        assert places == [0, 1, 2]


def test_each_rater_has_sides_of_their_own_about_half_and_half(study):
    pairs = study.pairs.values()
    sides = {r: [left_arm(study, r, p) for p in pairs] for r in ("Ada", "Grace")}
    assert sides["Ada"] != sides["Grace"]
    for own in sides.values():
        assert 20 <= own.count("a") <= 49  # 69 fair coins: all but once in 2,000
    assert [arm_on(side, "b") for side in ("left", "right")] == ["b", "a"]
    assert [arm_on(side, "a") for side in ("left", "right")] == ["a", "b"]


def test_two_raters_cover_the_study_before_one_pair_is_judged_twice(study):
    counts, seen = Counter(), {"Ada": [], "Grace": []}
    orders = {rater: Order(study, rater) for rater in seen}
    regular = [pair.id for pair in study.pairs.values() if not pair.catch]
    while any(counts[pair] == 0 for pair in regular):
        for rater, order in orders.items():
            [pair] = order.upcoming(seen[rater], counts, 1)
            seen[rater].append(pair.id)
            counts[pair.id] += 1
    # Blocks of one question may overlap at their ends.
    assert sum(counts[pair] > 1 for pair in regular) <= 2 * BLOCK


def test_a_pair_with_enough_votes_is_not_handed_out(study):
    counts = Counter()
    first = vote_through(study, "Ada", counts, enough=1)
    assert len(first) == 69
    assert vote_through(study, "Grace", counts, enough=1) == []
    assert len(vote_through(study, "Grace", counts, enough=2)) == 69


def test_what_comes_after_the_next_is_known_too(study):
    order = Order(study, "Ada")
    first, second = order.upcoming([], Counter())
    assert order.upcoming([first.id], Counter({first.id: 1}))[0] == second
