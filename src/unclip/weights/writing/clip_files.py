"""What stands beside a CLIP of transformers: its tokenizer, and how its images are prepared."""

from __future__ import annotations

import json
from typing import Any

from open_clip import SimpleTokenizer
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from unclip.stages.clip.config import ClipConfig

START, END = "<|startoftext|>", "<|endoftext|>"
_OURS = {"<start_of_text>": START, "<end_of_text>": END}


def tokenizer(model: ClipConfig) -> dict[str, Any]:
    """The files of a CLIPTokenizer, by name: an object of JSON, or text.

    They are padded with the end token: every token up to the first end is ours, and those after it
    are masked. Karlo's own files pad with "!", which makes that a special token of captions too.
    """
    pairs = SimpleTokenizer()
    merges = sorted(pairs.bpe_ranks, key=lambda pair: pairs.bpe_ranks[pair])
    plain = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    return {
        "vocab.json": {_OURS.get(token, token): k for token, k in pairs.encoder.items()},
        "merges.txt": "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges),
        "special_tokens_map.json": plain,
        "tokenizer_config.json": plain
        | {
            "add_prefix_space": False,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": model.context,
            "tokenizer_class": "CLIPTokenizer",
        },
    }


def image_processor(model: ClipConfig) -> dict[str, Any]:
    """The file of a CLIPImageProcessor, by name."""
    size = model.image_size
    values = {
        "crop_size": {"height": size, "width": size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(OPENAI_DATASET_MEAN),
        "image_processor_type": "CLIPImageProcessor",
        "image_std": list(OPENAI_DATASET_STD),
        "resample": 3,  # bicubic
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": size},
    }
    return {"preprocessor_config.json": values}


def as_text(content: Any) -> str:
    """A file's text: JSON as `save_pretrained` writes it, or the text itself."""
    if isinstance(content, str):
        return content
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
