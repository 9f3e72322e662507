"""What a bundle of a finished run, or of a cascade, holds."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from unclip.common import artifacts, yaml_text
from unclip.common.errors import UserError
from unclip.common.moved import locate_parent
from unclip.common.terminal import say
from unclip.embeddings.agreement import check_embedding
from unclip.runs.folders import trained
from unclip.sharing import bundle
from unclip.sharing.card import DescribedStage, card, check_licence
from unclip.sharing.layout import (
    CARD,
    CASCADE_VERSION,
    EXPERIMENT,
    INIT,
    MANIFEST,
    MAX_SAMPLES,
    METRICS,
    OTHER_PCA,
    PARENTS,
    PROVENANCE,
    RUN,
    STAGE,
    SUMMARY,
    File,
    Manifest,
    in_order,
    limit_of,
    read_manifest,
)
from unclip.sharing.plain import finite, json_bytes, numbers
from unclip.sharing.privacy import public_command, public_tree
from unclip.sharing.resumes import bent, bent_line
from unclip.sharing.writing import Content, fill, sha256_of, size_of
from unclip.stages import registry
from unclip.stages.clip.part import load as load_clip
from unclip.tracking.config import TrackingConfig
from unclip.tracking.files import MARK, read_metrics
from unclip.training.config import RunConfig

_PNG = b"\x89PNG\r\n\x1a\n"


def gather(run: str, *, weights: bool, licence: str = "unknown") -> Content:
    """All members of the bundle of ``run``: a run's folder, a cascade's, or an experiment.

    Args:
        run: Its newest finished run stands for an experiment.
        weights: Whether artifacts go in whole, the parents' too.
        licence: What the card says, as the hub names it.

    Raises:
        UserError: something is missing, or is not what the run was trained with.
    """
    check_licence(licence)
    folder = trained(run)
    stages = stages_in(folder)
    for path in [folder] if is_artifact(folder) else stages.values():
        if is_artifact(path):
            _refuse_imported(run, artifacts.describe(path, key="RUN"))
    if stages and not is_artifact(folder):
        return _cascade(run, stages, weights=weights, licence=licence)
    if not is_artifact(folder):
        raise _no_run(run, folder)
    artifact = artifacts.describe(folder, key="RUN")
    parents = _parents(artifact)
    everything = {RUN: artifact, **parents}
    manifest = Manifest("", {name: part.sha256 for name, part in everything.items()}, {})
    content = _run_files(run, artifact)
    for name, part in everything.items():
        content |= _part(manifest.prefix(name), part, weights=weights)
    name = _name_of(content, artifact)
    content[CARD] = card(
        name=name,
        stages=[_described("", content, parents)],
        weights=weights,
        licence=licence,
    ).encode()
    return _sealed(content, replace(manifest, experiment=name))


def _no_run(run: str, folder: Path) -> UserError:
    if (folder / EXPERIMENT).is_file():
        return UserError(
            f"RUN={run}: the run has not finished: it has no artifact; finish it with "
            f"`unclip train {folder / EXPERIMENT} --resume`"
        )
    return UserError(
        f"RUN={run}: holds no run, cascade or artifact; name the folder of a finished run "
        "(`unclip runs list`), or a cascade's"
    )


def is_artifact(folder: Path) -> bool:
    """Whether ``folder`` is an artifact or a finished run."""
    return any((folder / f / "artifact.json").is_file() for f in (".", "artifact"))


def stages_in(folder: Path) -> dict[str, Path]:
    """The stages of a cascade's folder, by the names of their folders."""
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if re.fullmatch(STAGE, path.name, re.ASCII) and path.is_dir()
    }


