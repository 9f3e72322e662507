"""What every trained stage has in common once it is ready to sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from unclip.diffusion.config import section_counts
from unclip.nn.offload import device_of


@dataclass(frozen=True)
class Part:
    """A trained stage, ready to sample: its network and how it is sampled."""

    net: Any
    sampler: Any  # the stage's own kind of sampler config

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return device_of(self.net)

    def check_sampler(self, sampler: Any) -> None:
        """Refuse settings that this network cannot be sampled with.

        Raises:
            UserError: they do not fit its diffusion, its levels of noise or what was fitted to it.
        """

    def steps(self, sampler: Any) -> int:
        """Calls of `progress` that sampling with ``sampler`` makes: one for each step."""
        return sum(section_counts(sampler.steps))
