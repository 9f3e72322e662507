"""Samples per second that a prior is fed from an embeddings folder, by one core, loader included.

Everything that a batch costs is in it: the order, the rows of z_i, z_t and tokens, the batch.
`python benchmarks/embeddings.py` (writes 1 GB to the temporary folder; `--folder DIR` reads yours)
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from data_modules.prior import PriorData
from unclip.data.config import DataConfig
from unclip.data.embedding_store import layout
from unclip.data.embedding_store.source import EmbeddingSource
from unclip.embeddings.tokens import END_OF_TEXT, Tokenizer

CONTEXT = 77


def write(folder: Path, *, rows: int, shard: int, dim: int) -> None:
    """Random embeddings and tokens, as `unclip embed` writes them but without metadata."""
    generator = np.random.default_rng(0)
    shards = -(-rows // shard)
    for number in range(shards):
        count = min(shard, rows - number * shard)
        tokens = generator.integers(1, END_OF_TEXT, (count, CONTEXT), dtype=np.uint16)
        for kind, array in {
            layout.IMAGES: generator.standard_normal((count, dim), np.float32).astype(np.float16),
            layout.TEXTS: generator.standard_normal((count, dim), np.float32).astype(np.float16),
            layout.TOKENS: tokens,
            layout.KEYS: generator.integers(0, 2**64, count, dtype=np.uint64),
        }.items():
            layout.write_array(folder / layout.file_of(kind, number, shards), array)


def data(folder: Path, batch: int) -> PriorData:
    return PriorData(
        DataConfig(batch_size=batch),
        clip_image_size=224,
        clip_tokenize=Tokenizer(CONTEXT),
        tokenize=Tokenizer(CONTEXT),
        seed=0,
        embeddings=EmbeddingSource(folder),
    )


def epoch(module: PriorData) -> float:
    """Samples per second of processor time over one epoch."""
    loader = module.train_dataloader()
    began = time.process_time()
    count = sum(len(batch.keys) for batch in loader)
    return count / (time.process_time() - began)


def main() -> None:
    """Warm the page cache with one epoch, time three."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--folder", type=Path, help="of embeddings; else a random one is made")
    p.add_argument("--rows", type=int, default=300_000)
    p.add_argument("--shard", type=int, default=100_000, help="rows per shard")
    p.add_argument("--dim", type=int, default=768)
    p.add_argument("--batch", type=int, nargs="+", default=[1024, 4096])
    p.add_argument("--profile", action="store_true")
    args = p.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        if args.folder is None:
            write(folder, rows=args.rows, shard=args.shard, dim=args.dim)
        for batch in args.batch:
            module = data(folder, batch)
            epoch(module)
            rates = [epoch(module) for _ in range(3)]
            spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
            print(f"batch {batch:>6,}: {sorted(rates)[1]:>9,.0f} samples/s per core ({spread})")
        if args.profile:
            with cProfile.Profile() as profile:
                epoch(module)
            pstats.Stats(profile).sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    main()
