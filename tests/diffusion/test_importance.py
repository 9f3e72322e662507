"""Timesteps are drawn as often as their losses say, and the weights undo it in expectation."""

from __future__ import annotations

from collections import deque

import pytest
import torch

from unclip.diffusion.importance import EVEN, KEPT, LossHistory

STEPS = 20
U = (torch.arange(200_000) + 0.5) / 200_000  # every quantile once


def filled(losses: torch.Tensor) -> LossHistory:
    """A history in which timestep t has always lost ``losses[t]``."""
    history = LossHistory(len(losses))
    for _ in range(KEPT):
        history.update(torch.arange(len(losses)), losses)
    return history


def test_draws_are_even_until_every_timestep_has_enough_losses():
    history = LossHistory(STEPS)
    generator = torch.Generator().manual_seed(0)
    for visits in range(KEPT + 1):
        drawn = history.draw(U)
        counts = drawn.t.bincount(minlength=STEPS)
        even = bool((counts - len(U) // STEPS).abs().max() <= 1)
        assert even == (visits < KEPT)
        assert torch.equal(drawn.weight, torch.ones(len(U))) == (visits < KEPT)
        history.update(torch.arange(STEPS), torch.rand(STEPS, generator=generator))


def test_timesteps_come_as_often_as_they_lose_and_weigh_the_inverse():
    losses = torch.arange(1, STEPS + 1).double() ** 2
    history = filled(losses)
    p = (1 - EVEN) * losses / losses.sum() + EVEN / STEPS  # eq. 18, for losses that never vary
    drawn = history.draw(U)
    frequencies = drawn.t.bincount(minlength=STEPS) / len(U)
    torch.testing.assert_close(frequencies.double(), p, atol=1e-5, rtol=0)
    torch.testing.assert_close(history.weights(), 1 / (STEPS * p), rtol=1e-5, atol=0)
    torch.testing.assert_close(drawn.weight, history.weights()[drawn.t].float())


def test_the_weighted_mean_is_the_even_mean_with_less_noise():
    losses = torch.linspace(0.1, 3, STEPS) ** 2
    history = filled(losses)
    generator = torch.Generator().manual_seed(1)
    noisy = losses[:, None] * (0.5 + torch.rand(STEPS, 100_000, generator=generator))
    drawn = history.draw(torch.rand(100_000, generator=generator))
    weighted = drawn.weight * noisy[drawn.t, torch.arange(100_000)]
    error = weighted.mean() - losses.mean()
    assert abs(error) < 4 * weighted.std() / 100_000**0.5
    even = noisy.flatten()[torch.randint(noisy.numel(), (100_000,), generator=generator)]
    assert weighted.std() < 0.6 * even.std()


def test_the_second_moment_counts_not_the_mean():
    history = LossHistory(2)
    for k in range(KEPT):
        history.update(torch.tensor([0, 1]), torch.tensor([1.0, 2.0 * (k % 2)]))
    p = history.probabilities()
    # √E[L²] is 1 and √2, though both lose 1 in the mean.
    expected = (1 - EVEN) / (1 + 2**0.5) + EVEN / 2
    assert p[0].item() == pytest.approx(expected, rel=1e-6)


def test_only_the_newest_losses_count_however_batches_repeat_a_timestep():
    history, queues = LossHistory(4), [deque(maxlen=KEPT) for _ in range(4)]
    generator = torch.Generator().manual_seed(2)
    for size in (3, 60, 1, 17, 90):
        t = (4 * torch.rand(size, generator=generator) ** 2).long()
        loss = torch.rand(size, generator=generator)
        history.update(t, loss)
        for step, value in zip(t.tolist(), loss.tolist()):
            queues[step].append(value)
        for step, queue in enumerate(queues):
            kept = history.losses[step][: len(queue)] if len(queue) < KEPT else history.losses[step]
            assert sorted(kept.tolist()) == sorted(queue)
    assert history.counts.sum() == 171


def test_a_timestep_that_lost_nothing_is_still_visited():
    losses = torch.zeros(STEPS)
    losses[3] = 5
    counts = filled(losses).draw(U).t.bincount(minlength=STEPS)
    assert counts.min() >= EVEN / STEPS * len(U) - 1
    assert filled(torch.zeros(STEPS)).draw(U).t.bincount(minlength=STEPS).min() > 9000


def test_the_ends_of_the_draw_stay_in_the_chain():
    for history in (LossHistory(1000), filled(torch.rand(1000))):
        assert history.draw(torch.tensor([0.0, 1 - 2**-24])).t.tolist() == [0, 999]


def test_a_restored_history_draws_the_same():
    history, other = filled(torch.rand(STEPS)), LossHistory(STEPS)
    other.load_state_dict(history.state_dict())
    for name, value in history.draw(U)._asdict().items():
        assert torch.equal(getattr(other.draw(U), name), value)
    for both in (history, other):
        both.update(torch.tensor([0, 0, 5]), torch.tensor([9.0, 8.0, 7.0]))
    assert torch.equal(history.losses, other.losses)
