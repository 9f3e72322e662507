"""From caption to image: our cascade beside diffusers' UnCLIPPipeline with the same weights.

    python benchmarks/pipeline.py                                # float32, one thread
    python benchmarks/pipeline.py --precision bf16
    python benchmarks/pipeline.py --ours decoder.steps=6 prior.steps=6 upsampler.steps=2

A random cascade in Karlo's layout (64 px, then 256 px), narrower, is imported and exported again,
and both pipelines are opened from those files. They take turns in one process, with the same
numbers of steps of ancestral sampling and the same guidance. A ratio is diffusers over ours, above
1 where ours is faster: the median over neighbouring runs, with the least and the greatest, of
processor time (which other programs hardly disturb) and of time. --ours changes our settings alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from karlo_size import configure, fill
from torch import nn

from unclip.evaluation.config import read_changes
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.weights.exporting import export_diffusers
from unclip.weights.importing import import_weights

CAPTION = "a corgi playing a trumpet"
GUIDANCE = {"prior": 4.0, "decoder": 8.0}
TYPES = {"32": torch.float32, "bf16": torch.bfloat16}
NARROW: dict[str, dict[str, Any]] = {  # what differs from the published files
    "prior/config.json": {"num_attention_heads": 8, "num_layers": 8, "embedding_dim": 256},
    "decoder/config.json": {
        "block_out_channels": [64, 128, 192, 256],
        "cross_attention_dim": 384,
        "layers_per_block": 2,
    },
    "text_proj/config.json": {
        "clip_embeddings_dim": 256,
        "cross_attention_dim": 384,
        "time_embed_dim": 256,
    },
    "super_res_first/config.json": {"block_out_channels": [32, 64, 96, 128], "layers_per_block": 2},
    "super_res_last/config.json": {"block_out_channels": [32, 64, 96, 128], "layers_per_block": 2},
    "text_encoder/config.json": {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "projection_dim": 256,
    },
}


class Seconds(NamedTuple):
    """How long something took."""

    process: float  # of the processor, all threads
    wall: float


def make(root: Path) -> None:
    """``cascade`` of ours and ``diffusers``, of the same random weights."""
    source = root / "source"
    source.mkdir()
    configure(source)
    for name, values in NARROW.items():
        file = source / name
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
    fill(source)
    import_weights(str(source), root / "cascade")
    export_diffusers(root / "cascade", root / "diffusers")


@functools.wraps(nn.functional.interpolate)  # the pipeline asks which arguments it has
def enlarge(x: torch.Tensor, **options: Any) -> torch.Tensor:
    """Interpolate in float32: a CPU has no antialiased bicubic of bfloat16."""
    return nn.functional.interpolate(x.float(), **options).to(x.dtype)


def theirs(folder: Path, steps: list[int], precision: str) -> Callable[[], Any]:
    """Sampling of diffusers."""
    import diffusers
    from diffusers.pipelines.deprecated.unclip import pipeline_unclip

    vars(pipeline_unclip)["F"] = SimpleNamespace(**vars(nn.functional) | {"interpolate": enlarge})
    pipeline = diffusers.UnCLIPPipeline.from_pretrained(folder, torch_dtype=TYPES[precision])
    pipeline.set_progress_bar_config(disable=True)
    return lambda: (
        pipeline(
            CAPTION,
            prior_num_inference_steps=steps[0],
            decoder_num_inference_steps=steps[1],
            super_res_num_inference_steps=steps[2],
            prior_guidance_scale=GUIDANCE["prior"],
            decoder_guidance_scale=GUIDANCE["decoder"],
            output_type="pt",
        ).images
    )


def ours(folder: Path, steps: list[int], precision: str, words: list[str]) -> Callable[[], Any]:
    """The same of ours, unless ``words`` say otherwise."""
    pipeline = Pipeline.load(folder, "cpu", precision)
    changes: dict[str, dict[str, Any]] = {}
    for stage, count in zip(("prior", "decoder", "upsampler"), steps):
        changes[stage] = {"sampler": "ddpm", "steps": count}
    for stage, scale in GUIDANCE.items():
        changes[stage]["guidance"] = scale
    changes["prior"]["candidates"] = 1
    for stage, more in read_changes(words).items():
        changes[stage] |= more
    return lambda: pipeline.generate([CAPTION], [0], settings=Settings(changes)).image


def clock(work: Callable[[], Any]) -> Seconds:
    began = time.process_time(), time.perf_counter()
    work()
    return Seconds(time.process_time() - began[0], time.perf_counter() - began[1])


def show(name: str, values: list[float]) -> str:
    middle = statistics.median(values)
    return f"{name} {middle:.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Make the weights, time both in turn."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--precision", choices=list(TYPES), default="32")
    p.add_argument("--steps", type=int, nargs=3, default=[25, 25, 7], help="of each stage")
    p.add_argument("--ours", nargs="*", default=[], help="our sampler settings")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--profile", action="store_true", help="where ours spends its time")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root)
        them = theirs(root / "diffusers", args.steps, args.precision)
        us = ours(root / "cascade", args.steps, args.precision, args.ours)
    if args.profile:
        for name, work in (("ours", us), ("diffusers", them)):
            with torch.profiler.profile() as profile:
                work()
            print(name, profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
        return
    found: list[tuple[Seconds, Seconds]] = []
    for turn in range(args.repeats + 1):  # the first is a warm-up
        order = [them, us] if turn % 2 else [us, them]
        times = {work: clock(work) for work in order}
        if turn:
            found.append((times[them], times[us]))
            print(f"diffusers {times[them]}, ours {times[us]}", flush=True)
    for name in Seconds._fields:
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in found]
        columns = zip(("diffusers", "ours", "ratio"), [*zip(*pairs), [a / b for a, b in pairs]])
        print(f"{name}: {', '.join(show(label, list(values)) for label, values in columns)}")


if __name__ == "__main__":
    main()
