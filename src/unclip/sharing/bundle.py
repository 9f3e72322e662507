"""A bundle on the disk whose every file has been read and found to be what it should be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from unclip.common import json_text, yaml_text
from unclip.common.errors import UserError, article
from unclip.common.fields import leaves
from unclip.config.load import ResolvedExperiment, load_experiment
from unclip.sharing import bounds
from unclip.sharing.layout import (
    EXPERIMENT,
    INIT,
    METRICS,
    OTHER_PCA,
    PARENTS,
    PROVENANCE,
    RUN,
    SUMMARY,
    WEIGHTS,
    Manifest,
)
from unclip.sharing.privacy import public
from unclip.sharing.reading import Refused, metric_rows, numbers
from unclip.sharing.sources import check_source, named_sources
from unclip.stages import registry
from unclip.tracking.config import TrackingConfig
from unclip.training.config import RunConfig

THREADS = "torch_threads"  # in a run's provenance
MAX_THREADS = 1024


@dataclass(frozen=True)
class BundleEntry:
    """The shared run, or a parent of it; or a stage of a cascade."""

    name: str  # run, clip or pca; or the stage's folder
    folder: Path
    experiment: ResolvedExperiment  # as it was trained; parents inside are named parents/clip, ...
    provenance: dict[str, Any]
    weights_sha256: str
    has_weights: bool

    @property
    def file(self) -> Path:
        """The experiment."""
        return self.folder / EXPERIMENT

    @property
    def data_fingerprint(self) -> str:
        """Of the training samples."""
        return str(self.provenance["data_fingerprint"])

    @property
    def threads(self) -> int | None:
        """With which it was trained, where that is known."""
        return self.provenance.get(THREADS)


@dataclass(frozen=True)
class Bundle:
    """What `read` found in a folder."""

    folder: Path
    manifest: Manifest
    parts: dict[str, BundleEntry]  # by their names; in one of `runs`, run, clip and pca

    @property
    def run(self) -> BundleEntry:
        """The shared run."""
        return self.parts[RUN]

    def runs(self) -> dict[str, Bundle]:
        """For each stage of a cascade, parents first, its bundle; this one if it is of a run."""
        if not self.manifest.cascade:
            return {RUN: self}
        found = {}
        for name, part in self.parts.items():
            if name != OTHER_PCA:
                parents = {p: self.parts[self.inside(p)] for p in PARENTS if _named(part, p)}
                found[name] = Bundle(self.folder, self.manifest, {RUN: part, **parents})
        return found

    def inside(self, parent: str) -> str:
        """The part that stands for ``parent`` (clip, pca)."""
        return OTHER_PCA if parent == "pca" and OTHER_PCA in self.parts else parent


def role(parent: str) -> str:
    """How a bundle's experiment names a ``parent`` (clip, pca; init) by its role."""
    return f"parents/{parent}"


def _named(part: BundleEntry, parent: str) -> bool:
    """Whether the bundle is to have the ``parent`` of ``part``."""
    return getattr(part.experiment.config, parent, "") == role(parent)


def read(folder: Path, manifest: Manifest, bundle: str) -> Bundle:
    """Read the verified copies in ``folder``; ``bundle`` names the bundle in errors.

    Raises:
        UserError: one line that names the bundle, the member and what is wrong with it.
    """
    parts = {name: _part(name, folder, manifest, bundle) for name in manifest.parts}
    found = Bundle(folder, manifest, parts)
    wanted = {found.inside(p) for part in parts.values() for p in PARENTS if _named(part, p)}
    can_be = {OTHER_PCA} if manifest.cascade else set(PARENTS)  # only there for what depends on it
    for name in sorted((wanted - parts.keys()) | (can_be & parts.keys()) - wanted):
        begin = manifest.prefix(name)
        raise Refused(bundle, begin + EXPERIMENT, "is missing, or no run depends on it")
    for name in found.runs():
        _check_records(manifest.prefix(name), parts[name], folder, manifest, bundle)
    return found


def _check_records(
    begin: str, part: BundleEntry, folder: Path, manifest: Manifest, bundle: str
) -> None:
    """Refuse metrics and a summary that are not what a run writes."""
    if begin + METRICS in manifest.files:
        with _refusing(bundle, begin + METRICS):
            for _ in metric_rows(folder / begin / METRICS):
                pass
    if begin + SUMMARY in manifest.files:
        with _refusing(bundle, begin + SUMMARY):
            numbers(json_text.read_object(folder / begin / SUMMARY).get("metrics"))
    if part.experiment.stage.trains:
        for name in (METRICS, SUMMARY):
            if begin + name not in manifest.files:
                raise Refused(bundle, begin + name, "is missing from the bundle")


