"""A CLIP as a feature network: open_clip's, or the one that a cascade was trained with."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from unclip.common.errors import UserError
from unclip.common.home import at_home
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.lengths import directions
from unclip.evaluation.features.network import Encoded, FeatureNetwork, Weights
from unclip.stages.clip.part import load


def open_clip_network(name: str, which: str, weights: Weights) -> FeatureNetwork:
    """``clip``: ARCH/TAG or ARCH@FILE of open_clip; ``own``: a cascade, run or artifact."""
    path = at_home(Path(which))
    path = path / "clip" if (path / "clip").is_dir() else path
    key = f"--features {name}:"
    try:
        clip = load(f"open_clip:{which}" if name == "clip" else path, key=key)
    except UserError as error:
        said = str(error).replace(f"{key}=", key, 1)  # of an artifact, named as key=path
        said = said.replace("clip=open_clip:", key, 1).replace("open_clip:", "clip:")
        raise UserError(said) from None
    title = f"CLIP-{which.partition('@')[0].replace('/', '-')}" if name == "clip" else "own-CLIP"
    return network_of(clip, name, title, weights)


def network_of(clip: FrozenClip, name: str, title: str, weights: Weights) -> FeatureNetwork:
    """An opened CLIP as a feature network."""
    model = clip.model.to(weights.device, weights.dtype)

    def encode(image: Tensor) -> Encoded:
        z_i = model.encode_image(image.to(weights.dtype) / 127.5 - 1)
        return Encoded(directions(z_i, model.embeddings))

    return FeatureNetwork(
        name=name,
        title=title,
        sha256=clip.fingerprint,
        dim=model.embed_dim,
        classes=0,
        resize=f"antialiased bicubic to {model.image_size}",
        precision=weights.precision,
        device=weights.device,
        encode=encode,
        clip=clip,
    )
