"""A model of transformers that says what an image shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from unclip.common import yaml_text
from unclip.common.errors import UserError
from unclip.finetuning.captioner import Describe
from unclip.weights.hub import open_source
from unclip.weights.reading.folders import Source

MOST_TOKENS = 40  # of a caption
_CARD = "README.md"
_BESIDE = (".json", ".txt", ".model", ".spm")  # configurations and tokenizers


class CaptionModel(NamedTuple):
    """What captions, and under which licence."""

    describe: Describe
    licence: str  # a line


def load_caption_model(spec: str, device: torch.device) -> CaptionModel:
    """A model that captions without a prompt, as BLIP, GIT or an encoder and decoder do.

    Args:
        spec: A folder that transformers has written, or ``hf://ORG/NAME[@REVISION]``. Weights are
            safetensors; code that comes with a model is never run.
        device: Where it runs.

    Raises:
        UserError: transformers is missing, or the model is none of these.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(
            "--with: needs transformers, which is not installed: pip install 'unclip[finetune]'"
        ) from None
    source = open_source(spec)
    names = source.inside("")
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise UserError(f"{spec}: has no config.json or no .safetensors; name a captioning model")
    for name in names:
        if name.endswith((*_BESIDE, ".safetensors")):
            folder = source.path(name).parent
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    look: Any
    words: Any
    model: Any
    given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        look = transformers.AutoImageProcessor.from_pretrained(folder, **given)
        words = transformers.AutoTokenizer.from_pretrained(folder, **given)
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, **given
        )
    except Exception as error:  # a dozen kinds
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise UserError(f"{spec}: is not a captioning model of transformers: {line}") from None
    model.to(device).eval()

    @torch.inference_mode()
    def describe(images: Sequence[np.ndarray]) -> list[str]:
        given = look(images=[Image.fromarray(image) for image in images], return_tensors="pt")
        pixels = given["pixel_values"].to(device)
        try:
            found = model.generate(
                pixel_values=pixels, max_new_tokens=MOST_TOKENS, do_sample=False, num_beams=1
            )
        except (ValueError, TypeError, RuntimeError) as error:
            line = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
            raise UserError(f"{spec}: does not caption an image by itself: {line}") from None
        return [text.strip() for text in words.batch_decode(found, skip_special_tokens=True)]

    return CaptionModel(describe, _licence(spec, source))


def _licence(spec: str, source: Source) -> str:
    """What the hub or the model's card says."""
    found = source.origin.get("licence")
    if not found and _CARD in source.names:
        text = source.path(_CARD).read_text(encoding="utf-8", errors="replace")
        _, fence, rest = text.partition("---\n")
        if fence:
            try:
                found = yaml_text.read(rest.partition("\n---")[0]).get("license")
            except (ValueError, AttributeError, UserError):
                found = None
    if not found:
        return f"{spec}: no licence is stated; ask its authors before you publish what it wrote"
    return f"{spec}: its licence is {found}"