def _part(name: str, folder: Path, manifest: Manifest, bundle: str) -> BundleEntry:
    begin = manifest.prefix(name)
    file = folder / begin / EXPERIMENT
    with _refusing(bundle, begin + EXPERIMENT):
        content = yaml_text.read_mapping(file)
        bounds.check_numbers(content)
        _check_places(content)
        try:
            experiment = load_experiment(str(file))
        except UserError as error:
            raise ValueError(str(error).removeprefix(f"{file}: ")) from None
        _check_settings(name, experiment, cascade=manifest.cascade)
    with _refusing(bundle, begin + PROVENANCE):
        provenance = json_text.read_object(folder / begin / PROVENANCE)
        _check_provenance(provenance)
    has_weights = begin + WEIGHTS in manifest.files
    if has_weights:
        with _refusing(bundle, f"{begin}artifact/artifact.json"):
            header = json_text.read_object(folder / begin / "artifact" / "artifact.json")
            if header.get("stage") != experiment.stage.name:
                raise ValueError(f"stage: must be {experiment.stage.name}, as in {EXPERIMENT}")
            if header.get("sha256") != manifest.weights[name]:
                raise ValueError("sha256: is not that of the weights")
        with _refusing(bundle, begin + WEIGHTS), safe_open(folder / begin / WEIGHTS, "np"):
            pass
    sha256 = manifest.weights[name]
    return BundleEntry(name, folder / begin, experiment, provenance, sha256, has_weights)


def _check_places(content: dict[str, Any]) -> None:
    """No path may lead out of the bundle, no other file be read, nothing be sent elsewhere."""
    if "extends" in content:
        raise ValueError("extends: a bundle's experiment stands alone")
    for key, value in leaves(content):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and public(item) != item:
                raise ValueError(f"{key}={item[:80]!r}: names a place outside the bundle")
    for section, default in (("run", RunConfig()), ("tracking", TrackingConfig())):
        if content.get(section, {}) not in ({}, vars(default)):
            raise ValueError(f"{section}: a bundle's must be the default")


def _check_settings(name: str, experiment: ResolvedExperiment, *, cascade: bool) -> None:
    stage, settings = experiment.stage.name, experiment.config
    for key, source in named_sources(experiment).items():
        try:
            check_source(source)
        except ValueError as error:
            raise ValueError(f"{key}={source[:80]!r}: {error}") from None
    allowed = registry.of_kind(kind_of(name)) if cascade else (name,)
    if name != RUN and stage not in allowed:
        wanted = article(" or ".join(allowed))
        raise ValueError(f"stage: is {article(stage)}, {wanted} is needed")
    for parent in (*PARENTS, INIT):
        inside = role(parent)
        spec = getattr(settings, parent, inside)  # a section of that name is none
        if (
            isinstance(spec, str)
            and spec != inside
            and not (parent == "clip" and re.fullmatch(r"open_clip:[\w.-]+/[\w.-]+", spec))
        ):
            raise ValueError(f"{parent}={spec!r}: must be {inside}")


def kind_of(name: str) -> str:
    """The kind of the stage in a cascade's folder ``name``."""
    return name.split("/")[-1].removeprefix("ar_").split("_")[0]


def _check_provenance(provenance: dict[str, Any]) -> None:
    if not isinstance(provenance.get("data_fingerprint"), str):
        raise ValueError("data_fingerprint: must be a text")
    threads = provenance.get(THREADS)
    if threads is not None and not (type(threads) is int and 1 <= threads <= MAX_THREADS):
        raise ValueError(f"{THREADS}={threads!r}: must be in [1, {MAX_THREADS}]")
    parents = provenance.get("parents")
    if not isinstance(parents, dict) or not all(isinstance(v, str) for v in parents.values()):
        raise ValueError("parents: must be an object of fingerprints")
    try:
        numbers(provenance.get("metrics"))
    except ValueError as error:
        raise ValueError(f"metrics: {error}") from None


@contextmanager
def _refusing(bundle: str, member: str) -> Iterator[None]:
    """What goes wrong in the block is said of ``member``."""
    try:
        yield
    except (ValueError, SafetensorError, OverflowError, RecursionError) as error:
        reason = re.sub(r"\s+", " ", str(error))[:300]
        raise Refused(bundle, member, reason) from None
