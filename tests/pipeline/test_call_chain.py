"""From `Pipeline.generate` to the networks it is a short way: counted, so that it stays one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import unclip
from unclip.pipeline.pipeline import Pipeline

PACKAGE = Path(unclip.__file__).parent
DECORATOR = "inference"  # torch's mode around a function, as `torch.no_grad()` is: no way to follow


def files_above(net, method: str, call) -> list[str]:
    """The package's files on the call stack when ``method`` of ``net`` first runs in ``call``."""
    seen: list[str] = []
    original = getattr(net, method)

    def spy(*args, **kwargs):
        frame = sys._getframe(1)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if PACKAGE in path.parents and str(path) not in seen and path.stem != DECORATOR:
                seen.append(str(path))
            frame = frame.f_back
        seen.append("end")
        setattr(net, method, original)
        return original(*args, **kwargs)

    setattr(net, method, spy)
    call()
    return seen[: seen.index("end")]


@pytest.mark.parametrize(("part", "method"), [("prior", "denoise"), ("decoder", "denoise")])
def test_at_most_eight_files_lie_between_a_caption_and_a_network(cascade, part, method):
    pipeline = Pipeline.load(cascade)
    net = getattr(pipeline.cascade, part).net
    above = files_above(net, method, lambda: pipeline.generate(["a red circle"], [0]))
    own = sys.modules[type(net).__module__].__file__
    assert len({*above, own}) <= 8


def test_at_most_three_functions_lie_between_vary_and_the_sampler(cascade, monkeypatch):
    from unclip.diffusion import samplers
    from unclip.stages.decoder import sampling

    pipeline = Pipeline.load(cascade)
    image = pipeline.generate(["a red circle"], [0]).image[0]
    layers: list[str] = []

    def spy(*args, **kwargs):
        frame = sys._getframe(1)
        while frame.f_code.co_qualname != "Pipeline.vary":
            name = frame.f_code.co_qualname
            if PACKAGE in Path(frame.f_code.co_filename).parents and "in_batches" not in name:
                layers.append(name.split(".<locals>")[0])
            frame = frame.f_back
        return samplers.sample(*args, **kwargs)

    monkeypatch.setattr(sampling, "sample", spy)
    pipeline.vary(image, 1.0, [0])
    between = [
        name for name in dict.fromkeys(layers) if name not in ("Sampling._slices", DECORATOR)
    ]
    assert between == ["DecoderPart.draw", "Sampling.decode", "vary"]
