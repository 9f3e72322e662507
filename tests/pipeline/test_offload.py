"""Networks that take turns on the device: the same bits, and only what is needed is there."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_gpu import GPU, FakeGpu
from torch import nn

from unclip import Pipeline
from unclip.cli import main
from unclip.common.errors import UserError
from unclip.nn.blocks import blocks_of
from unclip.nn.offload import Offload
from unclip.pipeline import pipeline
from unclip.pipeline.cascade import open_folder
from unclip.pipeline.settings import Settings
from unclip.stages import registry

CPU = torch.device("cpu")
IMAGE = np.zeros((20, 24, 3), dtype=np.uint8)
SLOW = pytest.mark.slow
STEPS = {"decoder": {"steps": 2}, "upsampler": {"steps": 2}}
FEW = Settings(STEPS, batch=2, inversion="fixed_point", iterations=1)


def networks(cascade) -> list[nn.Module]:
    parts = (cascade.prior, cascade.decoder, *cascade.upsamplers)
    return [part.net for part in parts] + [cascade.clip.model]


@pytest.fixture(params=["diffusion", pytest.param("ar", marks=SLOW)])
def loaded(cascade, request):
    """A cascade with either prior, of its own: hooks stay."""
    found = copy.deepcopy(open_folder(cascade))
    if request.param == "ar":
        part = registry.STAGES["ar_prior"].load(cascade / "ar_prior", found.clip)
        found = replace(found, prior=part)
    return found


CALLS = {
    "generate": lambda p: p.generate(["a", "b", "c"], [0, 1, 2], settings=FEW).image,
    "vary": lambda p: p.vary([IMAGE], 0.5, [0, 1], settings=FEW).image,
    "text diff": lambda p: p.text_diff([IMAGE], None, "a circle", n=2, settings=FEW).image,
    "inpaint": lambda p: p.inpaint([IMAGE], [IMAGE[..., 0] > 0], ["a"], [0], settings=FEW).image,
}


@pytest.mark.parametrize("blocks", [pytest.param(False, marks=SLOW), True])
@pytest.mark.parametrize(
    "call", [name if name == "generate" else pytest.param(name, marks=SLOW) for name in CALLS]
)
def test_the_same_bits(loaded, call, blocks):
    """Batches, guidance and manipulations of networks that come and go."""
    wanted = CALLS[call](pipeline.Pipeline(copy.deepcopy(loaded)))
    turns = Offload(CPU, blocks=blocks)
    found = CALLS[call](pipeline.Pipeline(replace(loaded, offload=turns)))
    assert torch.equal(found, wanted)
    assert len({name.split()[0] for name in turns.arrivals}) >= 3


def test_stages_arrive_in_the_order_of_the_work(loaded):
    turns = Offload(CPU)
    own = pipeline.Pipeline(replace(loaded, offload=turns))
    own.generate(["a"], [0], settings=FEW)
    prior = type(loaded.prior.net).__name__
    assert turns.arrivals == ["Clip", prior, "Decoder", "Upsampler"]
    del turns.arrivals[:]
    own.generate(["a"], [0], settings=FEW)
    assert turns.arrivals == ["Clip", prior, "Decoder", "Upsampler"]


@pytest.mark.parametrize("loaded", ["diffusion"], indirect=True)
def test_a_setting_changed_adds_no_second_hook(loaded):
    turns = Offload(CPU, blocks=True)
    own = replace(loaded, offload=turns)
    hooks = [len(m._forward_pre_hooks) for net in networks(own) for m in net.modules()]
    again = replace(own, upsamplers=own.upsamplers)
    assert hooks == [len(m._forward_pre_hooks) for net in networks(again) for m in net.modules()]
    assert set(hooks) == {1}


def on_device(net: nn.Module) -> int:
    """Numbers of ``net``'s layers that are on the GPU."""
    return sum(p.numel() for p in net.parameters() if p.is_cuda)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [pytest.param(False, marks=SLOW), True])
def test_one_at_a_time_is_on_the_gpu(loaded, blocks, monkeypatch):
    """On a GPU that is not there, which refuses what was left on the CPU."""
    seen: list[tuple[int, int]] = []  # networks there, and blocks of them
    arrive = Offload._arrive

    def watch(self, kind, unit):
        arrive(self, kind, unit)
        heavy = [net for net in nets if on_device(net) > resting[id(net)]]
        there = [block for net in nets for block in blocks_of(net) if on_device(block)]
        seen.append((len(heavy), len(there)))

    with FakeGpu():
        turns = Offload(GPU, blocks=blocks)
        cascade = replace(loaded, device=GPU, offload=turns)
        nets = networks(cascade)
        resting = {id(net): on_device(net) for net in nets}
        assert all(
            resting[id(net)] < 0.2 * sum(p.numel() for p in net.parameters()) for net in nets
        )
        monkeypatch.setattr(Offload, "_arrive", watch)
        found = pipeline.Pipeline(cascade).generate(["a", "b"], [0, 1], settings=FEW)
        assert found.image.device == GPU
    assert max(heavy for heavy, _ in seen) == 1
    if blocks:
        assert max(there for _, there in seen) == 1


@pytest.mark.slow
def test_halves_take_turns_too(loaded):
    with FakeGpu():
        cascade = replace(
            loaded, device=GPU, dtype=torch.float16, offload=Offload(GPU, blocks=True)
        )
        pipeline.Pipeline(cascade).generate(["a"], [0], settings=FEW)


def test_the_option_reaches_the_cascade(cascade, monkeypatch, tmp_path):
    """From the command line, from Python with separate artifacts, and for many images."""
    made: list[Offload] = []

    def choose(name, device, key="--offload"):
        made.append(Offload(CPU, blocks=name == "blocks"))
        return made[-1]

    monkeypatch.setattr("unclip.pipeline.cascade.choose_offload", choose)
    monkeypatch.setattr("unclip.pipeline.execution.choose_offload", choose)
    words = ["sample", "a", "--pipeline", str(cascade), "--batch", "1", "--offload", "blocks"]
    words += ["prior.steps=2", "decoder.steps=2", "upsampler.steps=2"]
    assert main([*words, "--out", str(tmp_path / "few")]) == 0
    assert made[-1].blocks
    assert "Decoder 1" in made[-1].arrivals
    assert main([*words, "--out", str(tmp_path / "many"), "--limit", "1", "--devices", "1"]) == 0
    assert made[-1].blocks
    assert "Decoder 1" in made[-1].arrivals
    given = {name: cascade / name for name in ("clip", "prior", "decoder")}
    own = Pipeline.from_artifacts(**given, offload="stages")
    assert own.cascade.offload is made[-1]
    assert not made[-1].blocks


def test_a_cpu_has_nothing_to_save(capsys, cascade, tmp_path):
    words = ["sample", "a", "--pipeline", str(cascade), "--out", str(tmp_path / "out")]
    assert main([*words, "--device", "cpu", "--offload", "stages"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unclip: error: --offload stages: cpu computes in the machine's own")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"^offload all: must be one of none, stages, blocks$"):
        Pipeline.load(cascade, offload="all")
