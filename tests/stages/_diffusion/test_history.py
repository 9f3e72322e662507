"""The loss history of importance-drawn timesteps changes between steps, never within one."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from unclip.diffusion.config import DiffusionConfig
from unclip.diffusion.importance import LossHistory
from unclip.diffusion.process import q_sample
from unclip.diffusion.schedules import full_schedule
from unclip.stages._diffusion.stage import DiffusionStage, NoisedBatch


def test_all_micro_batches_of_a_step_go_into_the_history_at_its_end():
    config = DiffusionConfig(steps=8, timesteps="importance")
    stage = SimpleNamespace(
        experiment=SimpleNamespace(diffusion=config),
        schedule=full_schedule(config),
        history=LossHistory(config.steps),
        _seen=[],
        completes_step=False,
    )
    draw = torch.Generator().manual_seed(0)
    t = torch.tensor([0, 3, 3, 7])
    for last in (False, False, True):
        x0, noise = (torch.randn(4, 5, generator=draw) for _ in range(2))
        x_t = q_sample(x0, noise, t, schedule=stage.schedule)
        stage.completes_step = last
        at = NoisedBatch(x0, noise, t, x_t, torch.ones(4))
        DiffusionStage.losses(stage, torch.zeros(4, 5), at)
        expected = [3, 0, 0, 6, 0, 0, 0, 3] if last else [0] * 8
        assert stage.history.counts.tolist() == expected
