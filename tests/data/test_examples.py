import numpy as np
import pytest
from tiny_data import FakeSource

from unclip.common.errors import UserError
from unclip.data.dataset import Examples
from unclip.data.decode import BadSample
from unclip.data.order import Draw
from unclip.data.sample import Sample
from unclip.data.transforms import Patch, Square, may_mirror

SQUARE = Square(sizes=(8,))


def examples(source, *, on_error="skip", seed=0, transform=SQUARE):
    return Examples(source, transform, seed=seed, on_error=on_error)


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
    with pytest.raises(BadSample, match=r"^fake: 00003: broken \(data\.on_error=skip"):
        data[Draw(0, 3)]


def test_what_stands_in_for_a_bad_sample_depends_on_seed_epoch_and_number_alone():
    source = FakeSource(200, bad=[3, 4, 5])
    draws = [Draw(epoch, n) for epoch in range(30) for n in (3, 4, 5)]
    first, second = examples(source), examples(source)
    forward = [first[draw].key for draw in draws]
    backward = [second[draw].key for draw in reversed(draws)]
    assert forward == backward[::-1]
    assert len(set(forward)) > 50  # not always the neighbour
    assert not {"00003", "00004", "00005"} & set(forward)


def test_an_example_tells_what_it_stands_in_for():
    source = FakeSource(200, bad=range(100))
    data = examples(source)
    assert data[Draw(0, 150)].problems == ()
    found = [data[Draw(0, number)] for number in range(100)]
    for number, example in enumerate(found):
        own, *others = example.problems
        assert own == f"fake: {number:05d}: broken"
        assert all(other.endswith(": broken") for other in others)
    # Each further try meets a bad one with a chance of one half.
    tries = [len(example.problems) for example in found]
    assert 150 < sum(tries) < 250


def test_a_source_of_bad_samples_only_ends():
    with pytest.raises(UserError, match=r"^data\.source: 50 samples in a row cannot be used"):
        examples(FakeSource(20, bad=range(20)))[Draw(0, 0)]


def test_a_image_the_transform_refuses_is_named():
    data = examples(FakeSource(5), on_error="error", transform=Patch(image_size=64, side=16))
    with pytest.raises(BadSample, match=r"^00002: 8x8 pixels are too few"):
        data[Draw(0, 2)]


@pytest.mark.parametrize(
    ("transform", "words", "share"),
    [
        (Square(sizes=(8,), flip=True), "on the Left.", 0.0),
        (Square(sizes=(8,), flip=True), "in bright light", 0.5),
        (Patch(image_size=8, side=8, flip=True), "on the Left.", 0.5),
    ],
)
def test_what_is_said_to_be_on_a_side_is_not_mirrored(transform, words, share):
    """One caption of an image may name a side and another not: the one that is drawn counts.

    An upsampler, to which patches are given, reads no caption.
    """
    data = examples(Ramp(words), transform=transform)
    drawn = [data[Draw(epoch, 0)] for epoch in range(200)]
    for caption, expected in ((f"a ramp {words}", share), ("a ramp", 0.5)):
        seen = [e.images[0] for e in drawn if e.caption == caption]
        assert len(seen) > 60
        mirrored = sum(int(image[0, 0, 0]) > int(image[0, -1, 0]) for image in seen)
        assert mirrored / len(seen) == pytest.approx(expected, abs=0.2 * (expected > 0))


class Ramp(FakeSource):
    def __init__(self, words):
        super().__init__(1)
        self.words = words

    def __getitem__(self, index):
        image = np.zeros((8, 8, 3), np.uint8)
        image[..., 0] = np.arange(8) * 10
        return Sample("ramp", image, [f"a ramp {self.words}", "a ramp"])


def test_words_that_a_mirror_makes_false():
    for caption in (
        "a cat to the left of a dog",
        "her right-hand side",
        "leftmost, (RIGHT)",
        "turning anti-clockwise",
        "a sign that reads EXIT",
        "the word star",
    ):
        assert not may_mirror(caption)
    for caption in ("a bright cat", "copyright", "an upright leftover", "a thread", ""):
        assert may_mirror(caption)
