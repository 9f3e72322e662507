"""How an image was sampled, as its PNG says it, and a cascade that samples it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unclip.common.blank import is_blank
from unclip.common.errors import UserError
from unclip.common.fields import as_dataclass
from unclip.common.png_record import DAMAGED, Record, read_record
from unclip.common.seeds import require_seed
from unclip.pipeline.cascade import Cascade, with_settings
from unclip.pipeline.settings import PRECISIONS, Settings

FORMAT = 1
SAMPLE = "sample"
"""The command whose images their records suffice to repeat; others start from images."""
PRECISION = {torch.float32: "32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def precision_of(cascade: Cascade) -> str:
    """In which precision it samples, as ``--precision`` names it."""
    name = PRECISION[cascade.dtype or torch.float32]
    tf32 = cascade.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return "tf32" if name == "32" and tf32 else name


class Recorder:
    """Writes the records of the images of one call.

    Args:
        cascade: Samples.
        settings: Of the call, for what they change.
        command: As `unclip` knows it.
        more: Further values that all images of the call share.
    """

    def __init__(self, cascade: Cascade, settings: Settings | None, command: str, **more: Any):
        own = with_settings(cascade, settings or Settings())
        self._shared = {
            "format": FORMAT,
            "command": command,
            "cascade": own.sha256,
            "precision": precision_of(own),
            "device": own.device.type,
            "prior": asdict(own.prior.sampler) if own.prior else None,
            "decoder": asdict(own.decoder.sampler),
            "upsamplers": [asdict(part.sampler) for part in own.upsamplers],
            **more,
        }

    def __call__(self, **own: Any) -> Record:
        """The record of an image, ``own`` being what it has besides: a caption, a seed."""
        return {**self._shared, **own}


class Recipe(NamedTuple):
    """What an image of `unclip sample` was sampled from and how."""

    path: Path
    caption: str
    seed: int
    precision: str
    record: Mapping[str, Any]

    def applied(self, cascade: Cascade) -> Cascade:
        """``cascade`` with the settings that sampled the image.

        Raises:
            UserError: it is another cascade, or settings do not fit it.
        """
        wanted = str(self.record.get("cascade"))
        if not cascade.sha256 or cascade.sha256 != wanted:
            raise UserError(
                f"{self.path}: was sampled from another cascade (sha256 {wanted[:12]}, this one "
                f"has {cascade.sha256[:12]}); name its own with --pipeline"
            )
        parts = [p for p in (cascade.prior, cascade.decoder, *cascade.upsamplers) if p]
        upsamplers = self.record.get("upsamplers")
        upsamplers = upsamplers if isinstance(upsamplers, list) else []
        sections = [*([self.record.get("prior")] if cascade.prior else [])]
        sections += [self.record.get("decoder"), *upsamplers]
        if len(sections) != len(parts):
            raise UserError(f"{self.path}: {DAMAGED}")
        changed: list[Any] = [self._sampled(p, s) for p, s in zip(parts, sections)]
        prior = changed.pop(0) if cascade.prior else None
        return replace(cascade, prior=prior, decoder=changed[0], upsamplers=tuple(changed[1:]))

    def _sampled(self, part: Any, section: Any) -> Any:
        sampler: Any = as_dataclass(type(part.sampler), section, f"{self.path}: ", "sampler.")
        try:
            sampler.validate()
            part.check_sampler(sampler)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        return replace(part, sampler=sampler)


def read_recipe(path: Path) -> Recipe:
    """What to repeat of the image at ``path``.

    Raises:
        UserError: it does not say, says nonsense, or an image was needed besides.
    """
    record = read_record(path)
    if record.get("format") != FORMAT:
        raise UserError(
            f"{path}: its record of how it was sampled has format "
            f"{str(record.get('format'))[:20]}, this unclip reads {FORMAT}; use the version that "
            "wrote it"
        )
    command = record.get("command")
    if command != SAMPLE:
        raise UserError(
            f"{path}: was made by `unclip {str(command)[:20]}` from another image; only images of "
            "`unclip sample` can be repeated"
        )
    caption, seed, precision = (record.get(key) for key in ("caption", "seed", "precision"))
    if not isinstance(caption, str) or is_blank(caption) or precision not in PRECISIONS:
        raise UserError(f"{path}: {DAMAGED}")
    require_seed(seed, f"{path}: seed")  # type: ignore[arg-type]
    return Recipe(path, caption, seed, precision, record)  # type: ignore[arg-type]
