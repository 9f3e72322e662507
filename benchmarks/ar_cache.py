"""Sampling the AR prior with its key/value cache against recomputing, and the cost per token.

    python benchmarks/ar_cache.py            # 319 codes, width 512, 8 layers, one thread
    python benchmarks/ar_cache.py --width 1664 --layers 24 --heads 26 --codes 319

Prints the ratio of the two times, the time of the last tenth of the tokens over the first tenth's,
and the largest difference of the logits. One run, one machine: only the ratios mean anything.
"""

from __future__ import annotations

import argparse
import time

import torch

from unclip.common.types import Caption
from unclip.embeddings.codec import Codec
from unclip.stages.ar_prior.config import ArPriorConfig
from unclip.stages.ar_prior.network import ArPrior


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--codes", type=int, default=319)
    p.add_argument("--width", type=int, default=512)
    p.add_argument("--layers", type=int, default=8)
    p.add_argument("--heads", type=int, default=8)
    p.add_argument("--context", type=int, default=77, help="caption tokens")
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    config = ArPriorConfig(
        caption="clip", context=a.codes + 2, width=a.width, layers=a.layers, heads=a.heads
    )
    net = ArPrior(config, Codec.empty(768, a.codes, 1024), 768).eval()
    caption = Caption(
        None, torch.randn(a.batch, a.context, 768), torch.ones(a.batch, a.context, dtype=torch.bool)
    )
    z_t = torch.nn.functional.normalize(torch.randn(a.batch, 768), dim=1)
    dot = torch.zeros(a.batch, dtype=torch.long)
    codes = torch.randint(0, 1024, (a.batch, a.codes))

    with torch.no_grad():
        began = time.perf_counter()
        context = net.encode_caption(caption)
        caches = net.start(context)
        before, x = net.prefix(z_t, dot).unbind(dim=1)
        net.step(before, torch.tensor([0]), caches, context)
        stepped, times = [], []
        for k in range(a.codes):
            start = time.perf_counter()
            stepped.append(net.step(x, torch.tensor([k + 1]), caches, context))
            x = net.code_table(codes[:, k])
            times.append(time.perf_counter() - start)
        cached = time.perf_counter() - began
        tenth = a.codes // 10
        flat = sum(times[-tenth:]) / sum(times[tenth : 2 * tenth])

        # Without a cache: the sequence so far, whole, for every code.
        began = time.perf_counter()
        for k in range(a.codes):
            context = net.encode_caption(caption)
            y = torch.cat([net.prefix(z_t, dot), net.code_table(codes[:, :k])], dim=1)
            y = y + net.positions[: y.shape[1]]
            for block in net.blocks:
                y = block(y, context.encoded)
            logits = net.out(net.norm(y[:, -1]))
        recomputed = time.perf_counter() - began
        whole = net(codes, dot=dot, z_t=z_t, caption=caption)
    worst = (torch.stack(stepped, dim=1) - whole).abs().max().item()
    assert torch.allclose(logits, whole[:, -1], atol=1e-4)
    print(f"{a.codes} codes, width {a.width}, {a.layers} layers, batch {a.batch}")
    print(f"cached {cached:.2f} s, recomputed {recomputed:.2f} s: ratio {recomputed / cached:.1f}")
    print(f"per token, last tenth over second tenth: {flat:.2f}")
    print(f"largest difference of logits: {worst:.1e}")


if __name__ == "__main__":
    main()
