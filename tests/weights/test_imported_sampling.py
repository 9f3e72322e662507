"""Whole samplings of Karlo's stages through an import, with the goldens' noise."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from golden_files import GOLDENS, Recorded, tensors
from imports import clip_folder

from unclip.common.types import TextFeatures
from unclip.pipeline.cascade import open_folder
from unclip.stages._prior.null_text import null_text
from unclip.weights.importing import import_weights

CAPTIONS = ["one", "two", "three"]
CLOSE = dict(rtol=0, atol=1e-8)


class GoldenClip:
    """In the place of the CLIP: it knows the goldens' three captions and their empty one."""

    mean = torch.zeros(1)

    def tokenize(self, captions):
        assert captions in (CAPTIONS, [""])
        return torch.zeros(len(captions), 7, dtype=torch.int64)

    def encode_text(self, tokens):
        if len(tokens) == 1:
            golden = tensors("karlo/prior_sample")
            return TextFeatures(*(golden[f"uncond_{n}"][:1] for n in ("emb", "enc", "mask")))
        golden = tensors("karlo/prior_io")
        return TextFeatures(golden["text_emb"], golden["text_enc"], golden["mask"].bool())


@pytest.fixture(scope="module", params=["karlo", "karlo-diffusers"])
def cascade(request, tmp_path_factory):
    """Karlo's goldens of either layout, imported with a CLIP that fits."""
    root = tmp_path_factory.mktemp(request.param)
    source = GOLDENS / request.param
    if request.param == "karlo":  # without what is not a part of the published files
        source = root / "source"
        source.mkdir()
        for name in ("prior.ckpt", "stats.th", "decoder.ckpt", "improved_sr.ckpt", "config.json"):
            shutil.copy(GOLDENS / "karlo" / name, source)
    import_weights(str(source), root / "out", clip=str(clip_folder(root / "clip")))
    opened = open_folder(root / "out")
    for part in (opened.prior, opened.decoder, *opened.upsamplers):
        part.diffusion.tables = "float64"  # Karlo's own; diffusers' files have float32
    return opened


def test_of_the_prior(cascade):
    golden, part = tensors("karlo/prior_sample"), cascade.prior
    assert (part.sampler.sampler, part.sampler.steps, part.sampler.guidance) == ("ddpm", 25, 4.0)
    net, clip = part.net.double(), GoldenClip()
    part = replace(part, null=null_text(net, clip, part.tokenize))
    sampler = replace(part.sampler, clip_range=10.0)  # diffusers' files say 5
    noise = Recorded(golden["noise"][:, :, None])  # one candidate of each caption
    found = part.draw(clip, CAPTIONS, noise, sampler=sampler)
    torch.testing.assert_close(found, golden["z_i_float64"], **CLOSE)


def test_of_the_decoder(cascade):
    golden = tensors("karlo/decoder_sample")
    part = replace(cascade.decoder, clip=GoldenClip())
    part.net.double()
    sampler = replace(part.sampler, steps=10)
    found = part.draw(golden["z_i"], CAPTIONS, Recorded(golden["noise"]), sampler=sampler)
    torch.testing.assert_close(found, golden["image_float64"], **CLOSE)


def test_of_the_upsampler(cascade):
    golden, part = tensors("karlo/improved_sr_sample"), cascade.upsamplers[0]
    part.net.double()
    small = golden["image_small"].float()  # which Karlo enlarges in float32
    found = part.draw(small, Recorded(golden["noise"]), size=32)
    torch.testing.assert_close(found, golden["image_float64"], **CLOSE)
