"""Karlo's and Kandinsky 2.1's checkpoints."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unclip.common.errors import UserError
from unclip.diffusion.config import DiffusionConfig, ImageDiffusionConfig
from unclip.nn.config import ConvUNetConfig, UNetConfig
from unclip.stages.experiment import ParentSizes
from unclip.weights.found import Found
from unclip.weights.karlo_experiments import (
    decoder_experiment,
    prior_experiment,
    upsampler_experiment,
)
from unclip.weights.maps import decoder as decoder_map
from unclip.weights.maps import prior as prior_map
from unclip.weights.maps import upsampler as upsampler_map
from unclip.weights.originals.unet import (
    State,
    check_blocks,
    check_levels,
    head_channels,
    shape_of,
    unet_shape,
)
from unclip.weights.settings import SCHEDULES, Chain, Settings, clamp, section


def statistics(content: Any, where: str) -> State:
    """The pair in ``ViT-L-14_stats.th``: mean and standard deviation of image embeddings."""
    if len(content) != 2 or not all(isinstance(t, Tensor) and t.ndim == 1 for t in content):
        raise UserError(f"{where}: holds no pair of mean and standard deviation")
    return prior_map.stats(content)


class Section:
    """What a ``config.json`` says of a network: the values of its model, and of its chain."""

    def __init__(self, content: dict[str, Any], where: str):
        model = section(content, "model", where)
        self.model = Settings(section(model, "hparams", where), where)
        self._chain = Settings(section(content, "diffusion", where), where)

    def chain(self, cls: Any, reach: float, *, x0: bool = False, learns: bool = False) -> Chain:
        """The chain, by default the published one; x_0 is clamped to ``reach``."""
        s = self._chain
        s.fixed(learn_sigma=learns)
        small = s.get("sigma_small", bool, True)
        diffusion = cls(
            steps=s.get("steps", int, 1000),
            schedule=s.choice("noise_schedule", SCHEDULES, "cosine"),
            prediction="x0" if s.get("predict_xstart", bool, x0) else "eps",
            variance="learned_range" if learns else "fixed_small" if small else "fixed_large",
        )
        s.ignored("use_kl", "rescale_learned_sigmas", "timestep_respacing")
        s.finish()
        return Chain(diffusion, clamp(reach))


def prior(state: State, where: str, stats: tuple[State, str] | None, said: Section) -> Found:
    """``prior-ckpt-step=01000000-of-01000000.ckpt`` or ``prior_fp16.ckpt``."""
    if stats is None:
        raise UserError(
            f"{where}: needs the file of mean and standard deviation (ViT-L-14_stats.th) too; give "
            "a folder with both"
        )
    h = said.model
    width, dim = shape_of(state, "model.clip_img_proj.weight", where)
    context = shape_of(state, "model.positional_embedding", where, 3)[1] - 4
    layers = len({k.split(".")[3] for k in state if k.startswith("model.transformer.resblocks.")})
    heads = h.get("xf_heads", int, max(1, width // 64))
    if width % max(1, heads):
        raise h.refusal("xf_heads", heads)
    h.fixed(
        xf_width=width,
        xf_layers=layers,
        clip_dim=dim,
        text_ctx=context,
        xf_final_ln=True,
        xf_padding=False,
    )
    h.ignored("text_drop")
    h.finish()
    chain = said.chain(DiffusionConfig, 10.0, x0=True)
    return Found(
        where,
        prior_experiment(dim, context, width, layers, heads, 0.0, chain),
        prior_map.karlo,
        lambda: state | stats[0],
        ParentSizes(dim, dim, context),
        places=dict.fromkeys(stats[0], stats[1]),
    )


def decoder(state: State, where: str, said: Section, size: int, groups: int) -> Found:
    """``decoder-ckpt-step=01000000-of-01000000.ckpt``."""
    h = said.model
    check_blocks(h)
    shape, levels = unet_shape(state, "model.", where)
    width, dim = shape_of(state, "model.text_seq_proj.0.weight", where)
    tokens = shape_of(state, "model.clip_tok_proj.weight", where)[0] // width
    head = head_channels(h)
    dropout = h.share("dropout", 0.1)
    check_levels(h, size, shape["multiples"], levels)
    h.fixed(
        num_channels=shape["channels"],
        num_res_blocks=shape["blocks"],
        clip_dim=dim,
        xf_width=width,
        clip_emb_mult=tokens,
        use_scale_shift_norm=True,
        learn_sigma=True,
        use_plm=True,
        clip_emb_type="image",
    )
    h.ignored(
        "text_drop",
        "clip_emb_drop",
        "text_ctx",
        "xf_layers",
        "xf_heads",
    )
    h.finish()
    unet = UNetConfig(
        attention=[size >> k for k in levels],
        head_channels=head,
        dropout=dropout,
        norm_groups=groups,
        **shape,
    )
    chain = said.chain(ImageDiffusionConfig, 1.0, learns=True)
    return Found(
        where,
        decoder_experiment(size, dim, tokens, width, unet, 50, chain),
        decoder_map.karlo,
        lambda: state,
        ParentSizes(dim, dim),
    )


def upsampler(state: State, where: str, said: Section, low: int, groups: int) -> Found:
    """``improved-sr-ckpt-step=1.2M.ckpt``."""
    shape, levels = unet_shape(state, "model_first_steps.", where)
    if levels:
        raise UserError(f"{where}: has attention; no upsampler of Karlo's has")
    h = said.model
    h.fixed(
        channels=shape["channels"],
        depth=shape["blocks"],
        channels_multiple=shape["multiples"],
    )
    dropout = h.share("dropout", 0.0)
    h.finish()
    unet = ConvUNetConfig(dropout=dropout, norm_groups=groups, **shape)
    last = any(name.startswith("model_last_step.") for name in state)
    chain = said.chain(ImageDiffusionConfig, 1.0)
    experiment = upsampler_experiment(4 * low, low, last, unet, chain)
    return Found(where, experiment, upsampler_map.karlo, lambda: state)
