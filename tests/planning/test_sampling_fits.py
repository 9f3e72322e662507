"""`unclip plan sample`: what fits, against what the networks leave on a device by turns."""

from __future__ import annotations

import copy
import json
import math
import shlex
from dataclasses import replace

import pytest
import torch

from unclip.cli import main
from unclip.nn.offload import Offload, parts_of
from unclip.pipeline.cascade import open_folder
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.planning.devices import Device
from unclip.planning.sampling_memory import HEADROOM, StageCost, Wanted, cost_of, suggest

MB = 10**6
STAGES = [
    StageCost("clip", "clip", MB, block=0, blocks=0, resting=0, pinned=0, buffers=0, file=4 * MB),
    StageCost(
        "decoder",
        "decoder",
        8 * MB,
        block=2 * MB,
        blocks=6 * MB,
        resting=0,
        pinned=0,
        buffers=0,
        file=32 * MB,
        evaluations=1,
        rows=1,
        flops=10,
        activations=4 * MB,
    ),
]


def cost(device, wanted):
    return cost_of(device, wanted, STAGES, 1.0, wanted.batch / 4)


def test_peaks_are_those_of_arithmetic():
    """CLIP in float32; half of the decoder: 2 MB a million, 4 MB of them outside the blocks."""
    found = cost(Device("gpu", 0, 1.0, 1.0), Wanted("bf16", "none", 4))
    assert found.peaks == {"none": 24 * MB, "stages": 20 * MB, "blocks": 12 * MB}
    twice = cost(Device("gpu", 0, 1.0, 1.0), Wanted("32", "none", 8))
    assert twice.peaks == {"none": 44 * MB, "stages": 40 * MB, "blocks": 24 * MB}


@pytest.mark.parametrize(
    ("needs", "wanted"),
    [
        (40, Wanted("32", "none", 4)),
        (36, Wanted("32", "stages", 4)),
        (34, Wanted("32", "stages", 2)),
        (33, Wanted("32", "stages", 1)),
        (20, Wanted("32", "blocks", 4)),
        (17, Wanted("32", "blocks", 1)),
        (12, Wanted("bf16", "blocks", 4)),
        (9, Wanted("bf16", "blocks", 1)),
    ],
)
def test_the_smallest_change_that_fits(needs, wanted):
    """Stages by turns, a smaller batch, blocks by turns, then the precision."""
    device = Device("gpu", math.ceil(needs * MB / (1 - HEADROOM)), 1.0, 1.0)
    found = suggest(device, Wanted("32", "none", 4), cost)
    assert found.wanted == wanted
    assert found.cost.fits
    assert found.cost.peak == needs * MB
    assert found.changed == (wanted != Wanted("32", "none", 4))


def test_nothing_fits():
    found = suggest(Device("gpu", 8 * MB, 1.0, 1.0), Wanted("32", "none", 4), cost)
    assert found.wanted == Wanted("bf16", "blocks", 1)
    assert not found.cost.fits


def test_a_cpu_takes_no_turns():
    found = suggest(Device("cpu", 10**12, 1.0, 1.0), Wanted("32", "none", 4), cost)
    assert set(found.cost.peaks) == {"none"}


def plan(capsys, *words):
    assert main(["plan", "sample", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("how", [pytest.param("stages", marks=pytest.mark.slow), "blocks"])
def test_the_device_holds_what_the_plan_says(cascade, capsys, monkeypatch, how):
    """The most weights that have arrived and not left, and what never leaves."""
    found = plan(capsys, cascade, "--memory", "1GB", "--precision", "32", "--offload", how)
    (device,) = found["devices"]
    turns, seen = Offload(torch.device("cpu"), blocks=how == "blocks"), []
    arrive = Offload._arrive

    def watch(self, kind, unit):
        arrive(self, kind, unit)
        there = [t for each in self._present.values() for _, _, t in each._slots]
        seen.append(sum(t.numel() * t.element_size() for t in there))

    monkeypatch.setattr(Offload, "_arrive", watch)
    few = Settings({name: {"steps": 2} for name in ("prior", "decoder", "upsampler")}, batch=1)
    own = replace(copy.deepcopy(open_folder(cascade)), offload=turns)
    Pipeline(own).generate(["a"], [0], settings=few)
    nets = [part.net for part in (own.prior, own.decoder, *own.upsamplers)] + [own.clip.model]
    resting = sum(
        tensor.numel() * tensor.element_size()
        for net in nets
        for module in parts_of(net).own
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    )
    activations = max(stage["activations_bytes"] for stage in device["stages"])
    assert device["peak_bytes"] == device["peak_bytes_by_offload"][how]
    assert max(seen) + resting < device["peak_bytes"] <= max(seen) + resting + activations
    largest = max(s["weights_bytes"] for s in device["stages"])
    assert max(seen) <= largest <= max(seen) + resting


def test_the_command_that_fits_is_one_to_type(cascade, capsys):
    words = [cascade, "--memory", "0.01MB", "--batch", "4", "--device", "rtx4090"]
    assert main(["plan", "sample", *map(str, words), "decoder.steps=3"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("nothing fits: the least it takes is ")
    command = shlex.split(said.partition("with: ")[2])
    assert command[:-1] == [
        *["unclip", "sample", "a caption", "--pipeline", str(cascade), "decoder.steps=3"],
        *["--precision", "bf16", "--offload", "blocks", "--batch"],
    ]


@pytest.mark.slow
def test_experiments_are_a_cascade_that_is_not_trained(capsys):
    """With the CLIP that they name."""
    found = plan(capsys, "prior/diffusion_tiny", "decoder/tiny", "--memory", "1GiB")
    assert [stage["stage"] for stage in found["stages"]] == [
        "clip/tiny",
        "decoder/tiny",
        "prior/diffusion_tiny",
    ]
    (device,) = found["devices"]
    assert device["device_memory_bytes"] == 2**30
    assert device["seconds"] is None
    assert found["suggestion"]["fits"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample"], "plan sample: name a cascade, or the experiments of one"),
        (["sample", "karlo", "--memory", "8"], "--memory 8: must be a size such as 8GB"),
        (["sample", "karlo", "--memory", "0GB"], "--memory 0GB: must be a size such as 8GB"),
        (["sample", "karlo", "--offload", "all"], "--offload all: must be one of none, stages"),
        (
            ["sample", "karlo", "--offload", "stages", "--device", "cpu"],
            "--offload stages: a CPU has no memory of its own; use none",
        ),
        (["sample", "decoder/tiny", "decoder/tiny"], "a cascade has one decoder; 2 are named"),
        (["sample", "pca/tiny"], "pca/tiny: is not a stage of a cascade"),
        (["decoder/tiny", "--offload", "stages"], "--offload: is for cascades"),
        (
            ["decoder/tiny", "--gpus", "1", "--device", "t4", "--memory", "8"],
            "--memory 8: must be a size such as 8GB",
        ),
    ],
)
def test_what_cannot_be_is_one_line(capsys, words, said):
    assert main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_t4_takes_float16():
    found = suggest(Device("t4", 12 * MB, None, 1.0), Wanted("32", "none", 1), cost)
    assert found.wanted.precision == "fp16"
    assert torch.float16.itemsize == 2
