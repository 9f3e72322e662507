"""The ten lines of Python in the README train a cascade and sample from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import unclip
from unclip.common.errors import UserError

README = Path(__file__).parents[2] / "README.md"


def test_the_door_shows_its_four_names_and_nothing_else():
    assert [name for name in dir(unclip) if not name.startswith("__")] == [
        "Pipeline",
        "load_experiment",
        "sample_captions",
        "train",
    ]


def test_wrong_calls_are_answered_in_a_line(cascade):
    with pytest.raises(
        UserError, match=r"train: give what load_experiment\('prior/tiny'\) returns"
    ):
        unclip.train("prior/tiny")
    pipeline = unclip.Pipeline.load(cascade)
    with pytest.raises(UserError, match=r"captions: must be a list of texts, as \['abc'\]"):
        pipeline.generate("abc", [0, 1, 2])
    for captions, seeds, said in (
        (["a"], 0, r"seeds: must be a list of whole numbers, as \[0\]"),
        (None, [0], "captions: must be a list of texts"),
        ([3], [0], "captions: must be a list of texts; 3 is not one"),
        (["a"], [1.5], "seeds: must be a list of whole numbers; 1.5 is not one"),
        (["a"], [True], "True is not one"),
        ([" "], [0], "captions: is empty"),
    ):
        with pytest.raises(UserError, match=said):
            pipeline.generate(captions, seeds)
    with pytest.raises(UserError, match="device foo: must be auto"):
        unclip.Pipeline.load(cascade, device="foo")
    with pytest.raises(UserError, match="pipeline=None: must be the path"):
        unclip.Pipeline.load(None)
    for name, overrides, said in (
        (None, [], "experiment None: must be a name"),
        ("prior/tiny", "trainer.seed=1", "overrides: must be a list of texts"),
        ("prior/tiny", [f"trainer.seed={2**32}"], "must be from 0 to 4294967295"),
    ):
        with pytest.raises(UserError, match=said):
            unclip.load_experiment(name, overrides)
    for captions, seeds in (([], []), (["a"], []), (["a"], [0, 1])):
        with pytest.raises(UserError, match="give one seed per caption"):
            pipeline.generate(captions, seeds)


def test_the_script_of_the_readme_trains_and_samples(minute_experiment, tmp_path, monkeypatch):
    (script,) = re.findall(
        r"```python\n(from unclip import Pipeline.*?)```", README.read_text(), re.S
    )
    assert len(script.strip().splitlines()) <= 10
    for kind in ("clip", "prior", "decoder"):  # the same lines with minute experiments
        script = script.replace(f'"{kind}/tiny"', repr(str(minute_experiment(kind))))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(script, str(README), "exec"), names)
    image = names["image"]
    assert image.shape == (1, 3, 16, 16)
    assert image.isfinite().all()
    assert image.abs().max() <= 1
    again = names["pipeline"].generate(["a red circle"], seeds=[0]).image
    assert torch.equal(image, again)
