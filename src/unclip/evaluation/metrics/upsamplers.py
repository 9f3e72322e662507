"""Evaluates an upsampler: error and sharpness on whole images, beside plain resizing.

Images are ``[B, 3, S, S]`` in [-1, 1], small ones ``[B, 3, s, s]``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from unclip.common import tables
from unclip.common.images import Array, grid, to_uint8
from unclip.common.seeding import SampleNoise, derive_seed
from unclip.degradations.downsample import resize
from unclip.stages.upsampler.sampling import UpsamplerPart

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601
SHOWN = 4  # images of which a side-by-side row is kept
ACROSS = 4  # a detail is so many times smaller than its image


@dataclass(frozen=True)
class Scores:
    """How near to the originals one way of enlarging comes."""

    psnr: float  # dB, of the squared error over all images
    psnr_mean: float  # dB, mean over images; ruled by those that are nearly blank
    ssim: float  # mean over images; 1 is identical
    gradient: float  # energy of the gradients over the originals'; below 1 is softer


@dataclass(frozen=True)
class EvaluatedUpsampler:
    """An upsampler and what was measured."""

    name: str
    low_size: int
    image_size: int
    corruption: str  # of the small images, every one of them
    n: int
    skipped: int  # held-out images that are too small, or cannot be read
    parameters: int
    milliseconds: float  # per image
    scores: dict[str, Scores]  # bicubic, lanczos, ours


class Comparison(NamedTuple):
    """One image in four versions, uint8 ``[H, W, 3]``, and where its detail is."""

    low: Array
    bicubic: Array
    ours: Array
    original: Array
    corner: tuple[int, int]  # top, left of the detail in the original


class MeasuredUpsampler(NamedTuple):
    """The result of `measure`."""

    scores: dict[str, Scores]
    seconds: float  # of sampling, all images
    n: int
    rows: list[Comparison]


def gradients(image: Tensor) -> Tensor:
    """Squared finite differences of luma ``[B, 2, S-1, S-1]``, down and right."""
    weights = torch.tensor(LUMA, device=image.device)
    luma = torch.einsum("bchw,c->bhw", image.float(), weights)
    down, right = luma.diff(dim=1)[:, :, :-1], luma.diff(dim=2)[:, :-1]
    return torch.stack([down, right], dim=1).square()


def lanczos(low: Tensor, side: int) -> Tensor:
    """``low`` at ``side`` x ``side`` by Pillow's Lanczos filter, in float32, kept in [-1, 1]."""
    planes = [
        Image.fromarray(plane).resize((side, side), Image.Resampling.LANCZOS)
        for plane in low.float().cpu().flatten(0, 1).numpy()
    ]
    large = torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))
    return large.unflatten(0, low.shape[:2]).clamp(-1, 1).to(low.device)


