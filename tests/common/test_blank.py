"""A text that shows nothing is an empty one, wherever captions are read."""

from __future__ import annotations

import pytest
import torch

from unclip.cli import main
from unclip.common.blank import is_blank
from unclip.common.errors import UserError
from unclip.demo import inputs

BLANK = [
    "",
    " \t\n",
    "\u200b",
    "\ufeff \u200d",
    "\u00ad\u2060",
    "\u3164\u034f",
    "\ufe0f",
    "\x07",
    "\u202e",
    "\U000e0001",
]
SHOWN = ["a", "\u200ba", "红", "é", "e\u0301", "👨\u200d👩", "❤\ufe0f", ".", "0"]


def test_what_is_blank():
    assert all(map(is_blank, BLANK))
    assert not any(map(is_blank, SHOWN))


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "BLANK"],
        ["sample", "red", "BLANK"],
        ["edit", "a.png", "--to", "BLANK"],
        ["edit", "a.png", "--from", "BLANK", "--to", "red"],
        ["inpaint", "a.png", "--mask", "a.png", "--caption", "BLANK"],
        ["probe", "guidance", "BLANK"],
    ],
)
def test_a_caption_typed_is_refused(words, cascade, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("BLANK", "\u200b\u2060") for word in words]
    assert main([*words, "--pipeline", str(cascade)]) == 2
    assert "empty; " in capsys.readouterr().err


def test_lines_of_a_captions_file_that_show_nothing_do_not_count(tmp_path, capsys):
    file = tmp_path / "captions.txt"
    file.write_text("\u200b\n\ufeff\n", encoding="utf-8")
    assert main(["sample", "--captions", str(file)]) == 2
    assert "no caption" in capsys.readouterr().err


def test_the_demo_and_python_refuse_it(cascade):
    from unclip import Pipeline

    with pytest.raises(UserError, match="caption: write one first"):
        inputs.caption("\u200b")
    pipeline, image = Pipeline.load(cascade, "cpu"), torch.zeros(1, 3, 16, 16)
    for call in (
        lambda: pipeline.generate(["\u200b"], [0]),
        lambda: pipeline.text_diff(image, None, "\u200b"),
        lambda: pipeline.text_diff(image, "\u200b", "red"),
        lambda: pipeline.inpaint(image, torch.ones(16, 16) > 0, ["\u200b"], [0]),
        lambda: pipeline.typographic(image, "\u200b", ["a", "b"]),
    ):
        with pytest.raises(UserError, match=r"empty|give"):
            call()
