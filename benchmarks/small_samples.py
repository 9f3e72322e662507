"""What few images do to FD and KID: real images against real and blurred ones.

    python benchmarks/small_samples.py SOURCE --n 1000 --out small_samples.png
    python benchmarks/small_samples.py SOURCE --n 500 --also mine=samples/
    python benchmarks/small_samples.py SOURCE --n 250 --decoder runs/cifar

Takes 2n images at random, blurs half of them, and prints a table of all against the other half,
of the first n of any other sets (--also), and of what a decoder draws of the z_i and captions of
the images that are blurred (--decoder: a folder with ``clip`` and ``decoder``).
Then it draws both measures between random halves of the real images, whose truth is 0, at several
sizes. Features are made once and kept in --cache.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from PIL import Image, ImageFilter
from tqdm import tqdm

from unclip.common import tables
from unclip.common.images import to_uint8
from unclip.common.seeding import SampleNoise
from unclip.data.transforms import to_tensor
from unclip.degradations.downsample import resize
from unclip.embeddings.metrics import frechet_distance
from unclip.embeddings.moments import Moments
from unclip.evaluation.features.images import ImageSet, open_images
from unclip.evaluation.features.network import open_network
from unclip.evaluation.features.statistics import Statistics, measure
from unclip.evaluation.metrics.gaussians import gaussian
from unclip.evaluation.metrics.images import mean_interval, wilson
from unclip.evaluation.metrics.kernels import kid
from unclip.evaluation.metrics.neighbours import neighbours
from unclip.evaluation.protocols.images import frechet_figure
from unclip.stages import registry

BLURS = (0.0, 0.5, 1.0)  # standard deviations, pixels
DRAWS = 8
BATCH = 25
K = 3


@dataclass(frozen=True)
class Blurred:
    """Some images of a set, blurred."""

    images: ImageSet
    numbers: list[int]
    sigma: float

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int):
        stored = self.images.reader[self.numbers[index]]
        image = Image.fromarray(stored.image).filter(ImageFilter.GaussianBlur(self.sigma))
        return stored._replace(image=np.asarray(image)) if self.sigma else stored


class Decoded:
    """Some images of a set, drawn by a decoder of their z_i and captions, seed k for the kth."""

    def __init__(self, images: ImageSet, numbers: list[int], cascade: Path):
        self.stored = [images.reader[number] for number in numbers]
        clip = registry.STAGES["clip"].load(cascade / "clip")
        part = registry.STAGES["decoder"].load(cascade / "decoder", clip)
        drawn = []
        with torch.no_grad():
            for first in tqdm(range(0, len(numbers), BATCH), desc="drawing", unit="batch"):
                some = self.stored[first : first + BATCH]
                pixels = to_tensor([one.image for one in some])
                z_i = clip.model.encode_image(resize(pixels, clip.model.image_size))
                noise = SampleNoise(range(first, first + len(some)))
                drawn.append(to_uint8(part.draw(z_i, [one.caption for one in some], noise)))
        self.drawn = np.concatenate(drawn)

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int):
        return self.stored[index]._replace(image=self.drawn[index])


def features(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Of the reference half, and of the other half at each blur."""
    network = open_network(args.features, device=torch.device("cpu"))
    if args.cache.exists():
        with np.load(args.cache) as stored:
            return {name: torch.from_numpy(stored[name]) for name in stored}
    images = open_images(args.source, option="source")
    order = random.Random(0).sample(range(len(images)), 2 * args.n)
    sets = {"reference": Blurred(images, order[: args.n], 0.0)}
    sets |= {f"blur {s:g}": Blurred(images, order[args.n :], s) for s in BLURS}
    for word in args.also:
        name, _, source = word.partition("=")
        sets[name] = Blurred(open_images(source, option="--also"), list(range(args.n)), 0.0)
    if args.decoder is not None:
        sets["decoder"] = Decoded(images, order[args.n :], args.decoder)
    found = {
        name: measure(ImageSet(reader, name, "set", None), network).rows
        for name, reader in sets.items()
    }
    np.savez(args.cache, **{name: rows.numpy() for name, rows in found.items()})
    return found


def fitted(rows: torch.Tensor) -> Statistics:
    """Rows with their Gaussian."""
    moments = Moments(rows.shape[1])
    moments.update(rows)
    return Statistics(gaussian(moments), rows)


def spread(
    x: torch.Tensor, y: torch.Tensor, n: int, rng: torch.Generator
) -> dict[str, tuple[float, float]]:
    """Mean and spread of both measures over draws of n of each; of one set, disjoint halves."""
    values: dict[str, list[float]] = {"FD": [], "KID": []}
    for _ in range(DRAWS):
        a = torch.randperm(len(x), generator=rng)
        b = a[n:] if y is x else torch.randperm(len(y), generator=rng)
        one, two = x[a[:n]], y[b[:n]]
        values["FD"].append(frechet_distance(one, two))
        values["KID"].append(float(np.mean(kid(one, two))))
    return {name: (float(np.mean(v)), float(np.std(v))) for name, v in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("--features", default="efficientnet_lite0")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--also", nargs="+", default=[], metavar="NAME=SOURCE")
    parser.add_argument("--decoder", type=Path, metavar="DIR")
    parser.add_argument("--cache", type=Path, default=Path("small_samples.npz"))
    parser.add_argument("--out", type=Path, default=Path("small_samples.png"))
    args = parser.parse_args()
    sets = features(args)
    reference = sets["reference"]
    lines = [["against the reference", "FD", "KID", "precision", "recall"]]
    for name, x in sets.items():
        if name == "reference":
            continue
        mean, low, high = mean_interval(kid(x, reference, block=len(x) // 10))
        shares = neighbours(x, reference, k=K)
        cells = [str(frechet_figure(fitted(x), fitted(reference)))]
        cells.append(f"{mean:.4f} ({low:.4f} to {high:.4f})")
        for share, n in ((shares.precision, len(x)), (shares.recall, len(reference))):
            low, high = wilson(share, n)
            cells.append(f"{share:.3f} ({low:.3f} to {high:.3f})")
        lines.append([name, *cells])
    print(tables.markdown(lines))
    rng = torch.Generator().manual_seed(0)
    real, blurred = torch.cat([reference, sets["blur 0"]]), sets["blur 0.5"]
    sizes = [n for n in (50, 100, 200, 400, 700, 1000, 2000, 4000) if n <= args.n] or [args.n]
    found = [(spread(real, real, n, rng), spread(blurred, reference, n, rng)) for n in sizes]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    for axis, measure_name in zip(axes, ("FD", "KID")):
        for at, label in enumerate(("real against real", "blurred by 0.5 px against real")):
            means, spreads = zip(*(pair[at][measure_name] for pair in found))
            axis.errorbar(sizes, means, spreads, marker="o", capsize=3, label=label)
            cells = [f"{m:.4g} ± {s:.2g}" for m, s in zip(means, spreads)]
            print(measure_name, label, dict(zip(sizes, cells)))
        axis.set(xlabel="images a side", ylabel=measure_name, xticks=sizes)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.legend()
    figure.tight_layout()
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
