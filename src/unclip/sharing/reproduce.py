"""Runs a bundle again and says how alike the results are."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unclip.common import artifacts
from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.common.fields import leaves
from unclip.common.hashing import file_sha256
from unclip.common.inputs import require_apart
from unclip.config.load import ResolvedExperiment, parse_overrides
from unclip.data.config import BUILT_IN
from unclip.runs import init
from unclip.sharing import bundle as bundles
from unclip.sharing import compare, resumes
from unclip.sharing.bundle import Bundle, BundleEntry, role
from unclip.sharing.compare import MetricRow
from unclip.sharing.environment import Difference, differences
from unclip.sharing.fetch import fetch
from unclip.sharing.layout import INIT, MANIFEST, METRICS, PARENTS, RUN
from unclip.sharing.reading import Refused, metric_rows
from unclip.sharing.rerun import PLACES, Again, Command, refuse_ours
from unclip.stages.clip.part import load as load_clip
from unclip.tracking.files import read_metrics

REPORT = "report.json"
_STATE = "reproduce.json"
_BUNDLE = "bundle"


@dataclass
class Report:
    """What came of the reproduction of a run."""

    bundle: str
    rtol: float
    changed: dict[str, tuple[Any, Any]]  # by the user: key -> (then, now)
    environment: list[Difference]
    resumed: list[int] = field(default_factory=list)  # the steps from which the run was resumed
    extended: list[int] = field(default_factory=list)  # those of them at which it had ended
    bent: list[int] = field(default_factory=list)  # those at which a cosine schedule changed
    parents: list[MetricRow] = field(default_factory=list)
    metrics: list[MetricRow] = field(default_factory=list)
    weights: list[MetricRow] = field(default_factory=list)  # one, in the end

    @property
    def verdict(self) -> str:
        """The worst of the run's metrics and weights."""
        return compare.overall([*self.metrics, *self.weights])

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "bundle": self.bundle,
            "verdict": self.verdict,
            "rtol": self.rtol,
            "changed": {k: {"then": a, "now": b} for k, (a, b) in self.changed.items()},
            "environment": [each._asdict() for each in self.environment],
            "resumed": self.resumed,
            "extended": self.extended,
            "bent": self.bent,
            "parents": [row._asdict() for row in self.parents],
            "metrics": [row._asdict() for row in self.metrics],
            "weights": [row._asdict() for row in self.weights],
        }


