"""Feature networks by name: what every one of them offers, and which there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unclip.common.checks import nearest
from unclip.common.errors import UserError
from unclip.common.hashing import file_sha256
from unclip.common.home import expanded
from unclip.embeddings.clip import FrozenClip

NAMES = {
    "inception": "inception[@FILE]: Inception of 2015-12-05, whose distance is FID",
    "clip": "clip:ARCH/TAG or clip:ARCH@FILE: an open_clip model",
    "dinov2": "dinov2@FILE: a DINOv2 with patches of 14, as its authors publish it",
    "efficientnet_lite0": "efficientnet_lite0[@FILE]: comes in a package, nothing is downloaded",
    "own": "own:PATH: the CLIP of a cascade, run or artifact",
}


class Encoded(NamedTuple):
    """What a network makes of B images."""

    features: Tensor  # [B, D]
    logits: Tensor | None = None  # [B, C], of a classifier


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network on one device.

    Attributes:
        name: One of `NAMES`.
        title: In the names of measures: ``FD-title``.
        sha256: Of its weights; the fingerprint of a CLIP.
        dim: D.
        classes: C; 0 for networks without logits.
        resize: How it brings images to its own size, in words.
        precision: `32` or `64`, bits of its arithmetic.
        device: Where it computes.
        encode: uint8 images ``[B, 3, H, W]`` on its device to features.
        clip: The CLIP, where it is one.
    """

    name: str
    title: str
    sha256: str
    dim: int
    classes: int
    resize: str
    precision: str
    device: torch.device
    encode: Callable[[Tensor], Encoded]
    clip: FrozenClip | None = None

    @property
    def distance(self) -> str:
        """What its Fréchet distance is called: FID is Inception's alone."""
        return "FID" if self.name == "inception" else f"FD-{self.title}"


class Weights(NamedTuple):
    """Where a network's weights come from."""

    file: Path | None
    precision: str
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its arithmetic."""
        return torch.float64 if self.precision == "64" else torch.float32

    def ready(self, module: nn.Module) -> nn.Module:
        """``module`` frozen, in its dtype and place."""
        return module.eval().requires_grad_(False).to(self.device, self.dtype)


def open_network(spec: str, *, device: torch.device, precision: str = "32") -> FeatureNetwork:
    """The network that ``spec`` names, in one of the forms of `NAMES`.

    Raises:
        UserError: there is no such network, its package is missing, or its weights do not fit.
    """
    from unclip.evaluation.features import clips, dinov2, efficientnet, inception

    name = spec.partition("@")[0].partition(":")[0]
    if name not in NAMES:
        known = "; ".join(NAMES.values())
        raise UserError(f"--features {spec}: no such network{nearest(name, NAMES, f'; {known}')}")
    rest = spec[len(name) :]
    if name in ("clip", "own"):
        if len(rest) < 2 or rest[0] != ":":
            raise UserError(f"--features {spec!r}: write {NAMES[name]}")
        return clips.open_clip_network(name, rest[1:], Weights(None, precision, device))
    if rest and not (rest[0] == "@" and len(rest) > 1):
        raise UserError(f"--features {spec!r}: write {NAMES[name]}")
    file = expanded(rest[1:]) if rest else None
    if file is not None and not file.is_file():
        raise UserError(f"--features {spec}: no such file {file}")
    build = {
        "inception": inception.open_inception,
        "dinov2": dinov2.open_dinov2,
        "efficientnet_lite0": efficientnet.open_efficientnet,
    }
    return build[name](Weights(file, precision, device))


def read_weights(file: Path, key: str) -> tuple[dict[str, Tensor], str]:
    """A plain state dict and the file's sha256; no code in the file is run.

    Raises:
        UserError: it cannot be read, or holds other things than finite tensors.
    """
    try:
        if file.suffix == ".safetensors":
            found: Any = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{key} {file}: cannot be read: {error}") from None
    except Exception:  # unpickling raises nearly anything, and torch advises to run the code
        raise UserError(
            f"{key} {file}: is not a plain state dict of tensors; code in it is not run"
        ) from None
    tensors = isinstance(found, dict) and all(isinstance(v, Tensor) for v in found.values())
    if not tensors or not found:
        raise UserError(f"{key} {file}: is not a plain state dict of tensors")
    for name, value in found.items():
        if value.is_complex() or not value.isfinite().all():
            raise UserError(f"{key} {file}: {name} holds NaN, infinite or complex numbers")
    return dict(found), file_sha256(file)


def load_into(module: nn.Module, weights: dict[str, Tensor], file: Path) -> None:
    """Load a state dict that must fit exactly, counters of batches aside.

    Raises:
        UserError: a name or shape differs.
    """
    wanted = module.state_dict()
    for name in sorted({*wanted, *weights}):
        if name.endswith("num_batches_tracked"):
            continue
        one = tuple(wanted[name].shape) if name in wanted else None
        two = tuple(weights[name].shape) if name in weights else None
        if one != two:
            raise UserError(
                f"--features {file}: weights of another network: {name} is {two or 'missing'}, "
                f"expected {one or 'no such tensor'}"
            )
    module.load_state_dict(weights, strict=False)
