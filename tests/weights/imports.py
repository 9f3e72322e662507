"""A tiny Karlo with its CLIP, as folders that a test may break."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

GOLDENS = Path(__file__).parents[1] / "goldens"
D, CONTEXT, SIDE = 12, 7, 16


def clip_halves(dim: int = D) -> tuple[dict, dict, dict, dict]:
    """Random weights and configurations of two halves that fit Karlo's goldens, or of another D."""
    rng = torch.Generator().manual_seed(0)

    def block(prefix, width):
        state = {}
        for layer in range(2):
            at = f"{prefix}.encoder.layers.{layer}"
            shapes = {f"self_attn.{p}_proj": (width, width) for p in ("q", "k", "v", "out")}
            shapes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
            for name, shape in shapes.items():
                state[f"{at}.{name}.weight"] = torch.randn(shape, generator=rng) * 0.2
                state[f"{at}.{name}.bias"] = torch.randn(shape[0], generator=rng) * 0.1
            for name in ("layer_norm1", "layer_norm2"):
                state |= norm(f"{at}.{name}", width)
        return state

    def norm(name, width):
        return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}

    def some(*shape):
        return torch.randn(shape, generator=rng) * 0.3

    text = block("text_model", dim) | norm("text_model.final_layer_norm", dim)
    text["text_model.embeddings.token_embedding.weight"] = some(49408, dim)
    text["text_model.embeddings.position_embedding.weight"] = some(CONTEXT, dim)
    text["text_projection.weight"] = some(dim, dim)
    vision = block("vision_model", 16)
    vision |= norm("vision_model.pre_layrnorm", 16) | norm("vision_model.post_layernorm", 16)
    vision["vision_model.embeddings.class_embedding"] = some(16)
    vision["vision_model.embeddings.patch_embedding.weight"] = some(16, 3, 8, 8)
    vision["vision_model.embeddings.position_embedding.weight"] = some(5, 16)
    vision["visual_projection.weight"] = some(dim, 16)
    same = {"num_attention_heads": 2, "num_hidden_layers": 2, "projection_dim": dim}
    same |= {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    text_config = same | {
        "architectures": ["CLIPTextModelWithProjection"],
        "hidden_size": dim,
        "intermediate_size": 4 * dim,
        "max_position_embeddings": CONTEXT,
        "vocab_size": 49408,
    }
    vision_config = same | {
        "architectures": ["CLIPVisionModelWithProjection"],
        "hidden_size": 16,
        "intermediate_size": 64,
        "image_size": SIDE,
        "patch_size": 8,
    }
    return text, text_config, vision, vision_config


def karlo_folder(root: Path, *, image: bool = True) -> Path:
    """diffusers' folders of the tiny Karlo, with a CLIP."""
    shutil.copytree(GOLDENS / "karlo-diffusers", root)
    text, text_config, vision, vision_config = clip_halves()
    write(root / "text_encoder", text, text_config)
    if image:
        write(root / "image_encoder", vision, vision_config)
    return root


def clip_folder(root: Path, dim: int = D) -> Path:
    """Both halves of a CLIP in transformers' folders."""
    root.mkdir()
    text, text_config, vision, vision_config = clip_halves(dim)
    write(root / "text_encoder", text, text_config)
    write(root / "image_encoder", vision, vision_config)
    return root


def write(folder: Path, state: dict, config: dict) -> None:
    folder.mkdir()
    half = {k: v.half().contiguous() for k, v in state.items()}
    save_file(half, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def change(file: Path, edit) -> None:
    """Rewrite a safetensors file; ``edit`` changes its tensors in place."""
    state = {k: v.clone() for k, v in load_file(file).items()}
    edit(state)
    save_file(state, file)


def configure(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
