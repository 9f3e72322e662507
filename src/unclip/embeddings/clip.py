"""CLIP behind one wrapper: preprocessing, tokens, z_i, z_t and per-token text features.

The network is open_clip's: ours built from a `ClipConfig`, or any open_clip architecture with a
pretrained tag or a local weights file. Shapes: B batch, L tokens, W text width, D embedding size.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from unclip.common.checks import nearest
from unclip.common.errors import UserError
from unclip.common.types import TextFeatures
from unclip.common.unreadable import why_unreadable
from unclip.embeddings.config import UNIT, Embeddings
from unclip.embeddings.hub import downloads
from unclip.embeddings.lengths import as_embeddings
from unclip.embeddings.tokens import Tokenizer, token_mask

_LARGEST = math.log(100)  # of the inverse temperature's logarithm (CLIP, section 2.5)


class ClipOutput(NamedTuple):
    """A batch in the shared space, as CLIP compares it."""

    z_i: Tensor  # [B, D], unit norm
    z_t: Tensor  # [B, D], unit norm
    scale: Tensor  # scalar, the inverse temperature


class Clip(nn.Module):
    """A CLIP with images in [-1, 1] and strings or tokens in, embeddings out.

    ``embeddings`` says whether they are unit or raw (`unclip.embeddings.lengths`); it is None until
    a stage says it, if the CLIP itself does not. `forward`, by which a CLIP is trained, makes unit
    ones whatever it says.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        context: int,
        tokenize: Any = None,
        embeddings: Embeddings | None = None,
    ):
        super().__init__()
        self.model = model
        self.embeddings = embeddings
        self.follows_autocast = True
        self.context = context
        self.tokenize = tokenize or Tokenizer(context)
        visual: Any = model.visual
        size = visual.image_size
        self.image_size = int(size[0] if isinstance(size, tuple) else size)
        mean = getattr(visual, "image_mean", None) or OPENAI_DATASET_MEAN
        std = getattr(visual, "image_std", None) or OPENAI_DATASET_STD
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def embed_dim(self) -> int:
        """D."""
        model: Any = self.model
        projection = getattr(model, "text_projection", None)
        if projection is None:
            projection = model.text.text_projection
        if isinstance(projection, nn.Linear):
            return projection.out_features
        return int(projection.shape[1])

    @property
    def text_width(self) -> int:
        """W, the width of the per-token features."""
        model: Any = self.model
        final = getattr(model, "ln_final", None)
        return int((model.text.ln_final if final is None else final).weight.shape[0])

    def freeze(self) -> Clip:
        """Prepare for other stages, and return itself: nothing trains, autocast is not followed.

        So embeddings are the same computation wherever they are made: float32 in a stage's
        training, in a pipeline and, unless told, in `unclip fit-pca`. A PCA of 256 buckets gives
        two codes in three another value when z_i are made in bfloat16.
        """
        self.follows_autocast = False
        return self.eval().requires_grad_(False)

    @contextmanager
    def computing_in(self, dtype: torch.dtype) -> Iterator[None]:
        """Encode in ``dtype`` meanwhile, frozen or not; weights and embeddings are float32.

        With float32 a GPU's TF32 is as torch's flags have it.
        """
        follows, self.follows_autocast = self.follows_autocast, True
        try:
            with torch.autocast(self.mean.device.type, dtype, enabled=dtype != torch.float32):
                yield
        finally:
            self.follows_autocast = follows

    @contextmanager
    def _autocast(self, device: torch.device) -> Iterator[None]:
        if self.follows_autocast:
            yield
            return
        cudnn = torch.backends.cudnn
        tf32, cudnn.allow_tf32 = cudnn.allow_tf32, False
        try:
            with torch.autocast(device.type, enabled=False):
                yield
        finally:
            cudnn.allow_tf32 = tf32

    def preprocess(self, image: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` in [-1, 1] as the image encoder wants them."""
        if image.shape[-2:] != (self.image_size, self.image_size):
            image = F.interpolate(
                image.float(),
                size=(self.image_size, self.image_size),
                mode="bicubic",
                antialias=True,
                align_corners=False,
            ).clamp(-1, 1)
        return (image * 0.5 + 0.5 - self.mean) / self.std

    def encode_image(self, image: Tensor) -> Tensor:
        """z_i ``[B, D]`` float32, of images in [-1, 1] of any size."""
        return as_embeddings(self._project_image(image), self.embeddings)

    def _project_image(self, image: Tensor) -> Tensor:
        model: Any = self.model
        with self._autocast(image.device):
            return model.encode_image(self.preprocess(image)).float()

    def encode_text(self, tokens: Tensor) -> TextFeatures:
        """z_t ``[B, D]`` and token features ``[B, L, W]`` (both float32) of tokens ``[B, L]``."""
        model: Any = self.model
        if isinstance(model, open_clip.CLIP):  # its last norm sees the features on their way to z_t
            seen: list[Tensor] = []
            hook = model.ln_final.register_forward_hook(lambda *call: seen.append(call[2]))
            try:
                projection = self._project_text(tokens)
            finally:
                hook.remove()
            z_t = as_embeddings(projection, self.embeddings)
            return TextFeatures(z_t, seen[0].float(), token_mask(tokens))
        with self._autocast(tokens.device):
            out = model.text.forward_intermediates(
                tokens, normalize_intermediates=True, output_fmt="NLC", intermediates_only=False
            )
        features = out["text_intermediates"][-1].float()
        z_t = as_embeddings(self._project_text(tokens), self.embeddings)
        return TextFeatures(z_t, features, token_mask(tokens))

    def _project_text(self, tokens: Tensor) -> Tensor:
        model: Any = self.model
        on_cpu = tokens.device.type == "cpu"  # torch's flash kernel crawls there in bfloat16
        kernel = sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext()
        with kernel, self._autocast(tokens.device):
            return model.encode_text(tokens).float()

    def forward(self, image: Tensor, tokens: Tensor) -> ClipOutput:
        """Both embeddings, of unit length, and the temperature."""
        projections = self._project_image(image), self._project_text(tokens)
        z_i, z_t = (as_embeddings(each, UNIT) for each in projections)
        return ClipOutput(z_i, z_t, self.scale())

    def scale(self) -> Tensor:
        """The inverse temperature, a scalar; see `cap_scale`."""
        model: Any = self.model
        log = model.logit_scale
        if not log.requires_grad:  # frozen before it was the parameter that is capped
            log = log.clamp(max=_LARGEST)
        return log.exp().sum()

    @torch.no_grad()
    def cap_scale(self) -> None:
        """Cap the inverse temperature at 100, after an optimizer step.

        The parameter itself: capped in the forward pass, it would have no gradient above 100 and
        could never come down again.
        """
        model: Any = self.model
        scale = model.logit_scale
        (scale.to_local() if isinstance(scale, DTensor) else scale).clamp_(max=_LARGEST)

    def fingerprint(self) -> str:
        """A hash of the weights: two CLIPs with one fingerprint share their embedding space."""
        return fingerprint_of(self.model.state_dict())


def fingerprint_of(state: dict[str, Tensor]) -> str:
    """A hash of the weights of an open_clip network, as they are in float32."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        numbers = tensor.detach().cpu()
        if numbers.is_floating_point():
            numbers = numbers.float()
        digest.update(name.encode())
        digest.update(numbers.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class FrozenClip:
    """A CLIP that other stages depend on."""

    model: Clip
    fingerprint: str
    source: str  # what it was loaded from

    def __post_init__(self) -> None:
        self.model.freeze()

    def agree(self, embeddings: str | None, *, where: str) -> None:
        """Make the embeddings that a stage takes: unit or raw, None if it does not care.

        A CLIP that does not say which it makes takes the first stage's word for it.

        Raises:
            UserError: it makes the other kind; ``where`` names the stage.
        """
        own = self.model.embeddings
        if own is None:
            self.model.embeddings = embeddings  # type: ignore[assignment]  # a value of `Embeddings`
        elif embeddings not in (None, own):
            raise UserError(
                f"{where}: takes {embeddings} embeddings, but {own} ones are made with the CLIP "
                f"{self.source}; use stages whose model.embeddings agree"
            )


def load_open_clip(spec: str) -> Clip:
    """A frozen open_clip model from ``open_clip:ARCH/TAG`` or ``open_clip:ARCH@FILE``.

    TAG is a pretrained tag of open_clip (downloaded once, then cached); FILE a local weights file.
    """
    name = spec.removeprefix("open_clip:")
    arch, at, file = name.partition("@")
    tag = file if at else arch.partition("/")[2]
    arch = arch if at else arch.partition("/")[0]
    if arch not in open_clip.list_models():
        raise _no_architecture(spec, arch)
    if at and not Path(file).is_file():
        raise UserError(f"clip={spec}: no such weights file {file}")
    if not tag:
        raise UserError(f"clip={spec}: name a pretrained tag, as open_clip:{arch}/openai")
    if not at and tag not in open_clip.list_pretrained_tags_by_model(arch):
        known = ", ".join(open_clip.list_pretrained_tags_by_model(arch)) or "none"
        raise UserError(f"clip={spec}: {arch} has no pretrained tag {tag!r}; known: {known}")
    try:
        with downloads():
            model = open_clip.create_model(arch, pretrained=tag, weights_only=True)
            tokenizer = open_clip.get_tokenizer(arch)
    except Exception as error:  # the hub's client raises a dozen kinds
        raise UserError(f"clip={spec}: weights cannot be loaded: {why_unreadable(error)}") from None
    return Clip(model, context=tokenizer.context_length, tokenize=tokenizer)


def _no_architecture(spec: str, arch: str) -> UserError:
    example = "; write open_clip:ARCH/TAG, as open_clip:ViT-L-14/openai"
    hint = nearest(arch, open_clip.list_models(), example)
    return UserError(f"clip={spec}: open_clip has no architecture {arch!r}{hint}")


def open_clip_dims(spec: str) -> dict[str, int]:
    """D, W and the text's length of an open_clip architecture, from its config alone."""
    arch = spec.removeprefix("open_clip:").partition("@")[0].partition("/")[0]
    config = open_clip.get_model_config(arch)
    if config is None:
        raise _no_architecture(spec, arch)
    text = config["text_cfg"]
    return {
        "embed_dim": config["embed_dim"],
        "text_width": text.get("width", 512),
        "context": text.get("context_length", 77),
    }
