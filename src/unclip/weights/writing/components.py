"""A stage of ours as components of a diffusers pipeline: classes, files and weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unclip.stages.row import CLIP, DECODER, PRIOR, UPSAMPLER
from unclip.weights.maps import clip as clip_map
from unclip.weights.maps import decoder as decoder_map
from unclip.weights.maps import prior as prior_map
from unclip.weights.maps import upsampler as upsampler_map
from unclip.weights.maps.rules import to_theirs
from unclip.weights.writing import clip_files, configs
from unclip.weights.writing.stages import Stage

DIFFUSERS, TRANSFORMERS = "diffusers", "transformers"
TEXT_PROJ = "diffusers.pipelines.deprecated.unclip.text_proj"
"""Where UnCLIPTextProjModel is since diffusers 0.34; before it was "unclip"."""


class Component(NamedTuple):
    """A folder of the pipeline without its weights."""

    library: str  # of its class
    cls: str
    files: dict[str, Any]  # by name: an object of JSON, or text


Written = dict[str, tuple[Component, dict[str, Tensor]]]
"""Components by folder, with their weights."""


def components(stage: Stage, net: Any, weights: dict[str, Tensor]) -> Written:
    """What a stage becomes; ``net`` is its network on "meta".

    Raises:
        UserError: a tensor without a name in their layout.
    """
    into = {CLIP: _clip, PRIOR: _prior, DECODER: _decoder, UPSAMPLER: _upsampler}
    return into[stage.kind](stage, net, weights)


def _config(library: str, cls: str, values: configs.Values) -> Component:
    return Component(library, cls, {"config.json": values})


def _clip(stage: Stage, net: Any, weights: dict[str, Tensor]) -> Written:
    model, imported = stage.experiment.model, stage.imported
    theirs = stage.as_read(to_theirs(weights, clip_map.transformers()))
    scale = theirs.pop("logit_scale").item()
    text = {k: v for k, v in theirs.items() if k.startswith("text_")}
    dtype = str(text["text_projection.weight"].dtype).removeprefix("torch.")
    of_text = configs.text_encoder(model, scale, dtype, imported.get("text_encoder"))
    cls = "CLIPTextModelWithProjection"
    found: Written = {
        "text_encoder": (_config(TRANSFORMERS, cls, of_text), text),
        "tokenizer": (Component(TRANSFORMERS, "CLIPTokenizer", clip_files.tokenizer(model)), {}),
    }
    if model.vision == "none":
        return found
    of_image = configs.image_encoder(model, dtype, imported.get("image_encoder"))
    vision = {k: v for k, v in theirs.items() if k not in text}
    cls, beside = "CLIPVisionModelWithProjection", clip_files.image_processor(model)
    return found | {
        "image_encoder": (_config(TRANSFORMERS, cls, of_image), vision),
        "feature_extractor": (Component(TRANSFORMERS, "CLIPImageProcessor", beside), {}),
    }


def _prior(stage: Stage, net: Any, weights: dict[str, Tensor]) -> Written:
    values = configs.prior(stage.experiment.model, stage.imported.get("prior"))
    state = stage.as_read(prior_map.to_diffusers(net, weights))
    return {
        "prior": (_config(DIFFUSERS, "PriorTransformer", values), state),
        **_scheduler(stage, "prior_scheduler"),
    }


def _decoder(stage: Stage, net: Any, weights: dict[str, Tensor]) -> Written:
    model, imported = stage.experiment.model, stage.imported
    if model.null_z_i == "zeros":
        weights = weights | {"null_z_i": torch.zeros_like(weights["z_i_to_time.weight"][0])}
    states = _by_component(stage.as_read(to_theirs(weights, decoder_map.diffusers(net))))
    unet = configs.decoder(model, imported.get("decoder"))
    conditions = configs.text_proj(model, imported.get("text_proj"))
    return {
        "decoder": (_config(DIFFUSERS, "UNet2DConditionModel", unet), states["decoder"]),
        "text_proj": (_config(TEXT_PROJ, "UnCLIPTextProjModel", conditions), states["text_proj"]),
        **_scheduler(stage, "decoder_scheduler"),
    }


def _upsampler(stage: Stage, net: Any, weights: dict[str, Tensor]) -> Written:
    """Both networks of the pipeline; they are one where ours has none for the last step."""
    model, learns = stage.experiment.model, stage.experiment.diffusion.learns_variance
    states = _by_component(stage.as_read(to_theirs(weights, upsampler_map.diffusers(net))))
    states.setdefault("super_res_last", states["super_res_first"])
    found = _scheduler(stage, "super_res_scheduler")
    for name, state in states.items():
        values = configs.upsampler(model, learns, stage.imported.get(name))
        found[name] = (_config(DIFFUSERS, "UNet2DModel", values), state)
    return found


def _scheduler(stage: Stage, name: str) -> Written:
    experiment = stage.experiment
    values = configs.scheduler(experiment.diffusion, experiment.sampler, stage.imported.get(name))
    files = {"scheduler_config.json": values}
    return {name: (Component(DIFFUSERS, "UnCLIPScheduler", files), {})}


def _by_component(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Of names that begin with their component's and a dot."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        component, _, rest = name.partition(".")
        found.setdefault(component, {})[rest] = tensor
    return found
