"""Drawing image embeddings from the autoregressive prior, code by code.

Shapes: B batch, D embedding, K codes, N buckets.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from unclip.common.devices import widened
from unclip.common.seeding import SampleNoise
from unclip.common.types import Caption, Progress
from unclip.stages._prior.null_text import NullText, told
from unclip.stages._prior.sampling import best_of, repeat_batch, repeat_each
from unclip.stages.ar_prior.config import ArPriorExperiment, ArSamplerConfig
from unclip.stages.ar_prior.network import ArPrior, dry_step
from unclip.stages.interface import Given, Share


def dry_sampling(
    net: ArPrior, experiment: ArPriorExperiment, given: Given, share: Share
) -> Callable[[], Tensor]:
    """See `unclip.stages.row.Row`: all codes at once."""
    return partial(dry_step, net, experiment, given, share)


@torch.no_grad()
def sample_ar_prior(
    net: ArPrior,
    *,
    z_t: Tensor,
    caption: Caption,
    sampler: ArSamplerConfig,
    noise: SampleNoise,
    null: NullText | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """z_i ``[B, D]`` for captions with text embeddings z_t ``[B, D]``.

    The dot product is drawn from the part of its training distribution above
    ``sampler.dot_percentile`` (paper, section 2.2); of ``sampler.candidates`` per caption the one
    with the highest z_i · z_t is kept.
    """
    many = sampler.candidates
    z_t_many = z_t.repeat_interleave(many, dim=0)
    uniforms = noise.uniform((len(z_t), many, 1 + net.codes), z_t.device).flatten(0, 1)
    codec = net.codec
    dot = codec.encode_dot(codec.dot_at(uniforms[:, 0], sampler.dot_percentile))
    codes = sample_codes(
        net,
        dot=dot,
        z_t=z_t_many,
        caption=repeat_each(caption, many),
        sampler=sampler,
        uniforms=uniforms[:, 1:],
        null=null,
        progress=progress,
    )
    return best_of(codec.decode(codes), z_t, many)


@torch.no_grad()
def sample_codes(
    net: ArPrior,
    *,
    dot: Tensor,
    z_t: Tensor,
    caption: Caption,
    sampler: ArSamplerConfig,
    uniforms: Tensor,
    null: NullText | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Codes ``[B, K]``, each from its own uniform number of ``uniforms`` ``[B, K]`` in [0, 1).

    Other arguments as of `ArPrior.forward`. With guidance s the logits are those without the text,
    or with ``null``, plus s times what the text changes.
    """
    guided = sampler.guidance != 1
    keep = torch.ones(len(z_t), dtype=torch.bool, device=z_t.device)
    if guided:
        z_t, dot, caption = torch.cat([z_t, z_t]), torch.cat([dot, dot]), repeat_batch(caption)
        keep = torch.cat([keep, ~keep])
    text = told(z_t, caption, keep, null)
    context = net.encode_caption(text["caption"], text["keep"])
    caches = net.start(context)
    before, x = net.prefix(text["z_t"], dot, text["keep"]).unbind(dim=1)
    position = torch.zeros(1, dtype=torch.long, device=z_t.device)
    net.step(before, position, caches, context)
    codes: list[Tensor] = []
    for k in range(net.codes):
        position = position + 1
        logits = net.step(x, position, caches, context).float()
        if guided:
            cond, uncond = logits.chunk(2)
            logits = torch.lerp(uncond, cond, sampler.guidance)
        codes.append(pick(logits, uniforms[:, k], sampler))
        x = net.code_table(torch.cat([codes[-1]] * 2) if guided else codes[-1])
        if progress is not None:
            progress(k + 1, net.codes)
    return torch.stack(codes, dim=1)


def pick(logits: Tensor, u: Tensor, sampler: ArSamplerConfig) -> Tensor:
    """One of N by its probability ``[B]``: where the cumulative sum passes ``u`` ``[B]``.

    Temperature first, then the ``top_k`` likeliest, then the fewest of these that hold ``top_p`` of
    the probability (arXiv 1904.09751). Temperature 0 is the likeliest one. Each row depends on its
    own number alone.
    """
    if sampler.temperature == 0:
        return logits.argmax(dim=1)
    order = logits.sort(dim=1, descending=True, stable=True)
    p = (order.values / sampler.temperature).softmax(dim=1)
    if sampler.top_k:
        p[:, sampler.top_k :] = 0
    if sampler.top_p < 1:
        p = p / p.sum(dim=1, keepdim=True)
        p = torch.where(p.cumsum(dim=1) - p < sampler.top_p, p, 0)
    cumulative = widened(p).cumsum(dim=1)
    threshold = u.to(cumulative)[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, threshold, right=True).clamp(max=p.shape[1] - 1)
    return order.indices.gather(1, chosen)[:, 0]
