import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unclip.data.order import Draw, PermutedOrder, ShardedOrder, lanes_of, permutation, permutations


def sharded(shards, *, window=64, lanes=4, seed=3):
    return ShardedOrder(np.array(shards), window=window, lanes=lanes, seed=seed)


def epoch_of(order, epoch=0):
    """The numbers of an epoch, all of its positions drawn at once."""
    draws = order.draws(epoch * len(order), (epoch + 1) * len(order))
    assert set(draws.epochs.tolist()) == {epoch}
    return draws.numbers


def test_a_permutation_has_everything_once_and_differs_by_epoch_and_seed():
    orders = [permutation(100, seed=s, epoch=e).tolist() for s in (0, 1) for e in (0, 1)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert permutation(100, seed=1, epoch=1).tolist() == orders[-1]


def test_permutations_are_those_that_runs_were_trained_with():
    assert permutation(10, seed=3, epoch=2).tolist() == [5, 2, 7, 0, 6, 9, 3, 4, 1, 8]
    in_runs = [4, 5, 6, 7, 0, 1, 2, 3, 8, 9]
    assert permutation(10, seed=3, epoch=2, run=4).tolist() == in_runs
    assert epoch_of(PermutedOrder(10, seed=3, run=4), 2).tolist() == in_runs


def test_runs_stay_together_and_the_last_may_be_short():
    order = permutation(100, seed=0, epoch=0, run=6).tolist()
    assert sorted(order) == list(range(100))
    assert order != list(range(100))
    firsts = [i for i in order if i % 6 == 0]
    assert order == [j for i in firsts for j in range(i, min(i + 6, 100))]


def test_shuffled_gives_permutations_that_have_nothing_to_do_with_each_other():
    found = permutations(500, 8, "test", 1)
    assert (np.sort(found, axis=1) == np.arange(8)).all()
    # Each number is as often at each place: 500 / 8 = 62.5, standard deviation 7.4.
    counts = np.stack([np.bincount(found[:, place], minlength=8) for place in range(8)])
    assert counts.min() > 62.5 - 5 * 7.4
    assert counts.max() < 62.5 + 5 * 7.4
    assert (permutations(500, 8, "test", 1) == found).all()
    assert (permutations(500, 8, "test", 2) != found).any()


def test_draws_are_arrays_to_a_dataset_that_wants_them_and_plain_numbers_to_others():
    draws = PermutedOrder(5, seed=0).draws(3, 7)
    assert len(draws) == 4
    assert draws.epochs.tolist() == [0, 0, 1, 1]
    assert list(draws) == [Draw(e, n) for e, n in zip(draws.epochs, draws.numbers)]
    assert list(draws[1::2]) == list(draws)[1::2]
    assert {type(value) for draw in draws for value in draw} == {int}


shards_of = st.lists(st.integers(0, 40), min_size=2, max_size=12).filter(lambda s: sum(s) >= 8)


@settings(deadline=None)
@given(shards_of, st.integers(1, 60), st.sampled_from([1, 2, 4, 6, 8]), st.integers(0, 2))
def test_a_sharded_epoch_has_everything_once_but_a_tail_that_fills_no_row(
    shards, window, lanes, epoch
):
    numbers = epoch_of(sharded(shards, window=window, lanes=lanes), epoch)
    assert len(numbers) == sum(shards) // lanes * lanes
    assert len(set(numbers.tolist())) == len(numbers)
    assert set(numbers.tolist()) <= set(range(sum(shards)))


@settings(deadline=None)
@given(shards_of, st.integers(1, 60), st.sampled_from([1, 4, 6]), st.data())
def test_any_span_of_positions_is_that_part_of_the_whole_stream(shards, window, lanes, data):
    order = sharded(shards, window=window, lanes=lanes)
    whole = np.concatenate([epoch_of(order, epoch) for epoch in range(3)])
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    for asked in (order, sharded(shards, window=window, lanes=lanes)):
        draws = asked.draws(start, stop)
        assert draws.numbers.tolist() == whole[start:stop].tolist()
        assert draws.epochs.tolist() == [p // len(order) for p in range(start, stop)]


def test_what_an_epoch_leaves_out_and_where_its_windows_begin_differ():
    order = sharded([25] * 3, window=25, lanes=8)
    epochs = [epoch_of(order, epoch) for epoch in range(20)]
    left_out = [frozenset(range(75)) - set(numbers.tolist()) for numbers in epochs]
    assert {len(some) for some in left_out} == {3}
    assert len(set().union(*left_out)) > 30
    assert len({frozenset(numbers[:24].tolist()) for numbers in epochs}) > 15


def test_a_window_is_a_few_whole_shards():
    numbers = epoch_of(sharded([50] * 40, window=200, lanes=8))
    for window in np.split(numbers, 10):  # four shards, of which the outer ones may be in parts
        assert len(set((window // 50).tolist())) <= 5


@pytest.mark.parametrize("world", [2, 4, 8, 16])
def test_of_a_window_each_process_reads_its_own_part(world):
    numbers = epoch_of(sharded([64] * 64, window=1024, lanes=16))
    for window in np.split(numbers, 4):
        read = [set((window[rank::world] // 64).tolist()) for rank in range(world)]
        # Of 16 shards or so; where the share of a process begins, it may be within one.
        assert max(map(len, read)) <= 16 // world + 2
        assert sum(map(len, read)) <= 16 + 1 + world


def test_a_process_reads_contiguous_stretches_whatever_the_number_of_lanes():
    order = sharded([1000, 1000], window=2000, lanes=12)
    numbers = epoch_of(order)
    for lane in range(12):  # neighbours all, but where one shard ends and the other begins
        assert (np.diff(np.sort(numbers[lane::12])) > 1).sum() <= 1


def test_a_stream_is_mixed_as_well_as_its_window_allows():
    def steps(numbers):
        return np.abs(np.diff(numbers))

    length, whole = 64 * 64, permutation(64 * 64, seed=0, epoch=0)
    # The distance of two independent uniform numbers in [0, 1] is a third in the mean.
    assert steps(whole).mean() == pytest.approx(length / 3, rel=0.05)
    for window in (length, 512):
        numbers = epoch_of(sharded([64] * 64, window=window, lanes=16))
        assert steps(numbers).mean() == pytest.approx(length / 3, rel=0.1)
        assert (steps(numbers) == 1).mean() < 2 / 512  # in the permutation 2 / length
        assert (np.diff(numbers // 64) == 0).mean() < 64 / window


def test_a_small_sharded_order_is_this_one():
    order = sharded([5, 3, 8, 4], window=8, lanes=2, seed=7)
    assert [epoch_of(order, epoch).tolist() for epoch in (0, 1)] == [
        [9, 15, 4, 11, 3, 13, 8, 14, 10, 12, 17, 18, 16, 2, 7, 0, 5, 19, 6, 1],
        [5, 1, 18, 3, 7, 2, 19, 0, 6, 4, 9, 14, 12, 15, 10, 17, 11, 13, 8, 16],
    ]


def test_a_billion_samples_take_the_memory_of_a_window_and_start_anywhere():
    shards = np.full(100_000, 10_000)
    tracemalloc.start()
    order = ShardedOrder(shards, window=65_536, lanes=64, seed=0)
    start = 7 * len(order) + 654_321_000
    numbers = order.draws(start, start + 1000).numbers
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 2**20
    assert len(set(numbers.tolist())) == 1000
    assert len(set((numbers // 10_000).tolist())) <= 65_536 // 10_000 + 2


@pytest.mark.parametrize(
    ("batch_size", "lanes"), [(1, 1), (8, 8), (64, 64), (4096, 64), (96, 48), (67, 1), (130, 26)]
)
def test_lanes_divide_the_batch(batch_size, lanes):
    assert lanes_of(batch_size) == lanes
