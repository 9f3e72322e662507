"""What a bundle of a finished run holds."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

from unclip.common import artifacts, yaml_text
from unclip.common.errors import UserError
from unclip.embeddings.clip import check_embedding
from unclip.runs.folders import trained
from unclip.sharing import bundle
from unclip.sharing.card import card, check_licence
from unclip.sharing.layout import (
    CARD,
    EXPERIMENT,
    MANIFEST,
    MAX_SAMPLES,
    METRICS,
    PARENTS,
    PROVENANCE,
    RUN,
    SUMMARY,
    File,
    Manifest,
    limit_of,
    prefix,
    read_manifest,
)
from unclip.sharing.privacy import public_command, public_tree
from unclip.sharing.writing import Content, fill, sha256_of, size_of
from unclip.stages import registry
from unclip.stages.clip.part import load as load_clip
from unclip.tracking.config import TrackingConfig
from unclip.tracking.files import read_metrics
from unclip.training.config import RunConfig

_PNG = b"\x89PNG\r\n\x1a\n"


def gather(run: str, *, weights: bool, licence: str = "unknown") -> Content:
    """All members of the bundle of ``run``, a run's folder or an experiment that has one.

    Args:
        run: Its newest finished run stands for an experiment.
        weights: Whether artifacts go in whole, the parents' too.
        licence: What the card says, as the hub names it.

    Raises:
        UserError: something is missing, or is not what the run was trained with.
    """
    check_licence(licence)
    artifact = artifacts.describe(trained(run), key="RUN")
    folder = artifact.path.parent
    parents = _parents(artifact)
    content: Content = {}
    for name, part in {RUN: artifact, **parents}.items():
        content |= _part(name, part, weights=weights)
    summary = _summary(folder)
    if registry.STAGES[artifact.stage].trains and summary is None:
        raise UserError(f"RUN={run}: no {SUMMARY} in {folder}; share the folder of a finished run")
    if summary is not None:
        content[SUMMARY] = _json(public_tree(_finite(summary), names=True))
    if (folder / METRICS).is_file():
        lines = (json.dumps(_finite(row)) + "\n" for row in read_metrics(folder / METRICS))
        content[METRICS] = "".join(lines).encode()
    samples = sorted(folder.glob("samples/step_*.png"))[-MAX_SAMPLES:]
    content |= {f"samples/{file.name}": file for file in samples}
    for file in (*samples, folder / SUMMARY, folder / METRICS):
        _refuse_links(file, folder)
    experiment = yaml_text.read(content[EXPERIMENT].decode())  # type: ignore[union-attr]
    kind_name = str((summary or {}).get("experiment", f"{artifact.stage}/{folder.name}"))
    content[CARD] = card(
        name=kind_name,
        experiment=experiment,
        provenance=json.loads(content[PROVENANCE]),  # type: ignore[arg-type]
        parents=_said_of(experiment, parents),
        weights=weights,
        samples=[name for name in content if name.endswith(".png")],
        licence=licence,
    ).encode()
    shas = {name: part.sha256 for name, part in {RUN: artifact, **parents}.items()}
    _add_manifest(content, kind_name, shas)
    return content


def _parents(artifact: artifacts.Artifact) -> dict[str, artifacts.Artifact]:
    """What ``artifact`` depends on, apart from models of open_clip; refused if it has changed."""
    found = {}
    clip = artifact.config.get("clip")
    if isinstance(clip, str):
        loaded = load_clip(clip)
        if loaded.fingerprint != artifact.provenance["parents"].get("clip"):
            raise UserError(f"clip={clip}: is not the CLIP that {artifact.path} was trained with")
        if not clip.startswith("open_clip:"):
            found["clip"] = artifacts.describe(clip, key="clip")
        if isinstance(pca := artifact.config.get("pca"), str):
            found["pca"] = artifacts.describe(pca, key="pca")
            check_embedding(found["pca"], loaded, key="pca")
    return found


def _part(name: str, artifact: artifacts.Artifact, *, weights: bool) -> Content:
    experiment = public_tree(artifact.config)
    experiment["run"], experiment["tracking"] = vars(RunConfig()), vars(TrackingConfig())
    for parent in PARENTS:
        spec = experiment.get(parent)  # a section of that name is none
        if isinstance(spec, str) and not spec.startswith("open_clip:"):
            experiment[parent] = prefix(parent).rstrip("/")
    provenance = public_tree(_finite(artifact.provenance), names=True)
    if "command" in provenance:
        provenance["command"] = public_command(artifact.provenance["command"])
    begin = prefix(name)
    own: Content = {
        EXPERIMENT: yaml_text.document(experiment).encode(),
        PROVENANCE: _json(provenance),
    }
    if weights:
        own |= {
            "artifact/config.yaml": own[EXPERIMENT],
            "artifact/provenance.json": own[PROVENANCE],
            "artifact/artifact.json": artifact.path / "artifact.json",
            "artifact/weights.safetensors": artifact.path / "weights.safetensors",
        }
        if (artifact.path / artifacts.X0_ERRORS).is_file():
            own[f"artifact/{artifacts.X0_ERRORS}"] = artifact.path / artifacts.X0_ERRORS
        for what in own.values():
            if isinstance(what, Path):
                _refuse_links(what, artifact.path)
    return {begin + file: what for file, what in own.items()}


def _refuse_links(file: Path, folder: Path) -> None:
    """Refuse a file that is elsewhere than in ``folder``, or a sample that is no PNG."""
    if file.resolve() != folder.resolve() / file.relative_to(folder):
        raise UserError(f"{file}: is a link or below one; put a copy of the file there")
    if file.suffix == ".png":
        with file.open("rb") as opened:
            if opened.read(len(_PNG)) != _PNG:
                raise UserError(f"{file}: is not a PNG; remove it")


def _said_of(experiment: dict[str, Any], parents: dict[str, artifacts.Artifact]) -> dict[str, str]:
    said = {name: f"a run of its own, weights {p.sha256[:12]}" for name, p in parents.items()}
    if "clip" in experiment and "clip" not in parents:
        said["clip"] = experiment["clip"]
    return said


def _add_manifest(content: Content, name: str, weights: dict[str, str]) -> None:
    files = {
        member: File(sha256_of(content[member]), size_of(content[member]))
        for member in sorted(content)
        if member != CARD
    }
    for member, file in files.items():
        if file.size > limit_of(member):
            raise UserError(
                f"{member}: has {file.size:,} bytes, a bundle takes {limit_of(member):,} at most"
            )
    content[MANIFEST] = _json(Manifest(name, weights, files).as_json())
    with tempfile.TemporaryDirectory() as scratch:  # what is shared must be taken by others
        folder = Path(scratch) / "bundle"
        fill(content, folder, link=True)
        bundle.read(folder, read_manifest(folder / MANIFEST, name), name)


def _summary(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / SUMMARY).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{folder / SUMMARY}: damaged: {error}; train the run again") from None


def _finite(value: Any) -> Any:
    """Without the entries that are NaN (of what had no samples) or infinite."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items() if not _odd(v)}
    return value


def _odd(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
