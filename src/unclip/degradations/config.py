"""What an experiment file says about the corruption of the condition. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unclip.common.checks import require_choices
from unclip.common.errors import UserError

CorruptionKind = Literal["none", "blur", "bsr", "bsr_light"]


@dataclass(kw_only=True)
class CorruptionConfig:
    """How the low-resolution condition is corrupted in training."""

    kind: CorruptionKind = "blur"  # bsr: BSRGAN's; bsr_light: latent diffusion's lighter variant
    kernel: int = 3  # blur: pixels of the low-resolution image; odd
    sigma: float = 0.6  # blur: of the Gaussian, in the same pixels
    probability: float = 1.0  # share of samples that are corrupted, each drawn on its own

    def validate(self) -> None:
        """Refuse values out of range."""
        require_choices(self, "corruption")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UserError("corruption.kernel: must be odd and positive")
        if self.sigma <= 0:
            raise UserError("corruption.sigma: must be positive")
        if not 0 <= self.probability <= 1:
            raise UserError("corruption.probability: must be in [0, 1]")
