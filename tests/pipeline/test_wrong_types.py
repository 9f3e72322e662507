"""What the Python API says of arguments of a wrong type: which one, and what it must be."""

from __future__ import annotations

import pytest
import torch

from unclip import Pipeline, load_experiment
from unclip.common.errors import UserError
from unclip.pipeline.settings import Settings

IMAGE = torch.zeros(3, 16, 16)
MASK = torch.ones(16, 16, dtype=torch.bool)
FORM = 'must be of the form {"decoder": {"steps": 50}}'
WRONG = {
    "seeds=0.5": (lambda p: p.vary(IMAGE, 1.0, [0.5]), "seeds: must be a list of whole numbers"),
    "seeds=0": (lambda p: p.vary(IMAGE, 1.0, 0), "seeds: must be a list of whole numbers, as [0]"),
    "eta": (lambda p: p.vary(IMAGE, "x", [0]), "eta='x': must be a number"),
    "n": (lambda p: p.interpolate(IMAGE, IMAGE, 2.5), "n=2.5: must be a whole number"),
    "seed": (
        lambda p: p.interpolate(IMAGE, IMAGE, 2, seed="x"),
        "seed: 'x' must be a whole number",
    ),
    "target": (lambda p: p.text_diff(IMAGE, "a", None), "target=None: must be a text"),
    "source": (lambda p: p.text_diff(IMAGE, 3, "a"), "source=3: must be a text"),
    "theta": (lambda p: p.text_diff(IMAGE, "a", "b", "x"), "theta_max='x': must be a number"),
    "n=True": (lambda p: p.text_diff(IMAGE, "a", "b", n=True), "n=True: must be a whole number"),
    "dims=3": (lambda p: p.pca_reconstructions(IMAGE, 3), "dims: must be a list of whole numbers"),
    "dims": (lambda p: p.pca_reconstructions(IMAGE, ["1"]), "dims: must be a list of whole"),
    "word": (lambda p: p.typographic(IMAGE, 3, ["a", "b"]), "word=3: must be a text"),
    "labels": (lambda p: p.typographic(IMAGE, "a", "ab"), "labels: must be a list of texts"),
    "caption": (lambda p: p.inpaint(IMAGE, MASK, "a", [0]), "captions: must be a list of texts"),
    "resample": (lambda p: p.inpaint(IMAGE, MASK, ["a"], [0], resample=0.5), "resample=0.5: must"),
    "settings": (lambda p: p.generate(["a"], [0], settings={}), "settings={}: must be Settings"),
    "batch": (lambda p: p.generate(["a"], [0], settings=Settings(batch="4")), "batch='4': must be"),
    "dotted": (lambda p: p.generate(["a"], [0], settings=Settings({"decoder.steps": 3})), FORM),
    "flat": (lambda p: p.generate(["a"], [0], settings=Settings({"steps": 3})), FORM),
    "list": (lambda p: p.generate(["a"], [0], settings=Settings(["decoder.steps=3"])), FORM),
    "clip": (lambda p: Pipeline.from_artifacts(clip=3, decoder="x"), "clip=3: must be the"),
    "upsamplers": (
        lambda p: Pipeline.from_artifacts(clip="x", decoder="x", upsamplers=3),
        "upsamplers=3: must be a list of paths",
    ),
    "upsampler": (
        lambda p: Pipeline.from_artifacts(clip="x", decoder="x", upsamplers=[3]),
        "upsampler=3: must be the path",
    ),
    "overrides": (
        lambda p: load_experiment("clip/tiny", [3]),
        "overrides: must be a list of texts",
    ),
}


@pytest.fixture(scope="module")
def pipeline(cascade):
    return Pipeline.load(cascade)


@pytest.mark.parametrize("case", WRONG)
def test_it_is_named(case, pipeline):
    call, message = WRONG[case]
    with pytest.raises(UserError) as raised:
        call(pipeline)
    assert message in str(raised.value)
