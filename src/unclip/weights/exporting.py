"""A cascade of ours as the folders of a diffusers pipeline, or of such components alone."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

import unclip
from unclip.common import json_text
from unclip.common.errors import UserError
from unclip.common.replacing import put_in_place, require_only
from unclip.common.scratch import scratch_folder
from unclip.embeddings.clip import fingerprint_of
from unclip.stages import registry
from unclip.stages.row import CLIP, PCA, PRIOR, UPSAMPLER
from unclip.weights.exported import PROVENANCE
from unclip.weights.writing import limits
from unclip.weights.writing.clip_files import as_text
from unclip.weights.writing.components import TRANSFORMERS, Component, components
from unclip.weights.writing.pipelines import INDEX, no_pipeline, pipeline_of
from unclip.weights.writing.stages import Stage, read_stages

_TOLD = ("created", "git_revision", "git_dirty", "seed", "data_fingerprint", "parents")


def export_diffusers(
    cascade: Path, out: Path, *, half: bool = False, force: bool = False
) -> list[Path]:
    """Write a cascade as a pipeline's folder; all of it appears, or nothing.

    Args:
        cascade: A folder with some of ``clip``, ``prior``, ``decoder`` and ``upsampler*``, or
            of one stage. Where no pipeline has just these, only their components are written.
        out: The pipeline's folder.
        half: Round to float16; else numbers stay as the artifacts have them.
        force: Replace an earlier export.

    Returns:
        The folders of the components.

    Raises:
        UserError: one line that names the file, the key and the fix.
        OSError: a full disk.
    """
    stages = read_stages(cascade)
    _check_out(out, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(out.parent, ".export-") as scratch:
        root = scratch / "pipeline"
        root.mkdir()
        pipeline = pipeline_of(stages)
        made: dict[str, Component] = {}
        known: tuple[Stage, str] | None = None  # the first that knows a CLIP, and which
        for stage in stages.values():  # the CLIP is first
            net = _network(stage)
            weights = stage.artifact.weights_for(net)
            own = fingerprint_of(weights) if stage.kind == CLIP else stage.artifact.clip_fingerprint
            if known is not None and own not in (None, known[1]):
                raise UserError(
                    f"{stage.artifact.path}: was trained on the embeddings of another CLIP than "
                    f"{known[0].artifact.path}; export stages of one CLIP"
                )
            known = known or (own and (stage, own)) or None
            names = pipeline.names if pipeline else {}
            made |= _write(root, stage, net, weights, names, half=half)
        if pipeline is not None:
            (root / INDEX).write_text(as_text(pipeline.table(made)))
        (root / "README.md").write_text(_readme(stages))
        (root / PROVENANCE).write_text(as_text(_provenance(stages, root)))
        before = scratch / "before"
        before.mkdir()
        put_in_place({out: root}, before)
    return [out / name for name in sorted(made)]


def left_out(cascade: Path) -> list[str]:
    """Lines about what a pipeline's folder has no place for and does not need."""
    stages = read_stages(cascade)
    lines = [] if pipeline_of(stages) else [no_pipeline(stages)]
    if settings := limits.unheld({kind: stage.experiment for kind, stage in stages.items()}):
        lines.append(
            f"{', '.join(settings)}: diffusers samples in its own way (ddpm, one candidate, evenly "
            "spaced steps); numbers of steps and guidance are arguments of its call"
        )
    if (cascade / PCA).is_dir():
        lines.append(f"{cascade / PCA}: left out; diffusers' pipelines have no use for it")
    for other in sorted(cascade.glob(f"*_{PRIOR}")):
        if other.is_dir():
            lines.append(f"{other}: left out; diffusers has no such network")
    return lines


