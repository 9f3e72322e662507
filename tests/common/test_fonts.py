"""Letters of every script reach an image as themselves, or as codes with a note: never as boxes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unclip.cli import main
from unclip.common import fonts
from unclip.common.errors import UserError
from unclip.common.fonts import drawable, missing
from unclip.common.images import grid, table
from unclip.pipeline.typographic import paste

WORDS = {  # two each, of equally many letters, which boxes would make equal
    "Latin": ("é", "è"),
    "Greek": ("αλ", "βγ"),
    "Cyrillic": ("кот", "дом"),
    "Hebrew": ("חת", "כל"),
    "Arabic": ("قط", "عم"),
    "symbols": ("→✓", "←✗"),
}
SPELT = {
    "Chinese": ("红", "蓝"),
    "Japanese": ("あ", "い"),
    "Korean": ("한", "국"),
    "Thai": ("ก", "ข"),
}
IMAGE = np.full((64, 64, 3), 200, np.uint8)


@pytest.fixture(autouse=True)
def _unnoted(monkeypatch):
    monkeypatch.setattr(fonts, "_noted", set())


def sheets(word: str) -> list[np.ndarray]:
    beside = table([[IMAGE]], rows=[word], columns=["x"])
    return [np.asarray(grid([IMAGE], [word])), np.asarray(beside)]


@pytest.mark.parametrize("script", WORDS | SPELT)
def test_captions_of_every_script_look_different(script):
    one, other = (WORDS | SPELT)[script]
    for a, b in zip(sheets(one), sheets(other)):
        assert a.shape != b.shape or (a != b).any()


@pytest.mark.parametrize("script", WORDS)
def test_a_script_that_a_font_has_is_drawn_without_a_note(script, capsys):
    word = WORDS[script][0]
    sheets(word)
    assert drawable(word) == word
    assert not capsys.readouterr().err


def test_other_letters_are_spelt_and_noted_once(capsys):
    for _ in range(2):
        assert drawable("red 红 кот \x1b") == "red \\u7ea2 кот \\x1b"
    sheets("红")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("unclip: note: no font for 红: ")
    assert "\\u7ea2" in line


@given(st.text())
def test_what_is_drawable_has_no_letter_without_a_font(text):
    assert missing(drawable(text)) == ""
    assert text.isascii() is False or not text.isprintable() or drawable(text) == text


@pytest.mark.parametrize("script", WORDS)
def test_a_word_is_written_on_an_image_as_itself(script):
    one, other = (paste(IMAGE, word) for word in WORDS[script])
    assert (one != other).any()


@pytest.mark.parametrize("word", [*(words[0] for words in SPELT.values()), "\x1b", "\u200d"])
def test_a_word_that_no_font_has_is_refused(word):
    with pytest.raises(UserError, match=r"no font has|nothing of it|is empty"):
        paste(IMAGE, word)


def test_the_typographic_probe_refuses_it_before_it_draws(cascade, tmp_path, capsys):
    out = tmp_path / "out"
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    words = ["probe", "typographic", tmp_path / "a.png", "--pipeline", cascade, "--out", out]
    words += ["--word", "кот", "--word", "红", "--label", "a", "--label", "b"]
    assert main([str(word) for word in words]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("unclip: error: word='红': no font has '红'")
    assert not out.exists() or not list(out.iterdir())


def test_figures_of_matplotlib_have_no_boxes(tmp_path, capsys):
    for name in ("红", "кот"):
        run = tmp_path / name
        run.mkdir()
        (run / "experiment.yaml").write_text("stage: clip\n")
        rows = (f'{{"step": {k}, "train/loss": 1.0, "val/红": 2.0}}\n' for k in range(3))
        (run / "metrics.jsonl").write_text("".join(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        words = ["runs", "compare", tmp_path / "红", tmp_path / "кот", "--out", tmp_path / "out"]
        assert main([str(word) for word in words]) == 0
    assert "no font for 红" in capsys.readouterr().err
