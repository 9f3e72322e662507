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
        UserError: it is no cascade, a stage is missing or too many, or a value cannot be held.
    """
    found = {kind: cascade / kind for kind in (CLIP, PRIOR, DECODER) if (cascade / kind).is_dir()}
    several = sorted(p for p in cascade.glob(f"{UPSAMPLER}*") if p.is_dir())
    missing = [kind for kind in (CLIP, DECODER) if kind not in found]
    if missing or not several:
        what = ", ".join([*missing, *([] if several else [UPSAMPLER])])
        raise UserError(
            f"{cascade}: {what} missing in it; diffusers' pipelines need {CLIP}, {DECODER} and "
            f"{UPSAMPLER}"
        )
    if len(several) > 1:
        raise UserError(
            f"{several[1]}: diffusers' pipelines have one upsampler, this cascade has "
            f"{len(several)}; export a folder without it"
        )
    stages: dict[str, Stage] = {}
    for kind, path in (found | {UPSAMPLER: several[0]}).items():
        artifact = artifacts.describe(path, key=kind)
        limits.check_stage(kind, artifact)
        experiment = _experiment(artifact)
        if kind == DECODER:
            experiment.embedding = takes(artifact)
        model = experiment.model
        sizes = (
            ParentSizes(model.embed_dim, model.text_width, model.context)
            if not stages
            else (stages[CLIP].sizes)
        )
        stages[kind] = Stage(kind, artifact, experiment, sizes)
        limits.check(kind, artifact, experiment)
    _check_together(stages)
    return stages


def _experiment(artifact: Artifact) -> Any:
    """What its network is built and sampled by, checked; the rest are defaults."""
    if artifact.stage == CLIP:  # a CLIP without images cannot be trained, so it is no experiment
        return ClipExperiment(model=artifact.section("model", ClipConfig))
    cls: Any = registry.STAGES[artifact.stage].experiment
    return artifact.experiment(cls, "model", "diffusion", "sampler")


def _check_together(stages: dict[str, Stage]) -> None:
    """Refuse what fits into diffusers' classes, but not into one pipeline of them."""
    clip, sizes, decoder = stages[CLIP], stages[CLIP].sizes, stages[DECODER].experiment.model
    if sizes.text_width != sizes.embed_dim:
        why = "diffusers' networks read token features as wide as the embeddings"
        raise _other(clip, "text_width", why, sizes.embed_dim)
    own = f"the CLIP {clip.artifact.path} has another"
    wanted = {"embed_dim": sizes.embed_dim, "clip_text_width": sizes.text_width}
    for stage in (stages[kind] for kind in (PRIOR, DECODER) if kind in stages):
        if stage.kind == PRIOR:
            wanted["context"] = sizes.context
        for name, value in wanted.items():
            if getattr(stage.experiment.model, name, None) not in (None, value):
                raise _other(stage, name, own, value)
            setattr(stage.experiment.model, name, value)
        wanted.pop("context", None)
    if stages[UPSAMPLER].experiment.model.low_size != decoder.image_size:
        why = "diffusers' pipelines enlarge what the decoder has drawn"
        raise _other(stages[UPSAMPLER], "low_size", why, decoder.image_size)
    if PRIOR not in stages and clip.experiment.model.vision == "none":
        raise UserError(
            f"{clip.artifact.path.parent}: {PRIOR} missing in it; UnCLIPPipeline needs one, and "
            "UnCLIPImageVariationPipeline a CLIP that embeds images"
        )


def _other(stage: Stage, name: str, why: str, value: Any) -> UserError:
    own = getattr(stage.experiment.model, name)
    return limits.refusal(stage.artifact, f"model.{name}", own, why, (value,))
