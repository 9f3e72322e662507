"""Candidates, guidance and the codes' settings, each followed to the number it must give."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from unclip.common.seeding import SampleNoise
from unclip.common.types import Caption
from unclip.diffusion.config import DiffusionConfig, GuidedSamplerConfig, ImageDiffusionConfig
from unclip.embeddings.codec import Codec
from unclip.embeddings.pca import Pca
from unclip.embeddings.quantizer import Quantizer
from unclip.embeddings.tokens import Tokenizer
from unclip.nn.config import TextEncoderConfig
from unclip.stages._prior.sampling import best_of
from unclip.stages.ar_prior.config import ArPriorConfig, ArSamplerConfig
from unclip.stages.ar_prior.network import ArPrior
from unclip.stages.ar_prior.sampling import sample_ar_prior, sample_codes
from unclip.stages.decoder.config import DecoderConfig
from unclip.stages.decoder.network import Conditioning
from unclip.stages.decoder.sampling import DecoderPart, decoder_denoiser
from unclip.stages.decoder.words import Words
from unclip.stages.diffusion_prior.config import PriorSamplerConfig
from unclip.stages.diffusion_prior.sampling import sample_prior
from unclip.stages.upsampler.config import UpsamplerConfig, UpsamplerSamplerConfig
from unclip.stages.upsampler.sampling import UpsamplerPart

X0 = DiffusionConfig(prediction="x0")
LEARNED = ImageDiffusionConfig(prediction="x0")
COUNT, D, L = 4000, 8, 5


def z_t_of(count: int) -> torch.Tensor:
    z_t = torch.randn(count, D, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(z_t, dim=1)


def caption_of(count: int) -> Caption:
    tokens = torch.arange(count)[:, None].expand(-1, L)
    return Caption(tokens, None, torch.ones(count, L, dtype=torch.bool))


class Prior:
    """A prior that always means what ``means`` makes of its inputs."""

    def __init__(self, means):
        self.means, self.calls = means, []

    def __call__(self, x_t, t, *, z_t, caption, keep):
        self.calls.append(SimpleNamespace(x_t=x_t, t=t, z_t=z_t, caption=caption, keep=keep))
        return self.means(self.calls)

    def from_x0(self, x0):
        return x0


def drawn(net: Prior, count: int, seeds=None, **settings) -> torch.Tensor:
    sampler = PriorSamplerConfig(**({"steps": 4, "candidates": 1} | settings))
    return sample_prior(
        net,  # type: ignore[arg-type]
        z_t=z_t_of(count),
        caption=caption_of(count),
        diffusion=X0,
        sampler=sampler,
        noise=SampleNoise(range(count) if seeds is None else seeds),
    )


@pytest.mark.parametrize(
    ("candidates", "expected"), [(1, 0.0), (2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.pi**0.5)]
)
def test_of_candidates_with_noise_of_their_own_the_nearest_is_kept(candidates, expected):
    """Of c independent normal numbers z_i · z_t the largest has the mean 0, 1/√π, 3/(2 √π)."""
    net = Prior(lambda calls: calls[0].x_t)  # z_i is the noise it started from
    z_i = drawn(net, COUNT, candidates=candidates)
    similar = (z_i * z_t_of(COUNT)).sum(dim=1)
    assert similar.mean().item() == pytest.approx(expected, abs=4 / COUNT**0.5)
    # All else of z_i is as it would be without a choice.
    rest = z_i - similar[:, None] * z_t_of(COUNT)
    assert rest.square().sum(dim=1).mean().item() == pytest.approx(D - 1, rel=0.05)


def test_candidates_have_noise_of_their_own_on_the_way_too():
    net = Prior(lambda calls: calls[-1].x_t)
    drawn(net, COUNT, candidates=2, sampler="ddpm")
    for call in net.calls:
        first, second = call.x_t.unflatten(0, (COUNT, 2)).unbind(dim=1)
        same = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
        assert abs(same) < 5 / (COUNT * D) ** 0.5


def test_candidates_are_for_the_same_text():
    net = Prior(lambda calls: calls[0].x_t)
    drawn(net, 3, candidates=2)
    call = net.calls[0]
    assert call.caption.tokens[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(call.z_t, z_t_of(3).repeat_interleave(2, dim=0))
    assert torch.equal(call.x_t.unflatten(0, (3, 2)), SampleNoise(range(3))((3, 2, D)))


def test_the_best_is_the_nearest_of_its_own_captions_candidates():
    z_t = torch.eye(2)
    z_i = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.95, 0.3], [0.4, 0.6]])
    assert best_of(z_i, z_t, 2).tolist() == [z_i[0].tolist(), z_i[3].tolist()]
    assert torch.equal(best_of(z_i, torch.eye(2).repeat(2, 1), 1), z_i)


GUIDANCE = pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])


@GUIDANCE
def test_a_guided_prior_goes_from_what_it_says_without_text_to_what_it_says_with_it(guidance):
    def means(calls):
        keep = calls[-1].keep[:, None]
        return torch.where(keep, 1.0, -3.0).expand(-1, D)

    net = Prior(means)
    found = drawn(net, 3, guidance=guidance)
    torch.testing.assert_close(found, torch.full((3, D), -3 + guidance * 4))
    assert len(net.calls) == 4
    for call in net.calls:  # both branches see the same sample and the same text
        parts = 1 if guidance == 1 else 2
        for seen in (call.x_t, call.t, call.z_t, call.caption.tokens):
            for other in seen.chunk(parts):
                assert torch.equal(other, seen[:3])


class Decoder:
    """A decoder that means 1 for a z_i that is kept, 10 more for a caption that is."""

    config = DecoderConfig(image_size=4)
    embed_dim = D

    def parameters(self):
        return iter([torch.zeros(1)])

    def condition(self, *, z_i, tokens, mask, text, keep_z_i, keep_text):
        every = torch.ones(len(tokens), dtype=torch.bool)
        kept = [every if keep is None else keep for keep in (keep_z_i, keep_text)]
        return Conditioning(kept[0][:, None] * 1.0 + kept[1][:, None] * 10.0, tokens)

    def project(self, given):
        return given

    def denoise(self, x_t, t, given):
        means = given.time_offset[:, :, None, None].expand(-1, 3, 4, 4)
        return torch.cat([means, given.time_offset[:, :, None, None].expand(-1, 3, 4, 4)], dim=1)


@GUIDANCE
@pytest.mark.parametrize(
    ("kept", "given"),
    [({}, 11.0), ({"keep_z_i": False}, 10.0), ({"keep_text": False}, 1.0)],
)
def test_a_guided_decoder_goes_from_what_it_says_without_both_conditions(guidance, kept, given):
    net = Decoder()
    denoise = decoder_denoiser(
        net,  # type: ignore[arg-type]
        guidance,
        z_i=z_t_of(2),
        words=Words(torch.ones(2, L, dtype=torch.int64), torch.ones(2, L, dtype=torch.bool)),
        **{name: torch.full((2,), keep) for name, keep in kept.items()},
    )
    output = denoise(torch.zeros(2, 3, 4, 4), torch.tensor([5, 5]))
    torch.testing.assert_close(output[:, :3], torch.full((2, 3, 4, 4), guidance * given))
    torch.testing.assert_close(output[:, 3:], torch.full((2, 3, 4, 4), given))  # the variance


@GUIDANCE
def test_a_decoder_draws_with_the_guidance_of_its_settings(guidance):
    net = Decoder()
    plain = net.denoise
    net.denoise = lambda x_t, t, given: plain(x_t, t, given) / 100  # type: ignore[method-assign]
    sampler = GuidedSamplerConfig(steps=3, guidance=guidance)
    part = DecoderPart(net, sampler, LEARNED, Tokenizer(L))  # type: ignore[arg-type]
    found = part.draw(z_t_of(2), ["a", "b"], SampleNoise([3, 4]))
    torch.testing.assert_close(found, torch.full((2, 3, 4, 4), 0.11 * guidance))


@pytest.mark.parametrize("steps", [3, "2,2"])
def test_a_decoder_starts_from_its_own_noise_in_the_steps_asked_for(steps):
    net, seen = Decoder(), []
    plain = net.denoise

    def denoise(x_t, t, given):
        seen.append(x_t)
        return plain(x_t / 20, t, given)

    net.denoise = denoise  # type: ignore[method-assign]

    def picture(**more):
        sampler = GuidedSamplerConfig(steps=steps, clip="static", clip_range=0.5)
        part = DecoderPart(net, sampler, LEARNED, Tokenizer(L))  # type: ignore[arg-type]
        return part.draw(z_t_of(2), ["a", "b"], SampleNoise([3, 4]), **more)

    assert torch.equal(picture(), torch.full((2, 3, 4, 4), 0.5))  # clipped, though it means 11
    assert len(seen) == (3 if steps == 3 else 4)
    assert torch.equal(seen[0], SampleNoise([3, 4])((2, 3, 4, 4)))
    seen.clear()
    x_T = torch.full((2, 3, 4, 4), 0.25)
    picture(x_T=x_T)
    assert torch.equal(seen[0], x_T)


def test_an_upsampler_is_sampled_as_its_settings_say():
    seen = []

    class Net:
        config = UpsamplerConfig()

        def enlarged(self, low, size):
            return low

        def __call__(self, x_t, t, low, level, words, known):
            seen.append((x_t, low, level))
            return torch.full((2, 6, 8, 8), 7.0)

    def made(**settings):
        part = UpsamplerPart(Net(), UpsamplerSamplerConfig(**settings), LEARNED)  # type: ignore[arg-type]
        return part.draw(torch.zeros(2, 3, 4, 4), SampleNoise([1, 2]), size=8)

    assert (made(steps=5) == 1).all()  # pictures never leave [-1, 1]
    assert len(seen) == 5
    assert torch.equal(seen[0][0], SampleNoise([1, 2])((2, 3, 8, 8)))
    assert seen[0][2] is None
    assert (made(steps=5, clip="static", clip_range=0.25) == 0.25).all()


# --- codes ----------------------------------------------------------------------------------------

N = 100


def codec(dim: int, k: int, buckets: int) -> Codec:
    """z_i·z_t even in [0, 1], each code one of evenly spaced numbers in [-1, 1]."""
    centers = torch.linspace(-1, 1, buckets).expand(k, -1).contiguous()
    edges = (centers[:, 1:] + centers[:, :-1]) / 2
    dots = torch.arange(1, buckets)[None] / buckets
    middles = (torch.arange(buckets)[None] + 0.5) / buckets
    pca = Pca(torch.zeros(dim), torch.eye(dim)[:k], torch.ones(dim))
    quantiles = torch.linspace(0, 1, 1001)
    return Codec(pca, Quantizer(edges, centers), Quantizer(dots, middles), quantiles)


def ar_prior(dim: int, k: int, buckets: int) -> ArPrior:
    """One to which all codes are equally likely."""
    text = TextEncoderConfig(context=L, vocabulary=COUNT, width=8, layers=1, heads=1)
    config = ArPriorConfig(context=k + 2, width=8, layers=1, heads=1, text=text)
    net = ArPrior(config, codec(dim, k, buckets)).eval()
    torch.nn.init.zeros_(net.out.weight)
    return net


def dots_of(net: ArPrior, count: int, monkeypatch, **settings) -> torch.Tensor:
    """The buckets of z_i·z_t that a sampling asks for, ``[count * candidates]``."""
    seen, plain = [], net.prefix
    monkeypatch.setattr(
        net, "prefix", lambda z_t, dot, keep: seen.append(dot) or plain(z_t, dot, keep)
    )
    sample_ar_prior(
        net,
        z_t=z_t_of(count)[:, :2],
        caption=caption_of(count),
        sampler=ArSamplerConfig(**settings),
        noise=SampleNoise(range(count)),
    )
    return seen[0]


@pytest.mark.parametrize("percentile", [0.0, 50.0, 90.0])
def test_the_dot_product_is_drawn_evenly_from_above_the_percentile(percentile, monkeypatch):
    dots = dots_of(ar_prior(2, 1, N), COUNT, monkeypatch, dot_percentile=percentile)
    assert dots.min() == percentile
    assert dots.max() == N - 1
    spread = (100 - percentile) / 12**0.5
    middle = (percentile + 100) / 2 - 0.5  # a bucket is named by its lower edge
    assert dots.float().mean().item() == pytest.approx(middle, abs=4 * spread / COUNT**0.5)


def test_candidates_have_dot_products_of_their_own(monkeypatch):
    dots = dots_of(ar_prior(2, 1, N), COUNT, monkeypatch, dot_percentile=0.0, candidates=2)
    pairs = dots.unflatten(0, (COUNT, 2)).T.float()
    assert abs(torch.corrcoef(pairs)[0, 1]) < 5 / COUNT**0.5


@pytest.mark.parametrize("candidates", [1, 2, 3])
def test_of_candidates_with_codes_of_their_own_the_nearest_is_kept(candidates):
    """In one dimension z_i is z_t or its opposite: c tosses, all wrong in 2^-c of the cases."""
    net = ar_prior(1, 1, 2)
    z_t = torch.ones(COUNT, 1) * (torch.arange(COUNT)[:, None] % 2 * 2 - 1)
    found = sample_ar_prior(
        net,
        z_t=z_t,
        caption=caption_of(COUNT),
        sampler=ArSamplerConfig(candidates=candidates),
        noise=SampleNoise(range(COUNT)),
    )
    share = (found == z_t).float().mean().item()
    assert share == pytest.approx(1 - 0.5**candidates, abs=4 * 0.5 / COUNT**0.5)


@GUIDANCE
def test_guided_codes_have_the_logits_without_text_and_s_times_what_it_adds(guidance, monkeypatch):
    net = ar_prior(2, 1, 2)
    step = net.step

    def known(x, position, caches, kept):  # with text 1 : 3, without it 1 : 2
        logits = torch.zeros(len(step(x, position, caches, kept)), 2)
        rows = len(logits) // (1 if guidance == 1 else 2)
        logits[:, 1] = math.log(2.0)
        logits[:rows, 1] = math.log(3.0)
        return logits

    monkeypatch.setattr(net, "step", known)
    count = 1000
    codes = sample_codes(
        net,
        dot=torch.zeros(count, dtype=torch.int64),
        z_t=z_t_of(count)[:, :2],
        caption=caption_of(count),
        sampler=ArSamplerConfig(guidance=guidance),
        uniforms=((torch.arange(count) + 0.5) / count)[:, None],
    )
    odds = 2 * (3 / 2) ** guidance
    assert codes.float().mean().item() == pytest.approx(odds / (1 + odds), abs=1e-3)
