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
    METRICS,
    PARENTS,
    PROVENANCE,
    RUN,
    SUMMARY,
    WEIGHTS,
    Manifest,
    prefix,
)
from unclip.sharing.privacy import public
from unclip.sharing.reading import Refused, metric_rows, numbers
from unclip.sharing.sources import check_source, named_sources
from unclip.tracking.config import TrackingConfig
from unclip.training.config import RunConfig

THREADS = "torch_threads"  # in a run's provenance
MAX_THREADS = 1024


@dataclass(frozen=True)
class BundleEntry:
    """The shared run, or a parent of it."""

    name: str  # run, clip or pca
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
    """What `open_bundle` found in a folder."""

    folder: Path
    manifest: Manifest
    parts: dict[str, BundleEntry]

    @property
    def run(self) -> BundleEntry:
        """The shared run."""
        return self.parts[RUN]


def read(folder: Path, manifest: Manifest, bundle: str) -> Bundle:
    """Read the verified copies in ``folder``; ``bundle`` names the bundle in errors.

    Raises:
        UserError: one line that names the bundle, the member and what is wrong with it.
    """
    if METRICS in manifest.files:
        with _refusing(bundle, METRICS):
            for _ in metric_rows(folder / METRICS):
                pass
    if SUMMARY in manifest.files:
        with _refusing(bundle, SUMMARY):
            numbers(json_text.read_object(folder / SUMMARY).get("metrics"))
    parts = {name: _part(name, folder, manifest, bundle) for name in manifest.parts}
    leant_on = [getattr(part.experiment.config, p, "") for part in parts.values() for p in PARENTS]
    for name in PARENTS:
        if (prefix(name).rstrip("/") in leant_on) != (name in parts):
            raise Refused(bundle, prefix(name) + EXPERIMENT, "is missing, or no run depends on it")
    if parts[RUN].experiment.stage.trains:
        for name in (METRICS, SUMMARY):
            if name not in manifest.files:
                raise Refused(bundle, name, "is missing from the bundle")
    return Bundle(folder, manifest, parts)


def _part(name: str, folder: Path, manifest: Manifest, bundle: str) -> BundleEntry:
    begin = prefix(name)
    file = folder / begin / EXPERIMENT
    with _refusing(bundle, begin + EXPERIMENT):
        content = yaml_text.read_mapping(file)
        bounds.check_numbers(content)
        _check_places(content)
        try:
            experiment = load_experiment(str(file))
        except UserError as error:
            raise ValueError(str(error).removeprefix(f"{file}: ")) from None
        _check_settings(name, experiment)
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


def _check_settings(name: str, experiment: ResolvedExperiment) -> None:
    stage, settings = experiment.stage.name, experiment.config
    for key, source in named_sources(experiment).items():
        try:
            check_source(source)
        except ValueError as error:
            raise ValueError(f"{key}={source[:80]!r}: {error}") from None
    if name != RUN and stage != name:
        raise ValueError(f"stage: is {article(stage)}, {article(name)} is needed")
    for parent in PARENTS:
        inside = prefix(parent).rstrip("/")
        spec = getattr(settings, parent, inside)  # a section of that name is none
        if (
            isinstance(spec, str)
            and spec != inside
            and not (parent == "clip" and re.fullmatch(r"open_clip:[\w.-]+/[\w.-]+", spec))
        ):
            raise ValueError(f"{parent}={spec!r}: must be {inside}")


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
