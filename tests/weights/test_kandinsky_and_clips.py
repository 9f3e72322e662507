"""Kandinsky's priors and whole CLIPs, in folders and files that the original classes write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from golden_files import GOLDENS, tensors
from torch import nn

from unclip.cli import main
from unclip.common import artifacts
from unclip.common.types import Caption
from unclip.pipeline.cascade import load_part
from unclip.stages import registry
from unclip.weights.importing import import_weights

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
D, L, SIDE = 12, 7, 16
EXACT = dict(rtol=0, atol=1e-10)


def shaken(module: nn.Module) -> nn.Module:
    """With all weights random, also those that begin as zeros or ones."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor += 0.2 * torch.randn(tensor.shape, generator=rng)
    return module.eval()


def halves(activation: str) -> tuple[nn.Module, nn.Module]:
    shared = dict(num_hidden_layers=2, num_attention_heads=2, projection_dim=D)
    shared |= dict(hidden_act=activation)
    text = transformers.CLIPTextConfig(
        hidden_size=D,
        intermediate_size=4 * D,
        max_position_embeddings=L,
        vocab_size=49408,
        bos_token_id=49406,
        eos_token_id=49407,
        **shared,
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=80 if activation == "gelu" else 64,  # bigG's is not four times its width
        image_size=SIDE,
        patch_size=8,
        **shared,
    )
    return (
        shaken(transformers.CLIPTextModelWithProjection(text)),
        shaken(transformers.CLIPVisionModelWithProjection(vision)),
    )


def check_clip(folder: Path, text: nn.Module, vision: nn.Module) -> None:
    """The imported CLIP against transformers' two halves in float64."""
    clip = registry.STAGES["clip"].load(folder / "clip").model
    tokens = clip.tokenize(["a corgi", ""])
    pixels = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    text, vision, model = text.double(), vision.double(), clip.model.double()
    with torch.no_grad():
        theirs = text(input_ids=tokens)
        torch.testing.assert_close(model.encode_text(tokens), theirs.text_embeds, **EXACT)
        torch.testing.assert_close(
            model.encode_image(pixels), vision(pixel_values=pixels).image_embeds, **EXACT
        )
    assert clip.embeddings == "raw"


@pytest.mark.parametrize(("activation", "safe"), [("quick_gelu", True), ("gelu", False)])
def test_kandinskys_folders_are_a_prior_and_its_clip(tmp_path, activation, safe):
    """2.1, and 2.2 with a CLIP of GELU; not all of its files are safetensors."""
    source, out = tmp_path / "source", tmp_path / "out"
    text, vision = halves(activation)
    text.save_pretrained(source / "text_encoder")
    vision.save_pretrained(source / "image_encoder")
    prior = shaken(
        diffusers.PriorTransformer(
            num_attention_heads=4,
            attention_head_dim=8,
            num_layers=2,
            embedding_dim=D,
            num_embeddings=L,
        )
    )
    prior.clip_std.data.abs_()
    prior.save_pretrained(source / "prior", safe_serialization=safe)
    scheduler = diffusers.UnCLIPScheduler(prediction_type="sample", clip_sample_range=10.0)
    scheduler.save_pretrained(source / "scheduler")
    (source / "model_index.json").write_text(
        json.dumps(
            {
                "_class_name": "KandinskyPriorPipeline",
                "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
                "image_processor": ["transformers", "CLIPImageProcessor"],
                "prior": ["diffusers", "PriorTransformer"],
                "scheduler": ["diffusers", "UnCLIPScheduler"],
                "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
                "tokenizer": ["transformers", "CLIPTokenizer"],
            }
        )
    )
    made = import_weights(str(source), out)
    assert [path.name for path in made] == ["clip", "prior"]
    part = load_part("prior", out / "prior", registry.STAGES["clip"].load(out / "clip"))
    assert (part.sampler.steps, part.sampler.guidance, part.sampler.clip_range) == (25, 4.0, 10.0)
    io = tensors("karlo/prior_io")
    given = io["x"], io["timesteps"]
    with torch.no_grad():
        theirs = prior.double()(
            *given,
            proj_embedding=io["text_emb"],
            encoder_hidden_states=io["text_enc"],
            attention_mask=io["mask"],
        ).predicted_image_embedding
        net = part.net.double()
        caption = Caption(None, io["text_enc"], io["mask"].bool())
        found = net(*given, z_t=io["text_emb"], caption=caption)
        # theirs adds -10,000 to hidden words, ours forbids them
        torch.testing.assert_close(found, theirs, rtol=0, atol=1e-8)
        z_i = prior.post_process_latents(theirs)
    torch.testing.assert_close(net.from_x0(theirs), z_i, **EXACT)
    check_clip(out, text, vision)


def test_a_whole_clip_of_transformers_is_one_of_ours(tmp_path):
    text, vision = halves("quick_gelu")
    config = transformers.CLIPConfig(
        text_config=text.config.to_dict(),
        vision_config=vision.config.to_dict(),
        projection_dim=D,
    )
    whole = transformers.CLIPModel(config)
    whole.load_state_dict(text.state_dict() | vision.state_dict(), strict=False)
    whole.logit_scale.data.fill_(1.5)
    whole.save_pretrained(tmp_path / "source")
    import_weights(str(tmp_path / "source"), tmp_path / "out")
    check_clip(tmp_path / "out", text, vision)
    assert artifacts.describe(tmp_path / "out/clip").weights()["logit_scale"].tolist() == [1.5]


