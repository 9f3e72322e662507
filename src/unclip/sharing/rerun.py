"""Makes the runs of a bundle again, each by the command that one would type."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.common.fields import leaves
from unclip.config.load import ResolvedExperiment, load_experiment, parse_overrides
from unclip.data.loader import cores
from unclip.data.remote import PUBLIC_ONLY
from unclip.runs.side_by_side import run_together
from unclip.sharing import bounds, resumes
from unclip.sharing.bundle import Bundle, BundleEntry
from unclip.sharing.layout import PARENTS, RUN
from unclip.sharing.sources import check_sources

Command = Callable[[list[str], Mapping[str, str]], None]
"""Runs `unclip` with these words and environment variables; raises `UserError` if it fails."""

_MERGES = "model.merges"
PLACES = ("clip", "pca", "init", "data.source", "data.embeddings", _MERGES)
_MACHINE = ("trainer.devices", "trainer.nodes", "trainer.threads")  # what is typed holds for all
_OURS = ("run", "tracking", "stage", "about")


def in_a_process(words: list[str], variables: Mapping[str, str]) -> None:
    """A fresh process each, so that runs have nothing in common but their files."""
    run_together({words[0]: [sys.executable, "-m", "unclip", *words]}, variables)


def refuse_ours(key: str) -> None:
    """Refuse an override of what a reproduction decides itself."""
    if key.split(".")[0] in _OURS:
        raise UserError(f"{key}: cannot be changed here; --dir says where runs go")


class Again:
    """The runs of ``bundle``, with ``overrides`` of its experiment, in ``folder``."""

    def __init__(
        self, bundle: Bundle, overrides: list[str], folder: Path, *, allow_source: bool = False
    ):
        self.bundle, self.folder, self.allow_source = bundle, folder, allow_source
        self.overrides = overrides
        self.given = parse_overrides(overrides)
        for key in self.given:
            refuse_ours(key)

    def names(self) -> list[str]:
        """Parts that have to be made: parents without weights, then the run."""
        needed = [p for p in PARENTS if p in self.bundle.parts and p not in self.given]
        return [*(p for p in needed if not self.inside(p)), RUN]

    def resolved(self, name: str) -> ResolvedExperiment:
        """The experiment of a part, with the overrides that are for it; its size is checked."""
        part = self.bundle.parts[name]
        found = load_experiment(
            str(part.file), [*self._overrides(part), *self._planned(part), *self._merges(part)]
        )
        bounds.check_machine(found)
        if check_sources(found, allow=self.allow_source):
            os.environ[PUBLIC_ONLY] = "1"  # also of the processes that train
        return found

    def changed(self) -> dict[str, tuple[object, object]]:
        """Fields of the run that the user has changed: key -> (then, now); places do not count."""
        then = dict(leaves(self.bundle.run.experiment.as_dict()))
        now = dict(leaves(load_experiment(str(self.bundle.run.file), self.overrides).as_dict()))
        different = {k for k in then | now if then.get(k) != now.get(k)}
        return {k: (then.get(k), now.get(k)) for k in sorted(different) if k not in PLACES}

    def make(self, name: str, command: Command) -> artifacts.Artifact:
        """Train an entry or resume it, extended as it was; a finished one is kept."""
        part, folder = self.bundle.parts[name], self._made(name)
        words = [*self._overrides(part), f"run.dir={folder}"]
        words += [f"{p}={self.spec(p)}" for p in self._leans_on(part)]
        words += self._merges(part)
        row = part.experiment.stage
        how = [row.verb, "--continue" if row.trains else "--force"]
        threads = {"OMP_NUM_THREADS": str(min(part.threads, cores()))} if part.threads else {}
        for length in self.lengths(name):
            if not _ended(folder, length):
                until = [] if length is None else [f"trainer.max_steps={length}"]
                command([how[0], str(part.file), *words, *until, *how[1:]], threads)
        return artifacts.describe(folder)

    def lengths(self, name: str) -> list[int] | list[None]:
        """The steps to which an entry is trained in turn; None: in one go, as its file says."""
        part = self.bundle.parts[name]
        if not part.experiment.stage.trains or (name == RUN and "trainer.max_steps" in self.given):
            return [None]
        found = resumes.lengths(part.provenance, part.experiment.config.trainer.max_steps)
        return found if len(found) > 1 else [None]

    def inside(self, name: str) -> bool:
        """Whether the bundle has the weights of the parent ``name``, and they are to be used."""
        part = self.bundle.parts.get(name)
        return part is not None and part.has_weights and name not in self.given

    def _made(self, name: str) -> Path:
        """The folder of an entry's new run."""
        return self.folder / self.bundle.parts[name].name

    def spec(self, name: str) -> str:
        """The parent that the run depends on: the user's, open_clip's, the bundle's or one made
        again; empty where it depends on none.
        """
        if name in self.given:
            return str(self.given[name])
        if self.inside(name):
            return str(self.bundle.parts[name].folder)
        if name in self.bundle.parts:
            return str(self._made(name))
        run = self.bundle.run.experiment
        return getattr(run.config, name) if name in run.stage.parents else ""

    def _overrides(self, part: BundleEntry) -> list[str]:
        """All of the user's for the run; for parents, where the data are that they share."""
        if part is self.bundle.run:
            return self.overrides
        keys = [key for key in self.given if key in ("data.source", "data.embeddings")]
        same = [key for key in keys if self._of(part, key) == self._of(self.bundle.run, key)]
        same += [key for key in self.given if key in _MACHINE and self._of(part, key) is not None]
        return [item for item in self.overrides if item.partition("=")[0] in same]

    @staticmethod
    def _of(part: BundleEntry, key: str) -> object:
        return dict(leaves(part.experiment.as_dict())).get(key)

    def _leans_on(self, part: BundleEntry) -> list[str]:
        """Parents of ``part`` that are inside and that the user has not replaced."""
        named = part.experiment.stage.parents
        return [p for p in named if p in self.bundle.parts and p not in self.given]

    def _merges(self, part: BundleEntry) -> list[str]:
        """GPT-2's merges that came with its weights, unless the user gives others."""
        file = part.folder / "artifact" / artifacts.MERGES
        return [f"{_MERGES}={file}"] if file.is_file() and _MERGES not in self.given else []

    def _planned(self, part: BundleEntry) -> list[str]:
        """Parents by their experiments, which is enough to know sizes by."""
        return [f"{p}={self.bundle.parts[p].file}" for p in self._leans_on(part)]


def _ended(folder: Path, length: int | None) -> bool:
    """Whether the run in ``folder`` has an artifact, of ``length`` steps at least."""
    if not (folder / "artifact" / "artifact.json").is_file():
        return False
    return length is None or artifacts.describe(folder).config["trainer"]["max_steps"] >= length
