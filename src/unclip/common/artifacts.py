"""A finished stage on disk: weights, config and provenance, with a format version.

A folder of four files: ``artifact.json`` (what it is), ``config.yaml`` (the resolved experiment),
``provenance.json`` (how it came to be) and ``weights.safetensors``.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unclip.common import yaml_text
from unclip.common.errors import UserError, article
from unclip.common.fields import as_dataclass
from unclip.common.hashing import file_sha256

Config = TypeVar("Config")

FORMAT_VERSION = 1
X0_ERRORS = "errors.json"  # only where `unclip fit-variance` was run
FILES = ("artifact.json", "config.yaml", "provenance.json", "weights.safetensors")


@dataclass(frozen=True)
class Artifact:
    """A loaded description; the weights are read by `weights`."""

    path: Path
    stage: str
    embed_dim: int | None  # D, where the stage has one
    clip_fingerprint: str | None  # of the CLIP whose embeddings it uses
    sha256: str  # of the weights file
    config: dict[str, Any]
    provenance: dict[str, Any]

    def weights(self) -> dict[str, Tensor]:
        """The state dict, on the CPU, its checksum verified."""
        file = self.path / "weights.safetensors"
        if file_sha256(file) != self.sha256:
            raise UserError(f"{file}: checksum differs from artifact.json; export or copy it again")
        try:
            return load_file(file)
        except SafetensorError as error:
            raise UserError(f"{file}: not a safetensors file: {error}") from None

    def section(self, name: str, cls: type[Config]) -> Config:
        """A section of the stored experiment, typed; an unknown field is an error."""
        try:
            value = as_dataclass(cls, self.config[name])
            value.validate()  # type: ignore[attr-defined]
            return value
        except (KeyError, TypeError, UserError) as error:
            raise UserError(f"{self.path / 'config.yaml'}: {name}: {error}") from None

    def stored(self, cls: type[Config]) -> Config:
        """The whole stored experiment, typed and not checked further."""
        return as_dataclass(cls, self.config, f"{self.path / 'config.yaml'}: ")

    def experiment(self, cls: type[Config], *sections: str) -> Config:
        """The stored experiment with ``sections`` read, typed and checked; others are defaults."""
        return cls(**{name: self.section(name, _section(cls, name)) for name in sections})

    def load_into(self, network: torch.nn.Module) -> None:
        """Put the weights into ``network``; every name and shape must match."""
        try:
            network.load_state_dict(self.weights())
        except RuntimeError as error:
            lines = str(error).split("\n")
            first = lines[1] if len(lines) > 1 else lines[0]
            raise UserError(
                f"{self.path}: weights do not fit config.yaml: {first.strip()}"
            ) from None


def _section(cls: type, name: str) -> Any:
    return typing.get_type_hints(cls)[name]


def export(
    path: Path,
    *,
    stage: str,
    weights: dict[str, Tensor],
    config: dict[str, Any],
    provenance: dict[str, Any],
    embed_dim: int | None = None,
    clip_fingerprint: str | None = None,
) -> Artifact:
    """Write an artifact folder; all of it appears at once, or nothing does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as scratch:
        folder = Path(scratch) / "artifact"
        folder.mkdir()
        state = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
        save_file(state, folder / "weights.safetensors", metadata={"format": "pt"})
        header = {
            "format_version": FORMAT_VERSION,
            "stage": stage,
            "embed_dim": embed_dim,
            "clip_fingerprint": clip_fingerprint,
            "sha256": file_sha256(folder / "weights.safetensors"),
        }
        (folder / "artifact.json").write_text(json.dumps(header, indent=2) + "\n")
        (folder / "config.yaml").write_text(yaml_text.document(config))
        (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
        if path.exists():
            shutil.rmtree(path)
        os.replace(folder, path)
    return describe(path)


def describe(path: Path | str, *, key: str = "artifact") -> Artifact:
    """Read an artifact's description; a run's folder stands for its ``artifact`` inside.

    ``key`` names the config field or option in errors.
    """
    folder = Path(path)
    if (folder / "artifact" / "artifact.json").is_file():
        folder = folder / "artifact"
    if not folder.is_dir():
        raise UserError(f"{key}={path}: no such artifact; name the folder of a finished run")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{key}={path}: not an artifact: {', '.join(missing)} missing in {folder}")
    try:
        header = json.loads((folder / "artifact.json").read_text())
        config = yaml_text.read_file(folder / "config.yaml")
        provenance = json.loads((folder / "provenance.json").read_text())
        version = header["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(
                f"{key}={path}: format version {version}, this unclip reads {FORMAT_VERSION}; "
                "use the unclip that wrote it, or train again"
            )
        return Artifact(
            folder,
            header["stage"],
            header["embed_dim"],
            header["clip_fingerprint"],
            header["sha256"],
            config,
            provenance,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{key}={path}: damaged artifact: {type(error).__name__} {error}") from None


def expect(artifact: Artifact, stages: tuple[str, ...], *, key: str) -> Artifact:
    """Refuse an artifact of another stage than ``stages``."""
    if artifact.stage not in stages:
        wanted = article(" or ".join(stages))
        raise UserError(
            f"{key}={artifact.path}: is {article(artifact.stage)}, but {wanted} is needed"
        )
    return artifact
