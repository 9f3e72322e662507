"""An address where a path belongs is refused as it was typed."""

from __future__ import annotations

import pytest

from unclip.cli import main

WORDS = [
    "import {} --out o",
    "import a --merges {} --out o",
    "sample red --pipeline {}",
    "sample red --captions {}",
    "sample red --decoder={}",
    "figures {}",
    "evaluate {}",
    "export {} --to diffusers --out o",
    "vary {}",
    "interpolate a.png {}",
    "fit-variance {}",
    "sweep {}.yaml --count 1",
    "recipe {}.yaml",
    "train {}.yaml",
    "train prior/tiny clip={}",
    "sample red --out {}",
]


@pytest.mark.parametrize("address", ["http://h.invalid/a", "file:///a//b", "ftp://h.invalid/a"])
@pytest.mark.parametrize("words", WORDS)
def test_no_slash_is_lost(words, address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words.format(address).split()) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert address in line
    assert not list(tmp_path.iterdir())
