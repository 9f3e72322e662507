"""LAION's prior, of dalle2-pytorch: ``latest.pth`` beside ``prior_config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unclip.common.errors import UserError
from unclip.common.fields import as_dataclass
from unclip.diffusion.config import INNER
from unclip.diffusion.schedules import full_schedule
from unclip.stages.experiment import ParentSizes
from unclip.stages.laion_prior.config import LaionPriorExperiment
from unclip.weights.found import Found
from unclip.weights.maps.dalle2_prior import RULES
from unclip.weights.settings import clamp

CLOSE = 1e-5  # float32 tables of a schedule against exact ones

# Their name of a value, our key of it. What is absent has their default, the third.
MODEL = {
    "dim": ("model.embed_dim", None),
    "depth": ("model.layers", None),
    "dim_head": ("model.head_channels", 64),
    "heads": ("model.heads", 8),
    "ff_mult": ("model.mlp_ratio", 4),
    "ff_dropout": ("model.dropout", 0.0),
    "norm_in": ("model.norm_in", False),
    "norm_out": ("model.norm_out", True),
    "final_proj": ("model.project_out", True),
    "normformer": ("model.normformer", False),
    "rotary_emb": ("model.rotary", True),
    "num_timesteps": ("diffusion.steps", None),
}
ONE_VALUE = {  # values that the network would have to be another for
    "net.num_time_embeds": 1,
    "net.num_image_embeds": 1,
    "net.num_text_embeds": 1,
    "net.self_cond": False,
    "condition_on_text_encodings": True,
    "sampling_clamp_l2norm": False,
    "init_image_embed_l2norm": False,
    "training_clamp_l2norm": False,
}
READ = {  # in other ways, or of no consequence for the weights
    *("clip", "net", "image_embed_dim", "image_size", "image_channels", "timesteps"),
    *("sample_timesteps", "cond_drop_prob", "text_cond_drop_prob", "image_cond_drop_prob"),
    *("loss_type", "predict_x_start", "predict_v", "beta_schedule", "image_embed_scale"),
    *("sampling_final_clamp_l2norm", "clip_adapter_overrides"),
    *("net.max_text_len", "net.attn_dropout"),
}


def from_dalle2(state: Mapping[str, Tensor], where: str, config: Any, config_where: str) -> Found:
    """LAION's prior of a state dict and the content of its ``prior_config.json``.

    Args:
        state: Of a trainer's checkpoint, or a bare one; names of no use to us are left out.
        where: What errors about it begin with.
        config: Has a section ``prior``.
        config_where: The same of the configuration.

    Raises:
        UserError: a value is one that our network cannot have, or names of the weights are of
            another network.
    """
    for name in state:
        if not name.startswith(("net.", "noise_scheduler.", "clip.")):
            raise UserError(f"{where}: {name} has no place in a prior; it is another network")
    net = _one_rotation({k: v for k, v in state.items() if k.startswith("net.")}, where)
    experiment = _experiment(config, net, config_where)
    _check_tables(state, experiment, where)
    model = experiment.model
    sizes = ParentSizes(model.embed_dim, model.clip_text_width)
    return Found(where, experiment, lambda _: RULES, lambda: net, sizes)


def _one_rotation(net: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """``net`` with the rotary frequencies of the first layer alone, which are those of all."""
    tables = [name for name in net if name.endswith(".rotary_emb.freqs")]
    for name in tables[1:]:
        if not torch.equal(net.pop(name), net[tables[0]]):
            raise UserError(f"{where}: {name} is not {tables[0]}; each layer turns on its own")
    return net


def _experiment(content: Any, net: Mapping[str, Tensor], where: str) -> LaionPriorExperiment:
    prior = content.get("prior") if isinstance(content, dict) else None
    inner = prior.get("net") if isinstance(prior, dict) else None
    if prior is None or not isinstance(inner, dict):
        raise UserError(
            f"{where}: has no section prior.net; give dalle2-pytorch's prior_config.json"
        )
    given = {**prior, **{f"net.{k}": v for k, v in inner.items()}}
    for name, value in given.items():
        inside = name.removeprefix("net.")
        known = name in READ or name in ONE_VALUE or (name != inside and inside in MODEL)
        if not known:
            raise UserError(
                f"{where}: prior.{name}={value!r:.100}: unknown; its meaning is not guessed"
            )
        if name in ONE_VALUE and value != ONE_VALUE[name]:
            raise UserError(
                f"{where}: prior.{name}={value!r:.100}: only {ONE_VALUE[name]} can be read"
            )
    words = net.get("net.null_text_encodings")
    if words is None or words.ndim != 3:
        raise UserError(f"{where}: the weights beside it have no net.null_text_encodings")
    steps, drop = given.get("timesteps", 1000), given.get("cond_drop_prob", 0.0)
    sampled = _or(given.get("sample_timesteps"), steps)
    if sampled == 0:
        raise UserError(f"{where}: prior.sample_timesteps=0: must be null, or 1 or more")
    values: dict[str, Any] = {}
    flat = {key: inner.get(name, default) for name, (key, default) in MODEL.items()}
    flat |= {
        "model.context": words.shape[1],
        "model.clip_text_width": flat["model.embed_dim"],
        "model.embeddings": "unit",
        "diffusion.schedule": given.get("beta_schedule", "cosine"),
        "diffusion.prediction": _prediction(given),
        **_sampler(sampled, steps),
        **_clamp(given),
        "drop_text": _or(given.get("text_cond_drop_prob"), drop),
        "drop_x_t": _or(given.get("image_cond_drop_prob"), drop),
    }
    layers = len({k.split(".")[3] for k in net if k.startswith("net.causal_transformer.layers.")})
    if inner.get("depth") != layers:
        raise UserError(
            f"{where}: prior.net.depth={inner.get('depth')!r:.100}: the weights have {layers} "
            "layers"
        )
    if flat["diffusion.steps"] != steps:
        raise UserError(
            f"{where}: prior.net.num_timesteps={flat['diffusion.steps']}: must be "
            f"prior.timesteps={steps}; a network of continuous time cannot be read"
        )
    for key, value in flat.items():
        *section, last = key.split(".")
        (values.setdefault(section[0], {}) if section else values)[last] = value
    experiment = as_dataclass(LaionPriorExperiment, values, f"{where}: ")
    try:
        experiment.model.validate()
        experiment.validate()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    _check_scale(given, experiment, where)
    return experiment


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _clamp(given: Mapping[str, Any]) -> dict[str, Any]:
    """Their x_0, scaled, is clamped to [-1, 1] unless x_0 is what the network predicts."""
    if given.get("predict_x_start", True):
        return {}
    return {f"sampler.{key}": value for key, value in clamp(1.0).items()}


def _sampler(sampled: Any, steps: Any) -> dict[str, Any]:
    """Ancestral over the whole chain, or their DDIM: with all noise, and one step less than said.

    Its last evaluation is at the second of the timesteps it counts, from which x_0 is taken.
    """
    if type(sampled) is not int or sampled == steps:
        return {"sampler.sampler": "ddpm", "sampler.steps": sampled}
    return {
        "sampler.sampler": "ddim",
        "sampler.steps": f"{INNER}{sampled - 1}",
        "sampler.eta": 1.0,
    }


def _prediction(given: Mapping[str, Any]) -> str:
    if given.get("predict_v", False):
        return "v"
    return "x0" if given.get("predict_x_start", True) else "eps"


def _check_scale(given: Mapping[str, Any], experiment: LaionPriorExperiment, where: str) -> None:
    dim = experiment.model.embed_dim or 0
    if given.get("image_embed_dim", dim) != dim:
        raise UserError(
            f"{where}: prior.image_embed_dim={given['image_embed_dim']}: must be net.dim={dim}"
        )
    scale = given.get("image_embed_scale")
    if scale is not None and type(scale) not in (int, float):
        raise UserError(f"{where}: prior.image_embed_scale={scale!r:.100}: must be a number")
    if scale is not None and not abs(scale / dim**0.5 - 1) < CLOSE:
        raise UserError(
            f"{where}: prior.image_embed_scale={scale}: only the root of the dimension, "
            f"{dim**0.5:g}, can be read"
        )


def _check_tables(
    state: Mapping[str, Tensor], experiment: LaionPriorExperiment, where: str
) -> None:
    """The weights' own noise schedule is the one that ours would have."""
    name = "noise_scheduler.alphas_cumprod"
    found, exact = state.get(name), full_schedule(experiment.diffusion).alpha_bar
    if found is not None and (
        found.shape != exact.shape or not torch.allclose(found.double(), exact, atol=CLOSE, rtol=0)
    ):
        raise UserError(
            f"{where}: {name} is not that of diffusion.schedule={experiment.diffusion.schedule} of "
            f"{experiment.diffusion.steps} steps"
        )
