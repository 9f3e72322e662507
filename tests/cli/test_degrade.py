"""`unclip degrade`: the sheet it draws, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unclip.cli import main


@pytest.fixture
def picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((140, 100)).save("image.png")
    return "image.png"


def sheet(*words) -> np.ndarray:
    assert main(["degrade", *map(str, words), "--out", "sheet.png", "--force"]) == 0
    return np.asarray(Image.open("sheet.png"))


@pytest.mark.parametrize("kind", ["bsr", "bsr_light"])
def test_draws_are_those_of_the_seed(picture, kind):
    few = (picture, "--size", 32, "--kind", kind, "--n")
    first = sheet(*few, 2)
    assert np.array_equal(first, sheet(*few, 2))
    second = sheet(*few, 2, "--seed", 1)
    assert not np.array_equal(first, second)
    tile = slice(6, 6 + 128)  # enlarged by 16 to 128 pixels, margins of 6
    tiles = [slice(6 + k * 134, 6 + k * 134 + 128) for k in range(3)]
    assert np.array_equal(first[tile, tiles[0]], second[tile, tiles[0]])  # the clean one
    assert np.array_equal(first[tile, tiles[2]], second[tile, tiles[1]])  # both of seed 1


def test_each_image_has_its_row(picture):
    one = sheet(picture, "--kind", "blur", "--size", 64, "--scale", 2)
    two = sheet(picture, picture, "--kind", "blur", "--size", 64, "--scale", 2)
    assert one.shape[1] == two.shape[1] == 2 * 134 + 6
    assert two.shape[0] > 1.9 * one.shape[0]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["nowhere.png"], "nowhere.png: does not exist"),
        (["letter.png"], "letter.png: not an image"),
        (["image.png", "--n", "0"], "--n 0: must be in [1, 1000]"),
        (["image.png", "--size", "30"], "--size 30 must be a multiple of --scale"),
        (["image.png", "--scale", "1"], "--scale, which is at least 2"),
        (["image.png", "--out", "image.png"], "--out image.png: exists; name another file, or add"),
        (["image.png", "--out", "sheet.jpg"], "must end in .png"),
        (["image.png", "--size", "16", "--out", "letter.png/sheet.png"], "--out letter.png"),
    ],
)
def test_one_line_says_what_is_wrong(picture, tmp_path, capsys, words, problem):
    (tmp_path / "letter.png").write_text("dear diary")
    out = [] if "--out" in words else ["--out", "sheet.png"]
    assert main(["degrade", *words, *out, "--kind", "blur"]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert problem in error
    assert not (tmp_path / "sheet.png").exists()
