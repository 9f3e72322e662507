"""Shared fixtures: a cascade of minute networks trained for a few steps, once per session."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch.utils import deterministic

from unclip.data.remote import PUBLIC_ONLY

pytest_plugins = ["reader"]  # the folder of a reader of the pages

# `make test-all`: fifty times the examples of `make test`, other ones each time.
settings.register_profile("long", max_examples=5000, deadline=None, print_blob=True)

MINUTE = {
    "clip": """
stage: clip
model: {embed_dim: 16, image_size: 16, patch_size: 8, vision_width: 32, vision_layers: 1,
        vision_head_width: 16, context: 16, text_width: 32, text_layers: 1, text_heads: 2}
""",
    "prior": """
stage: diffusion_prior
model: {caption: clip, width: 32, layers: 1, heads: 2}
sampler: {steps: 4, guidance: 2.0}
ema: {decay: 0.9}
""",
    "pca": """
stage: pca
pca: {components: 6, buckets: 8, reservoir: 64}
""",
    "ar_prior": """
stage: ar_prior
model: {caption: clip, context: 8, width: 32, layers: 1, heads: 2}
ema: {decay: 0.9}
""",
    "decoder": """
stage: decoder
model:
  image_size: 16
  unet: {channels: 32, blocks: 1, multiples: [1, 2], attention: [8], head_channels: 32}
  text: {context: 16, width: 32, layers: 1, heads: 2}
sampler: {steps: 4, guidance: 2.0, clip: static}
ema: {decay: 0.9}
""",
    "upsampler": """
stage: upsampler
model:
  image_size: 32
  low_size: 16
  unet: {channels: 32, blocks: 1, multiples: [1]}
sampler: {steps: 4, clip: static}
data: {crop_fraction: 0.5}
ema: {decay: 0.9}
""",
}
COMMON = """
data: {source: scenes, batch_size: 4, val_samples: 4, scenes: {count: 64}}
optim: {lr: 1.0e-3}
trainer: {max_steps: 3, val_every: 0, sample_every: 0, checkpoint_every: 2, log_every: 1,
          precision: "32", accelerator: cpu}
"""
FITTED = """
data: {source: scenes, batch_size: 4, scenes: {count: 64}}
trainer: {accelerator: cpu}
"""


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Minute networks are faster, and bit-exact, on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_algorithms():
    """A command that samples makes its process deterministic; the next test's is not."""
    mode, fill = torch.get_deterministic_debug_mode(), deterministic.fill_uninitialized_memory
    yield
    torch.set_deterministic_debug_mode(mode)
    setattr(deterministic, "fill_uninitialized_memory", fill)


@pytest.fixture(autouse=True)
def _own_network():
    """A command that reads a stranger's sources keeps its process from private addresses."""
    before = os.environ.get(PUBLIC_ONLY)
    yield
    os.environ.pop(PUBLIC_ONLY, None)
    if before is not None:
        os.environ[PUBLIC_ONLY] = before


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Indexes of the tests' tars stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNCLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def minute_experiment(tmp_path_factory) -> Callable[[str], Path]:
    """Path of a minute experiment of a kind: `minute_experiment("prior")`."""
    folder = tmp_path_factory.mktemp("experiments")
    (folder / "common.yaml").write_text(COMMON)
    for kind, text in MINUTE.items():
        common = FITTED if kind == "pca" else "extends: common.yaml"
        (folder / f"{kind}.yaml").write_text(f"{common}\n{text}")
    return lambda kind: folder / f"{kind}.yaml"


@pytest.fixture(scope="session")
def cascade(tmp_path_factory, minute_experiment) -> Path:
    """A folder with a run of each stage, trained for three steps: a whole pipeline."""
    from unclip.config.load import load_experiment
    from unclip.runs.fit import fit
    from unclip.runs.train import train

    root = tmp_path_factory.mktemp("cascade")
    for kind in MINUTE:
        given = [f"run.dir={root / kind}"]
        if kind not in ("clip", "upsampler"):
            given.append(f"clip={root / 'clip'}")
        if kind == "ar_prior":
            given.append(f"pca={root / 'pca'}")
        make = fit if kind == "pca" else train
        make(load_experiment(str(minute_experiment(kind)), given))
    return root
