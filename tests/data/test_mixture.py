from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unclip.common.errors import UserError
from unclip.data.mixture import order_of
from unclip.data.order import PermutedOrder, ShardedOrder

LENGTHS = [300, 2000, 50]
SHARDS = np.array([300] + [100] * 20 + [50])
WEIGHTS = [1.0, 2.0, 0.25]
BATCH = 24
SPAN = 4096 // BATCH * BATCH  # of a block


def mixture(weights=WEIGHTS, *, lengths=LENGTHS, shards=SHARDS, batch_size=BATCH, seed=5):
    return order_of(lengths, shards, weights=weights, batch_size=batch_size, window=500, seed=seed)


def parts_of(numbers, lengths=LENGTHS):
    return np.searchsorted(np.cumsum(lengths), numbers, side="right")


def test_each_part_has_its_share_of_every_block():
    order = mixture()
    for block in range(6):
        parts = parts_of(order.draws(block * SPAN, (block + 1) * SPAN).numbers)
        counts = np.bincount(parts)
        # Rounding moves each bound between parts by less than a row, of one draw per lane.
        assert np.abs(counts - np.array(WEIGHTS) / 3.25 * SPAN).max() < 2 * BATCH
        for lane in range(BATCH):
            assert (np.bincount(parts[lane::BATCH]) * BATCH).tolist() == counts.tolist()


def test_the_rounding_of_shares_does_not_add_up():
    counts = np.bincount(parts_of(mixture([1.0, 1.0, 1.0]).draws(0, 9 * SPAN).numbers))
    assert counts.tolist() == [3 * SPAN] * 3


def test_each_part_runs_through_its_own_order_lane_by_lane():
    order, lanes = mixture(batch_size=6), 6
    drawn = order.draws(0, 12_000)
    parts = parts_of(drawn.numbers)
    firsts = [0, 300, 2300]
    alone = [
        PermutedOrder(300, seed=order._orders[0]._seed),
        ShardedOrder(SHARDS[1:-1], window=500, lanes=lanes, seed=order._orders[1]._seed),
        PermutedOrder(50, seed=order._orders[2]._seed),
    ]
    assert len({own._seed for own in alone}) == 3
    for part, own in enumerate(alone):
        for lane in range(lanes):
            numbers, epochs = drawn.numbers[lane::lanes], drawn.epochs[lane::lanes]
            mine = parts[lane::lanes] == part
            expected = own.draws(0, lanes * int(mine.sum()))[lane::lanes]
            assert (numbers[mine] - firsts[part]).tolist() == expected.numbers.tolist()
            assert epochs[mine].tolist() == expected.epochs.tolist()
    assert drawn.epochs[parts == 2].max() > 10  # the small part is seen again and again


def test_the_parts_are_mixed_within_a_batch():
    parts = parts_of(mixture([1.0, 1.0, 1.0]).draws(0, 200 * BATCH).numbers).reshape(200, BATCH)
    counts = np.stack([(parts == part).sum(axis=1) for part in range(3)])
    assert (counts > 0).mean() > 0.99
    assert counts.std() < 2 * (BATCH * 2 / 9) ** 0.5  # that of independent draws, or less


def test_an_epoch_is_as_long_as_all_parts_and_fills_batches():
    assert len(mixture()) == 2350 // BATCH * BATCH
    assert mixture([1.0], lengths=[300], shards=None).draws(0, 600).numbers.max() == 299


@settings(deadline=None)
@given(st.lists(st.floats(1e-3, 1), min_size=1, max_size=5), st.sampled_from([1, 4, 6, 64]))
def test_any_weights_give_whole_shares_and_no_block_without_a_part(weights, batch_size):
    lengths = [500] * len(weights)
    order = mixture(weights, lengths=lengths, shards=None, batch_size=batch_size)
    shares = [Fraction(w) / sum(map(Fraction, weights)) for w in weights]
    span = order._rows * order._lanes
    for block in (0, 1, 10**6):
        counts = np.bincount(
            parts_of(order.draws(block * span, (block + 1) * span).numbers, lengths),
            minlength=len(weights),
        )
        assert counts.min() > 0
        assert counts.sum() == span
        for count, share in zip(counts, shares):
            assert abs(count - share * span) < 2 * order._lanes


def test_a_part_that_is_too_rare_is_refused():
    mixture([1.0, 4094.0, 1.0])
    with pytest.raises(
        UserError, match=r"^data\.mixture: source 3 of 3 .* 0\.00024 of the weight; "
    ):
        mixture([2.0, 4095.0, 1.0])


def test_an_empty_part_and_too_few_samples_are_refused():
    with pytest.raises(UserError, match=r"^data\.mixture: source 2 has no training samples"):
        mixture([1.0, 1.0], lengths=[300, 0], shards=None)
    with pytest.raises(UserError, match=r"^data\.batch_size: 8 is more than the 7 training"):
        order_of([7], None, batch_size=8, window=4, seed=0)


@pytest.mark.parametrize(
    ("shards", "kind"),
    [
        (None, PermutedOrder),
        ([100], PermutedOrder),
        ([50, 50], ShardedOrder),
        ([10] * 10, ShardedOrder),
    ],
)
def test_only_a_source_of_several_shards_and_more_than_a_window_is_read_shard_by_shard(
    shards, kind
):
    shards = None if shards is None else np.array(shards)
    assert type(order_of([100], shards, batch_size=8, window=99, seed=0)) is kind
    assert type(order_of([100], shards, batch_size=8, window=100, seed=0)) is PermutedOrder


def test_a_mixture_keeps_apart_what_processes_read():
    shards = np.full(128, 64)
    order = order_of([4096, 4096], shards, weights=[1, 1], batch_size=64, window=1024, seed=0)
    numbers = order.draws(0, 4096).numbers  # a block: two windows of 16 shards from each part
    for world in (2, 4, 8):
        read = [set((numbers[rank::world] // 64).tolist()) for rank in range(world)]
        assert max(map(len, read)) <= 4 * (16 // world + 2)
