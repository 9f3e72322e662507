"""What does not change from step to step is computed once, and changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unclip.common.seeding import SampleNoise
from unclip.common.types import Caption
from unclip.diffusion.config import DiffusionConfig, GuidedSamplerConfig, ImageDiffusionConfig
from unclip.diffusion.predictor import build_guided_predictor
from unclip.diffusion.samplers import sample
from unclip.diffusion.schedules import sampling_schedule
from unclip.nn.config import TextEncoderConfig, UNetConfig
from unclip.nn.transformer import Transformer
from unclip.stages.decoder.config import DecoderConfig
from unclip.stages.decoder.network import Decoder
from unclip.stages.diffusion_prior.config import DiffusionPriorConfig, PriorSamplerConfig
from unclip.stages.diffusion_prior.network import DiffusionPrior
from unclip.stages.diffusion_prior.sampling import sample_prior
from unclip.stages.upsampler.config import UpsamplerConfig, UpsamplerSamplerConfig
from unclip.stages.upsampler.network import Upsampler
from unclip.stages.upsampler.sampling import UpsamplerPart

B, D, L = 3, 8, 60


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """Every parameter matters: none is the zero that it starts from."""
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 4
    return net.double().eval()


def caption(kind: str, rows: int = B) -> Caption:
    lengths = torch.tensor([[4], [L], [17]])[:rows]
    mask = torch.arange(L) < lengths
    if kind == "bpe":
        return Caption(torch.arange(L).expand(rows, -1) % 50, None, mask)
    return Caption(None, torch.randn(rows, L, 12, dtype=torch.float64), mask)


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_a_transformer_resumes_where_it_was_read(masked):
    net = randomised(Transformer(width=16, layers=3, heads=2, causal=True))
    x = torch.randn(B, 9, 16, dtype=torch.float64)
    mask = torch.rand(B, 1, 1, 9) > 0.4 if masked else None
    whole = net(x, mask)
    for length in (1, 4, 8):
        read = net.read(x[:, :length], 9 - length, mask)
        rest = net.resume(x[:, length:], read)
        torch.testing.assert_close(rest, whole[:, length:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["bpe", "clip"])
@torch.no_grad()
def test_a_prior_that_has_read_its_text_predicts_the_same(kind):
    config = DiffusionPriorConfig(
        caption=kind, context=L, vocabulary=50, width=16, layers=2, heads=2
    )
    net = randomised(DiffusionPrior(config, D, 12))
    z_t, words = torch.randn(B, D, dtype=torch.float64), caption(kind)
    for keep in (None, torch.tensor([True, False, True])):
        given = net.condition(z_t=z_t, caption=words, keep=keep)
        for step in (0, 500):
            x_t, t = torch.randn(B, D, dtype=torch.float64), torch.full((B,), step)
            whole = net(x_t, t, z_t=z_t, caption=words, keep=keep)
            torch.testing.assert_close(net.denoise(x_t, t, given), whole, rtol=0, atol=1e-12)


def work(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_the_text_is_read_once_however_many_steps_a_prior_takes():
    config = DiffusionPriorConfig(context=L, vocabulary=50, width=16, layers=2, heads=2)
    net = randomised(DiffusionPrior(config, D)).float()

    def draw(steps: int) -> None:
        sample_prior(
            net,
            z_t=torch.randn(B, D),
            caption=caption("bpe"),
            diffusion=DiffusionConfig(),
            sampler=PriorSamplerConfig(steps=steps, candidates=1, guidance=1.0),
            noise=SampleNoise(range(B)),
            read_once=True,
        )

    step = work(lambda: draw(20)) - work(lambda: draw(10))
    x_t, t = torch.randn(B, D), torch.zeros(B, dtype=torch.long)
    whole = work(lambda: net(x_t, t, z_t=torch.randn(B, D), caption=caption("bpe")))
    assert step / 10 < whole / 5  # 3 of 64 positions, and all of them look at 64


@pytest.mark.parametrize("kind", ["bpe", "clip"])
def test_an_interval_of_guidance_reads_the_text_no_second_time(kind):
    config = DiffusionPriorConfig(
        caption=kind, context=L, vocabulary=50, width=16, layers=2, heads=2
    )
    net, words = randomised(DiffusionPrior(config, D, 12)), caption(kind)
    reads, condition = [], net.condition
    net.condition = lambda **given: reads.append(given) or condition(**given)

    def draw(*, once: bool, interval: list[float] | None) -> torch.Tensor:
        return sample_prior(
            net,
            z_t=torch.linspace(-1, 1, B * D, dtype=torch.float64).view(B, D),
            caption=words,
            diffusion=DiffusionConfig(),
            sampler=PriorSamplerConfig(
                steps=6, candidates=2, guidance=3.0, guidance_interval=interval
            ),
            noise=SampleNoise(range(B)),
            read_once=once,
        )

    found = draw(once=True, interval=[0.3, 3.0])
    assert len(reads) == 1
    torch.testing.assert_close(found, draw(once=False, interval=[0.3, 3.0]))
    assert not torch.allclose(found, draw(once=True, interval=None))


def decoder() -> Decoder:
    config = DecoderConfig(
        image_size=8,
        unet=UNetConfig(
            channels=8, blocks=1, multiples=[1, 2], attention=[8, 4], head_channels=8, norm_groups=4
        ),
        text=TextEncoderConfig(context=L, width=16, layers=1, heads=2),
        context_mask=True,
    )
    return randomised(Decoder(config, D))  # type: ignore[return-value]


@torch.no_grad()
def test_a_decoder_that_projected_its_context_predicts_the_same_bits_in_less_work():
    net, words = decoder(), caption("bpe")
    given = net.condition(
        z_i=torch.randn(B, D, dtype=torch.float64), tokens=words.tokens, mask=words.mask
    )
    projected = net.project(given)
    x_t, t = torch.randn(B, 3, 8, 8, dtype=torch.float64), torch.tensor([3, 500, 999])
    assert torch.equal(net.denoise(x_t, t, projected), net.denoise(x_t, t, given))
    context = sum(
        2 * B * (L + 4) * layer.weight.numel()
        for name, layer in net.named_modules()
        if name.endswith("context_kv")
    )
    saved = work(lambda: net.denoise(x_t, t, given)) - work(lambda: net.denoise(x_t, t, projected))
    assert saved == context > 0


@torch.no_grad()
def test_an_upsampler_enlarges_the_small_image_once():
    unet = {"channels": 8, "blocks": 1, "multiples": [1], "norm_groups": 4}
    config = UpsamplerConfig(image_size=8, low_size=4, noise_levels=0)
    config = replace(config, unet=replace(config.unet, **unet))
    net = randomised(Upsampler(config)).float()
    enlarged = []
    plain = net.enlarged

    def counted(low, size):
        enlarged.append(low.shape[-1] != size[0])
        return plain(low, size)

    net.enlarged = counted  # type: ignore[method-assign]
    part = UpsamplerPart(net, UpsamplerSamplerConfig(steps=5), ImageDiffusionConfig())
    part.draw(torch.randn(1, 3, 4, 4), SampleNoise([0]))
    assert sum(enlarged) == 1


# Guidance in an interval of noise levels.


def guided(interval, steps=10, **settings):
    """x̂_0 is 1 with the conditions, -3 without: what a sampler sees at each of its steps."""
    seen = []
    diffusion = DiffusionConfig(prediction="x0")
    sampler = GuidedSamplerConfig(
        steps=steps, guidance_interval=interval, **({"guidance": 2.0} | settings)
    )
    sampler.validate()

    def denoiser(scale: float):
        def denoise(x_t, t):
            seen.append((int(t[0]), scale))
            return torch.full_like(x_t, -3 + scale * 4)

        return denoise

    predictor = build_guided_predictor(denoiser, diffusion=diffusion, sampler=sampler, device="cpu")
    return sample(predictor, torch.randn(2, D), sampler, noise=SampleNoise([0, 1])), seen


def test_guidance_acts_between_two_noise_levels():
    schedule = sampling_schedule(DiffusionConfig(prediction="x0"), 10)
    sigma = dict(
        zip(
            schedule.timesteps.tolist(),
            ((1 - schedule.alpha_bar) / schedule.alpha_bar).sqrt().tolist(),
        )
    )
    _, seen = guided([0.3, 5.0])
    assert len(seen) == 10
    assert {scale for _, scale in seen} == {1, 2.0}
    for t, scale in seen:
        assert (scale == 2.0) == (0.3 < sigma[t] <= 5.0)


def test_an_interval_that_holds_every_level_is_guidance_everywhere():
    everywhere = guided(None)[1]
    assert guided([0.0, math.inf])[1] == everywhere
    assert {scale for _, scale in everywhere} == {2.0}
    assert {scale for _, scale in guided([1e8, 1e9])[1]} == {1}
    assert {scale for _, scale in guided([0.3, 5.0], guidance=1.0)[1]} == {1.0}


@torch.no_grad()
def test_a_decoder_outside_the_interval_does_half_the_work():
    from unclip.embeddings.tokens import Tokenizer
    from unclip.stages.decoder.sampling import DecoderPart

    net = decoder().float()

    def draw(**settings) -> torch.Tensor:
        sampler = GuidedSamplerConfig(steps=4, **settings)
        part = DecoderPart(net, sampler, ImageDiffusionConfig(), Tokenizer(L))
        part = replace(part, net=net)
        return part.draw(torch.ones(2, D), ["a", "b"], SampleNoise([0, 1]))

    plain, never = draw(guidance=1.0), draw(guidance=3.0, guidance_interval=[1e8, 1e9])
    assert torch.equal(plain, never)
    assert not torch.equal(plain, draw(guidance=3.0, guidance_interval=[0.3, 1e9]))
