"""A cascade's stages, checked before any of them is written for diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from unclip.common import artifacts
from unclip.common.artifacts import Artifact
from unclip.common.errors import UserError
from unclip.stages import registry
from unclip.stages.clip.config import ClipConfig, ClipExperiment
from unclip.stages.decoder.part import takes
from unclip.stages.experiment import ParentSizes
from unclip.stages.row import CLIP, DECODER, PRIOR, UPSAMPLER
from unclip.weights.exported import in_halves
from unclip.weights.writing import limits


class Stage(NamedTuple):
    """A stage of the cascade, checked."""

    kind: str
    artifact: Artifact
    experiment: Any
    sizes: ParentSizes

    @property
    def imported(self) -> Mapping[str, Any]:
        """Their configurations by component, if it was imported from such a folder."""
        settings = self._imported("settings")
        return settings if isinstance(settings, dict) else {}

    def _imported(self, name: str) -> object:
        found = self.artifact.provenance.get("imported")
        return found.get(name) if isinstance(found, dict) else None

    def as_read(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under their names, as precise as the files that they were imported from."""
        return in_halves(state, self._imported("half"))


def read_stages(cascade: Path) -> dict[str, Stage]:
    """The stages by kind, each of which diffusers' classes can hold; no weights are read.

    Raises:
        UserError: there is none, there are too many, or a value cannot be held.
    """
    stages: dict[str, Stage] = {}
    for kind, path in _folders(cascade).items():
        artifact = artifacts.describe(path, key=kind)
        limits.check_stage(kind, artifact)
        experiment = _experiment(artifact)
        if kind == DECODER:
            experiment.embedding = takes(artifact)
        limits.check(kind, artifact, experiment)
        stages[kind] = Stage(kind, artifact, experiment, _sizes(experiment.model, artifact))
    _check_together(stages)
    return stages


def _folders(cascade: Path) -> dict[str, Path]:
    """Of the stages by kind, the CLIP first; ``cascade`` may be that of one stage itself."""
    if any((cascade / place).is_file() for place in ("artifact.json", "artifact/artifact.json")):
        stage = artifacts.describe(cascade, key="cascade").stage
        kind = registry.STAGES[stage].kind if stage in registry.STAGES else stage
        if kind not in limits.LIMITS:
            raise UserError(f"{cascade}: is of stage {stage[:50]}, of which diffusers has no class")
        return {kind: cascade}
    found = {kind: cascade / kind for kind in (CLIP, PRIOR, DECODER) if (cascade / kind).is_dir()}
    several = sorted(p for p in cascade.glob(f"{UPSAMPLER}*") if p.is_dir())
    if len(several) > 1:
        raise UserError(
            f"{several[1]}: diffusers' pipelines have one upsampler, this cascade has "
            f"{len(several)}; export a folder without it"
        )
    found |= dict(zip((UPSAMPLER,), several))
    if not found:
        raise UserError(
            f"{cascade}: holds no {CLIP}, {PRIOR}, {DECODER} or {UPSAMPLER}; name the folder of a "
            "cascade or of a stage"
        )
    return found


def _sizes(model: Any, artifact: Artifact) -> ParentSizes:
    """Of the CLIP, as the CLIP itself or a stage trained with it has them."""
    context, width = getattr(model, "context", None), getattr(model, "clip_text_width", None)
    dim = getattr(model, "embed_dim", None) or artifact.embed_dim
    return ParentSizes(dim, getattr(model, "text_width", width), context)


def _experiment(artifact: Artifact) -> Any:
    """What its network is built and sampled by, checked; the rest are defaults."""
    if (
        artifact.stage == CLIP
    ):  # a CLIP without images cannot be trained, so it is not an experiment
        return ClipExperiment(model=artifact.section("model", ClipConfig))
    cls: Any = registry.STAGES[artifact.stage].experiment
    return artifact.experiment(cls, "model", "diffusion", "sampler")


def _check_together(stages: dict[str, Stage]) -> None:
    """Refuse what fits into diffusers' classes, but not into one pipeline of them."""
    readers = [stages[kind] for kind in (CLIP, PRIOR, DECODER) if kind in stages]
    for stage in readers:
        sizes, model = readers[0].sizes, stage.experiment.model
        same = {"embed_dim": sizes.embed_dim, "clip_text_width": sizes.text_width}
        if stage.kind == PRIOR:
            same["context"] = sizes.context
        for name, value in ({} if stage.kind == CLIP else same).items():
            if getattr(model, name) not in (None, value):
                raise _other(stage, name, f"{readers[0].artifact.path} has another", value)
            setattr(model, name, value)
        width = "text_width" if stage.kind == CLIP else "clip_text_width"
        if model.embed_dim is None or getattr(model, width) != model.embed_dim:
            why = "diffusers' networks read token features as wide as the embeddings"
            raise _other(stage, width, why, model.embed_dim or "their width")
    if UPSAMPLER in stages and DECODER in stages:
        size = stages[DECODER].experiment.model.image_size
        if stages[UPSAMPLER].experiment.model.low_size != size:
            why = "diffusers' pipelines enlarge what the decoder has drawn"
            raise _other(stages[UPSAMPLER], "low_size", why, size)


def _other(stage: Stage, name: str, why: str, value: Any) -> UserError:
    own = getattr(stage.experiment.model, name)
    return limits.refusal(stage.artifact, f"model.{name}", own, why, (value,))
