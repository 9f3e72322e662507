import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_data import FakeSource

from unclip.common.errors import UserError
from unclip.data.dataset import Examples
from unclip.data.loader import BatchOrder, ResumableLoader
from unclip.data.mixture import order_of
from unclip.data.transforms import Square

# More workers than cores are of no use, but change nothing.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

LENGTH, BATCH = 149, 12  # twelve whole batches, five samples left over
PARTS = (100, 49)
KINDS = {
    "permuted": {"lengths": [LENGTH], "shards": None},
    "sharded": {"lengths": [LENGTH], "shards": np.array([20] * 7 + [9])},
    "mixture": {"lengths": PARTS, "shards": np.array([20] * 5 + [49]), "weights": (0.5, 0.5)},
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def order(kind="permuted", *, seed=3, batch_size=BATCH):
    return order_of(**KINDS[kind], batch_size=batch_size, window=30, seed=seed)


def collate(examples):
    return [(e.key, e.caption, e.images[0].tobytes()) for e in examples]


def loader(kind="permuted", *, workers=0, rank=0, world=1, accumulate=1, source=None, **more):
    source = source or FakeSource(LENGTH, captions=3)
    transform = Square(sizes=(6,), random_crop=True, flip=True)
    return ResumableLoader(
        Examples(source, transform, seed=3),
        order=BatchOrder(
            order(kind), batch_size=BATCH, rank=rank, world=world, accumulate=accumulate
        ),
        collate=collate,
        fingerprint=source.fingerprint(),
        num_workers=workers,
        **more,
    )


def stream(batches, epochs):
    return [batch for _ in range(epochs) for batch in batches]


def interleaved(ranks):
    """The batches of all ranks as one process would have them."""
    return [[draw for row in zip(*batches, strict=True) for draw in row] for batches in zip(*ranks)]


def joined(micro, accumulate):
    """The batches of optimizer steps."""
    firsts = range(0, len(micro), accumulate)
    return [list(itertools.chain(*micro[first : first + accumulate])) for first in firsts]


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (4, 1), (1, 2), (2, 3), (3, 1)])
def test_a_step_has_the_same_samples_at_the_same_positions_however_it_is_split(
    kind, world, accumulate
):
    def batches(rank=0, world=1, accumulate=1):
        own = BatchOrder(
            order(kind), batch_size=BATCH, rank=rank, world=world, accumulate=accumulate
        )
        found = [list(draws) for draws in own]
        assert len(found) == len(own)
        return found

    split = interleaved([batches(rank, world, accumulate) for rank in range(world)])
    assert {len(micro) for micro in split} == {BATCH // accumulate}
    assert joined(split, accumulate) == batches()


@pytest.mark.parametrize("kind", ["permuted", "sharded"])
def test_an_epoch_has_everything_once_but_what_fills_no_batch(kind):
    batches = loader(kind)
    kept = [[key for batch in batches for key, *_ in batch] for _ in range(2)]
    for keys in kept:
        assert len(keys) == len(set(keys)) == LENGTH // BATCH * BATCH
    assert set(kept[0]) != set(kept[1])


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_workers_and_processes_change_nothing(kind, world, workers):
    ranks = [loader(kind, rank=rank, world=world, workers=workers) for rank in range(world)]
    assert interleaved([stream(rank, 2) for rank in ranks]) == stream(loader(kind), 2)


def taken(batches, count):
    """``count`` batches as Lightning asks for them: never for the end of an epoch."""
    found = []
    while len(found) < count:
        found += itertools.islice(batches, min(count - len(found), len(batches)))
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_stopping_anywhere_and_resuming_gives_the_same_remaining_stream(kind, workers):
    whole = stream(loader(kind), 3)
    # Two workers take a while to start: there, only the middle, the end and the next epoch.
    for stop in range(26) if workers == 0 else (5, 12, 13):
        before, after = loader(kind, workers=workers), loader(kind, workers=workers)
        first = taken(before, stop)
        after.load_state_dict(before.state_dict())
        assert first + stream(after, 3)[: len(whole) - stop] == whole


@pytest.mark.parametrize("steps", [1, 7, 12, 15])
@pytest.mark.parametrize("world", [1, 3, 4])
def test_a_run_continues_on_another_number_of_processes(kind, steps, world):
    accumulate = 2 if world < 4 else 1
    whole = stream(loader(kind), 3)

    def trained(world, count, states=None):
        """Optimizer steps of all processes, and the states that they save."""
        ranks = [
            loader(kind, rank=rank, world=world, accumulate=accumulate) for rank in range(world)
        ]
        for rank in ranks if states else ():
            rank.load_state_dict(states[0])  # a checkpoint holds that of the first process
        micro = interleaved([taken(rank, count * accumulate) for rank in ranks])
        return joined(micro, accumulate), [rank.state_dict() for rank in ranks]

    before, states = trained(2, steps)
    assert states[0] == states[1]
    after, _ = trained(world, len(whole) - steps, states)
    assert before + after == whole


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=10),
    st.integers(1, 80),
    st.sampled_from([1, 2, 3, 4, 6, 12]),
    st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 3), (4, 1)]),
    st.booleans(),
    st.data(),
)
def test_batches_from_any_start_are_the_rest_of_the_epoch(
    shards, window, times, split, mixed, data
):
    world, accumulate = split
    batch_size = times * world * accumulate
    cut = len(shards) // 2
    lengths = [sum(shards[:cut]), sum(shards[cut:])] if mixed else [sum(shards)]
    assume(sum(lengths) >= batch_size and min(lengths) > 0)
    rank = data.draw(st.integers(0, world - 1))
    start = data.draw(st.integers(0, sum(lengths) // batch_size * accumulate))

    def batches(epoch, start):
        drawn = order_of(
            lengths,
            np.array(shards),
            weights=(0.3, 0.7) if mixed else None,
            batch_size=batch_size,
            window=window,
            seed=1,
        )
        own = BatchOrder(
            drawn, batch_size=batch_size, rank=rank, world=world, accumulate=accumulate
        )
        own.epoch, own.start = epoch, start
        return [list(draws) for draws in own]

    for epoch in (0, 2):
        assert batches(epoch, start) == batches(epoch, 0)[start:]


def test_an_epoch_that_is_used_up_is_saved_and_continued_as_the_next_one():
    # As Lightning does: exactly `len` batches are asked for, never the end.
    batches = loader()
    iterator = iter(batches)
    for count in range(1, 12):
        next(iterator)
        assert batches.state_dict()["epoch"] == 0
        assert batches.state_dict()["yielded"] == count
    next(iterator)
    expected = stream(loader(), 2)[12:]
    assert list(batches) == expected
    assert batches.state_dict() == {"epoch": 2, "yielded": 0, "batches": 12, "data": "fake-149"}


def test_asking_twice_before_taking_anything_skips_nothing():
    batches = loader()
    iter(batches)
    assert list(iter(batches)) == stream(loader(), 1)


def test_iterating_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    list(loader())
    assert bool((torch.get_rng_state() == before).all())


def test_a_dataset_may_take_the_draws_of_a_batch_at_once():
    class Numbers(torch.utils.data.Dataset):
        def __getitems__(self, draws):
            return draws.numbers

    batches = ResumableLoader(
        Numbers(),
        order=BatchOrder(order(), batch_size=BATCH),
        collate=torch.from_numpy,
        fingerprint="",
    )
    drawn = torch.cat(list(batches)).tolist()
    assert drawn == order().draws(0, LENGTH // BATCH * BATCH).numbers.tolist()


def test_a_state_of_other_data_or_batches_is_refused():
    state = loader().state_dict()
    for other in (loader(source=FakeSource(44)), loader(accumulate=2)):
        with pytest.raises(UserError, match=r"^data\.source: .*resume with the same"):
            other.load_state_dict(state)


def test_batches_that_cannot_be_shared_evenly_are_refused():
    with pytest.raises(UserError, match=r"^data\.batch_size: 8 .*3 processes x 2 .* multiple of 6"):
        BatchOrder(order(), batch_size=8, world=3, accumulate=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_one_line_also_from_a_worker(workers):
    batches = loader(source=FakeSource(LENGTH, bad=range(LENGTH)), workers=workers)
    with pytest.raises(UserError, match=r"^fake: \d+: broken \(data\.on_error=skip .*\)$"):
        next(iter(batches))
