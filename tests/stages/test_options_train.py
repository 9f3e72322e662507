"""What networks of other projects need is a setting, with which our stages train and sample."""

from __future__ import annotations

import pytest
import torch

from unclip.common.errors import UserError
from unclip.common.seeding import SampleNoise
from unclip.config.load import load_experiment
from unclip.runs.train import train
from unclip.stages import registry
from unclip.stages.clip.part import load as load_clip

UPSAMPLERS = {
    "inpainting": ["model.inpaint=true"],
    "additive time": ["model.unet.time=additive"],
    "Karlo's": [
        "model.unet.time=additive",
        "model.last_step=true",
        "diffusion.variance=fixed_small",
        "sampler.sampler=ddpm",
    ],
    "GLIDE's": [
        "model.enlarge=bilinear",
        "model.low_8_bit=true",
        "model.use_caption=true",
        "drop_caption=0.5",
        "model.unet.attention=[32]",
        "model.unet.head_channels=16",
        "diffusion.schedule=linear",
        "sampler.start_scale=0.997",
        *[f"model.text.{pair}" for pair in ("context=16", "width=16", "layers=1", "heads=2")],
    ],
}


@pytest.mark.parametrize("option", UPSAMPLERS)
def test_an_upsampler_trains_and_samples(minute_experiment, tmp_path, option):
    words = [f"run.dir={tmp_path}", *UPSAMPLERS[option]]
    finished = train(load_experiment(str(minute_experiment("upsampler")), words))
    part = registry.STAGES["upsampler"].load(finished.artifact)
    for captions in (None, ["a", "b"]):
        drawn = part.draw(torch.zeros(2, 3, 16, 16), SampleNoise([0, 1]), captions=captions)
        assert drawn.isfinite().all()


KARLO = ["model.caption=clip", "model.context_mask=true", "model.null_text=caption"]
DECODERS = {
    "context mask": ["model.context_mask=true"],
    "empty caption": ["model.null_text=caption"],
    "CLIP's captions": ["model.caption=clip", "model.context_mask=true"],
    "Karlo's": [*KARLO, "model.null_z_i=learned"],
    "inpainting": ["model.inpaint=true"],
    "captions alone": [*KARLO, "model.use_z_i=false"],
    "z_t for z_i": [*KARLO, "embedding=text"],
}
QUICK = ("Karlo's", "captions alone", "z_t for z_i")  # the others are slow


@pytest.mark.parametrize(
    "option",
    [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in DECODERS],
)
def test_a_decoder_trains_and_samples(cascade, minute_experiment, tmp_path, option):
    words = [f"run.dir={tmp_path}", f"clip={cascade / 'clip'}", "drop_caption=0.5"]
    given = load_experiment(str(minute_experiment("decoder")), words + DECODERS[option])
    artifact = train(given).artifact
    part = registry.STAGES["decoder"].load(artifact, load_clip(str(cascade / "clip")))
    part.net.eval()
    z = torch.randn(2, 16) if given.config.model.use_z_i else None
    for captions in (["a", "a red circle"], None):
        if z is not None or captions is not None:
            assert part.draw(z, captions, SampleNoise([0, 1])).isfinite().all()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([500, 500])
    one, other = (
        part.predictor(z, ["a", text], part.sampler).denoise(x, t)
        for text in ("b", "a blue square")
    )
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.caption=clip"], "context_mask=False: must be true with model.caption=clip"),
        (["model.use_caption=false", "model.caption=clip"], "caption='clip': has no effect"),
        (
            ["model.use_caption=false", "model.context_mask=true"],
            "context_mask=True: has no effect",
        ),
        (
            ["model.use_caption=false", "model.null_text=caption"],
            "null_text='caption': has no effect",
        ),
    ],
)
def test_options_of_a_decoder_that_do_not_fit_are_refused(minute_experiment, words, message):
    with pytest.raises(UserError, match=message):
        load_experiment(str(minute_experiment("decoder")), words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.use_caption=true"], "attention.*: must not be empty with model.use_caption=true"),
        (["drop_caption=0.1"], "drop_caption=0.1: has no effect"),
        (
            ["model.unet.attention=[7]", "model.unet.head_channels=16"],
            "attention.*: 7 is none of the sides",
        ),
        (["sampler.start_scale=0"], "start_scale=0.0: must be in"),
        (["model.enlarge=nearest"], "enlarge='nearest': must be one of bicubic, bilinear"),
    ],
)
def test_options_of_an_upsampler_that_do_not_fit_are_refused(minute_experiment, words, message):
    with pytest.raises(UserError, match=message):
        load_experiment(str(minute_experiment("upsampler")), words)
