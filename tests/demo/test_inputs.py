"""What visitors send: used as they meant it, or refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unclip.common.errors import UserError
from unclip.demo import inputs


@pytest.fixture
def gradient():
    """An image of 6 x 4 pixels, all different."""
    return np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_a_image_is_read_as_it_is(gradient, tmp_path):
    Image.fromarray(gradient).save(tmp_path / "a.png")
    assert np.array_equal(inputs.image(str(tmp_path / "a.png")), gradient)


def test_a_turned_photo_is_upright(gradient, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise
    Image.fromarray(gradient).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(inputs.image(str(tmp_path / "a.png")), np.rot90(gradient, -1))


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert inputs.image(str(tmp_path / "a.gif"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("content", [b"only a text", b"", b"\x89PNG\r\n\x1a\n and then nothing"])
def test_what_is_no_image_is_refused(content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=r"^image: (not an image|the image is)"):
        inputs.image(str(tmp_path / "a.png"))


@pytest.mark.parametrize("size", [(8000, 7000), (3000, 10)])
def test_images_beyond_the_limits_are_refused_by_their_header(size, tmp_path):
    Image.new("1", size).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]} pixels; at most 50 million"):
        inputs.image(str(tmp_path / "a.png"))


def test_large_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "MAX_BYTES", 3)
    (tmp_path / "a.png").write_bytes(b"1234")
    with pytest.raises(UserError, match="has 4 bytes; at most 3"):
        inputs.image(str(tmp_path / "a.png"))


def test_a_missing_upload_is_asked_for():
    with pytest.raises(UserError, match="second image: upload one first"):
        inputs.image(None, "second image")


def layer(*painted: tuple[int, int], size=(6, 4)) -> Image.Image:
    """Transparent but for single pixels at (x, y), one of them hardly opaque."""
    found = Image.new("RGBA", size)
    for k, at in enumerate(painted):
        found.putpixel(at, (255, 0, 255, 255 if k else 1))
    return found


def test_what_is_painted_on_any_layer_is_not_kept(gradient):
    editor = {"background": Image.fromarray(gradient), "layers": [layer((0, 0)), layer((5, 1))]}
    picture, keep = inputs.painted(editor)
    assert np.array_equal(picture, gradient)
    assert np.argwhere(~keep).tolist() == [[0, 0], [1, 5]]


def test_under_a_transparent_canvas_is_white():
    editor = {"background": Image.new("RGBA", (6, 4)), "layers": [layer((0, 0))]}
    assert (inputs.painted(editor)[0] == 255).all()


@pytest.mark.parametrize("editor", [None, {"background": None, "layers": [layer((0, 0))]}])
def test_painting_on_nothing_is_refused(editor):
    with pytest.raises(UserError, match=r"^image: none was read; upload a PNG or JPEG"):
        inputs.painted(editor)


@pytest.mark.parametrize("layers", [None, [], [layer()]])
def test_painting_nothing_is_refused(layers, gradient):
    with pytest.raises(UserError, match="mask: paint over"):
        inputs.painted({"background": Image.fromarray(gradient), "layers": layers})


def test_a_layer_of_another_size_is_refused(gradient):
    editor = {"background": Image.fromarray(gradient), "layers": [layer((0, 0), size=(5, 4))]}
    with pytest.raises(UserError, match="mask: is 5x4 pixels, its image 6x4"):
        inputs.painted(editor)


def test_a_canvas_beyond_the_limits_is_refused():
    with pytest.raises(UserError, match="image: 3000x10 pixels"):
        inputs.painted({"background": Image.new("RGB", (3000, 10)), "layers": []})


def test_captions():
    assert inputs.caption("  a red circle\n") == "a red circle"
    assert inputs.caption("x" * inputs.MAX_CAPTION) == "x" * inputs.MAX_CAPTION
    with pytest.raises(UserError, match="has 501 characters; at most 500"):
        inputs.caption("x" * 501)


@pytest.mark.parametrize("text", [None, "", " \n "])
def test_an_empty_caption_is_asked_for(text):
    with pytest.raises(UserError, match="from: write one first"):
        inputs.caption(text, "from")


@pytest.mark.parametrize("value", [None, -1, 5, float("nan"), float("inf")])
def test_numbers_out_of_range_are_refused(value):
    with pytest.raises(UserError, match="eta: give a number from 0 to 4"):
        inputs.number(value, "eta", 0, 4)


def test_whole_numbers_are_whole():
    assert inputs.whole(3.0, "images", 1, 4) == 3
    with pytest.raises(UserError, match="images: give a whole number"):
        inputs.whole(2.5, "images", 1, 4)


def test_seeds_go_on_from_the_first():
    assert inputs.seeds(7, 3) == [7, 8, 9]
    with pytest.raises(UserError, match="seed: give a number from 0"):
        inputs.seeds(-1, 1)
