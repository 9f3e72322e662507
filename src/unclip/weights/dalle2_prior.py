"""Reads a prior of dalle2-pytorch, as LAION published theirs: a checkpoint and its configuration.

`read_dalle2_prior` is what `unclip import` calls for ``latest.pth`` beside ``prior_config.json``.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unclip.common import json_text
from unclip.common.errors import UserError
from unclip.common.fields import as_dataclass
from unclip.diffusion.schedules import full_schedule
from unclip.stages.experiment import ParentSizes
from unclip.stages.laion_prior.config import LaionPriorExperiment
from unclip.stages.laion_prior.network import build_network
from unclip.weights.maps.dalle2_prior import RULES
from unclip.weights.maps.rules import to_ours

HARMLESS = ("builtins.dict", "collections.", "packaging.", "pytorch_warmup.", "torch.optim.")
"""Modules whose objects a trainer's checkpoint holds beside the tensors; none is made."""
MODELS = ("ema_model", "model")  # of a trainer's checkpoint: the averaged one is sampled
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


class Dalle2Prior(NamedTuple):
    """What was read: an experiment of LAION's prior, and its weights under our names."""

    experiment: LaionPriorExperiment  # its ``clip`` is not set
    weights: dict[str, Tensor]  # on the CPU, of the precision of the file


def read_dalle2_prior(checkpoint: Path, config: Path, *, model: str | None = None) -> Dalle2Prior:
    """A checkpoint of the prior's trainer, or a bare state dict, with its ``prior_config.json``.

    Args:
        checkpoint: Pickled; nothing in it is run.
        config: JSON with a section ``prior``.
        model: ``model`` or ``ema_model`` of a trainer's checkpoint; None takes the averaged one.

    Raises:
        UserError: a file is damaged, a value is one that our network cannot have, or names or
            shapes of the weights do not fit.
    """
    state = _state(checkpoint, model)
    net = _one_rotation({k: v for k, v in state.items() if k.startswith("net.")}, str(checkpoint))
    experiment = _experiment(json_text.read_object(config), net, str(config))
    _check_tables(state, experiment, str(checkpoint))
    with torch.device("meta"):
        expected = build_network(experiment, ParentSizes()).state_dict()
    return Dalle2Prior(experiment, to_ours(net, RULES, expected=expected, source=str(checkpoint)))


def _state(path: Path, model: str | None) -> Mapping[str, Tensor]:
    """The state dict; names of no use to us are left out."""
    loaded: Any = load_tensors(path)
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds {type(loaded).__name__}, not a dictionary of tensors")
    trained = [name for name in MODELS if isinstance(loaded.get(name), dict)]
    if model is not None and model not in trained:
        raise UserError(f"{path}: has no {model}; it has {', '.join(trained) or 'neither'}")
    state = loaded[model or trained[0]] if trained else loaded
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{path}: {name} is no tensor; is it a checkpoint of a prior?")
        if not name.startswith(("net.", "noise_scheduler.", "clip.")):
            raise UserError(f"{path}: {name} has no place in a prior; it is another network")
    return state


def load_tensors(path: Path) -> Any:
    """What `torch.save` wrote, objects of the modules `HARMLESS` as empty shells.

    Raises:
        UserError: no such file, not such a file, or an object of another module.
    """
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        for name in unsafe:
            if not name.startswith(HARMLESS):
                raise UserError(f"{path}: holds a {name}, which could run code; it is not read")
        shells: list[Any] = [(_stand_in(name), name) for name in unsafe]
        with torch.serialization.safe_globals(shells):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
        first = reason.strip().split("\n")[0]
        raise UserError(f"{path}: not a checkpoint, or damaged: {first:.200}") from None


class _Shell:
    """In the place of an object of a class that is not imported; forgets what it is given."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _stand_in(name: str) -> Any:
    """What is called in the place of a global of a pickle."""
    return _plain_dict if name == "collections.defaultdict" else type("Shell", (_Shell,), {})


def _plain_dict(*args: Any) -> dict[Any, Any]:
    return {}


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
    sampled = given.get("sample_timesteps") or steps
    values: dict[str, Any] = {}
    flat = {key: inner.get(name, default) for name, (key, default) in MODEL.items()}
    flat |= {
        "model.context": words.shape[1],
        "model.clip_text_width": flat["model.embed_dim"],
        "model.embeddings": "unit",
        "diffusion.schedule": given.get("beta_schedule", "cosine"),
        "diffusion.prediction": _prediction(given),
        "sampler.sampler": "ddim" if sampled != steps else "ddpm",
        "sampler.steps": sampled,
        "drop_text": given.get("text_cond_drop_prob") or drop,
        "drop_x_t": given.get("image_cond_drop_prob") or drop,
    }
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
