"""Training that begins from trained weights: which they are, and what of them is taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unclip.common import artifacts
from unclip.common.adapters import adapts
from unclip.common.artifacts import Artifact
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.meaning import SECTIONS, meaning
from unclip.config.cascades import find_cascade, meant
from unclip.config.load import FILE, ResolvedExperiment, load_experiment
from unclip.runs.inputs import newest_artifact
from unclip.runs.parents import Make
from unclip.runs.published import fetch
from unclip.stages.experiment import ParentSizes, teaches
from unclip.stages.interface import LoadedParents
from unclip.tracking.files import PROVENANCE, read_json
from unclip.training.stage import Stage

KEY = "init"
_SHOWN = 4


class Begun(NamedTuple):
    """What became of the weights that training began from."""

    source: str
    sha256: str
    taken: int
    new: tuple[str, ...]  # of the network, and not taken
    left: tuple[str, ...]  # of the artifact, and not taken

    def as_json(self) -> dict[str, Any]:
        """For the run's provenance."""
        return {**self._asdict(), "new": list(self.new), "left": list(self.left)}

    def line(self) -> str:
        """What is said of it."""
        parts = [f"{counted(self.taken, 'weight')} of {self.source} ({self.sha256[:12]})"]
        parts += [f"new: {_listed(self.new)}"] if self.new else []
        parts += [f"not taken: {_listed(self.left)}"] if self.left else []
        return f"{KEY}: " + "; ".join(parts)


def recorded(folder: Path) -> Begun | None:
    """What the run in ``folder`` began from, by its provenance."""
    found = read_json(folder / PROVENANCE).get(KEY)
    kinds = {"source": str, "sha256": str, "taken": int, "new": list, "left": list}
    if not isinstance(found, dict) or {k: type(v) for k, v in found.items()} != kinds:
        return None
    return Begun(**found)


def needed(experiment: Any) -> bool:
    """Whether training needs the weights of ``init`` to the end: checkpoints lack them."""
    return adapts(experiment) or teaches(experiment)


def base_of(folder: Path) -> str:
    """The weights of ``init`` that the run in ``folder`` needs: see `needed`.

    Raises:
        UserError: they are neither where the run had them nor in ``init`` beside it.
    """
    begun, beside = recorded(folder), folder.resolve().parent / "init"
    if begun is None:
        raise UserError(f"--resume: {folder / PROVENANCE}: does not say what it began from")
    found = artifacts.find_base(begun.source, begun.sha256, beside)
    if found is None:
        raise UserError(
            f"--resume: {folder}: needs the weights {begun.sha256[:12]} that it began from, which "
            f"are neither in {begun.source} nor in {beside}; put them into one of these"
        )
    return str(found.path)


def find(resolved: ResolvedExperiment, *, make: Make | None = None) -> str | None:
    """The artifact that ``init`` names: its folder, a run's, an experiment's newest, a cascade's.

    ``make`` trains an experiment that has no finished run.

    Raises:
        UserError: there is none, or it is of another stage.
    """
    spec = resolved.config.init
    if spec is None:
        return None
    folder = _folder(resolved, spec, make)
    found = artifacts.describe(_part(resolved, folder, spec), key=KEY)
    artifacts.expect(found, (resolved.stage.name,), key=KEY)
    return str(found.path)


def _folder(resolved: ResolvedExperiment, spec: str, make: Make | None) -> Path:
    if Path(spec).is_dir():
        return Path(spec)
    if spec.startswith(f"{resolved.stage.kind}/"):
        root = resolved.config.run.root
        if found := newest_artifact(spec, root):
            return found
        parent = load_experiment(spec, [f"run.root={root}"])
        if make is not None:
            return make(parent)
        raise UserError(
            f"{KEY}={spec}: no finished run in {Path(root) / spec}; run `unclip train {spec}` "
            "first, add --with-parents, or name an artifact"
        )
    if spec.endswith(FILE) or (cascade := find_cascade(spec)) is None:
        raise UserError(
            f"{KEY}={spec}: no such artifact; name the folder of a finished run or cascade, an "
            f"experiment or a published cascade{meant(spec)}"
        )
    return fetch(cascade)


def _part(resolved: ResolvedExperiment, folder: Path, spec: str) -> Path:
    """The stage of a cascade's folder that is of the same kind; any other folder itself."""
    if any((folder / name / "artifact.json").is_file() for name in (".", "artifact")):
        return folder
    kind = resolved.stage.kind
    found = [path for path in sorted(folder.glob(f"{kind}*")) if path.is_dir()]
    if len(found) > 1:
        names = " or ".join(f"{KEY}={path}" for path in found)
        raise UserError(f"{KEY}={spec}: has several stages of the kind {kind}; give {names}")
    return found[0] if found else folder


