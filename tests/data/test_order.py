import itertools

import pytest
from tiny_data import FakeSource

from data_modules.dataset import Examples
from data_modules.order import BatchOrder, ResumableLoader, permutation
from data_modules.transforms import Square
from unclip.types import UserError

LENGTH, BATCH = 43, 8  # five whole batches, three samples left over


def collate(examples):
    return [(e.key, e.caption, e.images[0].tobytes()) for e in examples]


def loader(*, workers=0, rank=0, world=1, accumulate=1, source=None, seed=3):
    source = source or FakeSource(LENGTH, captions=3)
    transform = Square(sizes=(6,), random_crop=True, flip=True)
    return ResumableLoader(
        Examples(source, transform, seed=seed),
        order=BatchOrder(
            len(source), batch_size=BATCH, seed=seed, rank=rank, world=world, accumulate=accumulate
        ),
        collate=collate,
        fingerprint=source.fingerprint(),
        num_workers=workers,
    )


def stream(batches, epochs):
    return [batch for _ in range(epochs) for batch in batches]


def test_a_permutation_has_everything_once_and_differs_by_epoch_and_seed():
    orders = [permutation(100, seed=s, epoch=e) for s in (0, 1) for e in (0, 1)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert permutation(100, seed=1, epoch=1) == orders[-1]


def test_runs_stay_together_and_the_last_may_be_short():
    order = permutation(100, seed=0, epoch=0, run=6)
    assert sorted(order) == list(range(100))
    assert order != list(range(100))
    firsts = [i for i in order if i % 6 == 0]
    assert order == [j for i in firsts for j in range(i, min(i + 6, 100))]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_samples_of_a_step_do_not_depend_on_how_it_is_split(world, accumulate):
    def steps(world, accumulate):
        ranks = [
            list(BatchOrder(LENGTH, batch_size=BATCH, seed=3, rank=r, world=world,
                            accumulate=accumulate))
            for r in range(world)
        ]  # fmt: skip
        assert {len(batch) for rank in ranks for batch in rank} == {BATCH // world // accumulate}
        micro = [[draw for rank in ranks for draw in rank[m]] for m in range(len(ranks[0]))]
        return [
            sorted(itertools.chain(*micro[first : first + accumulate]))
            for first in range(0, len(micro), accumulate)
        ]

    split = steps(world, accumulate)
    assert split == steps(1, 1)
    seen = [draw.number for step in split for draw in step]
    assert len(seen) == len(set(seen)) == LENGTH // BATCH * BATCH


def test_a_new_epoch_leaves_out_other_samples():
    batches = loader()
    kept = [{key for batch in batches for key, *_ in batch} for _ in range(2)]
    assert len(kept[0]) == len(kept[1]) == 40
    assert kept[0] != kept[1]


@pytest.mark.parametrize("world", [1, 2])
def test_workers_change_nothing(world):
    for rank in range(world):
        plain = stream(loader(rank=rank, world=world), 3)
        assert stream(loader(rank=rank, world=world, workers=2), 3) == plain


@pytest.mark.parametrize("workers", [0, 2])
def test_stopping_anywhere_and_resuming_gives_the_same_remaining_stream(workers):
    whole = stream(loader(), 3)
    # Two workers take a while to start: there, only the middle, the end and the next epoch.
    for stop in range(11) if workers == 0 else (2, 5, 6):
        before = loader(workers=workers)
        iterator = itertools.chain.from_iterable(itertools.repeat(before))
        taken = list(itertools.islice(iterator, stop))
        after = loader(workers=workers)
        after.load_state_dict(before.state_dict())
        rest = itertools.chain.from_iterable(itertools.repeat(after))
        assert taken + list(itertools.islice(rest, len(whole) - stop)) == whole


def test_an_epoch_that_is_used_up_is_saved_and_continued_as_the_next_one():
    # As Lightning does: exactly `len` batches are asked for, never the end.
    batches = loader()
    iterator = iter(batches)
    for count in range(1, 5):
        next(iterator)
        assert batches.state_dict()["epoch"] == 0
        assert batches.state_dict()["yielded"] == count
    next(iterator)
    expected = stream(loader(), 2)[5:]
    assert list(batches) == expected
    assert batches.state_dict() == {"epoch": 2, "yielded": 0, "batches": 5, "data": "fake-43"}


def test_asking_twice_before_taking_anything_skips_nothing():
    batches = loader()
    iter(batches)
    assert list(iter(batches)) == stream(loader(), 1)


def test_iterating_draws_nothing_from_the_global_generator():
    import torch

    before = torch.get_rng_state()
    list(loader())
    assert bool((torch.get_rng_state() == before).all())


def test_a_state_of_other_data_or_batches_is_refused():
    state = loader().state_dict()
    for other in (loader(source=FakeSource(44)), loader(accumulate=2)):
        with pytest.raises(UserError, match=r"^data\.source: .*resume with the same"):
            other.load_state_dict(state)


def test_batches_that_cannot_be_made_are_refused():
    with pytest.raises(UserError, match=r"^data\.batch_size: 8 is more than the 7 training"):
        BatchOrder(7, batch_size=8, seed=0)
    with pytest.raises(UserError, match=r"^data\.batch_size: 8 .*3 processes x 2 .* multiple of 6"):
        BatchOrder(43, batch_size=8, seed=0, world=3, accumulate=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_one_line_also_from_a_worker(workers):
    batches = loader(source=FakeSource(LENGTH, bad=range(LENGTH)), workers=workers)
    with pytest.raises(UserError, match=r"^fake: \d+: broken \(data\.on_error: skip .*\)$"):
        next(iter(batches))
