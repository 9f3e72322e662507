"""Cascades that others have published: where their weights are, and what they are.

A cascade is a YAML file in ``experiments/cascades``, or an address of the hub. Imports no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unclip.common import yaml_text
from unclip.common.checks import closest, nearest
from unclip.common.errors import UserError
from unclip.common.fields import as_dataclass
from unclip.config.files import shipped_experiments, yaml_files
from unclip.stages import registry
from unclip.stages.row import CLIP, DECODER

FOLDER = "cascades"
_HUB = "hf://"


@dataclass(frozen=True, kw_only=True)
class PublishedCascade:
    """The fields of a file in ``experiments/cascades``."""

    about: str = ""
    sources: list[str] = field(default_factory=list)  # of `unclip import`; a stage: the first's
    clip: str = ""  # where both halves of the CLIP are, if not in the sources
    merges: str = ""  # where GPT-2's merges are, for GLIDE's networks
    licence: str = ""  # of the weights
    download: str = ""  # size, for people: "15 GB"


@dataclass(frozen=True)
class NamedCascade:
    """A published cascade, and what it was called."""

    name: str
    published: PublishedCascade
    stages: dict[str, Any] = field(default_factory=dict)  # experiments by stage, for `unclip plan`


def find_cascade(word: str) -> NamedCascade | None:
    """The published cascade that ``word`` names, None for what can only be a path.

    ``word`` is a name (``karlo``, ``cascades/karlo``), such a YAML file, or
    ``hf://ORG/NAME[@REVISION]``. A folder of that name with a CLIP or decoder in it
    is meant before a name.

    Raises:
        UserError: the file is not one of a cascade.
    """
    if word.startswith(_HUB):
        stem = re.sub(r"[^\w.-]+", "--", word.removeprefix(_HUB))
        return NamedCascade(stem, PublishedCascade(sources=[word]))
    if word.endswith((".yaml", ".yml")):
        path = Path(word)
        return read_cascade(path) if path.is_file() and _is_cascade(path) else None
    if any((Path(word) / kind).is_dir() for kind in (CLIP, DECODER)):
        return None
    found = cascade_files().get(f"{FOLDER}/{word.removeprefix(FOLDER + '/')}")
    return None if found is None else read_cascade(found[0])


def meant(word: str) -> str:
    """The end of an error about a ``word`` that is nearly the name of a published cascade."""
    name = closest(word, [name.removeprefix(f"{FOLDER}/") for name in cascade_files()])
    return f"; did you mean the cascade {name!r}?" if name else ""


def _is_cascade(path: Path) -> bool:
    """Whether a file is of a cascade and not an experiment or a recipe."""
    return path.parent.name == FOLDER or "sources" in yaml_text.read_file(path)


def cascade_files() -> dict[str, list[Path]]:
    """The files by ``cascades/name``, as `yaml_files` has them."""
    return yaml_files(FOLDER)


def _refuse_addresses(found: PublishedCascade, path: Path) -> None:
    """Refuse addresses but the hub's: whoever wrote the file would choose what is asked from here.

    Raises:
        UserError: names the first.
    """
    named = [(f"sources[{n}]", source) for n, source in enumerate(found.sources)]
    for key, spec in (*named, ("clip", found.clip), ("merges", found.merges)):
        if "://" in spec and not spec.startswith(_HUB):
            raise UserError(
                f"{path}: {key}={spec}: a cascade's file names hf://ORG/NAME[@REVISION] and local "
                "paths; download it yourself, and name the file"
            )


def read_cascade(path: Path) -> NamedCascade:
    """A cascade's file.

    Raises:
        UserError: it names the file, the key and the fix.
    """
    content = yaml_text.read_file(path)
    stages = content.pop("stages", {})
    for key in content:
        if key not in PublishedCascade.__dataclass_fields__:
            known = [*PublishedCascade.__dataclass_fields__, "stages"]
            raise UserError(f"{path}: {key}: unknown key{nearest(key, known)}")
    found = as_dataclass(PublishedCascade, content, f"{path}: ")
    if not found.sources:
        raise UserError(f"{path}: sources: is empty; name at least one, as hf://ORG/NAME@REVISION")
    if not path.resolve().is_relative_to(shipped_experiments().resolve()):
        _refuse_addresses(found, path)
    if not isinstance(stages, dict):
        raise UserError(f"{path}: stages={str(stages)[:50]!r}: must be a section of keys")
    read = {
        name: as_dataclass(
            registry.stage(str(name), str(path)).experiment, section, f"{path}: ", f"stages.{name}."
        )
        for name, section in stages.items()
    }
    return NamedCascade(path.stem, found, read)
