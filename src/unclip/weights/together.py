"""Whether the stages of an import fit each other, and those that its folder already has."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.stages import registry
from unclip.stages.experiment import embeddings_of
from unclip.stages.row import CLIP
from unclip.weights.found import Found
from unclip.weights.reading.folders import Source


def check_together(found: list[Found]) -> None:
    """Refuse two stages of a kind and stages of different CLIPs, before weights are written."""
    kinds: dict[str, Found] = {}
    for each in found:
        kind = registry.STAGES[each.stage].kind
        if kind in kinds:
            raise UserError(
                f"{each.where}: is a second {kind} beside {kinds[kind].where}; import one of them"
            )
        kinds[kind] = each
    sizes = {each.where: each.sizes for each in found if each.stage != CLIP}
    for each in found:
        if each.stage == CLIP:
            model = each.experiment.model
            sizes[each.where] = each.sizes._replace(
                embed_dim=model.embed_dim, text_width=model.text_width, context=model.context
            )
    for field in ("embed_dim", "text_width", "context"):
        said = {w: v for w, s in sizes.items() if (v := getattr(s, field)) is not None}
        if len(set(said.values())) > 1:
            (one, a), (two, b) = next(
                (x, y) for x in said.items() for y in said.items() if x[1] != y[1]
            )
            raise UserError(
                f"{one}: is of another CLIP than {two}: {field} {a} and {b}; give "
                "stages of one CLIP"
            )
    for each in found:
        for section in ("model", "diffusion", "sampler"):
            if hasattr(each.experiment, section):
                validate(getattr(each.experiment, section), each.where)


def validate(config: Any, where: str) -> None:
    """Refuse a section's values that its stage cannot have; the error begins with ``where``."""
    try:
        config.validate()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except ZeroDivisionError:
        raise UserError(f"{where}: a size in its configuration is 0") from None


def check_same_clip(own: Found, other: Found) -> None:
    """Refuse a CLIP that differs from what the source has of its own, such as its text half."""
    theirs = other.state()
    for name, tensor in own.state().items():
        if name == "logit_scale" or name not in theirs:
            continue
        if not torch.equal(tensor.float(), theirs[name].float()):
            raise UserError(
                f"{other.where}: is another CLIP than {own.where}: {name} differs; "
                "give the CLIP that the stages were trained with"
            )


def choose_embeddings(out: Path, found: list[Found], replaced: set[Path]) -> None:
    """Have the CLIP make those that the other stages take: raw ones, if none takes any.

    Raises:
        UserError: stages of this import, or of ``out``, take different ones.
    """
    takes: dict[str, Any] = {
        each.where: kind
        for each in found
        if each.stage != CLIP and (kind := embeddings_of(each.experiment)) is not None
    }
    for file in sorted(out.glob("*/artifact.json")):
        if file.parent not in replaced:
            stage = artifacts.describe(file.parent)
            if stage.embeddings is not None and (stage.stage == CLIP or stage.embed_dim):
                takes[str(file.parent)] = stage.embeddings
    for (one, a), (two, b) in itertools.combinations(takes.items(), 2):
        if a != b:
            raise UserError(
                f"{one}: is of {a} embeddings, {two} of {b} ones; give stages of one kind, or "
                "import this one and its CLIP (--clip SOURCE) into another folder"
            )
    for each in found:
        if each.stage == CLIP and takes:
            each.experiment.model.embeddings = next(iter(takes.values()))


def fingerprint_there(out: Path, found: list[tuple[Found, Source]]) -> str | None:
    """The fingerprint of the CLIP that ``out`` has already, if this import brings none."""
    if not (out / CLIP).is_dir() or any(each.stage == CLIP for each, _ in found):
        return None
    frozen = registry.STAGES[CLIP].load(str(out / CLIP))
    for each, _ in found:
        if each.sizes.embed_dim not in (None, frozen.model.embed_dim):
            raise UserError(
                f"{each.where}: is of another CLIP than {out / CLIP}: embed_dim "
                f"{each.sizes.embed_dim} and {frozen.model.embed_dim}; name another folder"
            )
    return frozen.fingerprint


def check_those_there(
    out: Path, found: list[tuple[Found, Source]], replaced: set[Path], fingerprint: str | None
) -> None:
    """Refuse a CLIP that is not that of the stages which ``out`` has and keeps."""
    clip = next((each for each, _ in found if each.stage == CLIP), None)
    if clip is None:
        return
    for file in sorted(out.glob("*/artifact.json")):
        if file.parent in replaced:
            continue
        stage, dim = artifacts.describe(file.parent), clip.experiment.model.embed_dim
        if stage.embed_dim not in (None, dim) or stage.clip_fingerprint not in (None, fingerprint):
            raise UserError(
                f"{clip.where}: is another CLIP than that of {file.parent}; name another folder"
            )


def check_revisions(out: Path, found: list[tuple[Found, Source]], replaced: set[Path]) -> None:
    """Refuse to put revisions of one source side by side."""
    now = {s.origin["source"]: s.origin.get("revision") for _, s in found}
    for file in sorted(out.glob("*/artifact.json")):
        if file.parent in replaced:
            continue
        imported = artifacts.describe(file.parent).provenance.get("imported")
        if not isinstance(imported, dict):
            continue
        source, before = imported.get("source"), imported.get("revision")
        if source in now and None not in (before, now[source]) and before != now[source]:
            raise UserError(
                f"--out {out}: {file.parent.name} is of revision {str(before)[:12]} of {source}, "
                f"this import of {str(now[source])[:12]}; import all of one revision"
            )
