"""PriorTransformer: the priors of Karlo and Kandinsky."""

from __future__ import annotations

from unclip.stages.experiment import ParentSizes
from unclip.weights.diffusers.components import PRIOR, Components
from unclip.weights.found import Found
from unclip.weights.karlo_experiments import prior_experiment
from unclip.weights.maps import prior as prior_map
from unclip.weights.settings import LAYERS


def read_prior(parts: Components, folders: list[str], half: bool) -> Found:
    """A prior; its scheduler says how x_0 is clamped."""
    folder = folders[0]
    s = parts.settings(folder)
    heads = s.get("num_attention_heads", int, 32)
    dim = s.get("embedding_dim", int, 768)
    context = s.get("num_embeddings", int, 77)
    width = heads * s.get("attention_head_dim", int, 64)
    layers, dropout = s.get("num_layers", int, 20, most=LAYERS), s.share("dropout", 0.0)
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
        settings=parts.settings_of(PRIOR, prior=folder) | parts.pipeline,
    )
