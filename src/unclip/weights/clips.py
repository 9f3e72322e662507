"""CLIPs of transformers and of OpenAI as ours: configuration and names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unclip.common.errors import UserError
from unclip.embeddings.tokens import END_OF_TEXT, VOCABULARY
from unclip.stages.clip.config import ClipConfig, ClipExperiment
from unclip.weights.found import Found
from unclip.weights.maps import clip as clip_map
from unclip.weights.reading.folders import Source
from unclip.weights.settings import LAYERS, Settings, section

HALVES = ("text_encoder", "image_encoder")
LOG_SCALE = (
    4.6052  # log 100, at which CLIP's temperature is capped; the halves have no tensor of it
)
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu"}
_NOTES = (
    "architectures", "attention_dropout", "bos_token_id", "dropout", "dtype", "initializer_factor",
    "initializer_range", "logit_scale_init_value", "model_type", "pad_token_id", "torch_dtype",
    "transformers_version",
)  # fmt: skip


def from_transformers(
    source: Source, folders: dict[str, list[str]], configs: dict[str, Any], *, half: bool
) -> Found:
    """A CLIPModel, or a text half with or without the image half.

    An image half alone lacks the other, which only another source can bring.

    Raises:
        UserError: the halves do not fit, there are several of a kind, or a value is not CLIP's.
    """
    used = folders["both"] or [*folders["text"], *folders["vision"]]
    where = source.where(f"{used[0]}/config.json" if used[0] else "config.json")
    if max(len(each) for each in folders.values()) > 1:
        raise UserError(f"{source.label}: has several CLIPs, {', '.join(used)[:80]}; give one")
    joint, halves, lacks = bool(folders["both"]), [configs[folder] for folder in used], ""
    dim = Settings(halves[0], where).get("projection_dim", int, 512)
    if joint:
        # Files of before transformers 4.26 may have the values that count in a second section.
        named = [(f"{half}_config_dict", f"{half}_config") for half in ("text", "vision")]
        whole = {name: value for name, value in halves[0].items() if value is not None}
        sections = [(section(whole, a, where), section(whole, b, where)) for a, b in named]
        halves = [counts or plain for counts, plain in sections]
    config = ClipConfig(embeddings="raw")
    if joint or folders["text"]:
        config = _config(halves, dim, where, joint)
    else:
        lacks = f"{where}: is the image half of a CLIP; add --clip SOURCE with both halves"
    scale = Settings(halves[0], where).get("logit_scale_init_value", float, LOG_SCALE)

    def state() -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for folder in used:
            found |= source.state(folder, half=half)
        for name in clip_map.IGNORED:
            found.pop(name, None)
        found.setdefault("logit_scale", torch.tensor(scale))
        return found

    return Found(
        source.where(used[0]),
        ClipExperiment(model=config),
        lambda net: clip_map.transformers(),
        state,
        settings=dict(zip(HALVES, halves)),
        places={} if joint else {"vis": source.where(used[-1])},
        lacks=lacks,
    )


def _config(halves: list[dict[str, Any]], dim: int, where: str, joint: bool) -> ClipConfig:
    fields, activation = _text(halves[0], where)
    if len(halves) > 1:
        more, other = _vision(halves[1], where, dim if joint else None, dim)
        if other != activation:
            raise UserError(f"{where}: hidden_act: {activation} in one half, {other} in the other")
        fields |= more
    else:
        fields |= _no_vision()
    return ClipConfig(
        embed_dim=dim, embeddings="raw", quick_gelu=activation == "quick_gelu", **fields
    )


def _text(values: dict[str, Any], where: str) -> tuple[dict[str, Any], str]:
    s = Settings(values, where)
    width = s.get("hidden_size", int, 512)
    fields = {
        "text_width": width,
        "text_layers": s.get("num_hidden_layers", int, 12, most=LAYERS),
        "text_heads": s.get("num_attention_heads", int, 8),
        "context": s.get("max_position_embeddings", int, 77),
    }
    s.fixed(vocab_size=VOCABULARY, intermediate_size=4 * width, layer_norm_eps=1e-5)
    s.fixed(eos_token_id=(END_OF_TEXT, 2))  # transformers takes 2 to mean the highest id
    activation = s.choice("hidden_act", _ACTIVATIONS, "quick_gelu")
    s.ignored("projection_dim", *_NOTES)
    return fields, activation


def _vision(
    values: dict[str, Any], where: str, joint: int | None, dim: int
) -> tuple[dict[str, Any], str]:
    s = Settings(values, where)
    width = s.get("hidden_size", int, 768)
    heads, mlp = s.get("num_attention_heads", int, 12), s.get("intermediate_size", int, 3072)
    if not heads or width % heads:
        raise s.refusal("num_attention_heads", heads)
    fields = {
        "image_size": s.get("image_size", int, 224),
        "patch_size": s.get("patch_size", int, 32),
        "vision_width": width,
        "vision_layers": s.get("num_hidden_layers", int, 12, most=LAYERS),
        "vision_head_width": width // heads,
        "vision_mlp": None if mlp == 4 * width else mlp,
    }
    s.fixed(num_channels=3, layer_norm_eps=1e-5)
    if joint is None:
        s.fixed(projection_dim=dim)
    return fields, s.choice("hidden_act", _ACTIVATIONS, "quick_gelu")


def _no_vision() -> dict[str, Any]:
    small = {"image_size": 224, "patch_size": 224, "vision_width": 64, "vision_layers": 1}
    return {"vision": "none", "vision_head_width": 64, **small}


def is_openai(state: dict[str, Tensor]) -> bool:
    """Whether these are the names of OpenAI's CLIPs, which are open_clip's too."""
    return {"visual.class_embedding", "token_embedding.weight", "text_projection"} <= state.keys()


def from_openai(state: dict[str, Tensor], where: str) -> Found:
    """A ViT by OpenAI: sizes by the shapes of its tensors, 64 channels a head, quick_gelu."""
    state = {k: v for k, v in state.items() if k not in clip_map.OPENAI_IGNORED}
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
        vocabulary, text_width = state["token_embedding.weight"].shape
        mlp = len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"])
        dim, context = state["text_projection"].shape[1], len(state["positional_embedding"])
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"{where}: {error} is missing or misshapen; give OpenAI's ViT") from None
    if vocabulary != VOCABULARY:
        raise UserError(f"{where}: token_embedding.weight has {vocabulary} rows, not {VOCABULARY}")
    config = ClipConfig(
        embed_dim=dim,
        embeddings="raw",
        quick_gelu=True,
        image_size=side * patch,
        patch_size=patch,
        vision_width=width,
        vision_layers=_count(state, "visual.transformer.resblocks."),
        vision_head_width=min(64, width),
        vision_mlp=None if mlp == 4 * width else mlp,
        context=context,
        text_width=text_width,
        text_layers=_count(state, "transformer.resblocks."),
        text_heads=max(1, text_width // 64),
    )
    return Found(
        where,
        ClipExperiment(model=config),
        lambda net: clip_map.openai(list(net.state_dict())),
        lambda: state,
    )


def _count(state: dict[str, Tensor], prefix: str) -> int:
    start = len(prefix.split(".")) - 1
    return len({k.split(".")[start] for k in state if k.startswith(prefix)})
