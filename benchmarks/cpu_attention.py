"""Attention on a CPU, forward and backward: bfloat16 kernels against float32, as ratios.

    .venv/bin/python benchmarks/cpu_attention.py

Why `unclip.nn.attention.attend` computes short bfloat16 attention in float32 there.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

SHAPES = [  # [B, heads, queries, channels], keys: who asks
    ((8, 3, 64, 32), 90, "quickstart decoder"),
    ((32, 4, 36, 32), 36, "quickstart prior"),
    ((4, 8, 256, 64), 333, "a decoder at 16 px with 77 tokens"),
    ((4, 8, 1024, 64), 1101, "a decoder at 32 px with 77 tokens"),
]


def milliseconds(shape: tuple[int, ...], keys: int, dtype: torch.dtype) -> float:
    """Median of 15 forward and backward passes, after one to warm up."""
    q = torch.randn(shape, dtype=dtype, requires_grad=True)
    k = torch.randn(*shape[:2], keys, shape[3], dtype=dtype, requires_grad=True)
    v = torch.randn_like(k, requires_grad=True)
    times = []
    for _ in range(16):
        began = time.perf_counter()
        F.scaled_dot_product_attention(q, k, v).sum().backward()
        times.append(1e3 * (time.perf_counter() - began))
    return sorted(times[1:])[7]


if __name__ == "__main__":
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for shape, keys, who in SHAPES:
        single = milliseconds(shape, keys, torch.float32)
        flash = milliseconds(shape, keys, torch.bfloat16)
        with sdpa_kernel(SDPBackend.MATH):
            math = milliseconds(shape, keys, torch.bfloat16)
        print(
            f"{who}: float32 {single:.2f} ms; bfloat16 {flash / single:.1f} x,"
            f" by the math kernel {math / single:.1f} x that"
        )
