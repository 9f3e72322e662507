"""Peak memory and time of one step of an upsampler on a large image, in chunks and whole.

Each measurement is a process of its own. `python benchmarks/large_images.py upsampler/1024_paper`
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch

from unclip.config.load import load_experiment
from unclip.nn import chunked_convolution
from unclip.stages.upsampler.network import Upsampler


def peak_gib() -> float:
    """Most memory this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@torch.no_grad()
def once(name: str, side: int, *, cut: bool, bfloat16: bool) -> None:
    """One forward pass; prints what it took."""
    if not cut:
        chunked_convolution.ELEMENTS = 1 << 60
    model = load_experiment(name).config.model
    net = Upsampler(model).eval()
    before = peak_gib()
    low = torch.zeros(1, 3, side * model.low_size // model.image_size, side // 4)
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        net(torch.randn(1, 3, side, side), torch.tensor([500]), low)
    seconds = time.perf_counter() - began
    kind = "in chunks" if cut else "whole"
    print(
        f"{kind:<10} {peak_gib() - before:6.2f} GiB above {before:.2f}   {seconds:7.1f} s",
        flush=True,
    )


def main() -> None:
    """Measure both, one after the other."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("experiment", nargs="?", default="upsampler/1024_tiny")
    p.add_argument("--side", type=int, default=1024, help="pixels (default 1024)")
    p.add_argument("--bfloat16", action="store_true", help="autocast to bfloat16")
    p.add_argument("--only", choices=("chunks", "whole"), help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.only:
        once(args.experiment, args.side, cut=args.only == "chunks", bfloat16=args.bfloat16)
        return
    kind = "bfloat16" if args.bfloat16 else "float32"
    print(
        f"{args.experiment}, {args.side} px, {kind}, {torch.get_num_threads()} threads", flush=True
    )
    for only in ("chunks", "whole"):
        subprocess.run([sys.executable, *sys.argv, "--only", only], check=True)


if __name__ == "__main__":
    main()
