"""Images keep their values and their order on a sheet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unclip.common.images import grid, table, to_uint8


def test_the_ends_and_the_middle_of_the_range():
    image = torch.tensor([-1.0, 0.0, 1.0, 5.0]).view(1, 1, 4).expand(3, 1, 4)
    assert to_uint8(image)[0, :, 0].tolist() == [0, 128, 255, 255]


def test_every_byte_survives_the_round_trip():
    byte = torch.arange(256).view(1, 16, 16).expand(3, -1, -1)
    assert np.array_equal(to_uint8(byte / 127.5 - 1)[..., 0].ravel(), np.arange(256))


def test_a_sheet_shows_each_image_in_its_cell():
    images = [np.full((4, 4, 3), v, np.uint8) for v in (10, 90, 200)]
    sheet = np.asarray(grid(images, ["a", "b", "c"], columns=2, side=32))
    assert sheet[20, 20, 0] == 10
    assert sheet[20, 60, 0] == 90
    assert (sheet == 200).any()


def test_a_caption_for_each_image():
    with pytest.raises(ValueError, match="captions"):
        grid([np.zeros((4, 4, 3), np.uint8)], [])


def test_a_table_has_a_heading_at_each_row_and_column():
    images = [[np.full((4, 4, 3), 10 * (3 * r + c), np.uint8) for c in range(3)] for r in range(2)]
    sheet = np.asarray(table(images, rows=["one", "two"], columns=["a", "b", "c"], side=32))
    # Where each image's middle is; the first one is black, as the letters are.
    y, x = np.transpose(
        [np.argwhere((sheet == 10 * k).all(axis=2)).mean(axis=0) for k in range(1, 6)]
    )
    assert (sheet[y.astype(int), x.astype(int), 0] == [10, 20, 30, 40, 50]).all()
    assert x[1] - x[0] == y[3] - y[0] == 32 + 6
    assert (sheet[: int(y[0]) - 16] < 255).any()
    assert (sheet[:, : int(x[2]) - 38 - 16] < 255).any()


def test_a_table_has_as_many_headings_as_images():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="1 x 2 headings"):
        table([[image]], rows=["a"], columns=["b", "c"])
