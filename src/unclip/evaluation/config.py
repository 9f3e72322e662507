"""What an evaluation may be told. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unclip.common.checks import require, require_choices
from unclip.common.seeds import require_seed
from unclip.config.load import build_config, parse_overrides
from unclip.pipeline.settings import (
    STAGES,
    Compiling,
    Offloading,
    Precision,
    Settings,
    check_changes,
)
from unclip.tracking.config import TrackingConfig
from unclip.training.config import RunConfig


@dataclass(kw_only=True)
class CascadeEvaluation:
    """A trained cascade judged on scenes: it draws held-out captions, the oracle reads them."""

    n: int = 64  # captions
    objects: int = 1  # in each: 1 or 2
    batch: int = 16  # images at a time
    seed: int = 0  # of the captions; image k has the noise of seed k
    precision: Precision = "auto"  # of the networks; auto is 32 on a CPU
    offload: Offloading = "none"  # stages or blocks: by turns on the GPU
    compile: Compiling = "none"  # blocks of the networks, or also as CUDA graphs
    run: RunConfig = field(default_factory=RunConfig)  # dir: where results are written
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def validate(self) -> None:
        """Refuse values out of range."""
        require(self.n >= 1, "n", "must be at least 1")
        require(self.batch >= 1, "batch", "must be at least 1")
        require(self.objects in (1, 2), "objects", "must be 1 or 2")
        require_seed(self.seed, "seed")
        require_choices(self, "")


def read_changes(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Sampler settings such as ``decoder.steps=16``, by stage: ``{"decoder": {"steps": 16}}``.

    Raises:
        UserError: a value cannot be read.
    """
    changes: dict[str, dict[str, Any]] = {}
    for key, value in parse_overrides(words).items():
        stage, _, name = key.partition(".")
        changes.setdefault(stage, {})[name] = value
    return changes


def read_evaluation(
    words: Sequence[str], values: dict[str, Any] | None = None
) -> tuple[CascadeEvaluation, Settings]:
    """What ``key=value`` words and plain ``values`` say of the evaluation of a cascade.

    Raises:
        UserError: an unknown key, or a value out of range.
    """
    of_stages = [word for word in words if word.startswith(tuple(f"{s}." for s in STAGES))]
    wanted = build_config(
        CascadeEvaluation, values or {}, [word for word in words if word not in of_stages]
    )
    settings = Settings(read_changes(of_stages), batch=wanted.batch)
    check_changes(settings)
    return wanted, settings
