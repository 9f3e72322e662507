"""Names of Karlo's decoder: the U-Net, and how it takes caption and z_i (``caption: clip``)."""

from __future__ import annotations

from unclip.stages.decoder.network import Decoder
from unclip.weights.maps import unet
from unclip.weights.maps.rules import Rule, exchange, prefixed

CONDITIONS = {  # Karlo's name, that of diffusers' UnCLIPTextProjModel, and ours
    ("clip_emb.{w}", "clip_image_embeddings_project_to_time_embeddings.{w}"): "z_i_to_time.{w}",
    ("clip_tok_proj.{w}", "clip_extra_context_tokens_proj.{w}"): "z_i_to_tokens.{w}",
    ("text_feat_proj.{w}", "embedding_proj.{w}"): "z_t_to_time.{w}",
    ("text_seq_proj.0.{w}", "encoder_hidden_states_proj.{w}"): "features_in.{w}",
    ("text_seq_proj.1.{w}", "text_encoder_hidden_states_norm.{w}"): "features_norm.{w}",
    ("cf_param", "learned_classifier_free_guidance_embeddings"): "null_z_i",
}


def karlo(net: Decoder) -> list[Rule]:
    """Rules of ``state_dict`` in ``decoder-ckpt-step=01000000-of-01000000.ckpt``."""
    rules = prefixed(unet.original(net.unet), ours="unet.")
    return prefixed(rules + _conditions(net, 0), theirs="model.")


def diffusers(net: Decoder) -> list[Rule]:
    """Rules of the components' weights, each name with its component's and a dot before it.

    The components are ``decoder`` (UNet2DConditionModel) and ``text_proj`` (UnCLIPTextProjModel).
    """
    rules = prefixed(unet.diffusers(net.unet), theirs="decoder.", ours="unet.")
    return rules + prefixed(_conditions(net, 1), theirs="text_proj.")


def _conditions(net: Decoder, layout: int) -> list[Rule]:
    """The rows of the projection to tokens are ordered (channel, token), ours (token, channel)."""
    to_tokens = exchange(net.config.clip_tokens)
    return [
        Rule(theirs[layout], ours, to_tokens)
        if ours.startswith("z_i_to_tokens")
        else Rule(theirs[layout], ours)
        for theirs, ours in CONDITIONS.items()
    ]
