"""The component folders of diffusers' pipelines: Karlo's, its image variations, Kandinsky's priors.

What a folder holds is told by the class that its configuration names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unclip.common.errors import UserError
from unclip.diffusion.config import GuidedSamplerConfig
from unclip.nn.config import ConvUNetConfig, TextEncoderConfig, UNetConfig
from unclip.stages.decoder.config import DecoderConfig, DecoderExperiment
from unclip.stages.diffusion_prior.config import (
    DiffusionPriorConfig,
    DiffusionPriorExperiment,
    PriorSamplerConfig,
)
from unclip.stages.experiment import ParentSizes
from unclip.stages.upsampler.config import (
    UpsamplerConfig,
    UpsamplerExperiment,
    UpsamplerSamplerConfig,
)
from unclip.weights.clips import from_transformers
from unclip.weights.found import Found
from unclip.weights.maps import decoder as decoder_map
from unclip.weights.maps import prior as prior_map
from unclip.weights.maps import upsampler as upsampler_map
from unclip.weights.reading.folders import Source
from unclip.weights.settings import Settings, scheduler

PRIOR, DECODER, TEXT_PROJ, UPSAMPLER = (
    "PriorTransformer",
    "UNet2DConditionModel",
    "UnCLIPTextProjModel",
    "UNet2DModel",
)
CLIPS = {
    "CLIPTextModelWithProjection": "text",
    "CLIPVisionModelWithProjection": "vision",
    "CLIPModel": "both",
}
_BESIDE = ("CLIPTokenizer", "CLIPTokenizerFast", "CLIPImageProcessor", "CLIPFeatureExtractor")
_CHAINS: dict[str, dict[str, Any]] = {  # as published, where a component comes without its pipeline
    PRIOR: {"prediction_type": "sample", "clip_sample_range": 5.0},
    DECODER: {"variance_type": "learned_range"},
    UPSAMPLER: {},
}
_DOWN = {"ResnetDownsampleBlock2D": False, "SimpleCrossAttnDownBlock2D": True}
_UP = {"ResnetUpsampleBlock2D": False, "SimpleCrossAttnUpBlock2D": True}


class Components:
    """The folders of a source by what they hold, and the pipeline's table of names."""

    def __init__(self, source: Source):
        self.source = source
        self.configs: dict[str, dict[str, Any]] = {}
        for folder in source.folders():
            name = f"{folder}/config.json" if folder else "config.json"
            if name in source.names:
                self.configs[folder] = source.json(name)
        self.index: dict[str, Any] = {}
        if "model_index.json" in source.names:
            self.index = source.json("model_index.json")

    def of(self, cls: str) -> list[str]:
        """The folders of a class."""
        return [folder for folder, config in self.configs.items() if class_of(config) == cls]

    def settings(self, folder: str) -> Settings:
        """The configuration of a folder."""
        name = f"{folder}/config.json" if folder else "config.json"
        return Settings(self.configs[folder], self.source.where(name))

    def check(self) -> None:
        """Refuse a pipeline of which a component is missing, or that is of another kind.

        The CLIP may come from elsewhere.
        """
        for folder, entry in self.index.items():
            cls = entry[-1] if isinstance(entry, list) and entry else None
            where = self.source.where("model_index.json")
            if cls is None or cls in _BESIDE or cls in CLIPS:
                continue
            if isinstance(cls, str) and cls.endswith("Scheduler"):
                file = f"{folder}/scheduler_config.json"
            elif cls in (PRIOR, DECODER, TEXT_PROJ, UPSAMPLER):
                file = f"{folder}/config.json"
            else:
                raise UserError(
                    f"{where}: {folder}={str(cls)[:60]}: no stage of unclip can hold that"
                )
            if file not in self.source.names:
                raise UserError(f"{self.source.where(file)}: is missing; fetch the folder again")
        if not any(
            class_of(c) in (PRIOR, DECODER, UPSAMPLER, TEXT_PROJ, *CLIPS)
            for c in self.configs.values()
        ):
            known = ", ".join(sorted({str(class_of(c))[:40] for c in self.configs.values()}))
            raise UserError(
                f"{self.source.label}: holds {known or 'nothing known'}, which is no "
                "stage of unclip"
            )

    def chain(self, cls: str, folder: str) -> Any:
        """The chain of a component: of the scheduler named after it, or as published."""
        stem = "super_res" if cls == UPSAMPLER else (folder or "prior")
        for name in (f"{stem}_scheduler/scheduler_config.json", "scheduler/scheduler_config.json"):
            if name in self.source.names:
                return scheduler(
                    self.source.json(name), self.source.where(name), image=cls != PRIOR
                )
        return scheduler(_CHAINS[cls], self.source.label, image=cls != PRIOR)


