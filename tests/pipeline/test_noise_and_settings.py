"""Which noise, settings, captions and embeddings reach which stage of a cascade."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unclip.common.errors import UserError
from unclip.embeddings.geometry import slerp
from unclip.pipeline.manipulations import Latents
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.sampling import noise_of
from unclip.pipeline.settings import Settings
from unclip.stages._prior.sampling import prior_caption
from unclip.stages.diffusion_prior.config import DiffusionPriorExperiment

CAPTIONS = ["a red circle", "a blue star"]
ALONE = Settings(batch=1, iterations=1)


@pytest.fixture(scope="module")
def pipeline(cascade):
    return Pipeline.load(cascade)


@pytest.fixture
def seen(pipeline, monkeypatch):
    """What the networks are given, by stage, call by call."""
    found = {"prior": [], "text": [], "condition": [], "decoder": [], "upsampler": []}

    def watch(stage, owner, name):
        plain = getattr(owner, name)

        def watched(*inputs, **named):
            found[stage].append((inputs, named))
            return plain(*inputs, **named)

        monkeypatch.setattr(owner, name, watched)

    watch("prior", pipeline.cascade.prior.net, "denoise")
    watch("text", pipeline.cascade.prior.net, "condition")
    watch("condition", pipeline.cascade.decoder.net, "condition")
    watch("decoder", pipeline.cascade.decoder.net, "denoise")
    watch("upsampler", pipeline.cascade.upsamplers[0].net, "forward")
    return found


def start(seen, stage):
    """The noise from which a stage starts."""
    return seen[stage][0][0][0]


def unrelated(a: torch.Tensor, b: torch.Tensor) -> bool:
    count = min(a.numel(), b.numel())
    same = torch.corrcoef(torch.stack([a.flatten()[:count], b.flatten()[:count]]))[0, 1]
    return bool(abs(same) < 5 / count**0.5)


def test_every_stage_of_a_picture_has_noise_of_its_own(pipeline, seen):
    pipeline.generate(CAPTIONS[:1], [3], settings=Settings({"decoder": {"guidance": 1.0}}))
    starts = [start(seen, stage)[:1] for stage in ("decoder", "upsampler")]
    assert unrelated(*starts)
    prior = torch.cat([noise_of([seed], "prior")((1, 16)) for seed in range(99)])
    for stage in ("decoder", "upsampler 32"):
        other = torch.cat([noise_of([seed], stage)((1, 16)) for seed in range(99)])
        assert unrelated(prior, other)
    assert torch.equal(starts[0], noise_of([3], "decoder")((1, 3, 16, 16)))
    assert torch.equal(starts[1], noise_of([3], "upsampler 32")((1, 3, 32, 32)))
    many = pipeline.cascade.prior.sampler.candidates
    first = noise_of([3], "prior")((1, many, 16)).flatten(0, 1)
    assert torch.equal(start(seen, "prior")[:many], first)


def test_upsamplers_of_two_sizes_have_noise_of_their_own():
    a, b = (noise_of([3], f"upsampler {size}")((1, 3, 32, 32)) for size in (32, 64))
    assert unrelated(a, b)


def test_each_sample_has_the_noise_of_its_seed_in_whatever_batch_it_is(pipeline, seen):
    settings = Settings({"decoder": {"guidance": 1.0}}, batch=2)
    pipeline.generate([CAPTIONS[0]] * 3, [5, 6, 7], settings=settings)
    steps = 4
    starts = [seen["decoder"][k * steps][0][0] for k in range(2)]
    for row, seed in zip(torch.cat(starts), (5, 6, 7), strict=True):
        assert torch.equal(row, noise_of([seed], "decoder")((1, 3, 16, 16))[0])


@pytest.mark.parametrize("stage", ["prior", "decoder", "upsampler"])
def test_steps_are_set_for_the_stage_that_is_named(stage, pipeline, seen):
    pipeline.generate(CAPTIONS, [0, 1], settings=Settings({stage: {"steps": 7}}))
    taken = {name: len(seen[name]) for name in ("prior", "decoder", "upsampler")}
    assert taken == {"prior": 4, "decoder": 4, "upsampler": 4} | {stage: 7}


@pytest.mark.parametrize("stage", ["prior", "decoder"])
def test_guidance_is_set_for_the_stage_that_is_named(stage, pipeline, seen):
    many = pipeline.cascade.prior.sampler.candidates
    pipeline.generate(CAPTIONS, [0, 1], settings=Settings({stage: {"guidance": 1.0}}))
    rows = {name: len(start(seen, name)) for name in ("prior", "decoder")}
    guided = {"prior": 2 * 2 * many, "decoder": 2 * 2}
    assert rows == guided | {stage: guided[stage] // 2}


def test_candidates_are_set_for_the_prior(pipeline, seen):
    changes = {"prior": {"candidates": 5, "guidance": 1.0}}
    pipeline.generate(CAPTIONS, [0, 1], settings=Settings(changes))
    assert len(start(seen, "prior")) == 2 * 5


def test_prior_and_decoder_are_given_the_captions_and_the_decoder_the_priors_embedding(
    pipeline, seen
):
    found = pipeline.generate(CAPTIONS, [0, 1], settings=Settings({"prior": {"candidates": 1}}))
    clip = pipeline.cascade.clip.model
    text = clip.encode_text(clip.tokenize(CAPTIONS))
    given = seen["text"][0][1]
    torch.testing.assert_close(given["z_t"][:2], text.z_t)
    own = pipeline.cascade.prior.tokenize(CAPTIONS)
    expected = prior_caption(pipeline.cascade.prior.net, text, own)
    torch.testing.assert_close(given["caption"].features[:2], expected.features)
    assert torch.equal(given["caption"].mask[:2], expected.mask)
    condition = seen["condition"][0][1]
    assert torch.equal(condition["tokens"], pipeline.cascade.decoder.tokenize(CAPTIONS))
    assert torch.equal(condition["z_i"], found.z_i)
    assert condition["keep_z_i"] is condition["keep_text"] is None


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def latents():
    generator = torch.Generator().manual_seed(0)
    z_i = F.normalize(torch.randn(2, 16, generator=generator), dim=1)
    return Latents(z_i, torch.randn(2, 3, 16, 16, generator=generator))


def one(latents: Latents, k: int) -> Latents:
    return Latents(*(part[k : k + 1] for part in latents))


def angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    a, b = a.double().flatten(1), b.double().flatten(1)
    return torch.acos(F.cosine_similarity(a, b).clamp(-1, 1))


def test_an_encoded_picture_is_without_a_caption_both_ways(pipeline, seen):
    encoded = pipeline.encode([picture(0)], settings=ALONE)
    pipeline.reconstruct(encoded, settings=ALONE)
    given = [named for _, named in seen["condition"]]
    assert len(given) == 4  # and the null one of guidance, each
    for condition in (given[0], given[2]):
        assert not condition["keep_text"].any()
        assert condition.get("keep_z_i") is None
        torch.testing.assert_close(condition["z_i"], encoded.z_i)


@pytest.mark.parametrize("noise", ["slerp", "fixed"])
def test_an_interpolation_turns_evenly_from_the_first_picture_to_the_second(
    noise, pipeline, seen, latents
):
    settings = Settings({"decoder": {"guidance": 1.0}})
    a, b = one(latents, 0), one(latents, 1)
    found = pipeline.interpolate(a, b, 5, noise=noise, seed=3, settings=settings)
    way = torch.linspace(0, 1, 5, dtype=torch.float64)
    z_i = found.z_i[0]
    turned = angle(z_i, a.z_i.expand(5, -1))
    torch.testing.assert_close(turned, way * angle(a.z_i, b.z_i), atol=1e-3, rtol=0)
    x_T = start(seen, "decoder")
    if noise == "slerp":
        turned = angle(x_T, a.x_T.expand(5, -1, -1, -1))
        torch.testing.assert_close(turned, way * angle(a.x_T, b.x_T), atol=1e-3, rtol=0)
        lengths = a.x_T.norm() + way * (b.x_T.norm() - a.x_T.norm())
        torch.testing.assert_close(x_T.flatten(1).norm(dim=1).double(), lengths, rtol=1e-4, atol=0)
    else:
        assert torch.equal(x_T, noise_of([3] * 5, "decoder")((5, 3, 16, 16)))


def test_an_edit_turns_evenly_towards_what_the_captions_differ_by(pipeline, seen, latents):
    settings = Settings({"decoder": {"guidance": 1.0}})
    given = one(latents, 0)
    found = pipeline.text_diff(given, *CAPTIONS, theta_max=0.4, n=5, settings=settings)
    z_t = pipeline.cascade.embed_captions(CAPTIONS)
    aim = F.normalize(z_t[1] - z_t[0], dim=0)[None]
    expected = torch.linspace(0, 0.4, 5, dtype=torch.float64) * angle(given.z_i, aim)
    z_i = found.z_i[0]
    torch.testing.assert_close(angle(z_i, given.z_i.expand(5, -1)), expected, atol=1e-3, rtol=0)
    whole = angle(given.z_i, aim) - expected
    torch.testing.assert_close(angle(z_i, aim.expand(5, -1)), whole, atol=1e-3, rtol=0)
    assert torch.equal(start(seen, "decoder"), given.x_T.expand(5, -1, -1, -1))


def test_slerp_goes_from_its_first_to_its_second():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    third = slerp(a, b, 1 / 3)
    angle_, length = torch.pi / 6, 2 + 2 / 3
    expected = length * torch.tensor([np.cos(angle_), np.sin(angle_)])
    torch.testing.assert_close(third, expected.to(third))


def test_variations_keep_the_latent_of_their_picture_each_with_its_seeds_noise(
    pipeline, seen, latents
):
    settings = Settings({"decoder": {"guidance": 1.0}})
    found = pipeline.vary(latents, 1.0, [5, 6, 7], settings=settings)
    assert torch.equal(found.z_i, latents.z_i[:, None].expand(-1, 3, -1))
    calls = [inputs[0] for inputs, _ in seen["decoder"]]
    assert torch.equal(calls[0], latents.x_T.repeat_interleave(3, dim=0))
    # The second look is at √ᾱ x̂_0 + ... + σ ε with the seed's ε: two pictures of one seed share it.
    again = pipeline.vary(one(latents, 1), 1.0, [6], settings=settings)
    torch.testing.assert_close(again.small[0, 0], found.small[1, 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_a_pca_reconstruction_is_the_mean_and_the_first_components(k, pipeline):
    pictures = [picture(0), picture(1)]
    found = pipeline.pca_reconstructions(pictures, [k], settings=ALONE)
    pca = pipeline.cascade.codec.pca
    z_i = pipeline.encode(pictures, settings=ALONE).z_i
    rows = pca.components[:k]
    expected = F.normalize(pca.mean + (z_i - pca.mean) @ rows.T @ rows, dim=1)
    torch.testing.assert_close(found.z_i[:, 0], expected, rtol=0, atol=1e-5)


def test_a_label_is_as_probable_as_its_scaled_similarity_says(pipeline):
    labels, clip = ["a red circle", "the word star", "a blue square"], pipeline.cascade.clip.model
    found = pipeline.typographic([picture(0)], "star", labels, seeds=[0], settings=ALONE)
    z_t = pipeline.cascade.embed_captions(labels)
    for pictures, said in (([picture(0)], found.before), (found.images, found.after)):
        z_i = pipeline.encode(pictures, settings=ALONE).z_i
        logits = (clip.scale() * (z_i @ z_t.T)).exp()
        expected = logits / logits.sum(dim=1, keepdim=True)
        torch.testing.assert_close(said, expected, rtol=1e-4, atol=1e-6)


def test_settings_as_they_are_typed_become_what_the_sampler_has():
    typed = Settings({"prior": {"candidates": "3", "guidance": "1.5"}})
    found = typed.apply("prior", DiffusionPriorExperiment())
    assert (found.candidates, found.guidance) == (3, 1.5)
    assert (type(found.candidates), type(found.guidance)) == (int, float)


@pytest.mark.parametrize("stage", ["decoder", "upsampler"])
@pytest.mark.parametrize("sampler", ["analytic", "analytic_ddim"])
def test_only_a_prior_samples_with_fitted_errors(pipeline, stage, sampler):
    settings = Settings({stage: {"sampler": sampler}})
    with pytest.raises(UserError, match=rf"{stage}\.sampler={sampler}: only a diffusion prior"):
        pipeline.generate(CAPTIONS[:1], [0], settings=settings)


@pytest.mark.parametrize("value", ["inf", "nan", "-1", "1e400"])
@pytest.mark.parametrize("stage", ["prior", "decoder"])
def test_guidance_is_a_number_in_its_range(pipeline, stage, value):
    settings = Settings({stage: {"guidance": float(value)}})
    with pytest.raises(UserError, match=rf"{stage}\.guidance"):
        pipeline.generate(CAPTIONS[:1], [0], settings=settings)
