"""`--device`: a place that is not there is one line on every command that takes the option."""

from __future__ import annotations

import argparse

import pytest
import torch
from PIL import Image

from unclip import cli
from unclip.cli import main

WORDS = {  # of each command that takes --device, but for the option itself
    "sample": "a --out {out}",
    "vary": "{image} --out {out}",
    "interpolate": "{image} {image} --out {out}",
    "edit": "{image} --to b --out {out}",
    "inpaint": "{image} --mask {image} --caption b --out {out}",
    "probe conditioning": "a --out {out}",
    "probe guidance": "a --out {out}",
    "probe pca": "{image} --out {out}",
    "probe typographic": "--out {out}",
    "probe binding": "--out {out}",
    "probe relations": "--out {out}",
    "figures": "{cascade} --out {out}",
    "demo": "",
    "study new": "--a {cascade} --b {cascade} --captions {table} --n 1 --out {out}",
    "evaluate images": "{folder} --features clip:{cascade}/clip",
    "evaluate cascade": "{cascade} --protocol scenes --features own:{cascade} --out {out}",
    "evaluate guidance": "{cascade} --protocol scenes --features own:{cascade} --out {out}",
    "fit-probe": "aesthetics {table} --clip {cascade}/clip --out {out}",
    "plan": "{cascade}",
    "check-machine": "--out {out}",
    "finetune": "{folder} --from {cascade} --out {out}",
    "reproduce-paper": "--out {out}",
    "data caption": "{folder} --with {folder}",
}


def parsers(parser, words=()):
    """Every parser below ``parser``, those that take over included, by its words."""
    yield " ".join(words), parser
    for name, below in parser.verbs.items():
        yield from parsers(below, (*words, name))
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from parsers(below, (*words, name))


TAKING = {words: p for words, p in parsers(cli.parser()) if "--device" in p._option_string_actions}


@pytest.mark.parametrize("device", ["cuda", "gpu", "cuda:7", "mps", "meta", "cpu:x"])
@pytest.mark.parametrize("command", TAKING)
def test_a_device_that_is_not_there_is_one_line(command, device, capsys, cascade, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    Image.new("RGB", (16, 16)).save(tmp_path / "image.png")
    (tmp_path / "table.csv").write_text("path,rating\nimage.png,1\n")
    there = {"out": tmp_path / "out", "image": tmp_path / "image.png", "folder": tmp_path}
    words = WORDS[command].format(cascade=cascade, table=tmp_path / "table.csv", **there).split()
    if "--pipeline" in TAKING[command]._option_string_actions:
        words += ["--pipeline", str(cascade)]
    before = set(tmp_path.iterdir())
    assert main([*command.split(), *words, "--device", device]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    said = f"--device {device}: " if command != "plan" else f"--device: unknown device '{device}'"
    assert said in error
    assert set(tmp_path.iterdir()) == before
