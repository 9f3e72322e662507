"""GPT-2's merges go with a network that reads captions by them: it samples and trains elsewhere."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unclip.cli import main
from unclip.common.seeding import SampleNoise
from unclip.stages import registry

MERGES = "#version: 0.2\nh e\n"
TINY = [
    "trainer.max_steps=2",
    "trainer.val_every=2",
    "trainer.accelerator=cpu",
    "data.batch_size=2",
    "model.image_size=32",
    "model.low_size=8",
    "model.use_caption=true",
    "model.unet.attention=[16]",
    "model.unet.multiples=[1,1]",
    "model.unet.channels=8",
    "model.unet.head_channels=8",
    "model.tokenizer=gpt2",
    "model.text.vocabulary=258",
    "model.text.context=8",
    "model.text.width=16",
    "model.text.layers=1",
    "model.text.heads=2",
]


def drawn(artifact: Path) -> torch.Tensor:
    part = registry.STAGES["upsampler"].load(artifact)
    sampler = replace(part.sampler, steps=2)
    return part.draw(torch.zeros(1, 3, 8, 8), SampleNoise([3]), captions=["the"], sampler=sampler)


@pytest.mark.slow
def test_a_bundle_samples_and_trains_where_its_merges_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    merges = tmp_path / "vocab.bpe"
    merges.write_text(MERGES)
    words = [*TINY, f"model.merges={merges}", "run.dir=run"]
    assert main(["train", "upsampler/tiny", *words]) == 0
    assert (tmp_path / "run/artifact/merges.txt").read_text() == MERGES
    assert main(["share", "run", "--to", "run.zip", "--weights"]) == 0
    merges.unlink()
    with zipfile.ZipFile("run.zip") as bundle:
        bundle.extractall(tmp_path / "elsewhere")
    assert torch.equal(drawn(tmp_path / "elsewhere/artifact"), drawn(tmp_path / "run/artifact"))
    assert main(["reproduce", "run.zip", "--dir", "again"]) == 0
    one, two = (
        load_file(tmp_path / run / "artifact/weights.safetensors") for run in ("run", "again/run")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
