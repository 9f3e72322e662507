"""Every field of an experiment's ``model`` changes the network that is built from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from unclip.common.fields import leaves
from unclip.config.load import load_experiment, merge_overrides
from unclip.stages.experiment import ParentSizes

# Another value for each field; with them, every field of the five networks is covered.
CHANGES: dict[str, dict[str, Any]] = {
    "prior/diffusion_tiny": {
        "model.caption": "bpe",
        "model.context": 16,
        "model.vocabulary": 100,
        "model.width": 64,
        "model.layers": 2,
        "model.heads": 2,
        "model.dropout": 0.3,
        "model.standardise": "true",
    },
    "prior/laion_tiny": {
        "model.context": 16,
        "model.layers": 2,
        "model.heads": 2,
        "model.head_channels": 8,
        "model.mlp_ratio": 2,
        "model.dropout": 0.3,
        "model.norm_in": "true",
        "model.norm_out": "false",
        "model.project_out": "false",
        "model.normformer": "false",
        "model.rotary": "false",
    },
    "prior/ar_tiny": {
        "model.caption": "bpe",
        "model.context": 70,
        "model.width": 64,
        "model.layers": 2,
        "model.heads": 2,
        "model.dropout": 0.3,
        "model.text.context": 16,
        "model.text.vocabulary": 100,
        "model.text.width": 64,
        "model.text.layers": 1,
        "model.text.heads": 2,
    },
    "decoder/tiny": {
        "model.image_size": 64,
        "model.clip_tokens": 3,
        "model.use_z_i": "false",
        "model.use_caption": "false",
        "model.null_z_i": "learned",
        "model.caption": "clip",
        "model.context_mask": "true",
        "model.inpaint": "true",
        "model.unet.channels": 64,
        "model.unet.blocks": 2,
        "model.unet.multiples": "[1, 2]",
        "model.unet.dropout": 0.3,
        "model.unet.norm_groups": 4,
        "model.unet.attention": "[32]",
        "model.unet.head_channels": 16,
        "model.unet.time": "additive",
        "model.text.context": 16,
        "model.text.vocabulary": 100,
        "model.text.width": 32,
        "model.text.layers": 1,
        "model.text.heads": 1,
        "diffusion.variance": "fixed_small",
    },
    "upsampler/tiny": {
        "model.image_size": 128,
        "model.low_size": 32,
        "model.noise_levels": 10,
        "model.enlarge": "bilinear",
        "model.inpaint": "true",
        "model.low_8_bit": "true",
        "model.last_step": "true",
        "model.use_caption": "true",
        "model.unet.attention": "[64]",
        "model.unet.head_channels": 16,
        **{f"model.text.{key}": 16 for key in ("context", "vocabulary", "width")},
        **{f"model.text.{key}": 1 for key in ("layers", "heads")},
        "model.unet.channels": 64,
        "model.unet.blocks": 3,
        "model.unet.multiples": "[1, 3]",
        "model.unet.dropout": 0.3,
        "model.unet.norm_groups": 4,
        "model.unet.time": "additive",
        "diffusion.variance": "fixed_small",
    },
}
ATTENDS = ("model.unet.attention=[64]", "model.unet.head_channels=32")
READS = (*ATTENDS, "model.use_caption=true", "model.text.heads=2")
BPE = ("model.caption=bpe",)
WITH: dict[tuple[str, str], tuple[str, ...]] = {  # what a field needs beside it
    ("prior/diffusion_tiny", "model.vocabulary"): BPE,
    ("prior/diffusion_tiny", "model.context"): BPE,
    **{("prior/ar_tiny", f"model.text.{k}"): BPE for k in ("context", "vocabulary", "width")},
    **{("prior/ar_tiny", f"model.text.{k}"): BPE for k in ("layers", "heads")},
    ("upsampler/tiny", "model.use_caption"): ATTENDS,
    ("upsampler/tiny", "model.unet.head_channels"): ATTENDS,
    ("upsampler/tiny", "model.unet.attention"): ATTENDS[1:],
    **{
        ("upsampler/tiny", f"model.text.{key}"): READS
        for key in ("context", "vocabulary", "width", "layers", "heads")
    },
    ("decoder/tiny", "model.caption"): ("model.context_mask=true",),
    ("decoder/tiny", "model.image_size"): ("model.unet.attention=[32]",),
    ("decoder/tiny", "model.unet.multiples"): ("model.unet.attention=[16]",),
}
# Of parents' sizes, and what the network only reads while it runs (tests/stages/*/test_network.py,
# tests/stages/test_null_text.py).
ELSEWHERE = {
    "model.embeddings",
    "model.null_text",
    "model.tokenizer",
    "model.merges",
    "model.embed_dim",
    "model.clip_text_width",
    "model.codes",
    "model.buckets",
}
AT_RUN_TIME = {
    ("decoder/tiny", "model.context_mask"),
    ("upsampler/tiny", "model.image_size"),
    ("upsampler/tiny", "model.low_size"),
    ("upsampler/tiny", "model.enlarge"),
    ("upsampler/tiny", "model.low_8_bit"),
}
SIZES = ParentSizes(embed_dim=64, text_width=64, context=32, codes=8, buckets=16)


def described(name: str, *words: str) -> list[Any]:
    """The modules and the shapes of the parameters of the network of an experiment."""
    resolved = load_experiment(name, merge_overrides(*([word] for word in words)))
    with torch.device("meta"):
        net: nn.Module = resolved.stage.build_network(resolved.config, SIZES)
    found: list[Any] = [(key, tuple(x.shape)) for key, x in net.state_dict().items()]
    for key, module in net.named_modules():
        heads = getattr(module, "heads", None)
        found.append((key, type(module).__name__, module.extra_repr(), heads))
    return found


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, keys in CHANGES.items() for key in keys]
)
def test_a_field_of_the_model_reaches_its_network(name, key):
    beside = WITH.get((name, key), ())
    if (name, key) in AT_RUN_TIME:
        return
    assert described(name, *beside, f"{key}={CHANGES[name][key]}") != described(name, *beside)


@pytest.mark.parametrize("name", CHANGES)
def test_no_field_is_left_out(name):
    keys = {key for key, _ in leaves(load_experiment(name, []).as_dict()) if key[:6] == "model."}
    assert keys - ELSEWHERE <= CHANGES[name].keys()