def decibels(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of mean squared errors, for images in [-1, 1] (peak to peak 2)."""
    return 10 * torch.log10(4 / error.clamp(min=1e-12))


class Tally:
    """Per-image figures of one way of enlarging, batch by batch."""

    def __init__(self) -> None:
        self._error: list[Tensor] = []
        self._ssim: list[Tensor] = []
        self._energy: list[Tensor] = []
        self._true_energy: list[Tensor] = []

    def add(self, found: Tensor, original: Tensor) -> None:
        """Note a batch."""
        similar = structural_similarity_index_measure(
            found, original, data_range=2.0, reduction="none"
        )
        assert isinstance(similar, Tensor)
        self._error.append((found - original).square().flatten(1).mean(1).cpu())
        self._ssim.append(similar.reshape(len(found)).cpu())
        self._energy.append(gradients(found).flatten(1).mean(1).cpu())
        self._true_energy.append(gradients(original).flatten(1).mean(1).cpu())

    def scores(self) -> Scores:
        """Over all that was added."""
        error = torch.cat(self._error).double()
        return Scores(
            psnr=decibels(error.mean()).item(),
            psnr_mean=decibels(error).mean().item(),
            ssim=torch.cat(self._ssim).mean().item(),
            gradient=(torch.cat(self._energy).mean() / torch.cat(self._true_energy).mean()).item(),
        )


def measure(
    part: UpsamplerPart,
    images: Iterable[Tensor],
    degrade: Callable[[Tensor, Sequence[int]], Tensor],
    *,
    seed: int,
) -> MeasuredUpsampler:
    """Scores over batches of ``images``, of which image k has the noise of (seed, k).

    ``degrade`` makes the small images of a batch and its numbers.
    """
    tallies = {method: Tally() for method in ("bicubic", "lanczos", "ours")}
    rows: list[Comparison] = []
    seconds, done = 0.0, 0
    for image in images:
        numbers = range(done, done + len(image))
        side = image.shape[-1]
        low = degrade(image, numbers)
        began = time.perf_counter()
        noise = SampleNoise([derive_seed("evaluate", seed, k) for k in numbers])
        ours = part.draw(low, noise, size=side)
        ours[0].sum().item()  # waits for a GPU
        seconds += time.perf_counter() - began
        found = {"bicubic": resize(low, side), "lanczos": lanczos(low, side), "ours": ours}
        for method, tally in tallies.items():
            tally.add(found[method], image)
        four = (low, found["bicubic"], ours, image)
        for k in range(min(len(image), SHOWN - len(rows))):
            low_k, bicubic_k, ours_k, image_k = (to_uint8(version[k]) for version in four)
            corner = busiest(image[k], low.shape[-1])
            rows.append(Comparison(low_k, bicubic_k, ours_k, image_k, corner))
        done += len(image)
    scores = {method: tally.scores() for method, tally in tallies.items()} if done else {}
    return MeasuredUpsampler(scores, seconds, done, rows)


def _detail(side: int, low: int) -> int:
    """Pixels a side of a detail: a part of the image that is whole pixels of the small one."""
    scale = side // low
    return max(1, low // ACROSS) * scale


def busiest(image: Tensor, low: int) -> tuple[int, int]:
    """Top and left of the detail of ``image`` ``[3, S, S]`` in which most changes."""
    side = image.shape[-1]
    scale = side // low
    energy = F.pad(gradients(image[None]).sum(dim=1), (0, 1, 0, 1))
    sums = F.avg_pool2d(energy, _detail(side, low), stride=scale)[0]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return top * scale, left * scale


def sheet(rows: Sequence[Comparison]) -> Image.Image:
    """Each row's four versions, then the same detail of each."""
    images, captions = [], []
    for row in rows:
        side, small = len(row.original), len(row.low)
        for title, image in zip(("low", "bicubic", "ours", "original"), row[:4]):
            images.append(image)
            captions.append(f"{title}, {len(image)} px")
        for title, image in zip(("low", "bicubic", "ours", "original"), row[:4]):
            part = _detail(side, small) * len(image) // side
            top, left = (at * len(image) // side for at in row.corner)
            images.append(image[top : top + part, left : left + part])
            captions.append(f"{title}, detail")
    return grid(images, captions, columns=8, side=256)


ROWS = {
    "psnr": "PSNR of the mean error, dB",
    "psnr_mean": "mean PSNR, dB",
    "ssim": "SSIM",
    "gradient": "gradient energy, original = 1",
}


def _cells(results: Sequence[EvaluatedUpsampler]) -> list[list[str]]:
    """A line of titles and the lines below it: three columns per upsampler."""
    cells = [["", *(t for r in results for t in ("bicubic", "Lanczos", r.name))]]
    for key, title in ROWS.items():
        values = (getattr(s, key) for r in results for s in r.scores.values())
        cells.append([title, *(f"{value:.4g}" for value in values)])
    facts = {
        "size": lambda r: f"{r.low_size} to {r.image_size} px",
        "corruption": lambda r: r.corruption,
        "held-out images": lambda r: f"{r.n}" + f", {r.skipped} skipped" * (r.skipped > 0),
        "parameters": lambda r: f"{r.parameters:,}",
        "ms per image": lambda r: f"{r.milliseconds:.3g}",
    }
    for title, fact in facts.items():
        cells.append([title, *(text for r in results for text in ("", "", fact(r)))])
    return cells


def show(results: Sequence[EvaluatedUpsampler]) -> None:
    """The table on the terminal."""
    tables.show(_cells(results))


def markdown(results: Sequence[EvaluatedUpsampler]) -> str:
    """The same as a Markdown table."""
    return tables.markdown(_cells(results))


def as_json(results: Sequence[EvaluatedUpsampler]) -> str:
    """The same as a JSON list."""
    return json.dumps([asdict(result) for result in results], indent=2)
