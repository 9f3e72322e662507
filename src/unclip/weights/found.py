"""A stage that was found among another project's weights, before any of its tensors is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from unclip.stages.experiment import ParentSizes
from unclip.stages.registry import STAGES
from unclip.weights.maps.rules import Rule


@dataclass(frozen=True)
class Found:
    """One stage.

    Args:
        where: What errors call its weights.
        experiment: Every value of it, for ``config.yaml``.
        rules: Of all of its tensors, for our network (on "meta").
        state: Reads its tensors, under the names that the rules have.
        sizes: What the CLIP is for it: D, width of the token features, tokens.
        files: Further files of its artifact, by the names that they get there.
        settings: Their configuration by component, which an export writes back.
        places: Where tensors are whose names begin so, if not at ``where``.
        lacks: Why it cannot be a stage by itself, for an error.
    """

    where: str
    experiment: Any
    rules: Callable[[Any], list[Rule]]
    state: Callable[[], dict[str, Tensor]]
    sizes: ParentSizes = field(default_factory=ParentSizes)
    files: dict[str, Path] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    lacks: str = ""

    def __post_init__(self) -> None:
        self.experiment.stage = self.stage

    def place(self, name: str) -> str:
        """What errors about a tensor begin with."""
        named = (place for prefix, place in self.places.items() if name.startswith(prefix))
        return next(named, self.where)

    @property
    def stage(self) -> str:
        """Its name in the table of stages."""
        return next(row.name for row in STAGES.values() if row.experiment is type(self.experiment))
