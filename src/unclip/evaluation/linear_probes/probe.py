"""A linear probe as an artifact, bound to the CLIP whose embeddings it reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.embeddings.agreement import check_embedding
from unclip.embeddings.clip import FrozenClip
from unclip.evaluation.features.network import read_weights
from unclip.evaluation.linear_probes.fit import Fitted

KINDS = ("aesthetics", "preference")


@dataclass(frozen=True)
class LinearProbe:
    """A score w·z_i + b."""

    kind: str  # one of KINDS
    weight: Tensor  # [D], float64
    bias: float
    sha256: str  # of its weights

    def scores(self, z_i: Tensor) -> Tensor:
        """Of embeddings ``[N, D]``: ``[N]``, float64; ratings, or logits of a preference."""
        return z_i.double() @ self.weight + self.bias


def save_probe(
    path: Path, kind: str, fitted: Fitted, clip: FrozenClip, provenance: dict[str, Any]
) -> None:
    """Write the artifact; all of it appears at once."""
    artifacts.export(
        path,
        stage=kind,
        weights={"weight": fitted.weight, "bias": torch.tensor(fitted.bias, dtype=torch.float64)},
        config={"stage": kind, "clip": clip.source},
        provenance=provenance,
        embed_dim=clip.model.embed_dim,
        clip_fingerprint=clip.fingerprint,
    )


def load_probe(path: Path, clip: FrozenClip, *, key: str = "--probe") -> LinearProbe:
    """A probe for embeddings of ``clip``.

    Raises:
        UserError: it is not a probe, damaged, or of another CLIP.
    """
    artifact = artifacts.expect(artifacts.describe(path, key=key), KINDS, key=key)
    check_embedding(artifact, clip, key=key)
    weights = artifact.weights()
    dim = clip.model.embed_dim
    if set(weights) != {"weight", "bias"} or weights["weight"].shape != (dim,):
        raise UserError(f"{key}={path}: weights are not those of a linear probe of {dim} features")
    bias = weights["bias"].double().sum().item()
    return LinearProbe(artifact.stage, weights["weight"].double(), bias, artifact.sha256)


def read_laion(file: Path, clip: FrozenClip) -> Fitted:
    """LAION's aesthetic weights: one linear layer, or the several of the "improved" predictor.

    The several have nothing between them but dropout, so they are one linear map too. Both read
    unit-length embeddings (github.com/LAION-AI/aesthetic-predictor and
    christophschuhmann/improved-aesthetic-predictor).

    Raises:
        UserError: the file holds something else, or does not fit the CLIP.
    """
    state, _ = read_weights(file, "--laion")
    names = [name.removesuffix("weight") for name in state if name.endswith("weight")]
    names.sort(key=lambda name: [int(p) for p in name.split(".") if p.isdigit()])
    weight = torch.eye(clip.model.embed_dim).double()
    bias = torch.zeros(clip.model.embed_dim).double()
    try:
        if {f"{n}{end}" for n in names for end in ("weight", "bias")} != set(state):
            raise ValueError
        for name in names:
            layer = state[f"{name}weight"].double()
            if state[f"{name}bias"].shape != layer.shape[:1]:
                raise ValueError
            weight, bias = layer @ weight, layer @ bias + state[f"{name}bias"].double()
        if weight.shape[0] != 1:
            raise ValueError
    except (ValueError, RuntimeError):
        raise UserError(
            f"--laion {file}: not linear layers from the {clip.model.embed_dim} features of "
            f"{clip.source} to a score"
        ) from None
    return Fitted(weight[0], bias.sum().item(), 0.0, float("nan"))