def _cascade(run: str, stages: dict[str, Path], *, weights: bool, licence: str) -> Content:
    """The bundle of a cascade; parents that stages share are there once."""
    if missing := [name for name in ("clip", "decoder") if name not in stages]:
        raise UserError(
            f"RUN={run}: a cascade without {' and '.join(missing)}; share its stages one by one, "
            f"such as {next(iter(stages.values()))}"
        )
    found = {n: artifacts.describe(path, key=f"RUN={run}: {n}") for n, path in stages.items()}
    for name, artifact in found.items():
        artifacts.expect(artifact, registry.of_kind(bundle.kind_of(name)), key=name)
    clip = load_clip(str(stages["clip"]))
    for name, artifact in list(found.items()):
        check_embedding(artifact, clip, key=name)
        needs_pca = isinstance(artifact.config.get("pca"), str)
        given = found["pca"].sha256 if "pca" in found else None
        if needs_pca and artifact.provenance["parents"].get("pca") != given:
            found[OTHER_PCA] = _pca_of(artifact)
    shas = {name: artifact.sha256 for name, artifact in found.items()}
    manifest = Manifest(f"cascade/{_word(Path(run).resolve().name)}", shas, {}, CASCADE_VERSION)
    content: Content = {}
    for name, artifact in found.items():
        own_files = _run_files(run, artifact, samples=1) if name != OTHER_PCA else {}
        begin = manifest.prefix(name)
        content |= {begin + file: what for file, what in own_files.items()}
        content |= _part(begin, artifact, weights=weights)
    described = [_described(manifest.prefix(n), content, {}) for n in in_order(stages)]
    content[CARD] = card(
        name=manifest.experiment, stages=described, weights=weights, licence=licence
    ).encode()
    return _sealed(content, manifest)


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:100] or "cascade"


def _run_files(run: str, artifact: artifacts.Artifact, samples: int = MAX_SAMPLES) -> Content:
    """What a run leaves besides its artifact: summary, metrics and the last ``samples``."""
    folder, content = artifact.path.resolve().parent, Content()
    summary = _summary(folder)
    if registry.STAGES[artifact.stage].trains and summary is None:
        raise _without_run(run, artifact)
    if summary is not None:
        content[SUMMARY] = json_bytes(public_tree(finite(summary), names=True))
        content[METRICS] = b""  # of a run that was too short to log any
    if (folder / METRICS).is_file():
        rows = map(numbers, read_metrics(folder / METRICS, note=True))
        lines = (json.dumps(row) + "\n" for row in rows if "step" in row)
        content[METRICS] = "".join(lines).encode()
    sheets = sorted(folder.glob("samples/step_*.png"))[-samples:]
    if summary is not None and summary.get("has_samples") and not sheets:
        raise UserError(
            f"RUN={run}: {folder / 'samples'}: its samples are gone; draw them again with "
            f"`unclip train {folder / EXPERIMENT} --resume`"
        )
    content |= {f"samples/{file.name}": file for file in sheets}
    for file in (*sheets, folder / SUMMARY, folder / METRICS):
        _refuse_links(file, folder)
    return content


def _refuse_imported(run: str, artifact: artifacts.Artifact) -> None:
    if isinstance(imported := artifact.provenance.get("imported"), dict):
        raise UserError(
            f"RUN={run}: {artifact.path} was imported and has no run to repeat; name its source "
            f"instead, {str(imported.get('source'))[:100]}, for `unclip import`, or copy the whole "
            "folder, which samples anywhere"
        )


def _without_run(run: str, artifact: artifacts.Artifact) -> UserError:
    """The refusal of an artifact of which the run is not there, or never was."""
    if "merged" in artifact.provenance:
        fix = "it was merged; share the runs of its adapters and their base"
    else:
        fix = f"put the whole folder of the finished run, which has a {SUMMARY}, in its place"
    return UserError(
        f"RUN={run}: {artifact.path} is an artifact alone, and a bundle repeats its run; {fix}"
    )


def _bytes(content: Content, name: str) -> bytes:
    """Of a member, wherever they are."""
    what = content[name]
    return what if isinstance(what, bytes) else what.read_bytes()


def _name_of(content: Content, artifact: artifacts.Artifact) -> str:
    """The experiment, ``kind/name``."""
    summary = json.loads(_bytes(content, SUMMARY)) if SUMMARY in content else {}
    return str(summary.get("experiment", f"{artifact.stage}/{artifact.path.resolve().parent.name}"))


