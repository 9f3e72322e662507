"""Per-call overrides of the artifacts' sampler settings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from typing import Any

from unclip.common.checks import typed_value
from unclip.common.errors import UserError
from unclip.diffusion.inversion import INVERSIONS

STAGES = ("prior", "decoder", "upsampler")
"""Whose sampler settings `Settings` can change."""


@dataclass(frozen=True)
class Settings:
    """Changes to the artifacts' own sampler settings, by stage: ``{"decoder": {"steps": 50}}``."""

    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch: int = 16  # images at a time, which bounds the memory
    inversion: str = "fixed_point"  # convention of `unclip.diffusion.samplers.invert`
    iterations: int = 4  # evaluations of each step of inversion=fixed_point

    def check(self, stages: Collection[str]) -> None:
        """Refuse what cannot be, or changes a stage that is none of ``stages``."""
        if self.batch < 1:
            raise UserError(f"batch={self.batch}: must be at least 1")
        if self.inversion not in INVERSIONS:
            raise UserError(f"inversion={self.inversion}: is none of {', '.join(INVERSIONS)}")
        if self.iterations < 1:
            raise UserError(f"iterations={self.iterations}: must be at least 1")
        for stage, changes in self.changes.items():
            if changes and stage not in stages:
                raise UserError(f"{stage}.{next(iter(changes))}: no {stage} takes part in this")

    def unguided(self) -> Settings:
        """The same, with the decoder's guidance 1 where nothing is said of it.

        Edits want that: a guided inversion leaves so much of the image in x_T that z_i has less
        of a say (docs/manipulations.md).
        """
        decoder = {"guidance": 1.0, **self.changes.get("decoder", {})}
        return replace(self, changes={**self.changes, "decoder": decoder})

    def apply(self, stage: str, sampler: Any) -> Any:
        """``sampler`` with the changes of ``stage``, validated."""
        changes = self.changes.get(stage, {})
        known = [f.name for f in fields(sampler)]
        for name in changes:
            if name not in known:
                raise UserError(
                    f"{stage}.{name}: this {stage} has no such setting; it has {', '.join(known)}"
                )
        kind = type(sampler)
        try:
            typed = {name: typed_value(kind, name, value) for name, value in changes.items()}
            changed = replace(sampler, **typed)
            changed.validate()
        except UserError as error:
            text = str(error).removeprefix("sampler.")
            raise UserError(f"{stage}.{text}") from None
        return changed

    def ddim(self, sampler: Any, eta: float) -> Any:
        """The decoder's ``sampler`` made DDIM, the one that can be inverted."""
        given = {"sampler", "eta"} & set(self.changes.get("decoder", {}))
        if given:
            name = sorted(given)[0]
            raise UserError(f"decoder.{name}: manipulations set it (DDIM, eta of its own)")
        if not 0 <= eta <= 1:
            raise UserError(f"eta={eta}: is not in [0, 1]")
        return replace(self.apply("decoder", sampler), sampler="ddim", eta=eta)
