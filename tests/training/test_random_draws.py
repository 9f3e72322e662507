"""Random draws depend on seed, purpose and position, and on nothing else."""

from __future__ import annotations

import torch

from unclip.common.seeding import SampleNoise, derive_seed
from unclip.training.random import StepRandom


def test_processes_share_out_the_draws_of_one():
    whole = StepRandom(seed=1, step=5)
    parts = [StepRandom(1, 5, rank, 4).normal("noise", (2, 3)) for rank in range(4)]
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), whole.normal("noise", (8, 3)))
    u = [StepRandom(1, 5, rank, 2).uniform("t", 4) for rank in range(2)]
    assert torch.equal(torch.stack(u, dim=1).flatten(), whole.uniform("t", 8))


def test_micro_batches_share_out_the_draws_of_the_global_batch():
    whole = StepRandom(seed=1, step=5).normal("noise", (12, 3))
    found = []
    for before in (0, 4, 8):  # three micro-batches on two processes
        parts = [StepRandom(1, 5, r, 2, before=before, after=8 - before) for r in range(2)]
        found.append(torch.stack([p.normal("noise", (2, 3)) for p in parts], dim=1).flatten(0, 1))
    assert torch.equal(torch.cat(found), whole)


def test_a_processs_share_does_not_keep_the_draws_of_all_alive():
    for part in (StepRandom(1, 5, 1, 4), StepRandom(1, 5, before=2, after=6)):
        for drawn in (part.normal("noise", (2, 3)), part.uniform("bsr", 2, 3)):
            assert drawn.untyped_storage().nbytes() == 2 * 3 * 4


def test_purposes_and_steps_are_unrelated():
    a, b = StepRandom(1, 5), StepRandom(1, 6)
    assert not torch.equal(a.normal("noise", (4,)), b.normal("noise", (4,)))
    assert not torch.equal(a.normal("noise", (4,)), a.normal("other", (4,)))
    assert torch.equal(a.normal("noise", (4,)), a.normal("noise", (4,)))


def test_conditions_drop_per_sample_at_the_given_rate():
    keep = StepRandom(0, 0).keep("drop", 20_000, 0.1)
    assert abs((~keep).float().mean().item() - 0.1) < 0.01  # 4.7 standard errors
    assert StepRandom(0, 0).keep("drop", 100, 0.0).all()
    assert not StepRandom(0, 0).keep("drop", 100, 1.0).any()


def test_the_two_drops_of_the_decoder_are_independent():
    draws = StepRandom(0, 0)
    a, b = draws.keep("drop_z_i", 20_000, 0.1), draws.keep("drop_caption", 20_000, 0.5)
    both = (~a & ~b).float().mean().item()
    assert abs(both - 0.05) < 0.008


def test_a_samples_noise_does_not_depend_on_its_batch():
    together = SampleNoise([3, 4, 5])
    alone = SampleNoise([4])
    for _ in range(2):
        assert torch.equal(together((3, 7))[1], alone((1, 7))[0])


def test_seeds_differ_by_any_part():
    seeds = {derive_seed(a, b) for a in range(50) for b in ("x", "y")}
    assert len(seeds) == 100
    assert derive_seed("a", 1) != derive_seed("a1")
    assert all(0 <= s < 2**63 for s in seeds)
