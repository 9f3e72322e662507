"""What the bipartite latent (z_i, x_T) of a picture is for (arXiv 2204.06125, section 3).

z_i is what CLIP sees in the picture, x_T all else: the noise from which DDIM draws it again. Each
function is the work of the `Pipeline`'s method of its name, which says what the arguments are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.embeddings.geometry import slerp, text_direction
from unclip.pipeline.pictures import Pictures, arrays, squares
from unclip.pipeline.sampling import Generated, Sampling
from unclip.types import UserError

NOISES = ("slerp", "fixed")
"""x_T between two pictures: from one's to the other's, or one random draw all the way."""


class Latents(NamedTuple):
    """Pictures as unCLIP sees them."""

    z_i: Tensor  # [B, D], CLIP's image embedding, unit norm
    x_T: Tensor  # [B, 3, s, s], about standard normal


def embed(sampling: Sampling, pictures: Pictures) -> Tensor:
    """z_i ``[B, D]`` of pictures; a decoder that takes none is refused."""
    pipeline = sampling.pipeline
    if pipeline.decoder.embedding != "image":
        raise UserError(
            "decoder: takes no image embeddings, so it cannot draw what CLIP sees in a picture"
        )
    clip, found = pipeline.clip.model, arrays(pictures)
    return sampling.in_batches(
        len(found),
        lambda at: clip.encode_image(squares(found[at], clip.image_size, pipeline.device)),
    )


def _encode(sampling: Sampling, pictures: Pictures) -> Latents:
    pipeline, z_i = sampling.pipeline, embed(sampling, pictures)
    side = pipeline.decoder.net.config.image_size
    return Latents(z_i, sampling.invert(squares(arrays(pictures), side, pipeline.device), z_i))


@torch.no_grad()
def encode(sampling: Sampling, pictures: Pictures) -> Latents:
    """Both halves of the latent."""
    sampling.expect(inversions=len(arrays(pictures)))
    return _encode(sampling, pictures)


@torch.no_grad()
def reconstruct(sampling: Sampling, latents: Latents, seed: int) -> Generated:
    """From both halves back to the picture."""
    count = len(latents.z_i)
    sampling.expect(decodings=count)
    return sampling.decode(latents.z_i, [seed] * count, x_T=latents.x_T)


@torch.no_grad()
def vary(sampling: Sampling, pictures: Pictures, seeds: Sequence[int]) -> Generated:
    """Section 3.1: the same latent, with noise on the way."""
    if not seeds:
        raise UserError("seeds: give at least one")
    count, each = len(arrays(pictures)), len(seeds)
    sampling.expect(inversions=count, decodings=count * each)
    latents = _encode(sampling, pictures)
    z_i, x_T = (part.repeat_interleave(each, dim=0) for part in latents)
    return sampling.decode(z_i, list(seeds) * count, x_T=x_T).grouped(each)


@torch.no_grad()
def interpolate(
    sampling: Sampling, a: Pictures, b: Pictures, n: int, noise: str, seed: int
) -> Generated:
    """Section 3.2: great circles between two latents."""
    pairs = [arrays(a), arrays(b)]
    count = len(pairs[0])
    if len(pairs[1]) != count:
        raise UserError(f"{count} pictures to go from, {len(pairs[1])} to go to")
    if n < 2:
        raise UserError(f"n={n}: an interpolation has two ends, give at least 2")
    if noise not in NOISES:
        raise UserError(f"noise={noise}: is none of {', '.join(NOISES)}")
    both = [*pairs[0], *pairs[1]]
    way = torch.linspace(0, 1, n, dtype=torch.float64, device=sampling.pipeline.device)
    if noise == "slerp":
        sampling.expect(inversions=2 * count, decodings=count * n)
        z_i, x_T = _encode(sampling, both)
        x_T = _between(x_T, way)
    else:
        sampling.expect(decodings=count * n)
        z_i, x_T = embed(sampling, both), None
    return sampling.decode(_between(z_i, way), [seed] * count * n, x_T=x_T).grouped(n)


def _between(ends: Tensor, way: Tensor) -> Tensor:
    """``[2 B, ...]``, first all beginnings, then all ends, to ``[B n, ...]`` between them."""
    a, b = ends.flatten(1).chunk(2)
    found = slerp(a[:, None], b[:, None], way)
    return found.reshape(-1, *ends.shape[1:])


@torch.no_grad()
def text_diff(
    sampling: Sampling,
    pictures: Pictures,
    source: str | None,
    target: str,
    theta_max: float,
    n: int,
    seed: int,
) -> Generated:
    """Section 3.3: z_i turned towards the difference of two captions, x_T kept."""
    if not 0 <= theta_max <= 1:
        raise UserError(f"theta_max={theta_max}: is not in [0, 1]; the paper's are 0.25 to 0.5")
    if n < 1:
        raise UserError(f"n={n}: must be at least 1")
    texts = sampling.pipeline.embed_captions([target] if source is None else [target, source])
    try:
        z_d = text_direction(*texts)
    except ValueError:
        raise UserError(
            f"{target!r} and {source!r}: are the same to this CLIP, so there is nothing to change"
        ) from None
    count = len(arrays(pictures))
    sampling.expect(inversions=count, decodings=count * n)
    z_i, x_T = _encode(sampling, pictures)
    thetas = torch.linspace(0, theta_max, n, dtype=torch.float64, device=z_i.device)
    turned = slerp(z_i[:, None], z_d, thetas).flatten(0, 1)
    x_T = x_T.repeat_interleave(n, dim=0)
    return sampling.decode(turned, [seed] * count * n, x_T=x_T).grouped(n)


@torch.no_grad()
def pca_reconstructions(
    sampling: Sampling, pictures: Pictures, dims: Sequence[int], seed: int
) -> Generated:
    """Section 3.4 (figure 7): what the first principal components of z_i hold."""
    codec = sampling.pipeline.codec
    if codec is None:
        raise UserError(
            "pca: the pipeline has none; make one with `unclip fit-pca` and put its artifact into "
            "the pipeline's folder as `pca`"
        )
    wrong = [k for k in dims if not 1 <= k <= codec.k]
    if wrong or not dims:
        raise UserError(f"dims={list(dims)}: give numbers in [1, {codec.k}], the pca's components")
    count, pca = len(arrays(pictures)), codec.pca
    sampling.expect(decodings=count * len(dims))
    y = pca.project(embed(sampling, pictures))
    first = torch.arange(codec.k, device=y.device) < torch.tensor(dims, device=y.device)[:, None]
    z_i = F.normalize(pca.reconstruct(y[:, None] * first), dim=-1).float().flatten(0, 1)
    return sampling.decode(z_i, [seed] * len(z_i)).grouped(len(dims))
