"""What `unclip plan` says of a training's memory against what the training then takes, on a CPU.

    python benchmarks/plan_memory.py             # all cases, minutes
    python benchmarks/plan_memory.py prior       # those whose name contains this

Each training is a process of its own: Lightning, the stage's own loss, AdamW and EMA, three steps
on batches that are there before. Its figure is the process's peak above what it had just before
the frozen CLIP and the network were built; a minute training before loads what is loaded late.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

DECODER = ["model.image_size=64", "model.unet.channels=64", "model.unet.blocks=2"]
DECODER += ["model.unet.attention=[16]", "model.text.width=256", "data.batch_size=16"]
PRIOR = ["model.width=512", "model.layers=8", "model.heads=8", "data.batch_size=128"]
UPSAMPLER = ["model.unet.channels=64", "model.unet.blocks=2", "data.crop_fraction=1.0"]
UPSAMPLER += ["data.batch_size=4"]
WIDE = ["model.width=1024", "model.layers=8", "model.heads=8", "data.batch_size=16"]
LORA = ["init=none", "adapter.kind=lora", "adapter.rank=16"]  # no weights are read
WORD = ["init=none", "adapter.kind=token", "adapter.token=<sks>"]
BF16, FLOAT = "trainer.precision=bf16-mixed", "trainer.precision=32"
FULL = "trainer.activation_checkpointing=full"
SELECTIVE = "trainer.activation_checkpointing=selective"

CASES = {
    "decoder, float32": ("decoder/tiny", [*DECODER, FLOAT]),
    "decoder, bfloat16": ("decoder/tiny", [*DECODER, BF16]),
    "decoder, float32, selective": ("decoder/tiny", [*DECODER, FLOAT, SELECTIVE]),
    "decoder, bfloat16, full": ("decoder/tiny", [*DECODER, BF16, FULL, "data.batch_size=48"]),
    "prior, float32": ("prior/diffusion_tiny", [*PRIOR, FLOAT]),
    "prior, bfloat16": ("prior/diffusion_tiny", [*PRIOR, BF16]),
    "prior, float32, in two": ("prior/diffusion_tiny", [*PRIOR, FLOAT, "trainer.accumulate=2"]),
    "prior, float32, full": ("prior/diffusion_tiny", [*PRIOR, FLOAT, FULL, "data.batch_size=256"]),
    "wide prior, float32": ("prior/diffusion_tiny", [*WIDE, FLOAT]),
    "wide prior, adapter": ("prior/diffusion_tiny", [*WIDE, FLOAT, *LORA]),
    "wide prior, 8-bit": ("prior/diffusion_tiny", [*WIDE, FLOAT, "optim.name=adamw8bit"]),
    "prior, a new word": ("prior/diffusion_tiny", [*PRIOR, FLOAT, *WORD]),
    "decoder, adapter": ("decoder/tiny", [*DECODER, FLOAT, *LORA]),
    "decoder, adapter, full": ("decoder/tiny", [*DECODER, FLOAT, *LORA, FULL]),
    "upsampler, float32": ("upsampler/256_tiny", [*UPSAMPLER, FLOAT]),
    "upsampler, bfloat16": ("upsampler/256_tiny", [*UPSAMPLER, BF16]),
}  # fmt: skip
# The allocator gives back what is freed, so that the process is as large as its tensors.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
}


def status(key: str) -> int:
    """A field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def peak_above(action: Any) -> int:
    """How far ``action`` raises the memory of this process, in bytes."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = status("VmRSS")
        action()
        return status("VmHWM") - before
    except OSError:  # no Linux, or not allowed
        scale = 1 if sys.platform == "darwin" else 1024
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
        action()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale - before


def batches(resolved: Any) -> list[Any]:
    """Enough of them for three steps."""
    data = resolved.stage.data_module(resolved.config, clip_of(resolved))
    data.setup()
    loader = iter(data.train_dataloader())
    return [next(loader) for _ in range(3 * resolved.config.trainer.accumulate)]


def clip_of(resolved: Any) -> Any:
    """The frozen CLIP with arbitrary weights."""
    from unclip.embeddings.clip import FrozenClip
    from unclip.runs.parents import frozen_clip

    spec = getattr(resolved.config, "clip", None)
    return FrozenClip(frozen_clip(spec), "", spec) if spec else None


def train(resolved: Any, data: list[Any]) -> None:
    """Three optimizer steps."""
    import lightning as L
    from torch.utils.data import DataLoader

    from unclip.stages.interface import LoadedParents
    from unclip.training.ema import EmaCallback

    parents, trainer = LoadedParents(clip_of(resolved)), resolved.config.trainer
    resolved.stage.fill(resolved.config, parents.sizes())
    stage = resolved.stage.build_stage(resolved.config, parents)
    stage.adapt()
    with tempfile.TemporaryDirectory() as folder:
        L.Trainer(
            accelerator="cpu",
            max_steps=3,
            precision=trainer.precision,
            accumulate_grad_batches=trainer.accumulate,
            gradient_clip_val=trainer.grad_clip or None,
            callbacks=[EmaCallback(resolved.config.ema)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        ).fit(stage, train_dataloaders=DataLoader(data, batch_size=None))  # type: ignore[arg-type]


def measure(name: str, overrides: list[str]) -> None:
    """In a process of its own: prints the bytes."""
    import torch

    from unclip.config.load import load_experiment

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    resolved = load_experiment(name, overrides)
    kept = [x for x in overrides if x.startswith(("trainer.", "adapter.", "optim.", "init="))]
    few = load_experiment(name, ["data.batch_size=2", *kept])
    data = batches(resolved)
    train(few, batches(few))
    print(peak_above(lambda: train(resolved, data)))


def compare(name: str, overrides: list[str]) -> tuple[int, int]:
    """Estimate and measurement, in bytes."""
    run = [sys.executable, "-m", "unclip", "plan", name, *overrides]
    options = ["--gpus", "1", "--device", "cpu", "--json"]
    plan = subprocess.run([*run, *options], check=True, capture_output=True, text=True)
    how = next((x.split("=")[1] for x in (FULL, SELECTIVE) if x in overrides), "none")
    rows = json.loads(plan.stdout)["rows"]
    row = next(row for row in rows if row["activation_checkpointing"] == how)
    trained = subprocess.run(
        [sys.executable, __file__, "--measure", name, *overrides],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | ALLOCATOR,
    )
    return row["memory_bytes_per_gpu"], int(trained.stdout.split()[-1])


def main() -> None:
    """A line per case."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("filter", nargs="?", default="", help="only cases that contain this")
    p.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.measure:
        measure(args.measure[0], args.measure[1:])
        return
    print(f"{'':<30}{'planned':>12}{'measured':>12}  ratio")
    for title, (name, overrides) in CASES.items():
        if args.filter in title:
            planned, measured = compare(name, overrides)
            mib = f"{planned / 2**20:>8,.0f} MiB{measured / 2**20:>8,.0f} MiB"
            print(f"{title:<30}{mib}  {planned / measured:.2f}", flush=True)


if __name__ == "__main__":
    main()
