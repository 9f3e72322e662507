from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import picture

from unclip.data.decode import BadSample
from unclip.data.transforms import Patch, Square, to_tensor


def test_a_square_of_the_right_size_is_left_as_it_is():
    image = picture(0, 8, 8)
    (got,) = Square(sizes=(8,))(image, Random(0))
    assert np.array_equal(got, image)


def test_the_middle_of_a_long_image_is_taken():
    image = picture(0, 8, 20)
    (got,) = Square(sizes=(8,))(image, Random(0))
    assert np.array_equal(got, image[:, 6:14])
    (got,) = Square(sizes=(8,))(image.transpose(1, 0, 2), Random(0))
    assert np.array_equal(got, image.transpose(1, 0, 2)[6:14])


def test_random_squares_reach_both_ends_and_are_windows_of_the_image():
    image = picture(0, 4, 9)
    windows = {image[:, left : left + 4].tobytes(): left for left in range(6)}
    transform = Square(sizes=(4,), random_crop=True)
    seen = {windows[transform(image, Random(n))[0].tobytes()] for n in range(100)}
    assert seen == set(range(6))


def test_half_of_the_images_are_mirrored():
    image = picture(0, 4, 4)
    transform = Square(sizes=(4,), flip=True)
    mirrored = 0
    for n in range(400):
        (got,) = transform(image, Random(n))
        mirrored += np.array_equal(got, image[:, ::-1])
        assert np.array_equal(got, image) or np.array_equal(got, image[:, ::-1])
    assert 150 < mirrored < 250  # five standard deviations of Binomial(400, 1/2)


def test_reduction_is_antialiased():
    # Stripes finer than the small image's pixels must come out grey, not as other stripes.
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    (got,) = Square(sizes=(16,))(stripes, Random(0))
    assert np.abs(got[:, 2:-2].astype(int) - 127).max() <= 3


def test_both_sizes_show_the_same_region():
    # A linear ramp keeps its values at any size: mean and slope tell the region.
    ramp = np.broadcast_to(np.arange(0, 192, dtype=np.uint8)[None, :, None], (64, 192, 3))
    for n in range(5):
        transform = Square(sizes=(16, 32), random_crop=True, flip=True)
        small, large = transform(np.ascontiguousarray(ramp), Random(n))
        assert small.shape == (16, 16, 3)
        assert large.shape == (32, 32, 3)
        assert abs(small.mean() - large.mean()) < 1
        assert (small[0, -1, 0] > small[0, 0, 0]) == (large[0, -1, 0] > large[0, 0, 0])


def test_a_patch_is_a_window_of_the_reduced_image():
    image = picture(0, 64, 96)
    reduced = np.asarray(Image.fromarray(image).resize((48, 32), Image.Resampling.BICUBIC))
    windows = [
        reduced[top : top + 8, left : left + 8].astype(int)
        for top in range(25)
        for left in range(41)
    ]
    for n in range(20):
        (got,) = Patch(image_size=32, side=8)(image, Random(n))
        # Pillow rounds between its two passes, hence the one level.
        assert min(np.abs(window - got).max() for window in windows) <= 1


def test_patches_are_never_enlarged():
    image = picture(0, 20, 30)
    windows = {
        image[top : top + 8, left : left + 8].tobytes() for top in range(13) for left in range(23)
    }
    got = [Patch(image_size=32, side=8)(image, Random(n))[0].tobytes() for n in range(50)]
    assert set(got) <= windows
    assert len(set(got)) > 30


@pytest.mark.parametrize(("height", "width"), [(50, 81), (33, 47), (97, 41), (32, 32)])
def test_a_patch_as_large_as_the_image_fits(height, width):
    for n in range(20):
        (got,) = Patch(image_size=32, side=32)(picture(0, height, width), Random(n))
        assert got.shape == (32, 32, 3)


def test_a_image_too_small_for_patches_is_a_bad_sample():
    with pytest.raises(BadSample, match="30x15 pixels are too few, at least 16"):
        Patch(image_size=32, side=8)(picture(0, 15, 30), Random(0))
    with pytest.raises(BadSample, match="at least 32"):
        Patch(image_size=32, side=32)(picture(0, 31, 40), Random(0))


def test_tensors_are_channels_first_in_minus_one_to_one():
    images = [picture(0, 4, 4), picture(1, 4, 4)[:, ::-1]]
    images[0][0, 0] = (0, 51, 255)
    got = to_tensor(images)
    assert got.dtype == torch.float32
    assert got.is_contiguous()
    assert got[0, :, 0, 0].tolist() == pytest.approx([-1, -0.6, 1], abs=1e-7)
    back = ((got + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(back, np.stack(images))