def class_of(config: dict[str, Any]) -> str | None:
    """The class that a configuration names: diffusers' or transformers'."""
    listed = config.get("architectures")
    named = config.get("_class_name") or (listed[0] if isinstance(listed, list) and listed else "")
    by_type = {
        "clip_text_model": "CLIPTextModelWithProjection",
        "clip": "CLIPModel",
        "clip_vision_model": "CLIPVisionModelWithProjection",
    }
    return named or by_type.get(config.get("model_type", ""))


def find(source: Source, *, half: bool) -> list[Found]:
    """The stages in a folder of components, or in the folder of one."""
    parts = Components(source)
    parts.check()
    found = []
    clips = {kind: parts.of(cls) for cls, kind in CLIPS.items()}
    if any(clips.values()):
        found.append(from_transformers(source, clips, parts.configs, half=half))
    for cls, read in ((PRIOR, _prior), (DECODER, _decoder), (UPSAMPLER, _upsampler)):
        folders = parts.of(cls)
        if len(folders) > (2 if cls == UPSAMPLER else 1):
            raise UserError(f"{source.label}: has {len(folders)} of {cls}; give one of them")
        if folders:
            found.append(read(parts, folders, half))
    return found


def _prior(parts: Components, folders: list[str], half: bool) -> Found:
    folder = folders[0]
    s = parts.settings(folder)
    heads = s.get("num_attention_heads", int, 32)
    dim = s.get("embedding_dim", int, 768)
    context = s.get("num_embeddings", int, 77)
    width = heads * s.get("attention_head_dim", int, 64)
    layers, dropout = s.get("num_layers", int, 20), s.get("dropout", float, 0.0)
    s.fixed(
        additional_embeddings=4,
        time_embed_act_fn="silu",
        norm_in_type=None,
        embedding_proj_norm_type=None,
        encoder_hid_proj_type="linear",
        added_emb_type="prd",
        time_embed_dim=(None, width),
        embedding_proj_dim=(None, dim),
        clip_embed_dim=(None, dim),
    )
    s.finish()
    chain = parts.chain(PRIOR, folder)
    return Found(
        parts.source.where(folder),
        prior_experiment(dim, context, width, layers, heads, dropout, chain),
        prior_map.diffusers,
        lambda: parts.source.state(folder, half=half),
        ParentSizes(dim, dim, context),
    )


def prior_experiment(
    dim: int, context: int, width: int, layers: int, heads: int, dropout: float, chain: Any
) -> DiffusionPriorExperiment:
    """Karlo's kind of prior; its token features are as wide as its embeddings."""
    model = DiffusionPriorConfig(
        embed_dim=dim,
        embeddings="raw",
        caption="clip",
        clip_text_width=dim,
        context=context,
        width=width,
        layers=layers,
        heads=heads,
        dropout=dropout,
        standardise=True,
        null_text="caption",
    )
    sampler = PriorSamplerConfig(
        sampler="ddpm", steps=25, guidance=4.0, candidates=1, **chain.sampler
    )
    return DiffusionPriorExperiment(model=model, diffusion=chain.diffusion, sampler=sampler)


