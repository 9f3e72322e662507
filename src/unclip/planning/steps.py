"""A training step of each stage without its data: the frozen CLIP, the network, a loss.

Made to run on tensors that hold nothing (`unclip.planning.trace`). The loss is the mean square of
the output: what the real ones keep besides is small, a few pictures against many feature maps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unclip.common.types import Caption, TextFeatures
from unclip.config.load import ResolvedExperiment
from unclip.embeddings.clip import Clip


class Share(NamedTuple):
    """What one process has of a micro-batch."""

    batch: int  # samples
    world: int  # processes


class Given(NamedTuple):
    """What the frozen CLIP says of a batch, as far as the stage asks it."""

    z_i: Tensor | None = None  # [B, D]
    text: TextFeatures | None = None


@torch.no_grad()
def given_by(clip: Clip | None, resolved: ResolvedExperiment, batch: int) -> Given:
    """The frozen CLIP's part of a step of ``batch`` samples."""
    if clip is None:
        return Given()
    image, text = True, True
    if resolved.stage.name == "decoder":
        text = resolved.config.embedding == "text"
        image = not text
        if not resolved.config.model.use_z_i:
            return Given()
    side = clip.image_size
    found = clip.encode_text(_tokens(batch, clip.context)) if text else None
    z_i = clip.encode_image(torch.zeros(batch, 3, side, side)) if image else None
    return Given(z_i, found)


def loss(net: nn.Module, resolved: ResolvedExperiment, given: Given, share: Share) -> Tensor:
    """The network's part of a step: a scalar to be differentiated."""
    output = {
        "clip": _clip,
        "diffusion_prior": _diffusion_prior,
        "ar_prior": _ar_prior,
        "decoder": _decoder,
        "upsampler": _upsampler,
    }[resolved.stage.name](net, resolved.config, given, share)
    return output.float().square().mean()


def _tokens(batch: int, length: int) -> Tensor:
    return torch.zeros(batch, length, dtype=torch.int64)


def _steps(batch: int) -> Tensor:
    return torch.zeros(batch, dtype=torch.int64)


def _kept(batch: int, *length: int) -> Tensor:
    return torch.ones(batch, *length, dtype=torch.bool)


def _clip(net: nn.Module, experiment: Any, given: Given, share: Share) -> Tensor:
    """Each process compares its rows with those of all (`unclip.stages.clip`)."""
    model = experiment.model
    images = torch.zeros(share.batch, 3, model.image_size, model.image_size)
    z_i, z_t = net(images, _tokens(share.batch, model.context))[:2]
    by_image, by_text = z_i @ z_t.repeat(share.world, 1).T, z_t @ z_i.repeat(share.world, 1).T
    return torch.cat([by_image, by_text])


def _caption(model: Any, length: int, given: Given, batch: int) -> Caption:
    """Own tokens, or what the CLIP made of its own."""
    if model.caption == "bpe":
        return Caption(_tokens(batch, length), None, _kept(batch, length))
    assert given.text is not None
    return Caption(None, given.text.tokens, given.text.mask)


def _diffusion_prior(net: nn.Module, experiment: Any, given: Given, share: Share) -> Tensor:
    assert given.z_i is not None
    assert given.text is not None
    caption = _caption(experiment.model, experiment.model.context, given, share.batch)
    return net(
        torch.zeros_like(given.z_i),
        _steps(share.batch),
        z_t=given.text.z_t,
        caption=caption,
        keep=_kept(share.batch),
    )


def _ar_prior(net: nn.Module, experiment: Any, given: Given, share: Share) -> Tensor:
    assert given.text is not None
    caption = _caption(experiment.model, experiment.model.text.context, given, share.batch)
    return net(
        _tokens(share.batch, net.codes),  # type: ignore[arg-type]
        dot=_steps(share.batch),
        z_t=given.text.z_t,
        caption=caption,
        keep=_kept(share.batch),
    )


def _decoder(net: nn.Module, experiment: Any, given: Given, share: Share) -> Tensor:
    model = experiment.model
    length = model.text.context
    z = given.z_i if given.text is None else given.text.z_t
    return net(
        torch.zeros(share.batch, 3, model.image_size, model.image_size),
        _steps(share.batch),
        z_i=z,
        tokens=_tokens(share.batch, length),
        mask=_kept(share.batch, length),
        keep_z_i=_kept(share.batch),
        keep_text=_kept(share.batch),
    )


def _upsampler(net: nn.Module, experiment: Any, given: Given, share: Share) -> Tensor:
    model = experiment.model
    side = round(model.image_size * experiment.data.crop_fraction)
    low = side * model.low_size // model.image_size
    level = _steps(share.batch) if model.noise_levels else None
    return net(
        torch.zeros(share.batch, 3, side, side),
        _steps(share.batch),
        torch.zeros(share.batch, 3, low, low),
        level,
    )
