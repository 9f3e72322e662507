"""A cascade of our own with random weights, all of which diffusers' classes can hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from imports import CONTEXT, SIDE, D

from unclip.common import artifacts
from unclip.stages import registry
from unclip.stages.experiment import ParentSizes

OWN = {
    "clip": {
        "model": {
            **{"embed_dim": D, "embeddings": "raw", "image_size": SIDE, "context": CONTEXT},
            **{"patch_size": 8, "vision_width": 16, "vision_layers": 1, "vision_head_width": 8},
            **{"vision_mlp": 40, "text_width": D, "text_layers": 1, "text_heads": 3},
        }
    },
    "diffusion_prior": {
        "model": {
            **{"embed_dim": D, "embeddings": "raw", "caption": "clip", "clip_text_width": D},
            **{"null_text": "caption", "context": CONTEXT, "width": 16, "layers": 1, "heads": 2},
        },
        "sampler": {"sampler": "ddim", "steps": 9, "guidance": 3.5, "candidates": 2},
    },
    "decoder": {
        "model": {
            **{"embed_dim": D, "embeddings": "raw", "caption": "clip", "clip_text_width": D},
            **{"null_text": "caption", "context_mask": True, "clip_tokens": 3, "image_size": 8},
            "unet": {
                **{"channels": 8, "blocks": 2, "multiples": [1, 2, 3], "attention": [8, 2]},
                **{"head_channels": 4, "norm_groups": 2, "dropout": 0.25, "time": "additive"},
            },
            "text": {"width": 20, "heads": 4},
        },
        "sampler": {"sampler": "ddpm", "steps": 7, "clip": "static", "clip_range": 2.0},
    },
    "upsampler": {
        "model": {
            **{"image_size": 16, "low_size": 8},
            "unet": {"channels": 8, "blocks": 1, "multiples": [1, 2], "norm_groups": 4},
        },
        "sampler": {"sampler": "ddpm", "steps": 5, "clip": "static"},
    },
}
"""Of other options than Karlo's."""


def write_own(root: Path) -> Path:
    """Artifacts of `OWN` with random weights, their schedules as diffusers computes them."""
    torch.manual_seed(0)
    sizes, fingerprint = ParentSizes(D, D, CONTEXT), None
    for stage, values in OWN.items():
        row = registry.STAGES[stage]
        config = dataclasses.asdict(row.experiment(stage=stage)) | {"stage": stage}
        for section, fields in values.items():
            inner = config[section]
            for name, value in fields.items():
                inner[name] = inner[name] | value if isinstance(value, dict) else value
        if stage != "clip":
            config["diffusion"]["tables"] = "float32"
        place = root / row.kind
        blank = {"stage": stage, "provenance": {}, "config": config}
        artifacts.export(place, weights={}, **blank)
        experiment = artifacts.describe(place).stored(row.experiment)
        net = row.build_network(experiment, sizes)
        for parameter in net.parameters():
            parameter.data.add_(0.15 * torch.randn_like(parameter))
        weights = (net.model if stage == "clip" else net).state_dict()
        artifacts.export(place, weights=weights, clip_fingerprint=fingerprint, **blank)
        if stage == "clip":
            fingerprint = net.fingerprint()
        if stage == "decoder":
            fingerprint = None  # an upsampler knows no CLIP
    return root
