"""Crops, mirrored pictures and numbers of samples, as a data section has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_data import png, tokenize, write_folder

from data_modules.clip import ClipData
from data_modules.upsampler import UpsamplerData
from unclip.data.config import DataConfig, UpsamplerDataConfig
from unclip.data.decode import BadSample

HEIGHT, WIDTH, COUNT = 16, 40, 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures whose red tells the column and green the row, all alike."""
    place = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    place[..., 0] = np.arange(WIDTH)
    place[..., 1] = np.arange(HEIGHT)[:, None]
    rows = [(f"{n:04d}", png(place), "a place") for n in range(COUNT)]
    return str(write_folder(tmp_path_factory.mktemp("places") / "folder", rows))


def pixels(loader) -> torch.Tensor:
    """All pictures of an epoch, as columns and rows of the original: ``[N, 2, S, S]``."""
    image = torch.cat([batch.image for batch in loader])
    return ((image[:, :2] + 1) * 127.5).round().long()


def corners(image: torch.Tensor) -> tuple[set[int], set[int], float]:
    """Left columns and upper rows of windows that must be whole; the share that is mirrored."""
    mirrored = image[:, 0, 0, 0] > image[:, 0, 0, -1]
    image = torch.where(mirrored[:, None, None, None], image.flip(3), image)
    side = torch.arange(image.shape[3])
    left, top = image[:, 0, 0, 0], image[:, 1, 0, 0]
    expected = torch.stack(
        [
            (left[:, None, None] + side).expand(-1, len(side), -1),
            (top[:, None, None] + side[:, None]).expand(-1, -1, len(side)),
        ],
        dim=1,
    )
    assert torch.equal(image, expected)
    return set(left.tolist()), set(top.tolist()), mirrored.float().mean().item()


def clip_data(folder, **fields) -> ClipData:
    fields = {"batch_size": 8, "held_out": 0.2} | fields
    config = DataConfig(source=folder, **fields)
    return ClipData(config, image_size=HEIGHT, tokenize=tokenize, seed=1)


def upsampler_data(folder, **fields) -> UpsamplerData:
    fields = {"batch_size": 8, "held_out": 0.2} | fields
    config = UpsamplerDataConfig(source=folder, **fields)
    return UpsamplerData(config, image_size=HEIGHT, seed=1)


@pytest.mark.parametrize(("crop", "lefts"), [("center", {12}), ("random", set(range(25)))])
def test_squares_lie_in_the_middle_or_anywhere_of_the_longer_side(crop, lefts, folder):
    data = clip_data(folder, crop=crop)
    found = torch.cat([pixels(data.train_dataloader()) for _ in range(5)])
    left, top, mirrored = corners(found)
    assert left <= lefts
    assert len(left) > 0.6 * len(lefts)
    assert top == {0}
    assert mirrored == 0
    assert corners(pixels(data.val_dataloader()))[0] == {12}


@pytest.mark.parametrize("make", [clip_data, upsampler_data])
@pytest.mark.parametrize(("flip", "share"), [(False, 0.0), (True, 0.5)])
def test_half_of_the_training_pictures_are_mirrored_if_that_is_asked_for(make, flip, share, folder):
    data = make(folder, flip=flip)
    found = pixels(data.train_dataloader())
    error = 4 * (share * (1 - share) / len(found)) ** 0.5
    assert corners(found)[2] == pytest.approx(share, abs=error)
    assert corners(pixels(data.val_dataloader()))[2] == 0


@pytest.mark.parametrize(("crop_fraction", "side"), [(0.25, 4), (0.5, 8), (0.75, 12), (1.0, 16)])
def test_an_upsampler_learns_patches_of_that_part_of_the_side_at_full_size(
    crop_fraction, side, folder
):
    data = upsampler_data(folder, crop_fraction=crop_fraction)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        found = pixels(loader)
        assert found.shape[2:] == (side, side)
        left, top, _ = corners(found)  # of windows of the picture as it is
        assert max(left) <= WIDTH - side
        assert max(top) <= HEIGHT - side
    left, top, _ = corners(pixels(data.train_dataloader()))
    assert len(left) > 0.5 * min(WIDTH - side + 1, COUNT / 2)
    assert len(top) > 0.5 * (HEIGHT - side + 1)


@pytest.mark.parametrize(("val_samples", "expected"), [(5, 5), (1000, None)])
def test_at_most_so_many_held_out_samples_are_validated(val_samples, expected, folder):
    data = clip_data(folder, val_samples=val_samples)
    held_out = len(data.splits.held_out)
    assert held_out + len(data.splits.train) == COUNT
    found = [key for batch in data.val_dataloader() for key in batch.keys]
    assert len(found) == (expected or held_out)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("batch_size", [4, 12])
@pytest.mark.parametrize("limit", [None, 24])
def test_an_epoch_is_of_whole_batches_of_the_first_training_samples(batch_size, limit, folder):
    data = clip_data(folder, batch_size=batch_size, limit=limit)
    many = len(data.splits.train)
    assert many == (limit or many)
    batches = [batch.keys for batch in data.train_dataloader()]
    assert [len(keys) for keys in batches] == [batch_size] * (many // batch_size)
    keys = [key for batch in batches for key in batch]
    assert len(set(keys)) == len(keys)
    assert set(keys) <= {data.splits.train.key(k) for k in range(many)}


@pytest.mark.parametrize(
    "fields", [{"max_pixels": HEIGHT * WIDTH - 1}, {"max_aspect": WIDTH / HEIGHT - 0.01}]
)
def test_pictures_too_large_or_too_long_are_bad_samples(fields, folder):
    limit = next(iter(fields))
    exact = {"max_pixels": HEIGHT * WIDTH, "max_aspect": WIDTH / HEIGHT}[limit]
    assert len(pixels(clip_data(folder, **{limit: exact}).train_dataloader())) > 0
    with pytest.raises(BadSample, match="40x16"):
        next(iter(clip_data(folder, on_error="error", **fields).train_dataloader()))
