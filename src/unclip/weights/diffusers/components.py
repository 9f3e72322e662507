"""Which component each folder holds, by the class that its configuration names."""

from __future__ import annotations

from typing import Any

from unclip.common.errors import UserError
from unclip.weights.reading.folders import Source
from unclip.weights.settings import SCHEDULER, Settings, scheduler

PRIOR, DECODER, TEXT_PROJ, UPSAMPLER = (
    "PriorTransformer",
    "UNet2DConditionModel",
    "UnCLIPTextProjModel",
    "UNet2DModel",
)
CLIPS = {
    "CLIPTextModelWithProjection": "text",
    "CLIPVisionModelWithProjection": "vision",
    "CLIPModel": "both",
}
SCHEDULERS = {
    PRIOR: "prior_scheduler",
    DECODER: "decoder_scheduler",
    UPSAMPLER: "super_res_scheduler",
}
_BESIDE = ("CLIPTokenizer", "CLIPTokenizerFast", "CLIPImageProcessor", "CLIPFeatureExtractor")
_CHAINS: dict[str, dict[str, Any]] = {  # as published, where a component comes without its pipeline
    PRIOR: {"prediction_type": "sample", "clip_sample_range": 5.0},
    DECODER: {"variance_type": "learned_range"},
    UPSAMPLER: {},
}


class Components:
    """The folders of a source by what they hold, and the pipeline's table of names."""

    def __init__(self, source: Source):
        self.source = source
        self.configs: dict[str, dict[str, Any]] = {}
        for folder in source.folders():
            name = f"{folder}/config.json" if folder else "config.json"
            if name in source.names:
                self.configs[folder] = source.json(name)
        self.index: dict[str, Any] = {}
        self.chains: dict[str, dict[str, Any]] = {}  # what schedulers say, by their own names here
        if "model_index.json" in source.names:
            self.index = source.json("model_index.json")

    def of(self, cls: str) -> list[str]:
        """The folders of a class."""
        return [folder for folder, config in self.configs.items() if class_of(config) == cls]

    def settings(self, folder: str) -> Settings:
        """The configuration of a folder."""
        name = f"{folder}/config.json" if folder else "config.json"
        return Settings(self.configs[folder], self.source.where(name))

    def check(self) -> None:
        """Refuse a pipeline of which a component is missing, or that is of another kind.

        The CLIP may come from elsewhere.
        """
        for folder, entry in self.index.items():
            cls = entry[-1] if isinstance(entry, list) and entry else None
            where = self.source.where("model_index.json")
            if cls is None or cls in (*_BESIDE, *CLIPS):
                continue
            if cls == SCHEDULER:
                file = f"{folder}/scheduler_config.json"
            elif cls in (PRIOR, DECODER, TEXT_PROJ, UPSAMPLER):
                file = f"{folder}/config.json"
            else:
                raise UserError(
                    f"{where}: {folder}={str(cls)[:60]}: no stage of unclip can hold that"
                )
            if file not in self.source.names:
                raise UserError(f"{self.source.where(file)}: is missing; fetch the folder again")
            if folder in self.configs and (own := class_of(self.configs[folder])) != cls:
                raise UserError(
                    f"{self.source.where(file)}: _class_name={str(own)[:60]!r}: {where} says "
                    f"{cls}; fetch both again"
                )
        if not any(
            class_of(c) in (PRIOR, DECODER, UPSAMPLER, TEXT_PROJ, *CLIPS)
            for c in self.configs.values()
        ):
            known = ", ".join(sorted({str(class_of(c))[:40] for c in self.configs.values()}))
            raise UserError(
                f"{self.source.label}: holds {known or 'nothing known'}, which is not "
                "a stage of unclip"
            )

    def settings_of(self, cls: str, **folders: str) -> dict[str, dict[str, Any]]:
        """The configurations of components, and of the scheduler that `chain` has read for them."""
        found = {name: self.configs[folder] for name, folder in folders.items()}
        own = SCHEDULERS[cls]
        return found | ({own: self.chains[own]} if own in self.chains else {})

    @property
    def pipeline(self) -> dict[str, Any]:
        """The class of the pipeline, if they are one's."""
        name = self.index.get("_class_name")
        return {"pipeline": name} if isinstance(name, str) else {}

    def chain(self, cls: str, folder: str) -> Any:
        """The chain of a component: of the scheduler named after it, or as published."""
        stem = "super_res" if cls == UPSAMPLER else (folder or "prior")
        for name in (f"{stem}_scheduler/scheduler_config.json", "scheduler/scheduler_config.json"):
            if name in self.source.names:
                values = self.chains[SCHEDULERS[cls]] = self.source.json(name)
                return scheduler(values, self.source.where(name), image=cls != PRIOR)
        return scheduler(_CHAINS[cls], self.source.label, image=cls != PRIOR)


def class_of(config: dict[str, Any]) -> str | None:
    """The class that a configuration names: diffusers' or transformers'."""
    listed = config.get("architectures")
    named = config.get("_class_name") or (listed[0] if isinstance(listed, list) and listed else "")
    by_type = {
        "clip_text_model": "CLIPTextModelWithProjection",
        "clip": "CLIPModel",
        "clip_vision_model": "CLIPVisionModelWithProjection",
    }
    return named or by_type.get(str(config.get("model_type")))
