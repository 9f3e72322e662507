"""A finished stage on disk: weights, config and provenance, with a format version.

A folder of four files: ``artifact.json`` (what it is), ``config.yaml`` (the resolved experiment),
``provenance.json`` (how it came to be) and ``weights.safetensors``.
"""

from __future__ import annotations

import json
import os
import shutil
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from unclip.common import json_text, yaml_text
from unclip.common.adapters import TOKEN, AdapterConfig
from unclip.common.errors import UserError, article
from unclip.common.fields import as_dataclass
from unclip.common.hashing import file_sha256
from unclip.common.merging import merged
from unclip.common.scratch import scratch_folder

Config = TypeVar("Config")
Network = TypeVar("Network", bound=torch.nn.Module)

FORMAT_VERSION = 1
MERGES = "merges.txt"  # GPT-2's, of a network that reads captions by them
X0_ERRORS = "errors.json"  # only where `unclip fit-variance` was run
FILES = ("artifact.json", "config.yaml", "provenance.json", "weights.safetensors")


WORDS = "words.safetensors"  # that a CLIP has learned (`unclip.embeddings.words`)
MORE = (X0_ERRORS, MERGES, WORDS)
"""Files that only some artifacts have."""


class Merging(NamedTuple):
    """Weights, and the adapters that are added to them, each so often."""

    base: Artifact
    adapters: tuple[tuple[Artifact, float], ...]


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
    merging: Merging | None = None  # what its weights are, where not those of its file

    @property
    def embeddings(self) -> str | None:
        """Whether it makes or takes `unit` or `raw` embeddings; None if it does not say.

        Raises:
            UserError: the config says neither.
        """
        sections = [self.config.get(name) for name in ("model", "pca")]
        saying = [each for each in sections if isinstance(each, dict) and "embeddings" in each]
        before = None if self.embed_dim is None else "unit"  # of an artifact that has no such field
        found = saying[0]["embeddings"] if saying else before
        if found not in ("unit", "raw", None):
            raise UserError(
                f"{self.path / 'config.yaml'}: embeddings={str(found)[:50]}: must be unit or raw"
            )
        return found

    @property
    def adapter(self) -> AdapterConfig | None:
        """How the adapter was trained that this is; None of whole weights.

        Raises:
            UserError: the config cannot be read.
        """
        if not self.config.get("adapter"):
            return None
        found = self.section("adapter", AdapterConfig)
        return None if found.kind == "none" else found

    @property
    def learned_words(self) -> list[Artifact]:
        """The runs with ``adapter.kind=token`` that this is or has, a word each."""
        own = [self] if self.merging is None else [each for each, _ in self.merging.adapters]
        return [one for one in own if one.adapter is not None and one.adapter.kind == TOKEN]

    @property
    def base(self) -> Artifact:
        """The weights that an adapter is of: where the run had them, or in ``init`` beside it.

        Raises:
            UserError: they are in neither place, or others are.
        """
        began = self.provenance.get("init")
        source = str(began.get("source")) if isinstance(began, dict) else ""
        wanted = str(self.parent("init"))
        home = self.path.resolve()
        run = home.parent if home.name == "artifact" else home
        beside = run.parent / "init"
        if found := find_base(source, wanted, beside):
            return found
        raise UserError(
            f"{self.path}: is an adapter of the weights {wanted[:12]}, which are neither in "
            f"{source[:200]} nor in {beside}; put them into one of these, or merge the two where "
            "they are (`unclip merge`)"
        )

    def parent(self, key: str) -> str | None:
        """The fingerprint of what it was trained with (clip, pca, init), where it says so."""
        parents = self.provenance.get("parents")
        found = parents.get(key) if isinstance(parents, dict) else None
        return found if isinstance(found, str) else None

    def merge(self, weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
        """``weights`` with this adapter, counted ``scale`` times; a token changes none of them."""
        if self.adapter is not None and self.adapter.kind == TOKEN:
            return dict(weights)
        try:
            return merged(weights, self.weights(), scale)
        except ValueError as error:
            raise UserError(f"{self.path / 'weights.safetensors'}: {error}") from None

    def weights(self) -> dict[str, Tensor]:
        """The state dict, on the CPU: its checksum verified, every number finite and real."""
        file = self.path / "weights.safetensors"
        if file_sha256(file) != self.sha256:
            raise UserError(f"{file}: checksum differs from artifact.json; export or copy it again")
        try:
            found = load_file(file)
        except SafetensorError as error:
            raise UserError(
                f"{file}: not a safetensors file ({error}); copy or export it again"
            ) from None
        for name, tensor in found.items():
            if tensor.is_complex() or not torch.isfinite(tensor).all():
                raise UserError(
                    f"{file}: {name} holds NaN, infinite or complex numbers; export it again "
                    "from a healthy run"
                )
        return found

    def section(self, name: str, cls: type[Config]) -> Config:
        """A section of the stored experiment, checked as an experiment's is."""
        where = f"{self.path / 'config.yaml'}: "
        value = as_dataclass(cls, self.config.get(name, {}), where, f"{name}.")
        self._validate(value)
        return value

    def stored(self, cls: type[Config]) -> Config:
        """The whole stored experiment, typed and not checked further."""
        return as_dataclass(cls, self.config, f"{self.path / 'config.yaml'}: ")

    def experiment(self, cls: type[Config], *sections: str) -> Config:
        """The stored experiment with ``sections`` read, typed and checked; others are defaults."""
        found = cls(**{name: self.section(name, _section(cls, name)) for name in sections})
        self._validate(found)
        return found

    def network(self, build: Callable[[], Network], weights_of: str = "") -> Network:
        """What ``build`` makes, with the weights, in evaluation mode: nothing is dropped out.

        It is built without memory first: a config that asks for more than the weights are is
        refused before anything is allocated.

        Args:
            build: Makes the network on the default device.
            weights_of: The submodule that the weights are of, if not of all.

        Raises:
            UserError: the weights do not fit.
        """
        with torch.device("meta"):
            wanted = build().get_submodule(weights_of)
        weights = self.weights_for(wanted)
        network = build()
        network.get_submodule(weights_of).load_state_dict(weights)
        return network.eval()

    def weights_for(self, network: torch.nn.Module) -> dict[str, Tensor]:
        """`weights` as they are stored, which fit ``network`` by name, shape and kind of number.

        Raises:
            UserError: one is not; ``network`` may be on "meta".
        """
        file = self.path / "weights.safetensors"
        if self.merging is not None:
            weights = self.merging.base.weights_for(network)
            for each, count in self.merging.adapters:
                assert each.adapter is not None
                weights = each.merge(weights, count * each.adapter.scale)
            return weights
        if self.adapter is not None:
            return self.merge(self.base.weights_for(network), self.adapter.scale)
        wanted = network.state_dict()
        found = self._shapes()
        for name in [*wanted, *found]:
            one = _shape(list(wanted[name].shape)) if name in wanted else "none"
            two = _shape(found[name]) if name in found else "none"
            if one != two:
                raise UserError(
                    f"{self.path}: weights do not fit config.yaml: {name} has the shape {two}, the "
                    f"config asks for {one}; copy both files from one run"
                )
        weights = self.weights()
        for name, tensor in weights.items():
            if tensor.dtype.is_floating_point != wanted[name].dtype.is_floating_point:
                raise UserError(
                    f"{file}: {name} holds {tensor.dtype}, {wanted[name].dtype} is needed"
                )
        return weights

    def _shapes(self) -> dict[str, list[int]]:
        """Of each tensor of the weights, without reading them."""
        file = self.path / "weights.safetensors"
        try:
            with safe_open(file, "pt") as stored:
                return {k: stored.get_slice(k).get_shape() for k in stored.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(
                f"{file}: not a safetensors file ({error}); copy or export it again"
            ) from None

    def _validate(self, value: Any) -> None:
        try:
            value.validate()
        except UserError as error:
            raise UserError(f"{self.path / 'config.yaml'}: {error}") from None
        except ZeroDivisionError:
            raise UserError(f"{self.path / 'config.yaml'}: a size is 0") from None


def _shape(shape: list[int]) -> list[int]:
    """A scalar is stored as a number or as a list of one."""
    return shape or [1]


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
    files: Mapping[str, Path] = MappingProxyType({}),
) -> Artifact:
    """Write an artifact folder; all of it appears at once, or nothing does.

    ``files`` are copied into it under the names that they have there.

    Raises:
        UserError: a weight is NaN or infinite.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path}: not written: {name} has a NaN or infinite value")
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent, ".export-") as scratch:
        folder = scratch / "artifact"
        folder.mkdir()
        state = {k: _own(v.detach().cpu().contiguous()) for k, v in weights.items()}
        try:
            save_file(state, folder / "weights.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk
            raise UserError(f"{path}: cannot be written: {error}; make room") from None
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
        for name, file in files.items():
            shutil.copyfile(file, folder / name)
        if path.exists():
            shutil.rmtree(path)
        os.replace(folder, path)
    return describe(path)


def _own(tensor: Tensor) -> Tensor:
    """The same values in a storage that holds nothing else, as a safetensors file needs."""
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.clone()


def describe(path: Path | str | Artifact, *, key: str = "artifact") -> Artifact:
    """Read an artifact's description; a run's folder stands for its ``artifact`` inside.

    ``key`` names the config field or option in errors.
    """
    if isinstance(path, Artifact):
        return path
    folder = Path(path)
    if (folder / "artifact" / "artifact.json").is_file():
        folder = folder / "artifact"
    if not folder.is_dir():
        raise UserError(f"{key}={path}: no such artifact; name the folder of a finished run")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{key}={path}: not an artifact: {', '.join(missing)} missing in {folder}")
    try:
        header = json_text.read_object(folder / "artifact.json")
        config = yaml_text.read_file(folder / "config.yaml")
        provenance = json_text.read_object(folder / "provenance.json", finite=False)
        version = header["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(
                f"{key}={path}: format version {version}, this unclip reads {FORMAT_VERSION}; "
                "use the unclip that wrote it, or train again"
            )
        _check_header(header, config)
        return Artifact(
            folder,
            header["stage"],
            header["embed_dim"],
            header["clip_fingerprint"],
            header["sha256"],
            config,
            provenance,
        )
    except KeyError as error:
        raise UserError(f"{key}={path}: damaged artifact: {error} is missing") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={path}: damaged artifact: {error}") from None


def _check_header(header: dict[str, Any], config: dict[str, Any]) -> None:
    """ValueError for what is not of its type in artifact.json, or contradicts config.yaml."""
    dim, fingerprint = header["embed_dim"], header["clip_fingerprint"]
    texts = [header["stage"], header["sha256"], *([] if fingerprint is None else [fingerprint])]
    if not all(isinstance(text, str) for text in texts) or type(dim) not in (int, type(None)):
        raise ValueError("artifact.json: a field is not of its type")
    if config.get("stage", header["stage"]) != header["stage"]:
        stage = str(config["stage"])[:50]
        raise ValueError(f"artifact.json is of stage {header['stage']}, config.yaml of {stage}")
    model = config.get("model")
    size = model.get("embed_dim") if isinstance(model, dict) else None
    if None not in (dim, size) and dim != size:
        raise ValueError(f"artifact.json has embed_dim {dim}, config.yaml {str(size)[:50]}")


def find_base(source: str, sha256: str, beside: Path) -> Artifact | None:
    """The whole weights of a checksum, in ``source`` or else in ``beside``; None if in neither."""
    for place in (Path(source), beside):
        if source and place.is_dir():
            found = describe(place, key="init")
            if found.sha256 == sha256 and found.adapter is None:
                return found
    return None


def expect(artifact: Artifact, stages: tuple[str, ...], *, key: str) -> Artifact:
    """Refuse an artifact of another stage than ``stages``."""
    if artifact.stage not in stages:
        wanted = article(" or ".join(stages))
        raise UserError(
            f"{key}={artifact.path}: is {article(artifact.stage)}, but {wanted} is needed"
        )
    return artifact