def _shape(s: Settings, down: Mapping[str, bool], up: Mapping[str, bool]) -> dict[str, Any]:
    """Channels, blocks and levels, and the levels with attention."""
    widths = s.get("block_out_channels", list)
    if not widths or any(w % widths[0] for w in widths) or not widths[0]:
        raise s.refusal("block_out_channels", widths)
    kinds = {n: s.take(n) for n in ("down_block_types", "up_block_types")}
    for name, known in (("down_block_types", down), ("up_block_types", up)):
        value = kinds[name]
        if not isinstance(value, list) or any(
            not isinstance(k, str) or k not in known for k in value
        ):
            raise s.refusal(name, value)
        if len(value) != len(widths):
            raise s.refusal(name, value)
    levels = [k for k, kind in enumerate(kinds["down_block_types"]) if down[kind]]
    if [up[k] for k in reversed(kinds["up_block_types"])] != [
        k in levels for k in range(len(widths))
    ]:
        raise s.refusal("up_block_types", kinds["up_block_types"])
    s.fixed(
        act_fn="silu",
        center_input_sample=False,
        downsample_padding=1,
        flip_sin_to_cos=True,
        freq_shift=0,
        mid_block_scale_factor=1,
        norm_eps=1e-5,
        time_embedding_type="positional",
    )
    return {
        "levels": levels,
        "channels": widths[0],
        "multiples": [w // widths[0] for w in widths],
        "blocks": s.get("layers_per_block", int),
        "dropout": s.get("dropout", float, 0.0),
        "norm_groups": s.get("norm_num_groups", int, 32),
        "time": s.choice(
            "resnet_time_scale_shift",
            {"scale_shift": "scale_shift", "default": "additive"},
            "default",
        ),
    }


def _decoder(parts: Components, folders: list[str], half: bool) -> Found:
    folder, source = folders[0], parts.source
    s = parts.settings(folder)
    shape = _shape(s, _DOWN, _UP)
    size, width = s.get("sample_size", int), s.get("cross_attention_dim", int)
    chain = parts.chain(DECODER, folder)
    s.fixed(
        in_channels=3,
        out_channels=6 if chain.diffusion.learns_variance else 3,
        class_embed_type="identity",
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        conv_in_kernel=3,
        conv_out_kernel=3,
        resnet_out_scale_factor=1.0,
        addition_embed_type_num_heads=64,
        attention_type="default",
        transformer_layers_per_block=1,
    )
    head = s.get("attention_head_dim", int)
    s.finish()
    if not (projections := parts.of(TEXT_PROJ)):
        raise UserError(
            f"{source.label}: {TEXT_PROJ} (the folder text_proj) is missing; a decoder needs it"
        )
    p = parts.settings(projections[0])
    tokens, dim = p.get("clip_extra_context_tokens", int, 4), p.get("clip_embeddings_dim", int, 768)
    p.fixed(time_embed_dim=4 * shape["channels"], cross_attention_dim=width)
    p.finish()
    levels = shape.pop("levels")
    unet = UNetConfig(attention=[size >> k for k in levels], head_channels=head, **shape)

    def state() -> dict[str, Any]:
        pairs = (("decoder", folder), ("text_proj", projections[0]))
        return {f"{n}.{k}": v for n, f in pairs for k, v in source.state(f, half=half).items()}

    return Found(
        source.where(folder),
        decoder_experiment(size, dim, tokens, width, unet, 25, chain),
        decoder_map.diffusers,
        state,
        ParentSizes(dim, dim),
    )


def decoder_experiment(
    size: int, dim: int, tokens: int, width: int, unet: UNetConfig, steps: int, chain: Any
) -> DecoderExperiment:
    """Karlo's kind of decoder."""
    model = DecoderConfig(
        image_size=size,
        embed_dim=dim,
        embeddings="raw",
        clip_tokens=tokens,
        caption="clip",
        clip_text_width=dim,
        context_mask=True,
        null_text="caption",
        null_z_i="learned",
        unet=unet,
        text=TextEncoderConfig(width=width),
    )
    sampler = GuidedSamplerConfig(sampler="ddpm", steps=steps, guidance=8.0, **chain.sampler)
    return DecoderExperiment(model=model, diffusion=chain.diffusion, sampler=sampler)


def _upsampler(parts: Components, folders: list[str], half: bool) -> Found:
    source = parts.source
    first, *last = sorted(folders, key=lambda f: (f.endswith("last"), f))
    each = [_upsampler_shape(parts, folder) for folder in folders]
    if each[0] != each[-1]:
        raise UserError(
            f"{source.where(last[0])}: config.json: differs from that of {first}; both "
            "must be of one shape"
        )
    size, shape = each[0]
    chain = parts.chain(UPSAMPLER, first)
    if chain.diffusion.learns_variance:
        raise UserError(f"{source.where(first)}: has no output for a learned variance")
    decoders = parts.of(DECODER)
    low = parts.settings(decoders[0]).get("sample_size", int) if decoders else size // 4

    def state() -> dict[str, Any]:
        pairs = [("super_res_first", first), *(("super_res_last", name) for name in last)]
        return {f"{n}.{k}": v for n, f in pairs for k, v in source.state(f, half=half).items()}

    return Found(
        source.where(first),
        upsampler_experiment(size, low, bool(last), ConvUNetConfig(**shape), chain),
        upsampler_map.diffusers,
        state,
    )


def _upsampler_shape(parts: Components, folder: str) -> tuple[int, dict[str, Any]]:
    s = parts.settings(folder)
    down, up = ({k: v for k, v in kinds.items() if not v} for kinds in (_DOWN, _UP))
    shape = _shape(s, down, up)
    del shape["levels"]
    size = s.get("sample_size", int)
    s.fixed(
        in_channels=6,
        out_channels=3,
        add_attention=False,
        mid_block_type="UNetMidBlock2D",
        downsample_type="conv",
        upsample_type="conv",
    )
    s.ignored("attention_head_dim", "num_train_timesteps")
    s.finish()
    return size, shape


def upsampler_experiment(
    size: int, low: int, last: bool, unet: ConvUNetConfig, chain: Any
) -> UpsamplerExperiment:
    """Karlo's kind of upsampler."""
    model = UpsamplerConfig(image_size=size, low_size=low, last_step=last, unet=unet)
    sampler = UpsamplerSamplerConfig(sampler="ddpm", steps=7, **chain.sampler)
    return UpsamplerExperiment(model=model, diffusion=chain.diffusion, sampler=sampler)
