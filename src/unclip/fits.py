"""What is fitted to data and not trained: PCA codecs, standardisation, Analytic-DPM's errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from tqdm import tqdm

from data_modules.prior import PriorData
from unclip.diffusion.analytic import x0_error
from unclip.diffusion.schedules import sampling_schedule
from unclip.embeddings.codec import Codec, CodecSummary, fit_codec
from unclip.embeddings.moments import Moments, Reservoir
from unclip.models.clip import Clip, FrozenClip, z_i_of, z_t_of
from unclip.models.configs import PcaConfig
from unclip.models.sampling import prior_caption
from unclip.pipeline.parts import Part
from unclip.progress import bar_interval
from unclip.seeding import generator
from unclip.types import PriorBatch, UserError

STANDARDISING_SAMPLES = 10_000


class Embedded(NamedTuple):
    """A batch of one pass over the data."""

    numbers: Tensor  # [B], of the samples
    z_i: Tensor  # [B, D]
    z_t: Tensor  # [B, D]
    batch: PriorBatch


class FittedPca(NamedTuple):
    """A codec and how well it does."""

    codec: Codec
    lost: Tensor  # [D + 1]: share of variance lost with k = 0 ... D components
    summary: CodecSummary
    samples: int


def embeddings(
    clip: Clip,
    data: PriorData,
    *,
    device: torch.device,
    limit: int | None = None,
    split: str = "train",
    title: str = "embedding",
) -> Iterator[Embedded]:
    """One process's share of a pass over ``data``, embedded by ``clip``, with a progress bar."""
    rank, world = _rank_and_world()
    loader = data.one_pass(split, limit=limit, rank=rank, world=world)
    size = data.config.batch_size
    clip = clip.to(device)
    bar = tqdm(loader, desc=title, unit="batch", disable=rank > 0, mininterval=bar_interval())
    with torch.no_grad():
        for k, batch in enumerate(bar):
            batch = move_data_to_device(batch, device)
            z_i, z_t = z_i_of(clip, batch), z_t_of(clip, batch)
            numbers = rank + world * (k * size + torch.arange(len(z_i)))
            yield Embedded(numbers, z_i, z_t, batch)


def device_of(accelerator: str) -> torch.device:
    """One device of the kind that ``trainer.accelerator`` names."""
    gpu = accelerator == "gpu" or (accelerator == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if gpu else "cpu")


def join_processes() -> int:
    """Join the processes that torchrun started, if any; this one's rank."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")  # only sums on the CPU are exchanged
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return _rank_and_world()[0]


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def fit_pca(
    config: PcaConfig, clip: FrozenClip, data: PriorData, device: torch.device
) -> FittedPca:
    """One streaming pass over the training samples; every process gets the same result.

    Raises:
        UserError: more components than the embedding has, no data, or embeddings that are not
            finite.
    """
    dim = clip.model.embed_dim
    if config.components is not None and config.components > dim:
        raise UserError(
            f"pca.components={config.components}: the CLIP {clip.source} has embeddings of {dim} "
            f"numbers; give at most {dim}"
        )
    moments, kept = Moments(dim), Reservoir(config.reservoir, dim + 1)
    for part in embeddings(clip.model, data, device=device, limit=config.samples):
        try:
            moments.update(part.z_i.cpu())
        except ValueError as error:
            keys = ", ".join(part.batch.keys[:3])
            raise UserError(
                f"clip={clip.source}: image embeddings of a batch ({keys}, ...): {error}"
            ) from None
        dots = (part.z_i * part.z_t).sum(dim=1, keepdim=True)
        kept.update(part.numbers, torch.cat([part.z_i, dots], dim=1).float().cpu())
    moments.all_reduce()
    kept.gather()
    rows = kept.rows
    try:
        codec = fit_codec(
            moments,
            rows[:, :dim],
            rows[:, dim],
            components=config.components,
            max_error=config.max_error,
            buckets=config.buckets,
            edges=config.edges,
        )
    except ValueError as error:
        raise UserError(f"pca: {error}") from None
    summary = codec.summary(rows[:, :dim])
    return FittedPca(codec, codec.pca.lost_variance(), summary, int(moments.count))


def fit_standardisation(
    nets: list[Any], clip: FrozenClip, data: PriorData, device: torch.device
) -> None:
    """Set ``mean`` and ``std`` of diffusion priors to those of the first training embeddings."""
    moments = Moments(clip.model.embed_dim)
    few = embeddings(
        clip.model, data, device=device, limit=STANDARDISING_SAMPLES, title="standardising"
    )
    for part in few:
        moments.update(part.z_i.cpu())
    moments.all_reduce()
    for net in nets:
        net.mean.copy_(moments.mean)
        net.std.copy_(moments.covariance.diagonal().clamp(min=1e-12).sqrt())


def fit_errors(
    prior: Part,
    clip: FrozenClip,
    data: PriorData,
    device: torch.device,
    *,
    steps: int | str,
    samples: int,
) -> list[float]:
    """M of every sampled step: the error of x̂_0, with captions and without guidance.

    Clipped to [0, tr Cov(x_0) / D], which no denoiser worth its name exceeds (reference:
    arXiv 2201.06503, corollary 1).
    """
    assert prior.diffusion is not None
    schedule = sampling_schedule(prior.diffusion, steps).to(device)
    net = prior.net.to(device)
    total = torch.zeros(len(schedule), dtype=torch.float64, device=device)
    moments = Moments(clip.model.embed_dim)
    for k, part in enumerate(
        embeddings(clip.model, data, device=device, limit=samples, title="fitting errors")
    ):
        x0 = net.to_x0(part.z_i)
        assert part.batch.clip_tokens is not None
        assert part.batch.tokens is not None
        text = clip.model.encode_text(part.batch.clip_tokens)
        caption = prior_caption(net, text, part.batch.tokens)

        def denoise(x_t: Tensor, t: Tensor, z_t: Any = part.z_t, caption: Any = caption) -> Tensor:
            return net(x_t, t, z_t=z_t, caption=caption)

        noise = torch.randn(x0.shape, generator=generator("fit errors", k)).to(device)
        total += len(x0) * x0_error(
            denoise,
            x0,
            noise,
            schedule=schedule,
            diffusion=prior.diffusion,
            sampler=prior.sampler,
        )
        moments.update(x0.cpu())
    most = float(moments.covariance.trace()) / clip.model.embed_dim
    return (total / moments.count).clamp(0, most).tolist()