def _parents(artifact: artifacts.Artifact) -> dict[str, artifacts.Artifact]:
    """What ``artifact`` depends on, apart from models of open_clip; refused if it has changed."""
    found = {}
    if isinstance(artifact.config.get("clip"), str):
        clip = locate_parent(artifact, "clip")
        loaded = load_clip(clip)
        if loaded.fingerprint != artifact.provenance["parents"].get("clip"):
            raise UserError(f"clip={clip}: is not the CLIP that {artifact.path} was trained with")
        if not clip.startswith("open_clip:"):
            found["clip"] = artifacts.describe(clip, key="clip")
        if isinstance(artifact.config.get("pca"), str):
            found["pca"] = _pca_of(artifact)
            check_embedding(found["pca"], loaded, key="pca")
    return found


def _pca_of(artifact: artifacts.Artifact) -> artifacts.Artifact:
    spec = locate_parent(artifact, "pca")
    found = artifacts.describe(spec, key="pca")
    if artifact.provenance["parents"].get("pca") not in (None, found.sha256):
        raise UserError(f"pca={spec}: is not the PCA that {artifact.path} was trained with")
    return found


def _part(begin: str, artifact: artifacts.Artifact, *, weights: bool) -> Content:
    """Experiment, provenance and artifact, below ``begin``."""
    experiment = public_tree(artifact.config)
    experiment["run"], experiment["tracking"] = vars(RunConfig()), vars(TrackingConfig())
    for parent in (*PARENTS, INIT):
        spec = experiment.get(parent)  # a section of that name is none
        if isinstance(spec, str) and not spec.startswith("open_clip:"):
            experiment[parent] = bundle.role(parent)
    provenance = public_tree(finite(artifact.provenance), names=True)
    provenance.pop(MARK, None)
    provenance.setdefault("metrics", {})  # of weights that were imported, not trained
    if steps := bent(artifact.provenance, artifact.config):
        say(f"unclip: note: {artifact.path}: {bent_line(steps)}", error=True)
    if "command" in provenance:
        provenance["command"] = public_command(artifact.provenance["command"])
    files: Content = {
        EXPERIMENT: yaml_text.document(experiment).encode(),
        PROVENANCE: json_bytes(provenance),
    }
    if weights:
        files |= {
            "artifact/config.yaml": files[EXPERIMENT],
            "artifact/provenance.json": files[PROVENANCE],
            "artifact/artifact.json": artifact.path / "artifact.json",
            "artifact/weights.safetensors": artifact.path / "weights.safetensors",
        }
        for name in artifacts.MORE:
            if (artifact.path / name).is_file():
                files[f"artifact/{name}"] = artifact.path / name
        for what in files.values():
            if isinstance(what, Path):
                _refuse_links(what, artifact.path)
    return {begin + file: what for file, what in files.items()}


def _refuse_links(file: Path, folder: Path) -> None:
    """Refuse a file that is elsewhere than in ``folder``, or a sample that is not a PNG."""
    if file.resolve() != folder.resolve() / file.relative_to(folder):
        raise UserError(f"{file}: is a link or below one; put a copy of the file there")
    if file.suffix == ".png":
        with file.open("rb") as opened:
            if opened.read(len(_PNG)) != _PNG:
                raise UserError(f"{file}: is not a PNG; remove it")


def _described(
    begin: str, content: Content, parents: dict[str, artifacts.Artifact]
) -> DescribedStage:
    """What the card says of the run whose files begin with ``begin``."""
    experiment = yaml_text.read(_bytes(content, begin + EXPERIMENT).decode())
    said = {name: f"a run of its own, weights {p.sha256[:12]}" for name, p in parents.items()}
    if str(experiment.get("clip", "")).startswith("open_clip:"):
        said["clip"] = experiment["clip"]
    provenance = json.loads(_bytes(content, begin + PROVENANCE))
    samples = [n for n in content if n.startswith(begin) and n.endswith(".png")]
    return DescribedStage(begin.rstrip("/"), experiment, provenance, said, samples)


def _sealed(content: Content, manifest: Manifest) -> Content:
    """``content`` with its manifest, if others can take it."""
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
    name = manifest.experiment
    content[MANIFEST] = json_bytes(replace(manifest, files=files).as_json())
    with tempfile.TemporaryDirectory() as scratch:  # what is shared must be taken by others
        folder = Path(scratch) / "bundle"
        fill(content, folder, link=True)
        bundle.read(folder, read_manifest(folder / MANIFEST, name), name)
    return content


def _summary(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / SUMMARY).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{folder / SUMMARY}: damaged: {error}; train the run again") from None
