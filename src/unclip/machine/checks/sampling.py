"""Sampling in every precision: images against the CPU's in float32, and images per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.embeddings.gpt2 import tokenizer_of
from unclip.machine.check import Check, Machine, Row, Unavailable
from unclip.machine.checks.utilisation import MIDDLE
from unclip.machine.stages import REFERENCE
from unclip.machine.step import synchronize
from unclip.pipeline.cascade import Cascade, load_part
from unclip.pipeline.execution import choose_compilation, choose_offload
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.precision import choose_precision
from unclip.pipeline.sampling import Sampling
from unclip.pipeline.settings import Settings
from unclip.runs.parents import build_net, named_sizes
from unclip.stages.decoder.sampling import DecoderPart
from unclip.stages.row import CLIP
from unclip.training.determinism import sample_deterministically

CAPTIONS = ["a red circle", "a blue square above a green triangle"] * 2
SEEDS = list(range(len(CAPTIONS)))


class Way(NamedTuple):
    """A way to sample."""

    precision: str
    close: float  # dB to the CPU's float32, at least
    offload: str = "none"
    compile: str = "none"


WAYS = {
    "32": Way("32", 60.0),
    "tf32": Way("tf32", 40.0),
    "bf16": Way("bf16", 40.0),
    "fp16": Way("fp16", 50.0),
    "32, networks by turns": Way("32", 60.0, "stages"),
    "32, blocks by turns": Way("32", 60.0, "blocks"),
    "bf16, compiled": Way("bf16", 40.0, compile="blocks"),
    "bf16, CUDA graphs": Way("bf16", 40.0, compile="graphs"),
}
RATE = "images/s"
DETERMINISTIC = "deterministic"
STEPS, ROUNDS = 8, 3


def measure(item: str, machine: Machine) -> list[Row]:
    """``item`` is a way, "images/s: WAY", or `DETERMINISTIC`."""
    if item == DETERMINISTIC:
        return _deterministic(machine)
    name = item.removeprefix(f"{RATE}: ")
    way = WAYS[name]
    if way.compile != "none" and not machine.gpu:
        raise Unavailable("a CPU would compile for minutes")
    try:
        choose_precision(way.precision, machine.device)
        choose_offload(way.offload, machine.device)
        choose_compilation(way.compile, machine.device, way.offload)
    except UserError as error:
        raise Unavailable(str(error)) from None
    return _rate(name, machine) if name != item else _close(name, machine)


def _close(name: str, machine: Machine) -> list[Row]:
    """A cascade's images on the device against the CPU's."""
    folder = machine.folder / REFERENCE
    way = WAYS[name]
    found = Pipeline.load(folder, machine.device, way.precision, way.offload, way.compile)
    images = found.generate(CAPTIONS, SEEDS).image.cpu()
    exact = Pipeline.load(folder, "cpu", "32").generate(CAPTIONS, SEEDS).image
    decibels = _psnr(images, exact)
    least = way.close
    told = "the same bits" if torch.equal(images, exact) else f"{decibels:.1f} dB"
    row = f"a cascade's images, {name}"
    return [Row(row, told, f"at least {least:.0f} dB", decibels >= least, {"psnr": decibels})]


def _psnr(found: Tensor, exact: Tensor) -> float:
    """Of images in [-1, 1], in dB; at most 200, of equal ones."""
    error = (found.double() - exact.double()).square().mean().clamp(min=4e-20)
    return float(10 * torch.log10(4 / error))


def _rate(name: str, machine: Machine) -> list[Row]:
    """Images per second of a decoder with arbitrary weights."""
    draw, batch, title = _decoder(name, machine)
    rates = [batch / _seconds(draw, machine) for _ in range(ROUNDS if machine.gpu else 1)]
    rate = max(rates)
    told, numbers = f"{rate:,.1f} images/s ({min(rates):,.1f} the slowest)", {"images": rate}
    if machine.gpu:
        torch.cuda.reset_peak_memory_stats()
        draw()
        numbers["bytes"] = float(torch.cuda.max_memory_allocated())
        told += f", {numbers['bytes'] / 2**30:.2f} GiB"
    return [Row(f"{title}, {name}", told, numbers=numbers)]


def _seconds(draw: Callable[[], None], machine: Machine) -> float:
    synchronize(machine)
    began = time.perf_counter()
    draw()
    synchronize(machine)
    return time.perf_counter() - began


def _decoder(name: str, machine: Machine) -> tuple[Callable[[], None], int, str]:
    """A call that draws a batch, warmed up; how many images that is, and its title."""
    clip = machine.folder / REFERENCE / CLIP
    job = MIDDLE[machine.small]
    resolved = load_experiment(job.experiment, [*job.overrides, f"clip={clip}"])
    sizes = named_sizes(resolved)
    resolved.stage.fill(resolved.config, sizes)
    way, device = WAYS[name], torch.device(machine.device)
    dtype, turns = choose_precision(way.precision, device), choose_offload(way.offload, device)
    compilation = choose_compilation(way.compile, device, way.offload)
    frozen = load_part(CLIP, clip)
    with device if turns is None else torch.device("cpu"):
        net: Any = build_net(resolved, sizes)
    own = resolved.config
    reads = frozen.model if own.model.caption == "clip" else None
    part = DecoderPart(net, own.sampler, own.diffusion, tokenizer_of(own.model), "image", reads)
    cascade = Cascade(
        frozen, None, part, device=device, dtype=dtype, offload=turns, compilation=compilation
    )
    batch = 16 if machine.gpu else 2
    steps = STEPS if machine.gpu else 2
    settings = Settings({"decoder": {"steps": steps}}, batch=batch)
    z = torch.nn.functional.normalize(torch.ones(batch, sizes.embed_dim or 1), dim=1)
    z = z.to(machine.device)
    captions, seeds = [CAPTIONS[0]] * batch, list(range(batch))

    def draw() -> None:
        Sampling(cascade, settings, None).decode(z, seeds, captions=captions)

    with torch.inference_mode():
        draw()
    title = f"{resolved.name}, {batch} images at a time, {steps} steps with guidance"
    return torch.inference_mode()(draw), batch, title


def _deterministic(machine: Machine) -> list[Row]:
    """What `unclip sample` pays for the same bits each time."""
    name = "32"
    draw, _batch, title = _decoder(name, machine)
    plain = min(_seconds(draw, machine) for _ in range(ROUNDS))
    sample_deterministically()
    _seconds(draw, machine)
    exact = min(_seconds(draw, machine) for _ in range(ROUNDS))
    torch.use_deterministic_algorithms(False)
    ratio = exact / plain
    return [Row(f"{title}, deterministic", f"{ratio:.2f} times the time", numbers={"ratio": ratio})]


CHECK = Check(
    "sample",
    "images in every precision, and images per second",
    (*WAYS, *(f"{RATE}: {name}" for name in WAYS), DETERMINISTIC),
    measure,
    after=(REFERENCE,),
)
