"""A guidance interval in which nothing is sampled would be without effect."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from unclip.common.errors import UserError
from unclip.diffusion.config import DiffusionConfig, GuidedSamplerConfig
from unclip.stages._prior.config import CandidatesConfig
from unclip.stages.decoder.sampling import DecoderPart
from unclip.stages.diffusion_prior.config import PriorSamplerConfig
from unclip.stages.diffusion_prior.part import DiffusionPriorPart
from unclip.stages.laion_prior.part import LaionPriorPart

PARTS = [
    (DecoderPart, GuidedSamplerConfig),
    (DiffusionPriorPart, PriorSamplerConfig),
    (LaionPriorPart, CandidatesConfig),
]


@pytest.mark.parametrize(("part", "sampler"), PARTS)
def test_every_guided_part_refuses_it_and_nothing_else(part, sampler):
    trained = SimpleNamespace(diffusion=DiffusionConfig(), x0_errors={})
    for guidance, interval in ((2.0, [0.3, 3.0]), (2.0, None), (1.0, [200.0, 800.0])):
        part.check_sampler(trained, sampler(guidance=guidance, guidance_interval=interval))
    with pytest.raises(
        UserError, match=r"^sampler\.guidance_interval: \[200\.0, 800\.0\] holds none"
    ):
        part.check_sampler(trained, sampler(guidance=2.0, guidance_interval=[200.0, 800.0]))
