"""diffusers' UnCLIPImageVariationPipeline: its folders imported, and its images with its noise."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_files import GOLDENS, Recorded
from imports import change, clip_folder

from unclip.cli import main
from unclip.pipeline.cascade import open_folder

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def variations_folder(root: Path, *, text: bool = True) -> Path:
    """Karlo's goldens with a CLIP and without a prior, as ``karlo-v1-alpha-image-variations``."""
    shutil.copytree(GOLDENS / "karlo-diffusers", root)
    for name in ("prior", "prior_scheduler"):
        shutil.rmtree(root / name)
    clip = clip_folder(root.parent / f"{root.name}_clip")
    shutil.copytree(clip / "image_encoder", root / "image_encoder")
    index = json.loads((root / "model_index.json").read_text())
    del index["prior"], index["prior_scheduler"]
    index |= {
        "_class_name": "UnCLIPImageVariationPipeline",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    }
    if text:
        shutil.copytree(clip / "text_encoder", root / "text_encoder")
    (root / "model_index.json").write_text(json.dumps(index))
    return root


def tokenizer(texts, **how):
    """Of empty captions, as Karlo's CLIPTokenizer pads them."""
    assert set(texts) == {""}
    ids = torch.tensor([[49406, 49407, 0, 0, 0, 0, 0]] * len(texts))
    return SimpleNamespace(input_ids=ids, attention_mask=(ids > 0).long())


tokenizer.model_max_length = 7


def components(folder: Path) -> dict:
    """diffusers' and transformers' own classes, from the folder that is imported."""
    pipeline = diffusers.UnCLIPImageVariationPipeline
    loaded = {
        "decoder": diffusers.UNet2DConditionModel,
        "text_proj": inspect.getmodule(pipeline).UnCLIPTextProjModel,
        "super_res_first": diffusers.UNet2DModel,
        "super_res_last": diffusers.UNet2DModel,
        "text_encoder": transformers.CLIPTextModelWithProjection,
        "image_encoder": transformers.CLIPVisionModelWithProjection,
        "decoder_scheduler": diffusers.UnCLIPScheduler,
        "super_res_scheduler": diffusers.UnCLIPScheduler,
    }
    made = {name: cls.from_pretrained(folder / name) for name, cls in loaded.items()}
    return {k: m.float() if isinstance(m, torch.nn.Module) else m for k, m in made.items()}


@torch.no_grad()
def test_variations_are_those_of_diffusers(tmp_path, monkeypatch):
    source = variations_folder(tmp_path / "source")
    assert main(["import", str(source), "--out", str(tmp_path / "out")]) == 0
    cascade = open_folder(tmp_path / "out")
    assert cascade.prior is None
    rng = torch.Generator().manual_seed(0)
    small = torch.randn(4, 2, 3, 16, 16, generator=rng)  # x_T, then the noise of three steps
    large = torch.randn(3, 2, 3, 32, 32, generator=rng)
    z_i = 3 * torch.randn(2, 12, generator=rng)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "register_modules", register)
    pipeline = diffusers.UnCLIPImageVariationPipeline(
        tokenizer=tokenizer, feature_extractor=None, **components(source)
    )
    pipeline.set_progress_bar_config(disable=True)
    drawn = iter([*small[1:], *large[1:]])
    module = "diffusers.schedulers.scheduling_unclip.randn_tensor"
    monkeypatch.setattr(module, lambda *shape, **how: next(drawn))
    theirs = pipeline(
        image_embeddings=z_i,
        decoder_latents=small[0],
        super_res_latents=large[0],
        decoder_num_inference_steps=4,
        super_res_num_inference_steps=3,
        output_type="np",
    ).images

    decoder, upsampler = cascade.decoder, cascade.upsamplers[0]
    for part, steps in ((decoder, 4), (upsampler, 3)):
        part.sampler.steps = steps
    image = decoder.draw(z_i, None, Recorded(small))
    image = upsampler.draw(image, Recorded(large), size=32)
    ours = (image * 0.5 + 0.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(ours - theirs).max() < 2e-5
    assert next(drawn, None) is None


def register(self, **modules):
    """Without asking where the stand-in of the tokenizer comes from."""
    for name, module in modules.items():
        self.register_to_config(**{name: (None, None)})
        setattr(self, name, module)


def test_without_a_text_half_another_source_has_to_bring_it(tmp_path, capsys):
    source, out = variations_folder(tmp_path / "source", text=False), tmp_path / "out"
    index = json.loads((source / "model_index.json").read_text())
    del index["text_encoder"], index["tokenizer"]
    (source / "model_index.json").write_text(json.dumps(index))
    assert main(["import", str(source), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "image_encoder/config.json: is the image half of a CLIP; add --clip SOURCE" in error
    assert error.count("\n") == 1
    clip = tmp_path / "source_clip"
    again = ["import", str(source), "--out", str(out), "--clip", str(clip)]
    assert main(again) == 0
    assert open_folder(out).clip.model.image_size == 16
    name = "vision_model.post_layernorm.bias"
    change(clip / "image_encoder/model.safetensors", lambda s: s[name].add_(1))
    capsys.readouterr()
    assert main([*again, "--force"]) == 2
    assert f"{name} differs" in capsys.readouterr().err
