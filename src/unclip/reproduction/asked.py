"""Refuses, before anything is trained, what a judge would refuse once it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from unclip.common.errors import UserError
from unclip.pipeline.settings import Settings
from unclip.reproduction.judges.table import PHOTOGRAPHS, ROWS
from unclip.reproduction.preset import Claim, Preset
from unclip.stages.row import DECODER, PRIOR


def check_arms(
    claims: Mapping[str, Claim], preset: Preset, experiment: Callable[[str], Any]
) -> None:
    """Refuse arms that lack a part, settings that a part has not, and scenes without the subject.

    Args:
        claims: What will be tested.
        preset: Whose trainings they name.
        experiment: That of a training.

    Raises:
        UserError: names claim, arm and key.
    """
    for key, claim in claims.items():
        for name, arm in claim.arms.items():
            where = f"{key}.arms.{name}"
            parts: dict[str, str] = {}
            for part in arm.parts:
                kind = preset.trainings[part].kind
                if kind in parts:
                    raise UserError(f"{where}.parts: {parts[kind]} and {part} are each a {kind}")
                parts[kind] = part
            for kind in ROWS[claim.judge].needs:
                if kind not in parts:
                    raise UserError(
                        f"{where}.parts: has no {kind}, which the judge {claim.judge} needs"
                    )
            configs = {kind: experiment(part) for kind, part in parts.items()}
            options = {**claim.options, **arm.options}
            try:
                _check_settings(options.get("settings", {}), configs)
                if "given" in ROWS[claim.judge].options:
                    _check_given(options, configs)
                if claim.judge != PHOTOGRAPHS:
                    _check_scenes(claim.judge, options, configs)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None


def _check_settings(changes: dict[str, Any], configs: Mapping[str, Any]) -> None:
    settings = Settings(changes=changes)
    settings.check()
    for stage in changes:
        if stage not in configs:
            raise UserError(f"options.settings.{stage}: has no effect: the arm has no {stage}")
        settings.apply(stage, configs[stage])


def _check_given(options: Mapping[str, Any], configs: Mapping[str, Any]) -> None:
    decoder, given = configs[DECODER], options.get("given", "prior")
    if not (decoder.model.use_z_i and decoder.embedding == "image"):
        if "given" in options:
            raise UserError(f"options.given={given}: has no effect: the decoder takes no z_i")
    elif given == "prior" and PRIOR not in configs:
        raise UserError("parts: has no prior, which options.given=prior needs")
    elif given == "caption" and not decoder.model.use_caption:
        raise UserError("options.given=caption: the decoder reads no captions")


def _check_scenes(judge: str, options: Mapping[str, Any], configs: Mapping[str, Any]) -> None:
    data = configs.get(DECODER, next(iter(configs.values()))).data
    if data.source != "scenes":
        raise UserError(f"the judge {judge} reads scenes, and data.source={data.source}")
    if options.get("prompts", "single") != "single" and data.scenes.max_objects == 1:
        raise UserError(
            f"options.prompts={options['prompts']}: its scenes have one object "
            "(data.scenes.max_objects=1)"
        )
    if judge == "words" and data.scenes.words == 0:
        raise UserError("its scenes never have a printed word (data.scenes.words=0)")
