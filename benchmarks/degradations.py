"""The BSR degradations: ms per 256 px crop on one thread, and crops per second of a GPU.

    OMP_NUM_THREADS=1 python benchmarks/degradations.py [--crops 300]
    python benchmarks/degradations.py --image docs/images/landscape.png

Each crop is timed alone, its random numbers included, in processor time: other programs disturb it
less than the clock. The ratio is to the mean of the public code (light 15 ms, full 38 ms), measured
on one core of another machine: only its order means anything.
The second command only writes the image that is degraded.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from unclip.common.images import save
from unclip.common.seeding import SampleNoise
from unclip.degradations.bsr import bsr
from unclip.degradations.bsr_parameters import UNIFORMS, VARIANTS

SIDE, SCALE, BATCH = 256, 4, 64
PUBLIC = {"bsr_light": 15.0, "bsr": 38.0}  # ms, mean


def rough(shape: tuple[int, int], steepness: float, rng: np.random.Generator) -> np.ndarray:
    """Noise whose amplitude falls with frequency to the power ``steepness``, in [-1, 1]."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=shape)) * frequency**-steepness
    noise = np.fft.irfft2(spectrum, s=shape)
    return noise / np.abs(noise).max()


def landscape(side: int = SIDE) -> np.ndarray:
    """Sky, hills, a lake, reeds and a hut, uint8 ``[side, side, 3]``: as smooth as photographs."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:side, :side] / side
    shape = (side, side)
    clouds = np.clip(rough(shape, 1.7, rng) + 0.1, 0, 1)[..., None]
    image = np.array([0.35, 0.55, 0.85]) + y[..., None] * np.array([0.6, 0.45, 0.1])
    image += (1.0 - image) * np.sqrt(clouds) * 0.9
    for depth, horizon in enumerate((0.34, 0.42, 0.5)):
        ridge = horizon + (0.11 - 0.02 * depth) * rough((2, side), 1.3, rng)[0]
        shade = 0.5 + 0.5 * rough(shape, 1.0, rng)[..., None]
        near = (depth + 1) / 3
        hill = (1 - near) * np.array([0.5, 0.6, 0.75]) + near * np.array([0.2, 0.33, 0.14]) * 1.3
        image = np.where((y > ridge)[..., None], hill * (0.55 + 0.7 * shade), image)
    shore = round(0.58 * side)
    depth = np.arange(side - shore)
    waves = rough((side - shore, side), 0.9, rng)
    source = np.clip(shore - 1 - 1.2 * depth[:, None] + 14 * waves, 0, shore - 1).astype(int)
    image[shore:] = 0.75 * image[source, np.arange(side)] + np.array([0.0, 0.05, 0.09])
    for _ in range(420):  # reeds
        foot, height = rng.uniform(0, 1), rng.uniform(0.06, 0.3)
        stem = np.abs(x - foot - rng.normal(0, 0.12) * (1 - y) ** 2) < rng.uniform(0.001, 0.004)
        stem &= y > 1 - height * (1 - np.sin(np.pi * foot) * 0.6)
        image[stem] = np.array([0.35, 0.4, 0.12]) * rng.uniform(0.4, 1.7)
    hut = (np.abs(x - 0.68) < 0.07) & (y > 0.47) & (y < 0.57)
    image[hut] = np.array([0.55, 0.2, 0.15]) * (0.8 + 0.3 * np.sin(x * side * 1.6))[hut][:, None]
    image[(np.abs(x - 0.68) < (y - 0.4) * 1.3) & (y < 0.47)] = [0.2, 0.16, 0.16]
    for left in (0.635, 0.7):
        window = (x > left) & (x < left + 0.027) & (y > 0.495) & (y < 0.535)
        image[window] = [0.98, 0.9, 0.6]
    image += rng.normal(0, 0.008, image.shape)
    return np.round(image.clip(0, 1) * 255).astype(np.uint8)


def crop() -> torch.Tensor:
    """``[1, 3, 256, 256]`` in [-1, 1]."""
    planes = torch.from_numpy(landscape()).permute(2, 0, 1)[None].contiguous()  # as batches are
    return planes / 127.5 - 1


def one_thread(crops: int) -> dict[str, list[float]]:
    """Processor milliseconds of each of ``crops`` draws, the kinds by turns."""
    # As in training, where larger tensors come and go: once one of up to 32 MB was freed, malloc
    # keeps what is freed. Before that it hands it to the system, and each crop pays for new pages.
    torch.zeros(7 << 20)
    image, times = crop(), {kind: [] for kind in PUBLIC}
    for seed in range(-5, crops):
        for kind in PUBLIC:
            began = time.process_time()
            stream = SampleNoise([seed])
            bsr(
                image,
                scale=SCALE,
                variant=VARIANTS[kind],
                uniforms=stream.uniform((1, UNIFORMS)),
                noise=stream(image.shape),
            )
            times[kind].append(1e3 * (time.process_time() - began))
    return {kind: values[5:] for kind, values in times.items()}


def gpu(kind: str, batches: int = 30) -> float:
    """Crops per second in batches, their random numbers included."""
    image = crop().cuda().expand(BATCH, -1, -1, -1).contiguous()
    generator, planned = torch.Generator("cuda").manual_seed(0), torch.Generator().manual_seed(0)
    for k in range(2 * batches):  # the first half plans the Fourier transforms
        if k == batches:
            torch.cuda.synchronize()
            began = time.perf_counter()
        bsr(
            image,
            scale=SCALE,
            variant=VARIANTS[kind],
            uniforms=torch.rand(BATCH, UNIFORMS, generator=planned),
            noise=torch.randn(image.shape, generator=generator, device="cuda"),
        )
    torch.cuda.synchronize()
    return BATCH * batches / (time.perf_counter() - began)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--crops", type=int, default=300)
    p.add_argument("--image", type=Path, help="write the image here, and stop")
    a = p.parse_args()
    if a.image:
        save(landscape(), a.image)
        return
    torch.set_num_threads(1)
    print("| ms per crop, one thread | mean | median | 95 % | public mean over ours |")
    print("|---|---|---|---|---|")
    for kind, times in one_thread(a.crops).items():
        mean, median, most = np.mean(times), np.median(times), np.quantile(times, 0.95)
        print(f"| {kind} | {mean:.1f} | {median:.1f} | {most:.1f} | {PUBLIC[kind] / mean:.1f} |")
    if torch.cuda.is_available():
        for kind in PUBLIC:
            print(f"{torch.cuda.get_device_name()}: {kind} {gpu(kind):,.0f} crops/s")


if __name__ == "__main__":
    main()
