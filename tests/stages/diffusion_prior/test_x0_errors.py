"""Analytic-DPM's errors: measured on what is diffused, with captions, and used as measured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from unclip.common.errors import UserError
from unclip.common.seeding import SampleNoise
from unclip.data.batches import PriorBatch
from unclip.diffusion.config import DiffusionConfig
from unclip.diffusion.schedules import full_schedule, sampling_schedule
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.tokens import Tokenizer
from unclip.stages.clip.config import ClipConfig
from unclip.stages.clip.network import build_clip
from unclip.stages.diffusion_prior import fits
from unclip.stages.diffusion_prior.config import PriorSamplerConfig
from unclip.stages.diffusion_prior.fits import fit_standardisation, fit_x0_errors
from unclip.stages.diffusion_prior.part import DiffusionPriorPart

D, L, COUNT, SCALE = 32, 8, 40, 4.0
CPU = torch.device("cpu")
DIFFUSION = DiffusionConfig(prediction="x0")


@pytest.fixture(scope="module")
def clip() -> FrozenClip:
    torch.manual_seed(0)
    config = ClipConfig(
        embed_dim=D,
        image_size=16,
        patch_size=8,
        vision_width=16,
        vision_layers=1,
        vision_head_width=16,
        context=L,
        text_width=16,
        text_layers=1,
        text_heads=1,
    )
    return FrozenClip(build_clip(config).eval().requires_grad_(False), "", "a test")


def unit(seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(COUNT, D, generator=torch.Generator().manual_seed(seed)), dim=1)


Z_I, Z_T = unit(0), unit(1)


class Data:
    """Embeddings from disk, with captions of which the first token tells the row."""

    config = SimpleNamespace(batch_size=16)

    def one_pass(self, split, *, limit, rank, world):
        rows = torch.arange(COUNT)[:limit]
        for part in rows.split(self.config.batch_size):
            tokens = part[:, None].expand(-1, L) + 100
            yield PriorBatch(None, tokens, tokens, [], [], Z_I[part], Z_T[part])


class Prior(torch.nn.Module):
    """Knows each sample by its caption, and says ``off`` more than is true; without one nothing."""

    config = SimpleNamespace(caption="bpe")

    def __init__(self, off: float):
        super().__init__()
        self.off = off
        self.register_parameter("some", torch.nn.Parameter(torch.zeros(1)))

    def to_x0(self, z_i):
        return SCALE * z_i

    def forward(self, x_t, t, *, z_t, caption, keep=None):
        row = caption.tokens[:, 0] - 100
        read = caption.mask.all(dim=1) & torch.isclose(z_t, Z_T[row]).all(dim=1)
        read &= True if keep is None else keep
        return torch.where(read[:, None], SCALE * Z_I[row] + self.off, 0.0)


def errors(frozen: FrozenClip, off: float, **settings) -> list[float]:
    return fit_x0_errors(
        Prior(off),  # type: ignore[arg-type]
        frozen,
        Data(),  # type: ignore[arg-type]
        CPU,
        diffusion=DIFFUSION,
        sampler=PriorSamplerConfig(**settings),
        steps=6,
        samples=COUNT,
    )


@pytest.mark.parametrize("off", [0.0, 0.1, 0.5])
def test_the_error_is_that_of_what_is_diffused_given_the_caption(off, clip):
    assert errors(clip, off) == pytest.approx([off**2] * 6, rel=1e-4, abs=1e-10)


def test_no_error_is_above_the_variance_of_the_data(clip):
    variance = (SCALE * Z_I).var(dim=0, correction=0).mean().item()
    found = errors(clip, 3.0)
    assert found == pytest.approx([found[0]] * 6)
    assert found[0] == pytest.approx(variance, rel=2 / COUNT)  # N or N - 1


def test_the_error_is_that_of_the_clipped_x0(clip):
    x0 = SCALE * Z_I
    expected = ((x0 + 0.5).clamp(-0.2, 0.2) - x0).square().mean().item()
    found = errors(clip, 0.5, clip="static", clip_range=0.2)
    assert found == pytest.approx([expected] * 6, rel=1e-4)


def test_standardisation_is_the_mean_and_deviation_of_the_embeddings(clip):
    net = SimpleNamespace(mean=torch.zeros(D), std=torch.ones(D))
    fit_standardisation([net], clip, Data(), CPU)  # type: ignore[arg-type]
    torch.testing.assert_close(net.mean, Z_I.mean(dim=0))
    torch.testing.assert_close(net.std, Z_I.std(dim=0), rtol=1 / COUNT, atol=0)


def test_standardisation_gives_the_memory_of_its_gpu_back(monkeypatch):
    """What the CLIP took for a pass over the data is free before training begins."""
    happened = []

    def embedded(model, data, *, device, **given):
        happened.append(device)
        yield SimpleNamespace(z_i=Z_I)
        happened.append("read")

    monkeypatch.setattr(fits, "embedded_batches", embedded)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: happened.append("freed"))
    net = SimpleNamespace(mean=torch.zeros(D), std=torch.ones(D))
    clip = SimpleNamespace(model=SimpleNamespace(embed_dim=D))
    for device, end in ((torch.device("cuda", 2), ["freed"]), (CPU, [])):
        happened.clear()
        fit_standardisation([net], clip, Data(), device)  # type: ignore[arg-type]
        assert happened == [device, "read", *end]


# --- what samples are like ------------------------------------------------------------------------

V = 0.3  # the variance of the data


class Optimal(torch.nn.Module):
    """The optimal denoiser of N(0, V), which knows no text."""

    config = SimpleNamespace(caption="bpe")

    def __init__(self):
        super().__init__()
        self.register_parameter("some", torch.nn.Parameter(torch.zeros(1)))
        self.alpha_bar = full_schedule(DIFFUSION).alpha_bar

    def condition(self, **text):
        return None

    def denoise(self, x_t, t, conditioning):
        level = self.alpha_bar[t][:, None].float()
        return level.sqrt() * V * x_t / (level * V + 1 - level)

    def from_x0(self, x0):
        return x0


def test_analytic_samples_have_the_variance_of_the_data_and_ancestral_ones_too_little(clip):
    """Whatever the number of steps: that is what the fitted errors are for."""
    chain, many = sampling_schedule(DIFFUSION, 6), 1000
    level = chain.alpha_bar
    part = DiffusionPriorPart(
        Optimal(),  # type: ignore[arg-type]
        PriorSamplerConfig(sampler="analytic", steps=6, candidates=1),
        Tokenizer(L),
        DIFFUSION,
        {"6": (V * (1 - level) / (level * V + 1 - level)).tolist()},
    )

    def variance(sampler: str) -> float:
        how = PriorSamplerConfig(sampler=sampler, steps=6, candidates=1)
        noise = SampleNoise(range(many))
        found = part.draw(clip.model, ["a star"] * many, noise, sampler=how)
        return found.var().item() / V

    error = 4 * (2 / (many * D)) ** 0.5
    assert variance("analytic") == pytest.approx(1, abs=error + 0.001)
    assert variance("ddpm") < 0.7
    how = PriorSamplerConfig(sampler="analytic", steps=5, candidates=1)
    with pytest.raises(UserError, match=r"no errors are fitted for steps=5 \(fitted: 6\)"):
        part.draw(clip.model, ["a star"], SampleNoise([0]), sampler=how)