def _check_out(out: Path, *, force: bool) -> None:
    empty = out.is_dir() and not out.is_symlink() and not any(out.iterdir())
    if empty or not os.path.lexists(out):
        return
    if not force:
        raise UserError(f"--out {out}: exists; name another folder, or add --force")
    try:
        exported = json_text.read_object(out / PROVENANCE).get("exported")
    except (OSError, ValueError):
        exported = None
    files = exported.get("files") if isinstance(exported, dict) else None
    if not isinstance(files, list):
        raise UserError(
            f"--out {out}: is not an export of unclip, so --force does not replace it; name another"
        )
    require_only(out, {str(name) for name in files} | {PROVENANCE}, option="--out ")


def _network(stage: Stage) -> Any:
    """Its network on "meta"."""
    with torch.device("meta"):
        net = registry.STAGES[stage.artifact.stage].build_network(stage.experiment, stage.sizes)
    return net.model if stage.kind == CLIP else net


def _write(
    root: Path,
    stage: Stage,
    net: Any,
    weights: dict[str, Tensor],
    names: Mapping[str, str],
    *,
    half: bool,
) -> dict[str, Component]:
    """Write the components of a stage, some under other ``names``; returns them by folder."""
    if half:
        weights = {name: _rounded(stage, name, tensor) for name, tensor in weights.items()}
    made = {}
    for usual, (component, state) in components(stage, net, weights).items():
        name = names.get(usual, usual)
        folder = root / name
        folder.mkdir()
        for beside, content in component.files.items():
            (folder / beside).write_text(as_text(content), encoding="utf-8")
        if state:
            stem = "model" if component.library == TRANSFORMERS else "diffusion_pytorch_model"
            file = folder / f"{stem}.safetensors"
            try:
                save_file(state, file, metadata={"format": "pt"})
            except SafetensorError as error:  # a full disk
                raise OSError(errno.EIO, f"cannot be written: {error}", str(file)) from None
        made[name] = component
    return made


def _rounded(stage: Stage, name: str, tensor: Tensor) -> Tensor:
    """``tensor`` in float16."""
    if not tensor.is_floating_point():
        return tensor
    found = tensor.half()
    if not found.isfinite().all():
        raise UserError(
            f"{stage.artifact.path}: {name} has a number beyond 65,504, the most of half "
            "precision; leave out --half"
        )
    return found


def _readme(stages: dict[str, Stage]) -> str:
    """Names the licence of the weights, if all that were imported have the same."""
    imported = (stage.artifact.provenance.get("imported") for stage in stages.values())
    found = {str(each.get("licence") or "") for each in imported if isinstance(each, dict)}
    one = found.pop() if len(found) == 1 else ""
    known = re.fullmatch(r"[\w.+-]{1,60}", one)
    head = ["library_name: diffusers", *([f"license: {one}"] if known else [])]
    body = "Written by `unclip export`. `provenance.json` says where its stages are from."
    return "\n".join(["---", *head, "---", "", body, ""])


def _provenance(stages: dict[str, Stage], root: Path) -> dict[str, Any]:
    """Where each stage is from, and how its sampler is set, which `unclip import` reads back.

    With the names of the files below ``root``: a later export replaces no others.
    """
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    told = {}
    for kind, stage in stages.items():
        own = stage.artifact.provenance
        told[kind] = {
            "stage": stage.artifact.stage,
            "sha256": stage.artifact.sha256,
            "clip_fingerprint": stage.artifact.clip_fingerprint,
            **{name: own[name] for name in _TOLD if name in own},
        }
        if isinstance(imported := own.get("imported"), dict):
            told[kind]["imported"] = {
                k: v for k, v in imported.items() if k not in ("settings", "half")
            }
        if hasattr(stage.experiment, "sampler"):
            told[kind]["sampler"] = dataclasses.asdict(stage.experiment.sampler)
            told[kind]["tables"] = stage.experiment.diffusion.tables
        if kind == UPSAMPLER:
            told[kind]["low_size"] = stage.experiment.model.low_size
    return {"exported": {"by": f"unclip {unclip.__version__}", "stages": told, "files": files}}
