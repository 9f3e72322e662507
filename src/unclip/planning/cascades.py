"""The stages of a cascade that `unclip plan` is asked about: of a folder, or not fetched yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unclip.common import artifacts, yaml_text
from unclip.common.errors import UserError
from unclip.config.cascades import NamedCascade
from unclip.config.load import ResolvedExperiment, load_experiment
from unclip.pipeline.folder import require_there
from unclip.planning.sampling import StagePart
from unclip.runs.parents import named_sizes
from unclip.runs.published import imported_folder
from unclip.stages import registry
from unclip.stages.row import CLIP, DECODER, PRIOR, UPSAMPLER
from unclip.weights.hub import open_source
from unclip.weights.importing import find

SAMPLED = (CLIP, PRIOR, DECODER, UPSAMPLER)


def parts_of_folder(root: Path) -> list[StagePart]:
    """Those that `unclip sample` would load; a prior alone counts too.

    Raises:
        UserError: it is not a cascade, or lacks the CLIP that a stage of it reads.
    """
    require_there(root)
    folders = [root / name for name in (CLIP, DECODER, PRIOR)]
    folders += sorted(root.glob(f"{UPSAMPLER}*"))
    parts = []
    for folder in folders:
        if folder.is_dir():
            found = artifacts.describe(folder)
            row = registry.stage(found.stage, str(folder))
            if CLIP in row.parents and found.embed_dim is not None and not folders[0].is_dir():
                raise UserError(
                    f"pipeline={root}: its {row.kind} reads a CLIP, and there is none; add the one "
                    f"that it was trained with, as by `unclip import CLIP --out {root}`"
                )
            experiment = found.stored(row.experiment)
            file = (found.path / "weights.safetensors").stat().st_size
            parts.append(StagePart(folder.name, found.stage, experiment, file))
    if not parts:
        raise UserError(f"pipeline={root}: no stages in it; give a cascade's folder")
    return parts


def parts_of_published(cascade: NamedCascade) -> list[StagePart]:
    """Those of the imported folder; else what its file says; else what the sources' say.

    Raises:
        UserError: the sources cannot be reached, or are of no cascade.
    """
    folder = imported_folder(cascade)
    if folder.is_dir():
        return parts_of_folder(folder)
    stages = cascade.stages
    if not stages:  # of the hub only configurations are fetched
        for spec in reversed([cascade.published.clip, *cascade.published.sources]):
            found = find(open_source(spec), half=False) if spec else []
            stages = stages | {each.stage: each.experiment for each in found}
    return [StagePart(registry.STAGES[n].kind, n, each) for n, each in stages.items()]


def parts_of_experiments(names: Sequence[str]) -> list[StagePart]:
    """A cascade that is not trained yet; its CLIP is that of its stages if none is named.

    Raises:
        UserError: one cannot be sampled from, or the CLIP is not an experiment.
    """
    found = [load_experiment(name) for name in names]
    kinds = [each.stage.kind for each in found]
    for each in found:
        if each.stage.kind not in SAMPLED:
            known = ", ".join(SAMPLED)
            raise UserError(f"{each.name}: is not a stage of a cascade; those are {known}")
    for kind in (CLIP, DECODER, PRIOR):
        if kinds.count(kind) > 1:
            raise UserError(f"{names[-1]}: a cascade has one {kind}; {kinds.count(kind)} are named")
    asked = [each for each in found if CLIP in each.stage.parents]
    if CLIP not in kinds and asked:
        spec = asked[0].config.clip
        if spec.startswith("open_clip:"):
            raise UserError(f"clip={spec}: name an experiment of its size too, as clip/paper")
        found.insert(0, load_experiment(spec))
    parts = []
    for each in found:
        each.stage.fill(each.config, named_sizes(each))
        parts.append(StagePart(each.name, each.stage.name, each.config))
    return parts


def training_of(
    cascade: NamedCascade, kind: str, overrides: list[str], folder: Path
) -> ResolvedExperiment:
    """Fine-tuning a stage of a published cascade, by what its file says; nothing is fetched.

    Args:
        cascade: Whose stage it is.
        kind: Of the stage, as ``decoder``.
        overrides: Of the experiment.
        folder: An empty one, for the experiment's files.

    Raises:
        UserError: it has no such stage, or its file says nothing of it.
    """
    stages = {registry.STAGES[name].kind: (name, each) for name, each in cascade.stages.items()}
    if kind not in stages or kind == CLIP:
        there = [each for each in stages if each != CLIP]
        known = f"it has {', '.join(there)}" if there else "import it, and name its config.yaml"
        raise UserError(f"{cascade.name}/{kind}: the cascade's file lists no {kind}; {known}")
    files: dict[str, dict[str, Any]] = {}
    for each, (name, experiment) in stages.items():
        sections = {s: getattr(experiment, s, None) for s in ("model", "diffusion")}
        content = {s: dataclasses.asdict(value) for s, value in sections.items() if value}
        files[each] = {"stage": name, **content}
    own = files[kind] | {"init": cascade.name}
    if CLIP in registry.STAGES[own["stage"]].parents:
        own["clip"] = str(folder / "clip.yaml")
        (folder / "clip.yaml").write_text(yaml_text.document(files[CLIP]))
    (folder / f"{kind}.yaml").write_text(yaml_text.document(own))
    found = load_experiment(folder / f"{kind}.yaml", overrides)
    return dataclasses.replace(found, name=f"{cascade.name}/{kind}")


def imported_words(cascade: NamedCascade, kind: str) -> list[str]:
    """The experiment and its parents as `unclip train` takes them, once it is imported."""
    there = imported_folder(cascade)
    root = there if there.is_dir() else Path(cascade.name)
    words = [str(root / kind / "config.yaml"), f"init={root}"]
    return words if kind == UPSAMPLER else [*words, f"clip={root / CLIP}"]
