import pytest
import torch
from gaussian_oracle import as_output

from unclip.diffusion.config import DiffusionConfig
from unclip.diffusion.guidance import guide
from unclip.diffusion.process import predict
from unclip.diffusion.schedules import full_schedule


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.0, 1.25, 4.0])
@pytest.mark.parametrize("kind", ["x0", "v"])
def test_guiding_x0_or_v_is_guiding_eps(kind, scale):
    schedule, t = full_schedule(DiffusionConfig()), torch.tensor([0, 300, 700, 999])
    level = schedule.alpha_bar[t].reshape(-1, 1, 1, 1)
    x_t, cond, uncond = (draw(4, 3, 2, 2, seed=seed) for seed in range(3))
    read = {}
    for guided in ("eps", kind):
        branches = [as_output(guided, x0, x_t, level) for x0 in (cond, uncond)]
        output = guide(*branches, scale, channels=3)
        config = DiffusionConfig(prediction=guided)
        read[guided] = predict(output, x_t, t, schedule=schedule, config=config)
    torch.testing.assert_close(read[kind].x0, read["eps"].x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(read[kind].eps, read["eps"].eps, rtol=1e-8, atol=1e-8)


def test_guidance_extrapolates_from_the_unconditional_branch():
    cond, uncond = draw(2, 3, seed=0), draw(2, 3, seed=1)
    torch.testing.assert_close(guide(cond, uncond, 3.0, channels=3), uncond + 3 * (cond - uncond))


def test_scale_one_is_the_conditional_output_and_zero_the_unconditional_one():
    cond, uncond = draw(4, 3, seed=0), draw(4, 3, seed=1)
    assert torch.equal(guide(cond, uncond, 1.0, channels=3), cond)
    assert torch.equal(guide(cond, uncond, 0.0, channels=3), uncond)


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_variance_channels_are_those_of_the_conditional_branch(scale):
    cond, uncond = draw(4, 6, 2, 2, seed=0), draw(4, 6, 2, 2, seed=1)
    assert torch.equal(guide(cond, uncond, scale, channels=3)[:, 3:], cond[:, 3:])


def test_half_precision_branches_are_guided_in_float32():
    cond, uncond = draw(4, 3, seed=0).bfloat16(), draw(4, 3, seed=1).bfloat16()
    assert guide(cond, uncond, 3.0, channels=3).dtype == torch.float32
