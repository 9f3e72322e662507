"""Variations, interpolations and text diffs of a minute cascade: what must hold for any weights."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from unclip.common.errors import UserError
from unclip.common.images import to_uint8
from unclip.data.scenes.render import Item, Scene, draw
from unclip.pipeline.manipulations import DRAWS, Latents
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings

# One image at a time: sums of another batch size round differently.
ALONE = Settings(batch=1, iterations=2)


def scene(colour: str, shape: str = "circle", size: int = 24) -> np.ndarray:
    item = Item(shape=shape, colour=colour, size="large", x=0.4, y=0.5, radius=0.21)
    return draw(Scene(background="grey", items=(item,)), size)


PICTURES = [scene("red"), scene("blue", "square")]


@pytest.fixture(scope="module")
def pipeline(cascade):
    """With a decoder that is taken to predict v: an untrained ε̂ is far from x_T near ᾱ = 0."""
    found = Pipeline.load(cascade).cascade
    part = found.decoder
    decoder = replace(
        part,
        diffusion=replace(part.diffusion, prediction="v"),
        sampler=replace(part.sampler, clip="none"),
    )
    return Pipeline(replace(found, decoder=decoder))


@pytest.fixture(scope="module")
def latents(pipeline):
    return pipeline.encode(PICTURES, settings=ALONE)


@pytest.fixture(scope="module")
def reconstructed(pipeline, latents):
    return pipeline.reconstruct(latents, settings=ALONE)


@pytest.fixture
def without_prior(cascade, tmp_path):
    for kind in ("clip", "decoder"):
        shutil.copytree(cascade / kind / "artifact", tmp_path / kind)
    return Pipeline.load(tmp_path)


def test_a_latent_is_clips_embedding_and_noise_that_draws_the_image_again(pipeline):
    settings = Settings({"decoder": {"steps": 20}}, iterations=8)
    latents = pipeline.encode(PICTURES, settings=settings)
    reconstructed = pipeline.reconstruct(latents, settings=settings)
    assert latents.z_i.shape == (2, 16)
    assert latents.x_T.shape == (2, 3, 16, 16)
    torch.testing.assert_close(latents.z_i.norm(dim=-1), torch.ones(2))
    true = torch.stack(
        [
            torch.tensor(np.array(Image.fromarray(p).resize((16, 16), Image.Resampling.BICUBIC)))
            for p in PICTURES
        ]
    )
    true = true.movedim(-1, 1) / 127.5 - 1
    torch.testing.assert_close(reconstructed.small, true.clamp(-1, 1), rtol=0, atol=0.01)
    assert reconstructed.image.shape == (2, 3, 32, 32)


def test_without_noise_all_variations_are_the_reconstruction(pipeline, latents, reconstructed):
    found = pipeline.vary(PICTURES, 0.0, [3, 4], settings=ALONE)
    assert found.image.shape == (2, 2, 3, 32, 32)
    assert torch.equal(found.small, reconstructed.small[:, None].expand(-1, 2, -1, -1, -1))
    assert torch.equal(pipeline.vary(latents, 0.0, [3, 4], settings=ALONE).image, found.image)


def test_the_variance_of_variations_grows_with_eta(pipeline, latents):
    settings = Settings({"decoder": {"guidance": 1.0}})
    few = Latents(*(part[:1] for part in latents))
    variances = [
        pipeline.vary(few, eta, range(8), settings=settings).small.var(dim=1).mean().item()
        for eta in (0.0, 0.25, 0.5, 1.0)
    ]
    assert variances == sorted(variances)
    assert variances[0] < 1e-9 < variances[1] < variances[2] < variances[3]


def test_a_variation_depends_on_its_own_seed_alone(pipeline, latents):
    both = pipeline.vary(latents, 1.0, [3, 4], settings=ALONE)
    one = pipeline.vary(latents, 1.0, [4], settings=ALONE)
    assert torch.equal(both.image[:, 1], one.image[:, 0])
    assert not torch.equal(both.image[:, 0], both.image[:, 1])


def test_the_ends_of_an_interpolation_are_the_reconstructions_bit_for_bit(
    pipeline, latents, reconstructed
):
    a, b = (Latents(*(part[k : k + 1] for part in latents)) for k in (0, 1))
    found = pipeline.interpolate(a, b, 3, settings=ALONE)
    assert torch.equal(found.small[0, 0], reconstructed.small[0])
    assert torch.equal(found.small[0, 2], reconstructed.small[1])
    assert torch.equal(found.image[0, [0, 2]], reconstructed.image)
    assert not torch.equal(found.small[0, 1], found.small[0, 0])
    torch.testing.assert_close(found.z_i.norm(dim=-1), torch.ones(1, 3), rtol=0, atol=1e-6)
    same = pipeline.interpolate(PICTURES[0], PICTURES[1], 3, settings=ALONE)
    assert torch.equal(same.image, found.image)


def test_a_fixed_noise_is_that_of_its_seed_all_the_way(pipeline):
    found = pipeline.interpolate(*PICTURES, 2, noise="fixed", seed=5, settings=ALONE)
    again = pipeline.interpolate(*PICTURES[::-1], 2, noise="fixed", seed=5, settings=ALONE)
    assert torch.equal(found.image, again.image.flip(1))
    other = pipeline.interpolate(*PICTURES, 2, noise="fixed", seed=6, settings=ALONE)
    assert not torch.equal(found.small, other.small)


def test_a_text_diff_begins_with_the_reconstruction(pipeline, latents, reconstructed):
    captions = ("a red circle", "a blue circle")
    found = pipeline.text_diff(latents, *captions, theta_max=0.4, n=3, settings=ALONE)
    assert found.image.shape == (2, 3, 3, 32, 32)
    assert torch.equal(found.small[:, 0], reconstructed.small)
    assert not torch.equal(found.small[:, 2], found.small[:, 0])
    # At the end of the whole way stands the difference of the captions itself.
    z_t = pipeline.cascade.embed_captions(captions)
    z_d = torch.nn.functional.normalize(z_t[1] - z_t[0], dim=0)
    whole = pipeline.text_diff(latents, *captions, theta_max=1.0, n=2, settings=ALONE)
    torch.testing.assert_close(whole.z_i[:, 1], z_d.expand(2, -1), rtol=0, atol=1e-5)
    alone = pipeline.text_diff(latents, None, captions[1], theta_max=1.0, n=2, settings=ALONE)
    torch.testing.assert_close(alone.z_i[:, 1], z_t[1].expand(2, -1), rtol=0, atol=1e-5)


def test_an_edit_by_the_prior_moves_z_i_as_the_priors_mean_moves(pipeline, latents, reconstructed):
    captions = ("a red circle", "a blue circle")
    found = pipeline.text_diff(latents, *captions, n=2, direction="prior", seed=3, settings=ALONE)
    assert torch.equal(found.small[:, 0], reconstructed.small)
    short = replace(ALONE, changes={"decoder": {"steps": 2}})  # whose z_i are the same
    # The same noise for both captions, and the whole way where no theta is given.
    draws = [
        pipeline.generate([caption] * DRAWS, range(3, 3 + DRAWS), settings=short).z_i.mean(dim=0)
        for caption in captions
    ]
    there = torch.nn.functional.normalize(latents.z_i + draws[1] - draws[0], dim=1)
    torch.testing.assert_close(found.z_i[:, 1], there, rtol=0, atol=1e-5)
    alone = pipeline.text_diff(latents, None, captions[1], n=2, direction="prior", seed=3)
    there = torch.nn.functional.normalize(draws[1], dim=0)
    torch.testing.assert_close(alone.z_i[:, 1], there.expand(2, -1), rtol=0, atol=1e-5)


def test_unguided_settings_keep_what_was_said():
    given = Settings({"decoder": {"steps": 5}, "prior": {"guidance": 2.0}}, batch=3)
    found = given.unguided()
    assert found.changes == given.changes | {"decoder": {"steps": 5, "guidance": 1.0}}
    assert found.batch == 3
    said = Settings({"decoder": {"guidance": 4.0}})
    assert said.unguided() == said


def test_all_components_give_z_i_again_as_far_as_the_pca_holds_it(pipeline):
    found = pipeline.pca_reconstructions(PICTURES, [1, 3, 6], settings=ALONE)
    assert found.image.shape == (2, 3, 3, 32, 32)
    z_i = pipeline.encode(PICTURES, settings=Settings(batch=1, iterations=1)).z_i
    cosine = (found.z_i * z_i[:, None]).sum(dim=-1)
    assert (cosine.diff(dim=1) >= -1e-6).all()
    pca = pipeline.cascade.codec.pca
    whole = torch.nn.functional.normalize(pca.reconstruct(pca.project(z_i)), dim=-1)
    torch.testing.assert_close(found.z_i[:, 2], whole, rtol=0, atol=1e-6)
    again = pipeline.pca_reconstructions(PICTURES, [6], seed=0, settings=ALONE)
    torch.testing.assert_close(again.small[:, 0], found.small[:, 2], rtol=0, atol=1e-5)


def test_a_pasted_word_changes_what_clip_says_and_the_probabilities_add_up(pipeline):
    labels = ["a red circle", "the word star", "a blue square"]
    found = pipeline.typographic(PICTURES, "star", labels, seeds=[0, 1], settings=ALONE)
    assert found.before.shape == found.after.shape == (2, 3)
    torch.testing.assert_close(found.after.sum(dim=-1), torch.ones(2))
    assert not torch.equal(found.before, found.after)
    assert found.variations.image.shape == (2, 2, 3, 32, 32)
    for plain, attacked in zip(PICTURES, found.images):
        changed = (plain != attacked).any(axis=2)
        assert changed[12:].any()  # the note lies in the lower half
        assert not changed[:12].any()


def test_progress_counts_inversions_decodings_and_batches_together(pipeline):
    seen = []
    settings = Settings(batch=2)

    def count(done, total):
        seen.append((done, total))

    pipeline.vary(PICTURES, 1.0, [0, 1, 2], settings=settings, progress=count)
    # 1 batch of inversions, 3 of decodings, each with the upsampler's: 4 steps each.
    assert seen == [(k, 28) for k in range(1, 29)]
    seen.clear()
    pipeline.interpolate(*PICTURES, 3, settings=settings, progress=count)
    assert seen == [(k, 24) for k in range(1, 25)]


def test_no_more_images_than_the_batch_are_in_the_networks_at_once(pipeline, monkeypatch):
    sizes, denoise = [], pipeline.cascade.decoder.net.denoise

    def watched(x_t, t, given):
        sizes.append(len(x_t))
        return denoise(x_t, t, given)

    monkeypatch.setattr(pipeline.cascade.decoder.net, "denoise", watched)
    pipeline.vary(PICTURES, 1.0, [0, 1, 2], settings=Settings(batch=2))
    assert max(sizes) == 4  # twice 2, for guidance


def test_any_size_and_form_of_image_is_the_same_image(pipeline):
    array = scene("red", size=40)
    tensor = torch.tensor(array).movedim(-1, 0) / 127.5 - 1
    rgba = Image.fromarray(array).convert("RGBA")
    forms = [array, tensor, Image.fromarray(array), rgba]
    z_i = pipeline.encode(forms).z_i
    for one in z_i[1:]:
        torch.testing.assert_close(one, z_i[0], rtol=0, atol=1e-5)
    wide = np.concatenate([array[:, :10] * 0, array, array[:, :10] * 0], axis=1)  # cut off again
    torch.testing.assert_close(pipeline.encode([wide]).z_i, z_i[:1], rtol=0, atol=1e-5)
    batch = pipeline.encode(torch.stack([tensor, tensor]))
    assert len(batch.z_i) == 2
    grey = Image.fromarray(array).convert("L")
    assert pipeline.encode(grey).x_T.shape == (1, 3, 16, 16)
    assert pipeline.encode(scene("red", size=5)).x_T.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ([], "no image was given"),
        (np.zeros((8, 8, 3)), r"array float64 \[8, 8, 3\]: an image is uint8"),
        (torch.zeros(8, 8), r"tensor float32 \[8, 8\]: an image is a float tensor"),
        (torch.full((3, 8, 8), 255.0), r"not in \[-1, 1\]"),
        (torch.full((3, 8, 8), float("nan")), r"not in \[-1, 1\]"),
        ("photo.png", "str: is not an image"),
    ],
)
def test_what_is_no_image_is_refused(pipeline, picture, message):
    with pytest.raises(UserError, match=message):
        pipeline.encode(picture if isinstance(picture, list) else [picture])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.vary(PICTURES, 2.0, [0]), r"eta=2\.0: must be in \[0, 1\]"),
        (lambda p: p.vary(PICTURES, 1.0, []), "seeds: give at least one"),
        (lambda p: p.interpolate(*PICTURES, 1), "n=1: an interpolation has two ends"),
        (lambda p: p.interpolate(*PICTURES, 3, noise="x"), "noise=x: must be one of slerp, fixed"),
        (
            lambda p: p.interpolate(PICTURES, PICTURES[0], 3),
            "2 images to start from, 1 to end at; give",
        ),
        (lambda p: p.text_diff(PICTURES, "a", "b", 1.5), r"theta_max=1\.5: is not in"),
        (lambda p: p.text_diff(PICTURES, "a", "b", -0.1), r"theta_max=-0\.1: is not in"),
        (lambda p: p.text_diff(PICTURES, "a", "b", n=0), "n=0: must be at least 1"),
        (lambda p: p.text_diff(PICTURES, "a", "b", direction="up"), "direction=up: must be one of"),
        (lambda p: p.text_diff(PICTURES, "a", "a"), "nothing to change"),
        (lambda p: p.pca_reconstructions(PICTURES, [7]), r"give numbers in \[1, 6\]"),
        (lambda p: p.pca_reconstructions(PICTURES, []), r"give numbers in \[1, 6\]"),
        (lambda p: p.typographic(PICTURES, " ", ["a", "b"]), "word: is empty"),
        (lambda p: p.typographic(PICTURES, "a", ["a"]), "labels: give at least two"),
        (lambda p: p.encode(PICTURES, settings=Settings(batch=0)), "batch=0"),
        (
            lambda p: p.encode(PICTURES, settings=Settings(inversion="x")),
            "inversion=x: must be",
        ),
        (lambda p: p.encode(PICTURES, settings=Settings(iterations=0)), "iterations=0"),
        (
            lambda p: p.encode(PICTURES, settings=Settings({"prior": {"guidance": 2.0}})),
            "prior.guidance: the prior is not used here",
        ),
        (
            lambda p: p.encode(PICTURES, settings=Settings({"decoder": {"sampler": "heun"}})),
            "decoder.sampler: is set by the manipulation itself",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(pipeline, call, message):
    with pytest.raises(UserError, match=message):
        call(pipeline)


def test_what_needs_no_prior_and_no_upsampler_works_without(without_prior):
    assert without_prior.cascade.prior is None
    found = without_prior.vary(PICTURES, 1.0, [0])
    assert torch.equal(found.image, found.small)
    with pytest.raises(UserError, match="prior: this cascade has none"):
        without_prior.generate(["a"], [0])
    with pytest.raises(UserError, match="pca: the pipeline has none"):
        without_prior.pca_reconstructions(PICTURES, [1])
    with pytest.raises(UserError, match=r"upsampler\.steps: this cascade has no upsampler"):
        without_prior.vary(PICTURES, 1.0, [0], settings=Settings({"upsampler": {"steps": 2}}))


def test_another_clips_pca_is_refused(cascade, tmp_path):
    shutil.copytree(cascade / "clip" / "artifact", tmp_path / "pca")
    with pytest.raises(UserError, match="is a clip, but a pca is needed"):
        Pipeline.from_artifacts(
            clip=str(cascade / "clip"), decoder=cascade / "decoder", pca=tmp_path / "pca"
        )


# --- inpainting -----------------------------------------------------------------------------------


def left_half(side: int) -> np.ndarray:
    keep = np.zeros((side, side), bool)
    keep[:, : side // 2] = True
    return keep


def test_kept_pixels_are_returned_exactly_at_both_sizes(pipeline):
    large, small = scene("red", size=32), scene("red", size=16)
    found = pipeline.inpaint(large, left_half(32), ["a blue star"], [0])
    assert np.array_equal(to_uint8(found.image[0])[:, :16], large[:, :16])
    assert not np.array_equal(to_uint8(found.image[0])[:, 16:], large[:, 16:])
    found = pipeline.inpaint(small, left_half(16), ["a blue star"], [0])
    assert np.array_equal(to_uint8(found.small[0])[:, :8], small[:, :8])


def test_nothing_of_what_is_to_vanish_shines_through(pipeline):
    dark, bright = scene("red", size=50), scene("red", size=50)
    keep = left_half(50)
    dark[~keep], bright[~keep] = 0, 255
    one, other = (pipeline.inpaint(p, keep, ["a star"], [0]) for p in (dark, bright))
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.small, other.small)


def test_all_kept_is_the_image_and_none_kept_is_drawn_freely(pipeline):
    picture = scene("red", size=32)
    kept = pipeline.inpaint(picture, np.ones((32, 32), bool), ["a star"], [0])
    assert np.array_equal(to_uint8(kept.image[0]), picture)
    free = pipeline.inpaint(picture, np.zeros((32, 32), bool), ["a star"], [0], resample=1)
    assert not np.array_equal(to_uint8(free.image[0])[:, :16], picture[:, :16])


def test_the_embedding_is_the_priors_for_the_caption(pipeline):
    found = pipeline.inpaint(scene("red"), left_half(24), ["a blue star"], [3])
    assert torch.equal(found.z_i, pipeline.generate(["a blue star"], [3]).z_i)


@pytest.mark.parametrize(
    ("mask", "captions", "how", "message"),
    [
        (left_half(20), ["a"], {}, "mask: is 20x20 pixels, its image 24x24"),
        (left_half(24) * 255, ["a"], {}, r"mask: must be a boolean array \[H, W\]"),
        (left_half(24), ["a", "b"], {}, "1 image, 1 mask, 2 captions, 1 seed: "),
        (left_half(24), ["a"], {"resample": 0}, "resample=0: must be at least 1"),
        (
            left_half(24),
            ["a"],
            {"settings": Settings({"decoder": {"sampler": "heun"}})},
            "decoder.sampler=heun: cannot inpaint",
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(pipeline, mask, captions, how, message):
    with pytest.raises(UserError, match=message):
        pipeline.inpaint(scene("red"), mask, captions, [0], **how)