class Bag(nn.Module):
    """A module of any parameters, which TorchScript can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def bagged(state: dict[str, torch.Tensor]) -> Bag:
    root = Bag()
    for name, tensor in state.items():
        *path, last = name.split(".")
        at: nn.Module = root
        for part in path:
            if part not in dict(at.named_children()):
                at.add_module(part, Bag())
            at = getattr(at, part)
        if tensor.is_floating_point():
            at.register_parameter(last, nn.Parameter(tensor))
        else:
            at.register_buffer(last, tensor)
    return root


def openai_clip() -> nn.Module:
    """A ViT by OpenAI's names with 64 channels a head, for the goldens' prior."""
    model = open_clip.CLIP(
        D,
        {"image_size": SIDE, "layers": 2, "width": 128, "head_width": 64, "patch_size": 8},
        {"context_length": L, "vocab_size": 49408, "width": D, "heads": 1, "layers": 2},
        quick_gelu=True,
    )
    return shaken(model).half()


@pytest.mark.parametrize("script", [True, False])
def test_kandinskys_original_files_with_openais_clip(tmp_path, script):
    """``prior_fp16.ckpt``, ``ViT-L-14_stats.th`` and ``ViT-L-14.pt``, in half precision as they."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    stored = torch.load(GOLDENS / "karlo/prior.ckpt", weights_only=True)["state_dict"]
    stored = {name: tensor.half() for name, tensor in stored.items()}
    torch.save(stored, source / "prior_fp16.ckpt")
    shutil.copy(GOLDENS / "karlo/stats.th", source / "ViT-L-14_stats.th")
    shutil.copy(GOLDENS / "karlo/config.json", source)
    model = openai_clip()
    state = model.state_dict()
    state |= {"logit_scale": state["logit_scale"].reshape(())}
    state |= {"input_resolution": torch.tensor(SIDE), "context_length": torch.tensor(L)}
    state |= {"vocab_size": torch.tensor(49408)}
    if script:
        torch.jit.save(torch.jit.script(bagged(state)), str(source / "ViT-L-14.pt"))
    else:
        torch.save(state, source / "ViT-L-14.pt")
    assert main(["import", str(source), "--out", str(out), "--half"]) == 0
    frozen = registry.STAGES["clip"].load(out / "clip")
    part = load_part("prior", out / "prior", frozen)
    assert part.sampler.clip_range == 10.0
    weights = artifacts.describe(out / "prior").weights()
    assert torch.equal(weights["query"], stored["model.prd_emb"].flatten())
    assert weights["query"].dtype == torch.float16
    tokens, pixels = frozen.model.tokenize(["a corgi"]), torch.randn(1, 3, SIDE, SIDE).double()
    ours, theirs = frozen.model.model.double(), model.double()
    with torch.no_grad():
        torch.testing.assert_close(ours.encode_text(tokens), theirs.encode_text(tokens), **EXACT)
        torch.testing.assert_close(ours.encode_image(pixels), theirs.encode_image(pixels), **EXACT)


def test_kandinskys_padding_embedding_has_no_place(tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    stored = torch.load(GOLDENS / "karlo/prior.ckpt", weights_only=True)["state_dict"]
    torch.save(stored | {"model.padding_embedding": torch.zeros(L, 32)}, source / "prior.ckpt")
    for name in ("stats.th", "config.json"):
        shutil.copy(GOLDENS / "karlo" / name, source)
    assert main(["import", str(source), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "model.padding_embedding has no place" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda c: c.update(projection_dim="big"), "projection_dim=big"),
        (lambda c: c.update(text_config=3), "text_config=3: is not a section"),
        (lambda c: c.update(vision_config="ViT"), "vision_config=ViT: is not a section"),
        (lambda c: c.update(vision_config=[]), "vision_config=[]: is not a section"),
        (lambda c: c.update(vision_config_dict=0), "vision_config_dict=0: is not a section"),
        (lambda c: c["text_config"].update(hidden_act="relu"), "hidden_act=relu"),
        (lambda c: c["text_config"].update(vocab_size=5), "vocab_size=5"),
        (lambda c: c["text_config"].update(num_hidden_layers=10**6), "num_hidden_layers=1000000"),
        (lambda c: c["vision_config"].update(num_attention_heads=3), "num_attention_heads=3"),
        (lambda c: c["vision_config"].update(hidden_act="gelu"), "gelu in the other"),
        (lambda c: c["text_config"].update(eos_token_id=49405), "eos_token_id=49405"),
        (lambda c: c.update(text_config_dict={"hidden_act": "relu"}), "hidden_act=relu"),
        (lambda c: c.update(vision_config_dict={"num_attention_heads": 5}), "attention_heads=5"),
    ],
)
def test_a_clip_of_another_kind_is_one_line(tmp_path, capsys, edit, says):
    text, vision = halves("quick_gelu")
    sections = {"text_config": text.config.to_dict(), "vision_config": vision.config.to_dict()}
    content = {"architectures": ["CLIPModel"], "projection_dim": D, **sections}
    edit(content)
    (tmp_path / "source").mkdir()
    (tmp_path / "source/config.json").write_text(json.dumps(content, default=str))
    assert main(["import", str(tmp_path / "source"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
