"""A row of the table of stages."""

from __future__ import annotations

from dataclasses import dataclass

from unclip.stages.experiment import Experiment

KINDS = ("clip", "pca", "prior", "decoder", "upsampler")
"""The folders of an experiments directory; several stages may share one."""


@dataclass(frozen=True)
class StageEntry:
    """A stage that an experiment file may name."""

    name: str
    kind: str  # one of KINDS
    about: str

    def config(self) -> type[Experiment]:
        """The dataclass of the stage's experiment files (imports no torch)."""
        from unclip.stages.ar_prior.config import ArPriorExperiment
        from unclip.stages.clip.config import ClipExperiment
        from unclip.stages.decoder.config import DecoderExperiment
        from unclip.stages.diffusion_prior.config import DiffusionPriorExperiment
        from unclip.stages.pca.config import PcaExperiment
        from unclip.stages.upsampler.config import UpsamplerExperiment

        return {
            "clip": ClipExperiment,
            "pca": PcaExperiment,
            "ar_prior": ArPriorExperiment,
            "diffusion_prior": DiffusionPriorExperiment,
            "decoder": DecoderExperiment,
            "upsampler": UpsamplerExperiment,
        }[self.name]
