"""diffusers' own unCLIP pipelines, and our cascades, on the same noise."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import open_clip
import torch
from imports import CONTEXT
from torch import Tensor

from unclip.pipeline.cascade import Cascade
from unclip.pipeline.settings import Settings

CAPTIONS = ["a corgi!", "two red cubes on a blue mat"]  # the second is cut
STEPS, GUIDANCE = (6, 5, 4), (4.0, 3.0)


def open_pipeline(folder: Path, name: str = "UnCLIPPipeline"):
    """From a folder of ours, all of it in float32."""
    import diffusers

    pipeline = getattr(diffusers, name).from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def from_components(folder: Path):
    """UnCLIPPipeline of a folder as published, which its own loader refuses: each by its class."""
    import diffusers
    import transformers
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    def part(cls, name):
        return cls.from_pretrained(folder / name, dtype=torch.float32)

    index = json.loads((folder / "model_index.json").read_text())
    parts = {"text_proj": part(UnCLIPTextProjModel, "text_proj")}
    for name, (library, cls) in ((k, v) for k, v in index.items() if isinstance(v, list)):
        if name not in ("text_proj", "tokenizer"):
            own = getattr({"diffusers": diffusers, "transformers": transformers}[library], cls)
            scheduler = name.endswith("_scheduler")
            parts[name] = own.from_pretrained(folder / name) if scheduler else part(own, name)
    pipeline = diffusers.UnCLIPPipeline(tokenizer=OurTokens(), **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class OurTokens:
    """open_clip's tokens, padded with 0, in the place of a CLIPTokenizer."""

    model_max_length = CONTEXT

    def __call__(self, prompt, **how):
        ids = open_clip.get_tokenizer("ViT-B-32")(prompt, context_length=CONTEXT)
        ended = (ids == 49407).long().cumsum(dim=1)
        mask = (ended == 0) | (ids == 49407)
        return SimpleNamespace(input_ids=ids, attention_mask=mask.long())


def their_images(pipeline, **more) -> Tensor:
    """Images ``[2, 3, S, S]`` in [-1, 1] of `CAPTIONS`."""
    found = pipeline(
        CAPTIONS,
        prior_num_inference_steps=STEPS[0],
        decoder_num_inference_steps=STEPS[1],
        super_res_num_inference_steps=STEPS[2],
        prior_guidance_scale=GUIDANCE[0],
        decoder_guidance_scale=GUIDANCE[1],
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **more,
    ).images
    return torch.from_numpy(found).permute(0, 3, 1, 2) * 2 - 1


def our_images(cascade: Cascade) -> Tensor:
    """The same of ours: one generator for all of its stages, as a pipeline of diffusers has."""
    generator = torch.Generator().manual_seed(0)

    def noise(shape, device):
        return torch.randn(tuple(shape), generator=generator)

    plain = zip(("prior", "decoder", "upsampler"), STEPS)
    changes = {stage: {"steps": steps, "sampler": "ddpm"} for stage, steps in plain}
    for stage, scale in zip(("prior", "decoder"), GUIDANCE):
        changes[stage]["guidance"] = scale
    changes["prior"]["candidates"] = 1
    settings = Settings(changes)
    prior, decoder, [upsampler] = cascade.prior, cascade.decoder, cascade.upsamplers
    how = settings.apply("prior", prior)
    z_i = prior.draw(cascade.clip.model, CAPTIONS, noise, sampler=how)
    small = decoder.draw(z_i, CAPTIONS, noise, sampler=settings.apply("decoder", decoder))
    assert small.std() > 0.1
    return upsampler.draw(small, noise, sampler=settings.apply("upsampler", upsampler))
