import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unclip.common.errors import UserError
from unclip.diffusion.config import DiffusionConfig
from unclip.diffusion.schedules import (
    cosine_betas,
    full_schedule,
    linear_betas,
    respace,
    sampling_schedule,
    sampling_timesteps,
)

COSINE = DiffusionConfig(schedule="cosine")
LINEAR = DiffusionConfig(schedule="linear")


def test_cosine_schedule_has_the_published_constants():
    betas, alpha_bar = cosine_betas(1000), full_schedule(COSINE).alpha_bar
    assert betas[0].item() == pytest.approx(4.1284225e-5, rel=1e-7)
    assert alpha_bar[998].item() == pytest.approx(2.428767e-6, rel=1e-6)
    assert alpha_bar[999].item() == pytest.approx(2.428767e-9, rel=1e-6)
    assert (betas == 0.999).sum() == 1


def test_linear_schedule_has_the_published_constants():
    betas, alpha_bar = linear_betas(1000), full_schedule(LINEAR).alpha_bar
    assert (betas[0].item(), betas[-1].item()) == pytest.approx((1e-4, 0.02), rel=1e-12)
    assert alpha_bar[999].item() == pytest.approx(4.03583e-5, rel=1e-6)


def test_linear_schedule_ends_at_about_the_same_level_for_any_number_of_steps():
    ends = [
        full_schedule(DiffusionConfig(schedule="linear", steps=n)).alpha_bar[-1]
        for n in (500, 4000)
    ]
    assert all(math.log(end) == pytest.approx(math.log(4.04e-5), rel=0.02) for end in ends)


@pytest.mark.parametrize("config", [COSINE, LINEAR])
def test_betas_and_levels_agree_in_the_full_chain(config):
    schedule = full_schedule(config)
    betas = {"cosine": cosine_betas, "linear": linear_betas}[config.schedule](1000)
    torch.testing.assert_close(schedule.betas, betas, rtol=0, atol=1e-15)
    assert schedule.timesteps.tolist() == list(range(1000))
    assert schedule.alpha_bar_prev[0] == 1
    assert schedule.alpha_bar.dtype == torch.float64


@pytest.mark.parametrize("config", [COSINE, LINEAR])
@pytest.mark.parametrize("steps", [15, 64, 250, 1000, "10,10,3,2,2"])
def test_respaced_chain_keeps_the_levels_of_the_original_timesteps_exactly(config, steps):
    full, chain = full_schedule(config), sampling_schedule(config, steps)
    assert torch.equal(chain.alpha_bar, full.alpha_bar[chain.timesteps])
    torch.testing.assert_close(
        torch.cumprod(1 - chain.betas, 0), chain.alpha_bar, rtol=1e-8, atol=0
    )
    assert chain.timesteps[0] == 0
    assert chain.timesteps[-1] == 999
    assert chain.total == 1000


def timesteps_of(steps, total):
    return sampling_timesteps(steps, full_schedule(DiffusionConfig(steps=total)))


def test_strided_timesteps_are_rounded_from_even_spacing():
    assert timesteps_of(64, 1000) == [round(k * 999 / 63) for k in range(64)]
    assert timesteps_of("64", 1000) == timesteps_of(64, 1000)


def test_glide_sections_are_the_published_27_timesteps():
    # Section j of five covers [200 j, 200 j + 199], ends included where it has two or more steps.
    ten = [0, 22, 44, 66, 88, 111, 133, 155, 177, 199]
    expected = ten + [200 + t for t in ten] + [400, 500, 599, 600, 799, 800, 999]
    assert timesteps_of("10,10,3,2,2", 1000) == expected
    # GLIDE's fast27 takes 997 in the place of 999, against artifacts of DDIM.
    assert timesteps_of("fast27", 1000) == [*expected[:-1], 997]
    assert len(sampling_schedule(COSINE, "fast27")) == 27
    with pytest.raises(UserError, match="10 steps do not fit into a section of 8"):
        timesteps_of("fast27", 40)


