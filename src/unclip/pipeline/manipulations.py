"""What the bipartite latent (z_i, x_T) of an image is for (arXiv 2204.06125, section 3).

z_i is what CLIP sees in the image, x_T everything else: the noise from which DDIM draws it again.
Each function is the work of the `Pipeline`'s method of its name, which documents the arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.checks import as_choice
from unclip.common.counted import counted
from unclip.common.devices import widest
from unclip.common.errors import UserError
from unclip.embeddings.geometry import slerp, text_direction
from unclip.embeddings.lengths import as_embeddings, directions, with_lengths
from unclip.pipeline.inference import inference
from unclip.pipeline.inputs import Images, arrays, squares
from unclip.pipeline.sampling import Generated, Sampling

NOISES = ("slerp", "fixed")
"""x_T between two images: from one's to the other's, or one random draw all the way."""

DIRECTIONS = {"text": 0.4, "prior": 1.0}
"""What a text diff turns z_i towards, and how far it goes by default."""

DRAWS = 32  # of the prior, of which the mean is taken: one caption fits many images


class Latents(NamedTuple):
    """Images as unCLIP sees them."""

    z_i: Tensor  # [B, D], CLIP's image embedding
    x_T: Tensor  # [B, 3, s, s], about standard normal


Given = Images | Latents
"""Images, or what `encode` has made of them with the same settings: it takes a while."""


def embed(sampling: Sampling, given: Given) -> Tensor:
    """z_i ``[B, D]`` of images; a decoder that takes none is refused."""
    if isinstance(given, Latents):
        return given.z_i
    cascade = sampling.cascade
    if cascade.decoder.takes != "image":
        raise UserError(
            "decoder: takes no image embeddings, so it cannot draw what CLIP sees in an image"
        )
    clip, found = cascade.require_clip().model, arrays(given)
    return sampling.in_batches(
        len(found),
        lambda at: clip.encode_image(squares(found[at], clip.image_size, cascade.device)),
    )


def _count(given: Given) -> int:
    return len(given.z_i if isinstance(given, Latents) else arrays(given))


def _inversions(given: Given) -> int:
    return 0 if isinstance(given, Latents) else _count(given)


def _latents(sampling: Sampling, given: Given) -> Latents:
    if isinstance(given, Latents):
        return given
    cascade, z_i = sampling.cascade, embed(sampling, given)
    side = cascade.decoder.net.config.image_size
    return Latents(z_i, sampling.invert(squares(arrays(given), side, cascade.device), z_i))


@inference
def encode(sampling: Sampling, images: Images) -> Latents:
    """Both halves of the latent."""
    sampling.expect(inversions=_count(images))
    return _latents(sampling, images)


@inference
def reconstruct(sampling: Sampling, latents: Latents, seed: int) -> Generated:
    """From both halves back to the image."""
    count = _count(latents)
    sampling.expect(decodings=count)
    return sampling.decode(latents.z_i, [seed] * count, x_T=latents.x_T)


@inference
def vary(sampling: Sampling, given: Given, seeds: Sequence[int]) -> Generated:
    """Section 3.1: the same latent, with noise on the way."""
    if not seeds:
        raise UserError("seeds: give at least one")
    count, each = _count(given), len(seeds)
    sampling.expect(inversions=_inversions(given), decodings=count * each)
    z_i, x_T = (part.repeat_interleave(each, dim=0) for part in _latents(sampling, given))
    return sampling.decode(z_i, list(seeds) * count, x_T=x_T).grouped(each)


@inference
def interpolate(sampling: Sampling, a: Given, b: Given, n: int, noise: str, seed: int) -> Generated:
    """Section 3.2: great circles between two latents."""
    count = _count(a)
    if _count(b) != count:
        raise UserError(
            f"{counted(count, 'image')} to start from, {_count(b)} to end at; give as many of each"
        )
    if n < 2:
        raise UserError(f"n={n}: an interpolation has two ends, give at least 2")
    as_choice(f"noise={noise}", noise, NOISES)
    device = sampling.cascade.device
    way = torch.linspace(0, 1, n, dtype=widest(device), device=device)
    sampling.expect(decodings=count * n)
    x_T = None
    if noise == "slerp":
        for ends in (a, b):
            sampling.expect(inversions=_inversions(ends))
        one, other = _latents(sampling, a), _latents(sampling, b)
        z_i, x_T = (_between(*ends, way) for ends in zip(one, other))
    else:
        z_i = _between(embed(sampling, a), embed(sampling, b), way)
    return sampling.decode(z_i, [seed] * count * n, x_T=x_T).grouped(n)


def _between(a: Tensor, b: Tensor, way: Tensor) -> Tensor:
    """``[B, ...]`` and ``[B, ...]`` to the ``[B n, ...]`` between them."""
    found = slerp(a.flatten(1)[:, None], b.flatten(1)[:, None], way)
    return found.reshape(-1, *a.shape[1:])


@inference
def text_diff(
    sampling: Sampling,
    given: Given,
    source: str | None,
    target: str,
    theta_max: float | None,
    n: int,
    seed: int,
    direction: str,
) -> Generated:
    """Section 3.3: z_i turned towards the difference of two captions, x_T and its length kept."""
    as_choice(f"direction={direction}", direction, tuple(DIRECTIONS))
    theta_max = DIRECTIONS[direction] if theta_max is None else theta_max
    if not 0 <= theta_max <= 1:
        raise UserError(f"theta_max={theta_max}: is not in [0, 1]; the paper's are 0.25 to 0.5")
    if n < 1:
        raise UserError(f"n={n}: must be at least 1")
    captions = [target] if source is None else [target, source]
    kind = sampling.cascade.embeddings
    try:
        aim = text_direction(*directions(sampling.cascade.embed_captions(captions), kind))
    except ValueError:
        raise UserError(
            f"{target!r} and {source!r}: are the same to this CLIP, so there is nothing to change"
        ) from None
    drawn = DRAWS * len(captions) if direction == "prior" else 0
    sampling.expect(draws=drawn, inversions=_inversions(given), decodings=_count(given) * n)
    z_i, x_T = _latents(sampling, given)
    if direction == "prior":
        aim = _moved(sampling, z_i, captions, seed)[:, None]
    thetas = torch.linspace(0, theta_max, n, dtype=widest(z_i.device), device=z_i.device)
    turned = slerp(z_i[:, None], with_lengths(aim, z_i[:, None], kind), thetas).flatten(0, 1)
    x_T = x_T.repeat_interleave(n, dim=0)
    return sampling.decode(turned, [seed] * len(turned), x_T=x_T).grouped(n)


def _moved(sampling: Sampling, z_i: Tensor, captions: Sequence[str], seed: int) -> Tensor:
    """``z_i`` ``[B, D]`` moved as the prior's mean moves from the second caption to the first.

    A direction. The noise of the draws is the same for both. With one caption, the prior's mean for
    it.
    """
    seeds = [*range(seed, seed + DRAWS)] * len(captions)
    drawn = sampling.draw([c for c in captions for _ in range(DRAWS)], seeds)
    means = F.normalize(drawn, dim=-1).unflatten(0, (-1, DRAWS)).mean(dim=1)
    here = directions(z_i, sampling.cascade.embeddings)
    there = means[:1] if len(captions) == 1 else here + means[0] - means[1]
    return F.normalize(there, dim=-1).expand_as(z_i)


@inference
def pca_reconstructions(
    sampling: Sampling, images: Images, dims: Sequence[int], seed: int
) -> Generated:
    """Section 3.4 (figure 7): what the first principal components of z_i hold."""
    codec = sampling.cascade.codec
    if codec is None:
        raise UserError(
            "pca: the pipeline has none; make one with `unclip fit-pca` and put its artifact into "
            "the pipeline's folder as `pca`"
        )
    wrong = [k for k in dims if not 1 <= k <= codec.k]
    if wrong or not dims:
        raise UserError(f"dims={list(dims)}: give numbers in [1, {codec.k}], the PCA's components")
    count, pca = len(arrays(images)), codec.pca
    sampling.expect(decodings=count * len(dims))
    y = pca.project(embed(sampling, images))
    first = torch.arange(codec.k, device=y.device) < torch.tensor(dims, device=y.device)[:, None]
    z_i = as_embeddings(pca.reconstruct(y[:, None] * first), codec.embeddings).float().flatten(0, 1)
    return sampling.decode(z_i, [seed] * len(z_i)).grouped(len(dims))
