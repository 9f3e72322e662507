"""Files of Karlo, Kandinsky 2.1 and GLIDE as their projects published them.

What a file is, its tensors' names tell. Sizes are those of the tensors; what no shape tells (heads,
pixels, groups) is in a ``config.json`` beside the files, or is as published.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor

from unclip.common.errors import UserError
from unclip.diffusion.config import DiffusionConfig, ImageDiffusionConfig
from unclip.nn.config import ConvUNetConfig, UNetConfig
from unclip.stages.experiment import ParentSizes
from unclip.weights.clips import from_openai, is_openai
from unclip.weights.diffusers_folder import (
    decoder_experiment,
    prior_experiment,
    upsampler_experiment,
)
from unclip.weights.found import Found
from unclip.weights.maps import decoder as decoder_map
from unclip.weights.maps import prior as prior_map
from unclip.weights.maps import upsampler as upsampler_map
from unclip.weights.reading.folders import Source
from unclip.weights.reading.tensors import ENDINGS, read_file, state_of
from unclip.weights.settings import Chain, Settings, clamp

State = dict[str, Tensor]
_KINDS = {  # a tensor that only this file has
    "model.prd_emb": "prior",
    "model.cf_param": "decoder",
    "model_first_steps.input_blocks.0.0.weight": "improved_sr",
    "transformer_proj.weight": "glide",
    "net.causal_transformer.layers.0.0.to_q.weight": "dalle2",
}


def find(source: Source) -> list[Found]:
    """The stages in a folder of files, or in one file."""
    states: dict[str, tuple[State, str]] = {}
    stats, unknown = None, []
    for name in source.inside(""):
        if not name.endswith(ENDINGS):
            continue
        where = source.where(name)
        content = read_file(source.path(name), where)
        if isinstance(content, (list, tuple)):
            stats = _pair(content, where)
            continue
        state = state_of(content, where)
        kind = _kind(state)
        if kind is None:
            unknown.append(
                f"{where}: {next(iter(state))} is no tensor of a network that unclip knows"
            )
            continue
        if kind in states:
            raise UserError(f"{where}: is a second {kind} beside {states[kind][1]}; give one")
        states[kind] = (state, where)
    if not states and unknown:
        raise UserError(f"{unknown[0]}; `unclip import --help` says what it reads")
    for line in unknown:
        print(f"unclip: {line}; left out", file=sys.stderr)
    if not states:
        raise UserError(f"{source.label}: holds no weights; give a folder or file of weights")
    config = source.json("config.json") if "config.json" in source.names else {}
    published = {k: config.get(k, {}) for k in ("prior", "decoder", "improved_sr")}
    groups = Settings(config, source.where("config.json")).get("norm_groups", int, 32)
    found = []
    if "clip" in states:
        found.append(from_openai(*states["clip"]))
    if "prior" in states:
        found.append(_prior(*states["prior"], stats, _hparams(published["prior"], source)))
    size = 64
    if "decoder" in states:
        h = _hparams(published["decoder"], source)
        size = h.get("image_size", int, 64)
        found.append(_decoder(*states["decoder"], h, size, groups))
    if "improved_sr" in states:
        found.append(_upsampler(*states["improved_sr"], size, groups))
    for kind in ("glide", "dalle2"):
        if kind in states:
            found += _other(kind, *states[kind])
    return found


def _kind(state: State) -> str | None:
    if is_openai(state):
        return "clip"
    for name, kind in _KINDS.items():
        bare = name.removeprefix("model.")
        if name in state:
            return kind
        if bare in state:  # without its prefix, which it gets back
            for key in list(state):
                state[f"model.{key}"] = state.pop(key)
            return kind
    return None


def _hparams(section: Any, source: Source) -> Settings:
    model = section.get("model", {}) if isinstance(section, dict) else {}
    values = model.get("hparams", {}) if isinstance(model, dict) else {}
    return Settings(values, source.where("config.json"))


def _pair(content: Any, where: str) -> State:
    if len(content) != 2 or not all(isinstance(t, Tensor) and t.ndim == 1 for t in content):
        raise UserError(f"{where}: holds no pair of mean and standard deviation")
    return prior_map.stats(content)


def _prior(state: State, where: str, stats: State | None, h: Settings) -> Found:
    if stats is None:
        raise UserError(
            f"{where}: needs the file of mean and standard deviation "
            "(ViT-L-14_stats.th) beside it; fetch that too"
        )
    width, dim = _shape(state, "model.clip_img_proj.weight", where)
    context = _shape(state, "model.positional_embedding", where, 3)[1] - 4
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
    chain = Chain(DiffusionConfig(), clamp(10.0))
    return Found(
        where,
        prior_experiment(dim, context, width, layers, heads, 0.0, chain),
        prior_map.karlo,
        lambda: state | stats,
        ParentSizes(dim, dim, context),
    )


def _decoder(state: State, where: str, h: Settings, size: int, groups: int) -> Found:
    shape, levels = unet_shape(state, "model.", where)
    width, dim = _shape(state, "model.text_seq_proj.0.weight", where)
    tokens = _shape(state, "model.clip_tok_proj.weight", where)[0] // width
    head = h.get("num_head_channels", int, 64)
    dropout = h.get("dropout", float, 0.1)
    h.fixed(
        num_channels=shape["channels"],
        num_res_blocks=shape["blocks"],
        clip_dim=dim,
        channel_mult=",".join(map(str, shape["multiples"])),
        xf_width=width,
        clip_emb_mult=tokens,
        attention_resolutions=",".join(str(size >> k) for k in levels),
        use_scale_shift_norm=True,
        resblock_updown=True,
        learn_sigma=True,
        use_plm=True,
        clip_emb_type="image",
    )
    h.ignored(
        "text_drop",
        "clip_emb_drop",
        "num_heads",
        "num_heads_upsample",
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
    chain = Chain(ImageDiffusionConfig(), clamp(1.0))
    return Found(
        where,
        decoder_experiment(size, dim, tokens, width, unet, 50, chain),
        decoder_map.karlo,
        lambda: state,
        ParentSizes(dim, dim),
    )


def _upsampler(state: State, where: str, low: int, groups: int) -> Found:
    shape, levels = unet_shape(state, "model_first_steps.", where)
    if levels:
        raise UserError(f"{where}: has attention; no upsampler of Karlo's has")
    unet = ConvUNetConfig(dropout=0.0, norm_groups=groups, **shape)
    last = any(name.startswith("model_last_step.") for name in state)
    chain = Chain(ImageDiffusionConfig(variance="fixed_small"), clamp(1.0))
    experiment = upsampler_experiment(4 * low, low, last, unet, chain)
    return Found(where, experiment, upsampler_map.karlo, lambda: state)


def _other(kind: str, state: State, where: str) -> list[Found]:
    what = {"glide": "GLIDE's", "dalle2": "dalle2-pytorch's"}[kind]
    raise UserError(f"{where}: is {what} network, which this command cannot import yet")


def unet_shape(state: State, prefix: str, where: str) -> tuple[dict[str, Any], list[int]]:
    """The shape of a U-Net in guided diffusion's layout, by its tensors' names and shapes.

    Returns:
        Channels, blocks and multiples, and the levels with attention.
    """
    inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    channels = _shape(inner, "input_blocks.0.0.weight", where, 4)[0]
    inputs = {int(k.split(".")[1]) for k in inner if k.startswith("input_blocks.")}
    ups = {
        k.split(".")[1]
        for k in inner
        if k.startswith("output_blocks.")
        and k.split(".")[2] != "0"
        and k.split(".")[3] == "in_layers"
    }
    levels = len(ups) + 1
    if len(inputs) % levels or len(inputs) // levels < 2 or not channels:
        raise UserError(f"{where}: its input_blocks make no U-Net of {levels} levels")
    per = len(inputs) // levels
    firsts = [1 + level * per for level in range(levels)]
    name = "input_blocks.{}.0.out_layers.3.weight"
    widths = [_shape(inner, name.format(k), where, 4)[0] for k in firsts]
    rows = _shape(inner, "input_blocks.1.0.emb_layers.1.weight", where)[0]
    shape = {
        "channels": channels,
        "multiples": [w // channels for w in widths],
        "blocks": per - 1,
        "time": "additive" if rows == widths[0] else "scale_shift",
    }
    return shape, [n for n, k in enumerate(firsts) if f"input_blocks.{k}.1.qkv.weight" in inner]


def _shape(state: State, name: str, where: str, ndim: int = 2) -> tuple[int, ...]:
    if name not in state or state[name].ndim != ndim:
        raise UserError(f"{where}: {name} is missing or misshapen; fetch the file again")
    return tuple(state[name].shape)