def test_inner_timesteps_have_neither_end_of_the_chain():
    # The middle of dalle2-pytorch's torch.linspace(-1, 1000, 65).int().
    expected = torch.linspace(-1, 1000, 65, dtype=torch.float64).int().tolist()[1:-1]
    assert timesteps_of("inner63", 1000) == expected
    assert (expected[0], expected[-1]) == (14, 984)
    assert timesteps_of("inner9", 9) == list(range(9))
    assert timesteps_of("inner2", 1000) == [332, 666]
    with pytest.raises(UserError, match="10 steps do not fit"):
        timesteps_of("inner10", 9)
    for wrong in (
        "inner",
        "inner1",
        "inner2,2",
        "innerx",
        "logsnr",
        "logsnr1",
        "innerlogsnr4",
        "logsnrinner4",
        "logsnr 8",
        "logsnr+8",
        "logsnr1_6",
        "08",
    ):
        with pytest.raises(UserError, match=r"sampler\.steps: .*inner63"):
            timesteps_of(wrong, 1000)


@pytest.mark.parametrize(("schedule", "count"), [("cosine", 6), ("linear", 12)])
def test_log_snr_timesteps_are_the_nearest_to_even_steps_in_lambda(schedule, count):
    full = full_schedule(DiffusionConfig(schedule=schedule))
    lam = 0.5 * (full.alpha_bar / (1 - full.alpha_bar)).log()
    found = sampling_timesteps(f"logsnr{count}", full)
    assert (found[0], found[-1]) == (0, 999)
    even = [lam[0] + (lam[-1] - lam[0]) * k / (count - 1) for k in range(count)]
    assert found == [int((lam - wanted).abs().argmin()) for wanted in even]
    assert len(sampling_schedule(COSINE, "logsnr12")) == 12


@given(st.integers(50, 400), st.data(), st.sampled_from(["cosine", "linear"]))
def test_log_snr_timesteps_are_distinct_however_many(total, data, schedule):
    full = full_schedule(DiffusionConfig(steps=total, schedule=schedule))
    count = data.draw(st.integers(2, total))
    found = sampling_timesteps(f"logsnr{count}", full)
    assert len(found) == count
    assert all(a < b for a, b in pairwise(found))
    assert (found[0], found[-1]) == (0, total - 1)
    with pytest.raises(UserError, match=f"{total + 1} steps do not fit"):
        sampling_timesteps(f"logsnr{total + 1}", full)


@given(st.integers(2, 1200), st.data())
def test_timesteps_are_always_distinct_and_within_the_chain(total, data):
    counts = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    counts[-1] += 1
    try:
        timesteps = timesteps_of(",".join(map(str, counts)), total)
    except UserError:
        assert max(counts) > total // len(counts)
        return
    assert len(timesteps) == sum(counts)
    assert all(a < b for a, b in pairwise(timesteps))
    assert (timesteps[0], timesteps[-1]) == (0, total - 1)


def test_more_steps_than_the_chain_has_are_refused():
    with pytest.raises(UserError, match="300 steps do not fit into a section of 100"):
        timesteps_of(300, 100)


def test_unordered_timesteps_are_refused():
    with pytest.raises(ValueError, match="increasing"):
        respace(full_schedule(COSINE), [3, 2])


def test_smallest_variance_of_row_zero_is_that_of_row_one():
    chain = sampling_schedule(COSINE, 64)
    beta, level, below = chain.betas, chain.alpha_bar, chain.alpha_bar_prev
    assert chain.posterior_variance[0] == 0
    torch.testing.assert_close(chain.posterior_variance, beta * (1 - below) / (1 - level))
    assert chain.log_beta_tilde[0] == chain.log_beta_tilde[1]
    assert chain.log_beta_tilde[1].exp().item() == pytest.approx(chain.posterior_variance[1].item())


def test_a_moved_schedule_is_the_same_schedule():
    schedule = sampling_schedule(COSINE, 5)
    moved = schedule.to("meta")
    assert moved.device.type == moved.timesteps.device.type == "meta"
    assert (len(moved), moved.total) == (5, 1000)