@contextmanager
def unpacked(place: str, folder: Path) -> Iterator[Bundle]:
    """The bundle at ``place``, unpacked beside where it will be in ``folder``, and verified.

    When the block ends nothing is left of it, nor of folders that were made for it.

    Raises:
        UserError: the bundle is refused.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=folder, prefix=".bundle-")
    except OSError as error:
        raise UserError(f"--dir {folder}: cannot be made: {error.strerror}") from None
    try:
        with scratch as path:
            yield fetch(place, Path(path))
    finally:
        for new in made:
            if not any(new.iterdir()):
                new.rmdir()


def runs(
    bundle: Bundle, overrides: list[str], folder: Path, *, allow_source: bool = False
) -> dict[str, Again]:
    """The run of ``bundle``, or each stage of its cascade, with the overrides that are for it.

    Raises:
        UserError: an override cannot be, or is for no stage.
    """
    found, typed = {}, parse_overrides(overrides)
    for name, one in bundle.runs().items():
        own = overrides
        if bundle.manifest.cascade:
            known = dict(leaves(one.run.experiment.as_dict()))
            own = [f"{key}={text}" for key, text in typed.items() if key in known]
        found[name] = Again(one, own, folder, allow_source=allow_source)
    for key in typed:
        if not any(key in again.given for again in found.values()):
            refuse_ours(key)
            raise UserError(f"{key}: no stage of this cascade has this field")
    return found


def check(again: Again, place: str, *, rtol: float = compare.RTOL) -> Report:
    """What is different now, before anything is run.

    Raises:
        UserError: an experiment does not fit into this machine, a parent inside is another than
            the run was trained with, or the data are not there or not allowed.
    """
    try:
        parts = {name: again.resolved(name) for name in again.bundle.parts}
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    for name in again.names():
        _check_init(again.bundle.parts[name], parts[name], place)
        _check_trained(again.bundle.parts[name], name, place)
    for name in PARENTS:
        if again.inside(name) and _parent_row(again, name).verdict != compare.IDENTICAL:
            raise Refused(place, f"parents/{name}", f"is not the {name} that the run depends on")
    found = differences(again.bundle.run, parts[RUN])
    resumed = [r.step for r in resumes.resumes(again.bundle.run.provenance)]
    extended = [length for length in again.lengths(RUN)[:-1] if length]
    run = again.bundle.run
    bent = resumes.bent(run.provenance, run.experiment.as_dict())
    return Report(place, rtol, again.changed(), found, resumed, extended, bent)


def _check_init(part: BundleEntry, now: ResolvedExperiment, place: str) -> None:
    """Refuse to make a run again without the weights that it began from."""
    if getattr(part.experiment.config, INIT, None) is None:
        return
    wanted = str(part.provenance["parents"].get(INIT))
    if part.name != RUN and now.config.init == role(INIT):
        raise Refused(
            place, part.name, f"began from other weights ({wanted[:12]}); share it with weights"
        )
    if now.config.init == role(INIT):
        source = str(part.provenance.get(INIT, {}).get("source"))[:100]
        raise UserError(
            f"{place}: the run began from other weights ({wanted[:12]}, of {source}); give "
            f"{INIT}=PATH, the artifact, run or imported cascade that has them"
        )
    found = artifacts.describe(str(init.find(now)), key=INIT).sha256
    if found != wanted:
        raise UserError(
            f"{INIT}={now.config.init}: has other weights ({found[:12]}) than the run began from "
            f"({wanted[:12]}); name those"
        )


def _check_trained(part: BundleEntry, name: str, place: str) -> None:
    """Refuse to make a parent again that was imported, so that no training leads to it."""
    imported = part.provenance.get("imported")
    if isinstance(imported, dict):
        source = str(imported.get("source"))[:100]
        raise UserError(
            f"{place}: its {name} was imported (from {source}), not trained; give {name}=PATH, the "
            "artifact that `unclip import` writes, or share the run with --weights"
        )


def place(bundle: Bundle, place: str, overrides: list[str], folder: Path) -> Bundle:
    """Put the unpacked bundle into ``folder``, where the runs will be.

    Resumes in a folder that has begun to reproduce the same bundle with the same overrides.

    Raises:
        UserError: something else is in the folder.
    """
    typed = parse_overrides(overrides)
    given = [typed[key] for key in PLACES if typed.get(key) not in (None, *BUILT_IN)]
    require_apart(folder / _BUNDLE, [place, *given], option="--dir ")
    sha256 = file_sha256(bundle.folder / MANIFEST)
    state = json.dumps({"manifest": sha256, "overrides": overrides}) + "\n"
    others = [p for p in folder.iterdir() if not p.name.startswith(".bundle-")]
    before = folder / _STATE
    if others and not (before.is_file() and before.read_text() == state):
        raise UserError(
            f"--dir {folder}: holds something else than the same reproduction; name another folder"
        )
    with atomic_write(before) as scratch:
        scratch.write_text(state)
    shutil.rmtree(folder / _BUNDLE, ignore_errors=True)
    os.replace(bundle.folder, folder / _BUNDLE)
    return bundles.read(folder / _BUNDLE, bundle.manifest, place)


def run(again: Again, report: Report, command: Command) -> None:
    """Make what is missing, then the run; complete ``report``."""
    for name in again.names()[:-1]:
        again.make(name, command)
    report.parents = [_parent_row(again, name) for name in PARENTS if again.spec(name)]
    artifact = again.make(RUN, command)
    bundle, rtol = again.bundle, report.rtol
    report.metrics = []
    if (bundle.run.folder / METRICS).is_file():
        then = compare.series_of(metric_rows(bundle.run.folder / METRICS))
        now = compare.series_of(read_metrics(artifact.path.parent / METRICS, note=True))
        log_every = artifact.config["trainer"]["log_every"]
        apart = resumes.unrecorded(
            (bundle.run.provenance, artifact.provenance), log_every=log_every
        )
        report.metrics = compare.compare_series(then, now, rtol=rtol, unrecorded=apart)
    known = {row.name for row in report.metrics}
    last = compare.compare_values(
        bundle.run.provenance["metrics"], artifact.provenance["metrics"], rtol=rtol
    )
    report.metrics += [row for row in last if row.name not in known]
    same = artifact.sha256 == bundle.run.weights_sha256
    theirs = artifacts.describe(bundle.run.folder).weights() if bundle.run.has_weights else None
    report.weights = [
        compare.compare_weights("weights", theirs, artifact.weights(), same=same, rtol=rtol)
    ]


def write(reports: dict[str, Report], folder: Path) -> None:
    """Write report.json: of a run alone, or of all stages of a cascade."""
    content = {name: report.as_json() for name, report in reports.items()}
    if RUN in content:
        whole = content[RUN]
    else:
        whole = {"verdict": compare.worst(r.verdict for r in reports.values()), "stages": content}
    with atomic_write(folder / REPORT) as scratch:
        scratch.write_text(json.dumps(whole, indent=2) + "\n")


def _parent_row(again: Again, name: str) -> MetricRow:
    """Whether a parent is the one that the run was trained with."""
    spec, run_ = again.spec(name), again.bundle.run
    if name == "clip":
        same = load_clip(spec).fingerprint == run_.provenance["parents"].get("clip")
    else:
        found = artifacts.describe(spec, key=name).sha256
        same = (
            found == again.bundle.parts[name].weights_sha256 if name in again.bundle.parts else None
        )
    verdict = compare.IDENTICAL if same else compare.DIFFERENT
    return MetricRow(name, None, None, None, None, verdict)