def begin(resolved: ResolvedExperiment, stage: Stage, path: str, parents: LoadedParents) -> Begun:
    """Load what of the artifact in ``path`` the stage takes; its average begins from it too.

    Args:
        resolved: With the sizes that the parents decide.
        stage: Freshly initialised.
        path: From `find`.
        parents: What the stage was built with.

    Raises:
        UserError: the artifact is of another CLIP or PCA, or its weights or settings differ and
            ``init_skip`` does not name them. Nothing is loaded then.
    """
    artifact, skip = artifacts.describe(path, key=KEY), resolved.config.init_skip
    if artifact.learned_words:
        raise UserError(f"{KEY}={path}: holds a learned word alone; name the weights of its base")
    if artifact.adapter is not None:
        raise UserError(
            f"{KEY}={path}: is an adapter; `unclip merge {path} --out DIR` makes whole weights of "
            "it"
        )
    _check_parents(artifact, parents)
    settings = _check_settings(resolved, artifact, stage.net, parents.sizes())
    net = stage.net.get_submodule(stage.exported)
    theirs, ours = artifact.weights(), net.state_dict()
    taken = _matched(artifact, theirs, ours, skip)
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in (*theirs, *ours, *settings)):
            raise UserError(
                f"init_skip={pattern}: names no weight, and no setting that differs; weights are "
                f"called as {next(iter(ours))}"
            )
    if not any(tensor.is_meta for tensor in ours.values()):  # of the first process of a machine
        net.load_state_dict(ours | taken)
    stage.restart_average()
    new = tuple(name for name in ours if name not in taken)
    left = tuple(name for name in theirs if name not in taken)
    return Begun(path, artifact.sha256, len(taken), new, left)


def _check_parents(artifact: Artifact, parents: LoadedParents) -> None:
    clip = None if parents.clip is None else parents.clip.fingerprint
    if artifact.clip_fingerprint not in (None, clip):
        raise UserError(
            f"{KEY}={artifact.path}: was trained with another CLIP "
            f"({str(artifact.clip_fingerprint)[:12]}, here {str(clip)[:12]}); name its CLIP: "
            f"clip={artifact.config.get('clip')}"
        )
    then = artifact.parent("pca")
    if then and parents.pca and then != artifacts.describe(parents.pca, key="pca").sha256:
        raise UserError(
            f"{KEY}={artifact.path}: was trained with another PCA ({then[:12]}); name that one: "
            f"pca={artifact.config.get('pca')}"
        )


def _check_settings(
    resolved: ResolvedExperiment, artifact: Artifact, net: nn.Module, sizes: ParentSizes
) -> list[str]:
    """The fields with other values than the artifact was trained with.

    Those that change no weight's name or shape must be named in ``init_skip``: nothing else shows
    that the same numbers would mean something else.
    """
    here = {name: getattr(resolved.config, name, None) for name in SECTIONS}
    there = {
        name: artifact.section(name, type(section))
        for name, section in here.items()
        if section is not None
    }
    now = _leaves({name: here[name] for name in there})
    then = _leaves(there)
    different = [key for key in now if now[key] != then.get(key)]
    for key in different:
        if _any(key, resolved.config.init_skip):
            continue
        if _shapes(_built(resolved, sizes, key, then.get(key))) == _shapes(net):
            raise UserError(
                f"{key}={now[key]}: {KEY}={artifact.path} was trained with {then.get(key)}; give "
                f"that, or init_skip=[{key}] to train with another"
            )
    return different


def _built(resolved: ResolvedExperiment, sizes: ParentSizes, key: str, value: Any) -> nn.Module:
    """The network with another value of a setting, on "meta"; an empty one where none can be."""
    with torch.device("meta"):
        try:
            return resolved.stage.build_network(_with(resolved.config, key, value), sizes)
        except (ValueError, RuntimeError, UserError):
            return nn.Module()


def _with(config: Any, key: str, value: Any) -> Any:
    name, _, rest = key.partition(".")
    inner = _with(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: inner})


def _matched(
    artifact: Artifact, theirs: dict[str, Tensor], ours: dict[str, Tensor], skip: Sequence[str]
) -> dict[str, Tensor]:
    """By name, what the network takes: all that ``skip`` does not name, which must fit."""
    taken = {}
    for name in [*ours, *(n for n in theirs if n not in ours)]:
        one, other = theirs.get(name), ours.get(name)
        if _any(name, skip):
            if one is not None and other is not None and _is_wider(other, one):
                taken[name] = _widened(one, other)
            continue
        if one is None or other is None:
            where = "is not in it" if one is None else "is not in this network"
            raise UserError(
                f"{KEY}={artifact.path}: the weight {name} {where}; give the settings that it was "
                f"trained with, or init_skip=[{_pattern(name)}]"
            )
        if one.numel() == other.numel() == 1:  # a scalar may be a list of one
            one = one.reshape(other.shape)
        if one.shape != other.shape:
            raise UserError(
                f"{KEY}={artifact.path}: the weight {name} has the shape {list(one.shape)}, here "
                f"{list(other.shape)}; give the settings that it was trained with, or "
                f"init_skip=[{_pattern(name)}]"
            )
        taken[name] = one.to(other.dtype)
    return taken


def _is_wider(new: Tensor, old: Tensor) -> bool:
    return (
        new.dim() == old.dim()
        and new.shape != old.shape
        and all(a >= b for a, b in zip(new.shape, old.shape))
    )


def _widened(old: Tensor, new: Tensor) -> Tensor:
    """``old`` with zeros where ``new`` has more: further channels have no effect at first."""
    wide = torch.zeros_like(new, device="cpu")
    wide[tuple(slice(size) for size in old.shape)] = old.to(new.dtype)
    return wide


def _any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _pattern(name: str) -> str:
    """For a weight and its neighbours: ``unet.inputs.*``."""
    return f"{name.rpartition('.')[0]}.*" if "." in name else name


def _shapes(net: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


def _leaves(sections: dict[str, Any]) -> dict[str, Any]:
    return meaning({name: dataclasses.asdict(value) for name, value in sections.items()})


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
