"""Samples per second of one core from each source, beside webdataset's own loader on the same tars.

    OMP_NUM_THREADS=1 python benchmarks/data.py
    OMP_NUM_THREADS=1 python benchmarks/data.py --sizes 64 --sources tar --profile

1,024 JPEG images are made, half of 512x512 and half of 320x240 pixels (noise of every scale, and
shapes), and given to every source. An epoch of this project's loader (shuffled, as in training) and
one of webdataset's (in the order of the tars) take turns, without workers. Both make float batches
of 64 squares by the same transform; that they are the same images is checked. Times are processor
time, which other programs hardly disturb; a ratio is ours over webdataset's, the median over
neighbouring epochs. Scenes are drawn, so there is nothing to compare them with.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import pstats
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image, ImageDraw

from data_modules.base import StageData
from unclip.common.errors import UserError
from unclip.data.config import DataConfig, ScenesConfig
from unclip.data.dataset import Example, square_transforms
from unclip.data.pack.manifest import Packing
from unclip.data.pack.pack import pack
from unclip.data.sources import open_source
from unclip.data.transforms import Square, to_tensor

COUNT, BATCH, SHARDS = 1024, 64, 4


def photograph(seed: int) -> bytes:
    """Noise of every scale with a few shapes, as a JPEG file."""
    rng = np.random.default_rng(seed)
    width, height = (512, 512) if seed % 2 else (320, 240)
    image = np.full((height, width, 3), 128.0, dtype=np.float32)
    for octave in range(1, 8):
        cells = rng.normal(0, 90 / octave**1.3, (2**octave, 2**octave, 3)).clip(-127, 127) + 128
        noise = Image.fromarray(cells.astype(np.uint8)).resize((width, height), Image.BICUBIC)
        image += np.asarray(noise, dtype=np.float32) - 128
    photo = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(photo)
    for _ in range(6):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        side, colour = rng.uniform(10, width / 4), tuple(rng.integers(0, 256, 3).tolist())
        draw.ellipse((x, y, x + side, y + side), fill=colour)
    file = io.BytesIO()
    photo.save(file, "jpeg", quality=90)
    return file.getvalue()


def make(root: Path) -> dict[str, str]:
    """The same images as each source: what `data.source` is for it."""
    images = root / "coco" / "train"
    images.mkdir(parents=True)
    (root / "coco" / "annotations").mkdir()
    (root / "folder").mkdir()
    listing: list[str] = []
    coco: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    for seed in range(COUNT):
        name, caption, data = f"{seed:06d}.jpg", f"image number {seed}", photograph(seed)
        for folder in (images, root / "folder"):
            (folder / name).write_bytes(data)
        listing.append(json.dumps({"file_name": name, "caption": caption}))
        coco["images"].append({"id": seed, "file_name": name})
        coco["annotations"].append({"id": seed, "image_id": seed, "caption": caption})
    (root / "folder" / "metadata.jsonl").write_text("\n".join(listing))
    annotations = root / "coco" / "annotations" / "captions_train.json"
    annotations.write_text(json.dumps(coco))
    source = open_source(str(root / "folder"), DataConfig(), image_size=64, split="all")
    for form in ("tar", "parquet"):
        packing = Packing(format=form, shard_size=COUNT // SHARDS)
        pack(source, root / form, packing, workers=0, on_error="error", force=False)
    places = {name: str(root / name) for name in ("folder", "tar", "parquet")}
    return {**places, "coco": str(annotations), "scenes": "scenes"}


def collate(examples: Sequence[Example]) -> tuple[torch.Tensor, list[str]]:
    return to_tensor([example.images[0] for example in examples]), [e.caption for e in examples]


def ours(spec: str, size: int) -> Iterable[Any]:
    """Batches of an epoch as training has them."""
    config = DataConfig(source=spec, batch_size=BATCH, held_out=0, on_error="error")
    config.scenes = ScenesConfig(count=COUNT)
    data = StageData(
        config,
        render_size=size,
        transforms=square_transforms(config, size),
        collate=collate,
        seed=0,
    )
    return data.train_dataloader()


def theirs(tars: str, size: int) -> Iterable[Any]:
    """The same by webdataset, unshuffled."""
    square, random = Square(sizes=(size,)), Random(0)

    def prepared(sample: dict[str, Any]) -> Example:
        return Example(sample["__key__"], sample["txt"], square(sample["jpg"], random))

    shards = sorted(str(path) for path in Path(tars).glob("*.tar"))
    dataset = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").map(prepared)
    return dataset.batched(BATCH, collation_fn=collate)


def seconds(batches: Iterable[Any]) -> float:
    """Processor time of an epoch."""
    began = time.process_time()
    count = sum(len(captions) for _, captions in batches)
    assert count == COUNT, count
    return time.process_time() - began


def check(spec: str, tars: str, size: int) -> None:
    """Both make the same images of the same captions."""
    found = [
        {text: x.numpy().tobytes() for images, texts in batches for x, text in zip(images, texts)}
        for batches in (ours(spec, size), theirs(tars, size))
    ]
    assert found[0] == found[1]


def compare(name: str, spec: str, tars: str, size: int, repeats: int) -> None:
    """Print a line."""
    loaders = [ours(spec, size)]
    if name != "scenes":
        check(spec, tars, size)
        loaders.append(theirs(tars, size))
    times: list[list[float]] = [[] for _ in loaders]
    for repeat in range(repeats + 1):
        for which in range(len(loaders))[:: 1 if repeat % 2 else -1]:
            took = seconds(loaders[which])
            if repeat:  # the first warms up
                times[which].append(took)
    cells = [f"{COUNT / statistics.median(each):,.0f}" for each in times]
    if len(times) == 2:
        cells.append(f"{statistics.median(b / a for a, b in zip(*times)):.2f}")
    print(f"| {name} | {size} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = ["folder", "tar", "parquet", "coco", "scenes"]
    p.add_argument("--sources", nargs="+", choices=names, default=names)
    p.add_argument("--sizes", nargs="+", type=int, default=[64, 256])
    p.add_argument("--repeats", type=int, default=7, help="epochs of each")
    p.add_argument("--profile", action="store_true", help="print where an epoch of ours goes")
    args = p.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        places = make(Path(folder))
        if args.profile:
            batches = ours(places[args.sources[0]], args.sizes[0])
            profile = cProfile.Profile()
            profile.runcall(seconds, batches)
            pstats.Stats(profile).sort_stats("tottime").print_stats(15)
            return
        print("| source | size | ours, samples/s | webdataset | ratio |\n|---|---|---|---|---|")
        for name in args.sources:
            for size in args.sizes:
                try:
                    compare(name, places[name], places["tar"], size, args.repeats)
                except UserError as error:
                    print(f"| {name} | {size} | {error} |")


if __name__ == "__main__":
    main()
