"""The networks that `throughput.py` measures, in sizes, and inputs for them.

Embeddings and token features are as wide as the prior; a decoder is its U-Net, given the context
tokens; an upsampler gets crops, as in training, and a condition that has been enlarged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.common.types import Caption
from unclip.config.load import load_experiment
from unclip.embeddings.codec import Codec
from unclip.stages.ar_prior.network import ArPrior
from unclip.stages.clip.network import build_clip
from unclip.stages.decoder.network import Decoder
from unclip.stages.diffusion_prior.network import DiffusionPrior
from unclip.stages.upsampler.network import Upsampler

TOKENS = 77  # of a caption
CODES, BUCKETS = 60, 256  # of the autoregressive prior


class Size(NamedTuple):
    """Whose shape a network has, and how many samples it is trained on at a time."""

    experiment: str
    overrides: list[str]
    batch: int


UNET = ["model.unet.channels=64", "model.unet.norm_groups=32"]
SIZES = {
    "prior": {
        "tiny": Size("prior/diffusion_tiny", ["model.width=256"], 16),
        "m": Size("prior/diffusion_m", [], 256),
        "l": Size("prior/diffusion_l", [], 256),
    },
    "decoder": {
        "tiny": Size("decoder/tiny", UNET, 4),
        "m": Size("decoder/m", [], 64),
        "l": Size("decoder/l", [], 32),
    },
    "upsampler": {
        "tiny": Size("upsampler/256_tiny", [*UNET, "data.crop_fraction=0.25"], 2),
        "m": Size("upsampler/256_m", [], 64),
        "l": Size("upsampler/256_paper", [], 32),
    },
    "ar_prior": {
        "tiny": Size("prior/ar_tiny", ["model.width=256"], 16),
        "m": Size("prior/ar_m", [], 256),
        "l": Size("prior/ar_l", [], 128),
    },
    "clip": {
        "tiny": Size("clip/tiny", [], 64),
        "m": Size("clip/scenes", [], 256),
        "l": Size("clip/paper", [], 64),
    },
}


class Calls(NamedTuple):
    """A network and how it is called on the inputs."""

    net: nn.Module
    train: Callable[..., Tensor]
    sample: Callable[..., Tensor]  # one step of sampling


class Network(NamedTuple):
    """A network of ours."""

    model: Any  # its config
    calls: Calls
    inputs: Callable[[int], tuple[Tensor, ...]]  # for so many samples
    batch: int  # of a training step


def prior(size: str) -> Network:
    """Inputs: x_t, t, z_t, token features and their mask, captions of all lengths."""
    model = experiment("prior", size).model
    model.caption, model.context = "clip", TOKENS
    net = DiffusionPrior(model, model.width, model.width)

    def call(x: Tensor, t: Tensor, z_t: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        return net(x, t, z_t=z_t, caption=Caption(None, features, mask))

    return Network(model, Calls(net, call, call), caption_inputs(model.width), batch("prior", size))


def decoder(size: str) -> Network:
    """Inputs: x_t, t, offset of the time embedding, context; attention below the top level."""
    model = experiment("decoder", size).model
    unet, side = model.unet, model.image_size
    unet.attention = [side >> level for level in range(1, len(unet.multiples))]
    net = Decoder(model, embed_dim=64).unet

    def inputs(n: int) -> tuple[Tensor, ...]:
        context = torch.randn(n, TOKENS + model.clip_tokens, model.text.width)
        return *noised(n, side), torch.randn(n, 4 * unet.channels), context

    def call(x: Tensor, t: Tensor, offset: Tensor, context: Tensor) -> Tensor:
        return net(x, t, time_offset=offset, context=context)

    return Network(model, Calls(net, call, call), inputs, batch("decoder", size))


def upsampler(size: str) -> Network:
    """Inputs: x_t, t, condition."""
    given = experiment("upsampler", size)
    side = round(given.model.image_size * given.data.crop_fraction)
    net = Upsampler(given.model)

    def inputs(n: int) -> tuple[Tensor, ...]:
        return *noised(n, side), torch.randn(n, 3, side, side)

    return Network(given.model, Calls(net, net, net), inputs, batch("upsampler", size))


def ar_prior(size: str) -> Network:
    """Inputs: codes, dot product, z_t, token features, mask. Samples one code with the cache."""
    model = experiment("ar_prior", size).model
    model.context = CODES + 2
    net = ArPrior(model, Codec.empty(model.width, CODES, BUCKETS), model.width)
    started: list[Any] = []

    def inputs(n: int) -> tuple[Tensor, ...]:
        _, t, *rest = caption_inputs(model.width)(n)
        return torch.randint(BUCKETS, (n, CODES)), t % BUCKETS, *rest

    def train(codes: Tensor, dot: Tensor, z_t: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        return net(codes, dot=dot, z_t=z_t, caption=Caption(None, features, mask))

    def sample(codes: Tensor, dot: Tensor, z_t: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        if not started:
            context = net.encode_caption(Caption(None, features, mask))
            started.extend([net.start(context), context])
        position = torch.full((1,), CODES // 2, device=codes.device)
        return net.step(net.code_table(codes[:, 0]), position, *started)

    return Network(model, Calls(net, train, sample), inputs, batch("ar_prior", size))


def clip(size: str) -> Network:
    """Inputs: images and tokens; "sampling" embeds both. The network is open_clip's."""
    model = experiment("clip", size).model
    net = build_clip(model)

    def inputs(n: int) -> tuple[Tensor, ...]:
        image = torch.randn(n, 3, model.image_size, model.image_size).clamp(-1, 1)
        return image, torch.randint(1, model.vocabulary - 2, (n, model.context))

    def call(image: Tensor, tokens: Tensor) -> Tensor:
        z_i, z_t, scale = net(image, tokens)
        return scale * z_i @ z_t.T

    return Network(model, Calls(net, call, call), inputs, batch("clip", size))


NETWORKS = {
    "prior": prior,
    "decoder": decoder,
    "upsampler": upsampler,
    "ar_prior": ar_prior,
    "clip": clip,
}


def experiment(kind: str, size: str) -> Any:
    """The one whose shape is measured, without dropout."""
    chosen = SIZES[kind][size]
    found = load_experiment(chosen.experiment, chosen.overrides).config
    for part in (found.model, getattr(found.model, "unet", None)):
        if hasattr(part, "dropout"):
            part.dropout = 0.0
    return found


def batch(kind: str, size: str) -> int:
    """Samples of a training step."""
    return SIZES[kind][size].batch


def noised(n: int, side: int) -> tuple[Tensor, Tensor]:
    """x_t and t."""
    return torch.randn(n, 3, side, side), torch.randint(1000, (n,))


def caption_inputs(width: int) -> Callable[[int], tuple[Tensor, ...]]:
    """Makes x_t, t, z_t, token features and their mask."""

    def inputs(n: int) -> tuple[Tensor, ...]:
        z_t = F.normalize(torch.randn(n, width), dim=1)
        mask = torch.arange(TOKENS) < torch.randint(5, TOKENS + 1, (n, 1))
        features = torch.randn(n, TOKENS, width)
        return torch.randn(n, width), torch.randint(1000, (n,)), z_t, features, mask

    return inputs
