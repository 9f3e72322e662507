"""The image stages' paper experiments against table 3 of the paper (arXiv 2204.06125)."""

from __future__ import annotations

import pytest

from unclip.common.fields import leaves
from unclip.config.load import load_experiment

ROWS = {
    "model.image_size": (64, 256, 1024),
    "diffusion.steps": (1000, 1000, 1000),
    "diffusion.schedule": ("cosine", "cosine", "linear"),
    "diffusion.prediction": ("eps", "eps", "eps"),
    "sampler.steps": (250, 27, 15),
    "sampler.sampler": ("ddpm", "ddim", "ddim"),
    "data.crop_fraction": (None, 0.25, 0.25),
    "model.unet.channels": (512, 320, 192),
    "model.unet.blocks": (3, 3, 2),
    "model.unet.multiples": ([1, 2, 3, 4], [1, 2, 3, 4], [1, 1, 2, 2, 4, 4]),
    "model.unet.attention": ([32, 16, 8], None, None),
    "model.unet.dropout": (0.1, 0.1, 0.0),
    "model.text.context": (256, None, None),
    "model.text.width": (2048, None, None),
    "model.text.layers": (24, None, None),
    "model.text.heads": (32, None, None),
    "optim.weight_decay": (0.0, 0.0, 0.0),
    "data.batch_size": (2048, 1024, 512),
    "trainer.max_steps": (800_000, 1_000_000, 1_000_000),
    "optim.lr": (1.2e-4, 1.2e-4, 1.0e-4),
    "optim.betas": ([0.9, 0.999],) * 3,
    "optim.eps": (1e-8, 1e-8, 1e-8),
    "ema.decay": (0.9999, 0.9999, 0.9999),
    # Not in the table, but in the text.
    "corruption.kind": (None, "blur", "bsr_light"),
    "drop_z_i": (0.1, None, None),
    "drop_caption": (0.5, None, None),
    "model.clip_tokens": (4, None, None),
    "data.flip": (False, False, False),
}


@pytest.mark.parametrize(
    ("column", "name"),
    [(0, "decoder/paper"), (1, "upsampler/256_paper"), (2, "upsampler/1024_paper")],
)
def test_the_papers_experiments_are_those_of_its_table(column, name):
    found = dict(leaves(load_experiment(name).as_dict()))
    for key, values in ROWS.items():
        assert found.get(key) == values[column], key
