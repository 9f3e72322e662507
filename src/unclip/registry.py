"""Finds experiments and names stages: explicit tables, no import paths in YAML."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import unclip
from unclip.types import UserError

if TYPE_CHECKING:
    from unclip.stages.configs import Experiment

KINDS = ("clip", "pca", "prior", "decoder", "upsampler")
"""The folders of an experiments directory; several stages may share one."""


@dataclass(frozen=True)
class StageEntry:
    """A stage that an experiment file may name."""

    name: str
    kind: str  # one of KINDS
    about: str

    def config(self) -> type[Experiment]:
        """The dataclass of the stage's experiment files (imports no torch)."""
        from unclip.stages import configs

        return {
            "clip": configs.ClipExperiment,
            "pca": configs.PcaExperiment,
            "ar_prior": configs.ArPriorExperiment,
            "diffusion_prior": configs.DiffusionPriorExperiment,
            "decoder": configs.DecoderExperiment,
            "upsampler": configs.UpsamplerExperiment,
        }[self.name]


STAGES = {
    entry.name: entry
    for entry in (
        StageEntry("clip", "clip", "contrastive image and text encoders"),
        StageEntry("pca", "pca", "components and buckets of image embeddings, for the AR prior"),
        StageEntry("ar_prior", "prior", "caption to image embedding, code by code"),
        StageEntry("diffusion_prior", "prior", "caption to image embedding, x0-predicting"),
        StageEntry("decoder", "decoder", "image embedding to picture"),
        StageEntry("upsampler", "upsampler", "small picture to large picture"),
    )
}


def stage(name: str, where: str) -> StageEntry:
    """The stage called ``name``; ``where`` names the file in the error."""
    if name not in STAGES:
        raise UserError(f"{where}: stage: unknown stage {name!r}{nearest(name, STAGES)}")
    return STAGES[name]


def nearest(word: str, valid: object, otherwise: str | None = None) -> str:
    """A hint that names the closest of ``valid``; else ``otherwise``, or all of them if None."""
    words = [str(w) for w in valid]  # type: ignore[attr-defined]
    close = difflib.get_close_matches(word, words, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if otherwise is not None:
        return otherwise
    return f"; valid: {', '.join(words)}" if words else ""


def shipped() -> Path:
    """The experiments that come with the package (or with the checkout, when run from one)."""
    package = Path(unclip.__file__).parent
    inside = package / "experiments"
    return inside if inside.is_dir() else package.parent.parent / "experiments"


def roots() -> list[Path]:
    """The folders in which experiments are looked for, first match wins."""
    seen: dict[Path, Path] = {}
    for path in (Path("experiments"), *_named(), shipped()):
        if path.is_dir():
            seen.setdefault(path.resolve(), path)
    return list(seen.values())


def missing_roots() -> list[Path]:
    """What ``$UNCLIP_EXPERIMENTS`` names and is not a folder."""
    return [path for path in _named() if not path.is_dir()]


def _named() -> list[Path]:
    value = os.environ.get("UNCLIP_EXPERIMENTS", "")
    return [Path(path).expanduser() for path in value.split(os.pathsep) if path]


def files(folder: str) -> dict[str, list[Path]]:
    """The YAML files in ``folder`` (``prior``, ``recipes``) of every root, by ``folder/name``.

    The first file of a name is the one that counts; it hides the others.
    """
    found: dict[str, list[Path]] = {}
    for root in roots():
        for path in sorted((root / folder).glob("*.yaml")):
            if path.is_file():
                found.setdefault(f"{folder}/{path.stem}", []).append(path)
    return found


def experiment_files() -> Iterator[tuple[str, Path]]:
    """(name, file) of every experiment that can be found, as ``prior/diffusion_l``."""
    for kind in KINDS:
        for name, paths in files(kind).items():
            yield name, paths[0]


def find(name: str) -> Path:
    """The file of an experiment given by path or as ``kind/name``."""
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        raise UserError(f"{name}: no such experiment file")
    folder = name.split("/")[0]
    for root in roots():
        path = root / f"{name}.yaml"
        if folder in (*KINDS, "recipes") and path.is_file():
            return path
    recipe = folder == "recipes"
    names = list(files(folder)) if recipe else [n for n, _ in experiment_files()]
    verb = "recipe --list" if recipe else "experiments list"
    same = " or ".join(repr(n) for n in names if n.split("/")[1] == name)
    hint = f"; did you mean {same}?" if same else nearest(name, names, f"; see `unclip {verb}`")
    looked = ", ".join(str(r) for r in roots())
    raise UserError(f"{name}: no such experiment in {looked}{hint}")
