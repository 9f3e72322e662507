"""Pictures keep their values and their order on a sheet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unclip.figures import grid, to_uint8


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
