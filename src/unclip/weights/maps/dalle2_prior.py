"""Names of dalle2-pytorch's prior, in whose checkpoints LAION published theirs."""

from __future__ import annotations

from unclip.weights.maps.rules import DROP_FIRST, Rule, of_one

RULES = [
    Rule("net.learned_query", "query"),
    Rule("net.null_text_encodings", "null_words", DROP_FIRST),
    Rule("net.null_text_embeds", "null_z_t", of_one(lambda x: x[0, 0], lambda x: x[None, None])),
    Rule("net.null_image_embed", "null_x_t", DROP_FIRST),
    Rule("net.to_time_embeds.0.weight", "time.weight"),
    *(
        Rule(f"net.causal_transformer.{theirs}", ours)
        for theirs, ours in {
            "rel_pos_bias.relative_attention_bias.weight": "bias.table.weight",
            "layers.0.0.rotary_emb.freqs": "frequencies",  # of all layers
            "init_norm.g": "norm_in.weight",
            "norm.g": "norm.weight",
            "project_out.weight": "out.weight",
        }.items()
    ),
    *(
        Rule(f"net.causal_transformer.layers.{{L}}.{theirs}", f"blocks.{{L}}.{ours}")
        for theirs, ours in {
            "0.norm.g": "attention.norm.weight",
            "0.to_q.weight": "attention.q.weight",
            "0.to_kv.weight": "attention.kv.weight",
            "0.null_kv": "attention.null_kv",
            "0.to_out.0.weight": "attention.out.weight",
            "0.to_out.1.g": "attention.out_norm.weight",
            "1.0.g": "mlp_norm.weight",
            "1.1.weight": "mlp_in.weight",
            "1.3.g": "hidden_norm.weight",
            "1.5.weight": "mlp_out.weight",
        }.items()
    ),
]
"""Of `LaionPrior`, for the entries ``net.*`` of ``model`` in a checkpoint of its prior trainer.

All layers have the same rotary frequencies, of which `unclip.weights.dalle2_prior` leaves the
first's.
"""
