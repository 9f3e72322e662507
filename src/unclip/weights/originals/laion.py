"""LAION's prior, of dalle2-pytorch: ``latest.pth`` beside ``prior_config.json``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unclip.common.errors import UserError
from unclip.diffusion.config import INNER, DiffusionConfig, ScheduleKind
from unclip.diffusion.schedules import full_schedule
from unclip.stages._prior.config import CandidatesConfig
from unclip.stages.experiment import ParentSizes
from unclip.stages.laion_prior.config import LaionPriorConfig, LaionPriorExperiment
from unclip.weights.found import Found
from unclip.weights.maps.dalle2_prior import RULES
from unclip.weights.originals.unet import State, shape_of
from unclip.weights.settings import Settings, clamp

CLOSE = 1e-5  # float32 tables of a schedule against exact ones
_SCHEDULES: dict[str, ScheduleKind] = {"cosine": "cosine", "linear": "linear"}
OURS = {
    "depth": "layers",
    "dim_head": "head_channels",
    "heads": "heads",
    "ff_mult": "mlp_ratio",
    "norm_in": "norm_in",
    "norm_out": "norm_out",
    "final_proj": "project_out",
    "normformer": "normformer",
    "rotary_emb": "rotary",
}
"""Their name of a value of the network, our field of it."""


def from_dalle2(state: State, where: str, config: Any, config_where: str) -> Found:
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
    experiment = _experiment(config, net, config_where, where)
    _check_tables(state, experiment, where)
    model = experiment.model
    sizes = ParentSizes(model.embed_dim, model.clip_text_width)
    return Found(where, experiment, lambda _: RULES, lambda: net, sizes)


def _one_rotation(net: State, where: str) -> dict[str, Tensor]:
    """``net`` with the rotary frequencies of the first layer alone, which are those of all."""
    tables = [name for name in net if name.endswith(".rotary_emb.freqs")]
    for name in tables[1:]:
        if not torch.equal(net.pop(name), net[tables[0]]):
            raise UserError(f"{where}: {name} differs from {tables[0]}; only one table is read")
    return net


def _experiment(content: Any, net: State, where: str, weights: str) -> LaionPriorExperiment:
    prior = content.get("prior") if isinstance(content, dict) else None
    inner = prior.get("net") if isinstance(prior, dict) else None
    if not isinstance(prior, dict) or not isinstance(inner, dict):
        raise UserError(
            f"{where}: has no section prior.net; give dalle2-pytorch's prior_config.json"
        )
    table = shape_of(net, "net.to_time_embeds.0.weight", weights)[0]
    model = _model(Settings(inner, where, "prior.net."), net, table, weights)
    s = Settings({k: v for k, v in prior.items() if k != "net"}, where, "prior.")
    if (steps := s.get("timesteps", int, 1000)) != table:
        raise UserError(
            f"{where}: prior.timesteps={steps}: the weights have a table of {table} timesteps"
        )
    x0 = s.get("predict_x_start", bool, True)
    diffusion = DiffusionConfig(
        steps=steps,
        schedule=s.choice("beta_schedule", _SCHEDULES, "cosine"),
        prediction="v" if s.get("predict_v", bool, False) else "x0" if x0 else "eps",
    )
    # Theirs, scaled, is clamped to [-1, 1] unless x_0 is what the network predicts.
    sampler = CandidatesConfig(**_chain(s, steps, where), **({} if x0 else clamp(1.0)))
    both = s.get("cond_drop_prob", float, 0.0, most=1)
    dim = model.embed_dim or 1
    if not abs((scale := s.given("image_embed_scale", float, dim**0.5)) / dim**0.5 - 1) < CLOSE:
        raise UserError(
            f"{where}: prior.image_embed_scale={scale}: only the root of the dimension, "
            f"{dim**0.5:g}, can be read"
        )
    drops = {
        ours: s.given(theirs, float, both, most=1)
        for theirs, ours in (
            ("text_cond_drop_prob", "drop_text"),
            ("image_cond_drop_prob", "drop_x_t"),
        )
    }
    s.fixed(
        image_embed_dim=(None, model.embed_dim),
        condition_on_text_encodings=True,
        sampling_clamp_l2norm=False,
        init_image_embed_l2norm=False,
        training_clamp_l2norm=False,
    )
    s.ignored("clip", "clip_adapter_overrides", "image_channels", "image_size", "loss_type")
    s.ignored("sampling_final_clamp_l2norm")
    s.finish()
    experiment = LaionPriorExperiment(model=model, diffusion=diffusion, sampler=sampler, **drops)
    try:
        experiment.model.validate()
        experiment.validate()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return experiment


def _model(s: Settings, net: State, timesteps: int, where: str) -> LaionPriorConfig:
    """The network, as its tensors tell it; what ``prior.net`` says must be the same."""
    trunk = "net.causal_transformer"
    layer = f"{trunk}.layers.0"
    dim: int = max(1, shape_of(net, "net.learned_query", where, 1)[0])
    words = shape_of(net, "net.null_text_encodings", where, 3)[1]
    head = max(1, shape_of(net, f"{layer}.0.to_kv.weight", where)[0] // 2)
    told: dict[str, Any] = {
        "dim": dim,
        "depth": len({k.split(".")[3] for k in net if k.startswith(f"{trunk}.layers.")}),
        "dim_head": head,
        "heads": shape_of(net, f"{layer}.0.to_q.weight", where)[0] // head,
        "ff_mult": shape_of(net, f"{layer}.1.1.weight", where)[0] // (2 * dim),
        "norm_in": f"{trunk}.init_norm.g" in net,
        "norm_out": f"{trunk}.norm.g" in net,
        "final_proj": f"{trunk}.project_out.weight" in net,
        "normformer": f"{layer}.1.3.g" in net,
        "rotary_emb": any(name.endswith(".rotary_emb.freqs") for name in net),
    }
    s.fixed(**told, max_text_len=words)
    s.fixed(num_time_embeds=1, num_image_embeds=1, num_text_embeds=1, self_cond=False)
    s.fixed(num_timesteps=timesteps)
    dropout = s.share("ff_dropout", 0.0)
    s.ignored("attn_dropout")
    s.finish()
    return LaionPriorConfig(
        embed_dim=dim,
        embeddings="unit",
        clip_text_width=dim,
        context=words,
        dropout=dropout,
        **{OURS[name]: value for name, value in told.items() if name in OURS},
    )


def _chain(s: Settings, steps: int, where: str) -> dict[str, Any]:
    """Ancestral over the whole chain, or their DDIM: with all noise, and one step less than said.

    Its last evaluation is at the second of the timesteps it counts, from which x_0 is taken.
    """
    sampled = s.given("sample_timesteps", int, steps)
    if sampled == steps:
        return {"sampler": "ddpm", "steps": steps}
    if not 3 <= sampled < steps:
        raise UserError(
            f"{where}: prior.sample_timesteps={sampled}: must be null, or in [3, {steps}]"
        )
    return {"sampler": "ddim", "steps": f"{INNER}{sampled - 1}", "eta": 1.0}


def _check_tables(state: State, experiment: LaionPriorExperiment, where: str) -> None:
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
