import logging

import pytest
from tiny_data import FakeSource

from data_modules.dataset import Examples
from data_modules.decode import BadSample
from data_modules.order import Draw
from data_modules.transforms import Patch, Square
from unclip.types import UserError

SQUARE = Square(sizes=(8,))


def examples(source, *, on_error="skip", max_skipped=0.1, seed=0, transform=SQUARE):
    return Examples(source, transform, seed=seed, on_error=on_error, max_skipped=max_skipped)


def test_one_caption_is_drawn_anew_in_each_epoch_and_all_are_used():
    data = examples(FakeSource(5, captions=3))
    drawn = [[data[Draw(epoch, n)].caption for n in range(5)] for epoch in range(20)]
    assert {caption for epoch in drawn for caption in epoch} == {
        f"{n} v{v}" for n in range(5) for v in range(3)
    }
    again = examples(FakeSource(5, captions=3))
    assert [again[Draw(7, n)].caption for n in (4, 3, 2, 1, 0)] == drawn[7][::-1]


def test_error_stops_at_the_first_bad_sample_and_says_how_to_go_on():
    data = examples(FakeSource(5, bad=[3]), on_error="error")
    assert data[Draw(0, 2)].key == "00002"
    with pytest.raises(BadSample, match=r"^fake: 00003: broken \(data\.on_error: skip"):
        data[Draw(0, 3)]


def test_what_stands_in_for_a_bad_sample_depends_on_seed_epoch_and_number_alone():
    source = FakeSource(200, bad=[3, 4, 5])
    draws = [Draw(epoch, n) for epoch in range(30) for n in (3, 4, 5)]
    first, second = examples(source), examples(source)
    forward = [first._replacement(draw).key for draw in draws]
    backward = [second._replacement(draw).key for draw in reversed(draws)]
    assert forward == backward[::-1]
    assert len(set(forward)) > 50  # not always the neighbour
    assert not {"00003", "00004", "00005"} & set(forward)


def test_a_bad_sample_is_logged_once(caplog):
    data = examples(FakeSource(200, bad=[3]))
    with caplog.at_level(logging.WARNING):
        for epoch in range(4):
            for number in range(200):
                data[Draw(epoch, number)]
    assert [r.getMessage() for r in caplog.records] == ["skipped fake: 00003: broken"]


def test_too_large_a_share_of_bad_samples_stops_the_run():
    def run(bad):
        data = examples(FakeSource(400, bad=bad))
        for number in range(400):
            data[Draw(0, number)]

    run(bad=range(5, 400, 11))  # 9 %
    with pytest.raises(UserError, match=r"^data\.source: 7 of the first 55 samples .*=0\.1; "):
        run(bad=range(0, 400, 9))  # 11 %
    run(bad=range(3))  # not judged before fifty are seen


def test_a_source_of_bad_samples_only_ends():
    with pytest.raises(UserError, match=r"^data\.source: 50 samples in turn cannot be used"):
        examples(FakeSource(20, bad=range(20)))[Draw(0, 0)]


def test_a_picture_the_transform_refuses_is_named():
    data = examples(FakeSource(5), on_error="error", transform=Patch(image_size=64, side=16))
    with pytest.raises(BadSample, match=r"^00002: 8x8 pixels are too few"):
        data[Draw(0, 2)]
