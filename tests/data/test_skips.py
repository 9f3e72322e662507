import logging

import pytest
from tiny_data import FakeSource

from unclip.common.errors import UserError
from unclip.data.dataset import Examples
from unclip.data.loader import BatchOrder, ResumableLoader
from unclip.data.order import PermutedOrder
from unclip.data.skips import BatchReport, Skips, kind_of
from unclip.data.transforms import Square

# More workers than cores are of no use, but change nothing.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

BATCH = 10


def loader(source, skips, *, workers=0, context=None):
    batches = ResumableLoader(
        Examples(source, Square(sizes=(8,)), seed=0, on_error="skip"),
        order=BatchOrder(PermutedOrder(len(source), seed=0), batch_size=BATCH),
        collate=keys,
        fingerprint="",
        num_workers=workers,
        skips=skips,
    )
    batches.multiprocessing_context = context
    return batches


def keys(examples):
    return [example.key for example in examples]


@pytest.mark.parametrize(
    ("workers", "context"),
    [(0, None), (1, "fork"), (2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)],
)
def test_skips_are_counted_and_logged_once_whichever_worker_met_them(caplog, workers, context):
    skips = Skips(0.1)
    batches = loader(FakeSource(100, bad=[3, 50]), skips, workers=workers, context=context)
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            assert not {"00003", "00050"} & {key for batch in batches for key in batch}
            assert skips.count == 2 * (epoch + 1)
    assert sorted(record.getMessage() for record in caplog.records) == [
        "skipped fake: 00003: broken",
        "skipped fake: 00050: broken",
    ]


def test_only_batches_that_were_handed_out_count():
    skips = Skips(1.0)
    batches = loader(FakeSource(100, bad=range(50)), skips, workers=1)
    met = sum(number < 50 for number in PermutedOrder(100, seed=0).draws(0, BATCH).numbers)
    next(iter(batches))
    assert skips.count == met


DAMAGED = ("a.tar: 07: the image is damaged (cut short)",)
TINY = ("08: 12x8 pixels are too few, at least 16 a side needed",)
NO_CAPTION = ("a.tar: 09: it has no caption", *DAMAGED)


def test_too_large_a_share_of_bad_samples_stops_the_run_and_says_what_they_were():
    skips = Skips(0.1)
    assert skips.noted(BatchReport("batch", 49, [DAMAGED] * 6)) == "batch"  # too early to say
    skips.noted(BatchReport("batch", 21, [NO_CAPTION]))
    with pytest.raises(UserError) as caught:
        skips.noted(BatchReport("batch", 10, [DAMAGED, TINY]))
    assert str(caught.value) == (
        "9 of the first 80 samples cannot be used, more than data.max_skipped=0.1: "
        "the image is damaged (7), it has no caption (1), "
        "NxN pixels are too few, at least N a side needed (1); "
        "the last: 08: 12x8 pixels are too few, at least 16 a side needed; "
        "`unclip data inspect` lists them all"
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_over_bad_data_ends_whoever_reads_it(workers):
    source = FakeSource(200, bad=range(0, 200, 3))
    with pytest.raises(UserError, match=r"^\d+ of the first [56]0 .*: broken \(\d+\);"):
        list(loader(source, Skips(0.1), workers=workers))


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (DAMAGED[0], "the image is damaged"),
        ("a (1).tar: 07: the image is damaged (broken: x (y))", "the image is damaged"),
        ("a.parquet: row 3: row group 0 cannot be read (gone)", "row group N cannot be read"),
        ("a (1).tar: 07: the image is empty (0 bytes)", "the image is empty"),
        ("it fell over", "it fell over"),
    ],
)
def test_kinds_of_problems_leave_out_file_key_and_details(problem, kind):
    assert kind_of(problem) == kind
