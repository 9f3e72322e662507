import io

import numpy as np
import pytest
from PIL import Image
from tiny_data import picture, png

from unclip.data.decode import BadSample, Limits, decode_captions, decode_image, parse_json


def encoded(image, kind="png", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_png_comes_back_pixel_for_pixel():
    pixels = picture(1)
    assert np.array_equal(decode_image(png(pixels), where="x"), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation):
    # EXIF 2.32, tag 274: which side of the upright image the stored row 0 and column 0 are.
    stored = picture(2, 3, 5)
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored.transpose(1, 0, 2)[:, ::-1],
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: stored.transpose(1, 0, 2)[::-1],
    }
    exif = Image.Exif()
    exif[274] = orientation
    got = decode_image(png(stored, exif=exif), where="x")
    assert np.array_equal(got, upright[orientation])


def test_transparency_lies_over_white():
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[1, 1] = (0, 0, 0, 128)
    got = decode_image(encoded(Image.fromarray(rgba)), where="x")
    assert got[0, 0].tolist() == [10, 20, 30]
    assert got[0, 1].tolist() == [255, 255, 255]
    assert got[1, 1].tolist() == [127, 127, 127]


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 1, 2, 3])
    image.putpixel((1, 0), 1)
    got = decode_image(encoded(image, transparency=1), where="x")
    assert got[0].tolist() == [[9, 8, 7], [255, 255, 255]]


def test_sixteen_bit_grey_is_scaled_not_clipped():
    levels = np.array([[0, 255, 32768, 65535]], dtype=np.uint16)
    got = decode_image(encoded(Image.fromarray(levels)), where="x")
    assert got[0, :, 0].tolist() == [0, 0, 128, 255]
    assert got.shape == (1, 4, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    kind = "tiff" if mode == "CMYK" else "png"
    white = Image.new("RGB", (4, 3), "white").convert(mode)
    got = decode_image(encoded(white, kind), where="x")
    assert got.dtype == np.uint8
    assert got.tolist() == np.full((3, 4, 3), 255).tolist()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (None, "empty"),
        (b"hello, I am a text", "not an image that can be read"),
        (png(picture(3, 64, 64))[:2000], "damaged"),
        (encoded(Image.new("1", (10_000, 10_000))), "10000x10000 pixels are more than 89,478,485"),
        (encoded(Image.new("1", (14_000, 14_000))), "more pixels than 89,478,485"),
        (encoded(Image.new("1", (1, 21))), "one side is more than 20 times the other; crop it"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image that can be read"),
        (encoded(Image.new("F", (2, 2)), "tiff"), "float pixels"),
    ],
)
def test_an_unusable_image_is_one_line_that_names_it_and_the_reason(data, reason):
    with pytest.raises(BadSample, match=reason) as caught:
        decode_image(data, where="some.tar: 0007")
    assert str(caught.value).startswith("some.tar: 0007: ")
    assert "\n" not in str(caught.value)


def test_limits_are_inclusive_and_may_be_chosen():
    limits = Limits(max_pixels=60, max_aspect=2.4, named=True)
    assert decode_image(png(picture(0, 5, 12)), where="x", limits=limits).shape == (5, 12, 3)
    assert decode_image(png(picture(0, 12, 5)), where="x", limits=limits).shape == (12, 5, 3)
    for height, width, limit in ((5, 13, "data.max_pixels=60"), (4, 10, "data.max_aspect=2.4")):
        with pytest.raises(BadSample, match=limit):
            decode_image(png(picture(0, height, width)), where="x", limits=limits)
    large = Limits(max_pixels=2 * 89_478_485)
    assert large.problem(10_000, 10_000) is None
    assert large.problem(0, 10) is not None


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif", "bmp", "gif", "ppm", "tiff"])
def test_every_format_that_is_promised_is_read(kind):
    grey = Image.new("RGB", (8, 6), (200, 200, 200))
    got = decode_image(encoded(grey, kind), where="x")
    assert got.shape == (6, 8, 3)
    assert np.abs(got.astype(int) - 200).max() <= 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no caption"),
        ([], "no caption"),
        ("  \n", "empty"),
        (b"", "empty"),
        (["a cat", ""], "empty"),
        ("\u200b \ufeff", "empty"),
        ("\u2060\u00ad".encode(), "empty"),
        (["a cat", "\u3164\ufe0f"], "empty"),
        (b"caf\xe9", "not UTF-8"),
        ("caf\udce9", "not UTF-8"),
        (7, "int, not text"),
        ("a\0b", "NUL"),
        ("x" * 10_001, "10001 characters, more than 10000"),
    ],
)
def test_an_unusable_caption_is_one_line_that_names_it_and_the_reason(value, reason):
    with pytest.raises(BadSample, match=f"^some.tar: 0007: .*{reason}"):
        decode_captions(value, where="some.tar: 0007")


def test_captions_are_stripped_and_lists_kept():
    assert decode_captions("a café\n".encode(), where="x") == ["a café"]
    assert decode_captions(["one ", " two"], where="x") == ["one", "two"]


def test_json_that_is_nested_too_deeply_is_not_json():
    assert parse_json(b'{"a": [1]}') == {"a": [1]}
    for text in ("[" * 100_000, "{", b"\xff"):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_json(text)
