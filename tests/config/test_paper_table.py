"""The paper's experiments, field by field: its own value, or one that docs/experiments.md lists.

Sources: arXiv 2204.06125, table 3 and the text; and what it refers to: GLIDE
(arXiv 2112.10741) for the decoder's shape, CLIP (arXiv 2103.00020) for the CLIP's optimizer.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml

from unclip.common.fields import leaves
from unclip.config.load import load_experiment

DOCS = Path(__file__).parents[2] / "docs" / "experiments.md"
EXPERIMENTS = ("clip/paper", "pca/paper", "prior/ar_paper", "prior/diffusion_paper")
IMAGES = ("decoder/paper", "upsampler/256_paper", "upsampler/1024_paper")

STATED: dict[str, dict[str, Any]] = {
    "clip/paper": {
        "model.embed_dim": 1024,
        "model.image_size": 256,
        "model.vision": "vit",
        "model.patch_size": 16,
        "model.vision_width": 1280,
        "model.vision_layers": 32,
        "model.context": 77,
        "model.text_width": 1024,
        "model.text_layers": 24,
        "optim.lr": 3e-4,
        "optim.betas": [0.9, 0.98],
        "optim.eps": 1e-6,
        "optim.weight_decay": 0.2,
        "optim.sam_rho": 0.1,
    },
    "pca/paper": {"pca.components": 319, "pca.buckets": 1024},
    "prior/ar_paper": {
        "model.codes": 319,
        "model.buckets": 1024,
        "model.context": 384,
        "model.width": 1664,
        "model.layers": 24,
        "model.heads": 26,
        "model.text.context": 256,
        "model.text.width": 2048,
        "model.text.layers": 24,
        "model.text.heads": 32,
        "sampler.dot_percentile": 50,
        "data.batch_size": 4096,
        "trainer.max_steps": 1_000_000,
        "optim.lr": 1.6e-4,
        "optim.betas": [0.9, 0.91],
        "optim.eps": 1e-10,
        "optim.weight_decay": 4e-2,
        "ema.decay": 0.999,
        "drop_text": 0.1,
    },
    "prior/diffusion_paper": {
        "model.context": 256,
        "model.width": 2048,
        "model.layers": 24,
        "model.heads": 32,
        "model.standardise": False,  # but scaled by 17.2
        "diffusion.steps": 1000,
        "diffusion.schedule": "cosine",
        "diffusion.prediction": "x0",
        "sampler.steps": 64,
        "sampler.sampler": "analytic",
        "sampler.candidates": 2,
        "data.batch_size": 4096,
        "trainer.max_steps": 600_000,
        "optim.lr": 1.1e-4,
        "optim.betas": [0.9, 0.96],
        "optim.eps": 1e-6,
        "optim.weight_decay": 6e-2,
        "ema.decay": 0.9999,
        "drop_text": 0.1,
    },
}
TABLE = {  # decoder, 64 to 256, 256 to 1024
    "model.image_size": (64, 256, 1024),
    "model.low_size": (None, 64, 256),
    "diffusion.steps": (1000, 1000, 1000),
    "diffusion.schedule": ("cosine", "cosine", "linear"),
    "diffusion.prediction": ("eps", "eps", "eps"),
    "diffusion.variance": ("learned_range", None, None),
    "sampler.steps": (250, None, 15),
    "sampler.sampler": ("ddpm", "ddim", "ddim"),
    "sampler.guidance": (1.25, None, None),
    "data.crop_fraction": (None, 0.25, 0.25),
    "model.unet.channels": (512, 320, 192),
    "model.unet.blocks": (3, 3, 2),
    "model.unet.multiples": ([1, 2, 3, 4], [1, 2, 3, 4], [1, 1, 2, 2, 4, 4]),
    "model.unet.attention": ([32, 16, 8], [], []),
    "model.unet.head_channels": (64, None, None),
    "model.unet.dropout": (0.1, 0.1, None),
    "model.text.context": (256, None, None),
    "model.text.width": (2048, None, None),
    "model.text.layers": (24, None, None),
    "model.text.heads": (32, None, None),
    "model.unet.time": ("scale_shift",) * 3,
    "model.use_caption": (None, False, False),
    "model.caption": ("bpe", None, None),
    "model.clip_tokens": (4, None, None),
    "model.null_z_i": ("zeros", None, None),
    "embedding": ("image", None, None),
    "drop_z_i": (0.1, None, None),
    "drop_caption": (0.5, None, None),
    "corruption.kind": (None, "blur", "bsr_light"),
    "corruption.kernel": (None, 3, None),
    "corruption.sigma": (None, 0.6, None),
    "data.batch_size": (2048, 1024, 512),
    "trainer.max_steps": (800_000, 1_000_000, 1_000_000),
    "optim.lr": (1.2e-4, 1.2e-4, 1.0e-4),
    "optim.betas": ([0.9, 0.999],) * 3,
    "optim.eps": (1e-8,) * 3,
    "optim.weight_decay": (0.0,) * 3,
    "ema.decay": (0.9999,) * 3,
}
for column, name in enumerate(IMAGES):
    cells = {key: row[column] for key, row in TABLE.items()}
    STATED[name] = {key: value for key, value in cells.items() if value is not None}
for name in STATED:  # all are trained with AdamW, on the paper's own CLIP and PCA
    STATED[name] |= {"optim.name": "adamw", "clip": "clip/paper", "pca": "pca/paper"}

# How a run goes, not what is trained; and what has no effect beside the other fields.
RUN = (
    "about",
    "stage",
    "run.",
    "tracking.",
    "evaluation.",
    "trainer.",
    "data.",
    "init",
    "adapter.",
    "pca.precision",
)
OF_THE_MODEL = ("trainer.max_steps", "trainer.grad_clip", "trainer.precision", "data.batch_size")
OF_THE_MODEL += ("data.crop", "data.flip", "data.crop_fraction")
WITHOUT_EFFECT = {
    "model.embed_dim": None,  # the CLIP's
    "model.embeddings": None,
    "pca.embeddings": None,
    "model.clip_text_width": None,
    "model.vision_stages": [3, 4, 6, 3],  # of a ResNet
    "diffusion.logit_mean": 0.0,
    "diffusion.logit_std": 1.0,
    "diffusion.tables": "float64",
    "pca.max_error": None,
    "model.unet.head_channels": 64,
    "model.use_z_i": True,  # switches of what the paper does not do
    "model.use_caption": True,
    "model.context_mask": False,
    "model.noise_levels": 0,
    "model.last_step": False,
    "model.inpaint": False,
    "model.merges": None,
    "model.low_8_bit": False,
    "sampler.start_scale": 1.0,
    "drop_caption": 0.0,
    "sampler.noise_level": 0,
    "noise_z_i": 0.0,
    "corruption.kernel": 3,  # of a blur, where there is none
    "corruption.sigma": 0.6,
    "sampler.top_k": 0,
    "sampler.top_p": 1.0,
}


def fields(name: str) -> dict[str, Any]:
    """The fields of an experiment that decide what is trained and sampled."""
    found = dict(leaves(load_experiment(name).as_dict()))
    if found.get("sampler.sampler") != "ddim":
        found.pop("sampler.eta", None)
    if found.get("sampler.sampler") == "analytic":
        del found["diffusion.variance"]
    if found.get("model.use_caption") is False:
        own = ("model.text.", "model.tokenizer")
        found = {key: value for key, value in found.items() if not key.startswith(own)}
    if name == "pca/paper":
        found = {key: value for key, value in found.items() if not key.startswith("data.")}
        del found["pca.samples"], found["pca.reservoir"]
    return {
        key: value
        for key, value in found.items()
        if key in OF_THE_MODEL or not key.startswith(RUN)
        if key not in WITHOUT_EFFECT or WITHOUT_EFFECT[key] != value or key in STATED[name]
    }


@functools.cache
def documented() -> dict[tuple[str, str], Any]:
    """The rows of the docs' table: (experiment, field) to value."""
    text = DOCS.read_text().split("## The paper's experiments", 1)[1].split("\n## ", 1)[0]
    found = {}
    for line in text.splitlines():
        if not line.startswith("| `"):
            continue
        key, names, value, _ = (cell.strip() for cell in line.strip("|").split("|"))
        for name in names.split(", "):
            where = [*STATED] if name == "all" else [name]
            for each in where:
                if key.strip("`") in fields(each):
                    found[each, key.strip("`")] = yaml.safe_load(value.strip("`"))
    return found


@pytest.mark.parametrize("name", [*EXPERIMENTS, *IMAGES])
def test_every_field_has_the_papers_value_or_is_in_the_docs(name):
    listed = documented()
    for key, value in fields(name).items():
        if key in STATED[name]:
            assert value == STATED[name][key], key
            assert (name, key) not in listed, f"{key} is the paper's"
        else:
            assert (name, key) in listed, f"{key}={value}: neither the paper's nor in the docs"
            assert value == listed[name, key], key


def test_the_docs_list_no_other_fields():
    for name, key in documented():
        assert key in fields(name), f"{name}: {key}"


@pytest.mark.parametrize("name", [*EXPERIMENTS, *IMAGES])
def test_each_file_says_where_its_departures_are_explained(name):
    file = DOCS.parents[1] / "experiments" / f"{name}.yaml"
    assert "(docs/experiments.md)" in file.read_text().split("\n\n")[0]
