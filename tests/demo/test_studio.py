"""The page's buttons without the page: they draw what the pipeline draws, or say why not."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from unclip.common.errors import UserError
from unclip.common.images import to_uint8
from unclip.demo.studio import MAX_IMAGES, Studio
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings


@pytest.fixture(scope="module")
def pipeline(cascade):
    return Pipeline.load(cascade)


@pytest.fixture(scope="module")
def studio(pipeline):
    return Studio(pipeline)


@pytest.fixture(scope="module")
def upload(tmp_path_factory):
    path = tmp_path_factory.mktemp("uploads") / "a.png"
    Image.fromarray(np.arange(20 * 24 * 3, dtype=np.uint8).reshape(20, 24, 3)).save(path)
    return str(path)


def ignore(done: int, total: int) -> None:
    pass


def own(knobs):
    return [knob.first for knob in knobs]


def test_a_drawing_is_the_pipelines_of_the_seed_it_shows(studio, pipeline):
    drawn = studio.generate("a red circle", 3, 5, *own(studio.captioned), progress=ignore)
    assert [each.label for each in drawn] == ["seed 5", "seed 6", "seed 7"]
    truth = to_uint8(pipeline.generate(["a red circle"] * 3, [5, 6, 7]).image)
    assert np.array_equal([each.image for each in drawn], truth)


def test_knobs_change_the_sampling(studio, pipeline):
    drawn = studio.generate("a red circle", 1, 0, 1.0, 3.0, 6, "ddpm", progress=ignore)
    settings = Settings(
        {"prior": {"guidance": 1.0}, "decoder": {"guidance": 3.0, "steps": 6, "sampler": "ddpm"}}
    )
    truth = to_uint8(pipeline.generate(["a red circle"], [0], settings=settings).image)
    assert np.array_equal(drawn[0].image, truth[0])


def test_the_page_stands_at_the_artifacts_settings(studio):
    assert {knob.label: knob.own for knob in studio.captioned} == {
        "prior guidance": 2.0,
        "decoder guidance": 2.0,
        "decoder steps": 4,
        "decoder sampler": "ddim",
    }
    assert [knob.label for knob in studio.inverted] == ["decoder guidance", "decoder steps"]


def test_variations(studio, pipeline, upload):
    drawn = studio.vary(upload, 1.0, 2, 3, *own(studio.inverted), progress=ignore)
    truth = to_uint8(pipeline.vary(Image.open(upload), 1.0, [3, 4]).image[0])
    assert [each.label for each in drawn] == ["seed 3", "seed 4"]
    assert np.array_equal([each.image for each in drawn], truth)


@pytest.mark.parametrize("noise", ["slerp", "fixed"])
def test_interpolation(studio, pipeline, upload, noise):
    drawn = studio.interpolate(upload, upload, noise, 3, 3, *own(studio.inverted), progress=ignore)
    picture = Image.open(upload)
    truth = pipeline.interpolate(picture, picture, 3, noise=noise, seed=3).image[0]
    assert [each.label for each in drawn] == ["0.00, seed 3", "0.50, seed 3", "1.00, seed 3"]
    assert np.array_equal([each.image for each in drawn], to_uint8(truth))


@pytest.mark.slow
def test_text_edit(studio, pipeline, upload):
    captions, knobs = ("a red circle", "a blue circle"), own(studio.edited)
    assert knobs[0] == 1.0  # guidance, of which edits want none

    def edited(direction, guidance):
        given = [guidance, *knobs[1:]]
        drawn = studio.edit(upload, *captions, direction, 0.5, 2, 3, *given, progress=ignore)
        how = {"direction": direction, "settings": Settings({"decoder": {"guidance": guidance}})}
        truth = pipeline.text_diff(Image.open(upload), *captions, 0.5, 2, seed=3, **how).image[0]
        assert [each.label for each in drawn] == ["θ 0.00, seed 3", "θ 0.50, seed 3"]
        assert np.array_equal([each.image for each in drawn], to_uint8(truth))
        return drawn[1].image

    edited("text", 1.0)
    # A minute's decoder hardly sees z_i: guidance makes that visible.
    assert not np.array_equal(edited("prior", 10.0), edited("text", 10.0))


def test_inpainting_keeps_what_is_not_painted_over(studio, pipeline):
    picture = np.full((32, 32, 3), (10, 200, 30), np.uint8)
    layer = Image.new("RGBA", (32, 32))
    layer.paste((255, 0, 255, 255), (0, 0, 16, 32))
    editor = {"background": Image.fromarray(picture), "layers": [layer]}
    drawn = studio.inpaint(editor, "a red circle", 2, 3, *own(studio.inpainted), progress=ignore)
    assert [each.label for each in drawn] == ["seed 3", "seed 4"]
    for image, *_ in drawn:
        assert np.array_equal(image[:, 16:], picture[:, 16:])
        assert not np.array_equal(image[:, :16], picture[:, :16])


def test_progress_reaches_its_total(studio):
    seen = []
    studio.generate(
        "a red circle",
        1,
        0,
        *own(studio.captioned),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(k, 12) for k in range(1, 13)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"caption": " "}, "caption: write one first"),
        ({"caption": "word " * 90}, r"caption: has 92 tokens, of which 16 are read; shorten"),
        ({"n": 0}, "images: give a number from 1 to 16"),
        ({"n": MAX_IMAGES + 1}, "images: give a number from 1 to 16"),
        ({"n": None}, "images: give a number"),
        ({"seed": -1}, "seed: give a number from 0"),
        ({"seed": 0.5}, "seed: give a whole number"),
        ({"prior": 11.0}, "prior guidance: give a number from 0 to 10"),
        ({"guidance": -1.0}, "decoder guidance: give a number from 0 to 10"),
        ({"steps": 251}, "decoder steps: give a number from 2 to 250"),
        ({"steps": 2.5}, "decoder steps: give a whole number"),
        ({"sampler": "magic"}, "decoder sampler: is none of ddpm, ddim"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_drawn(studio, changed, message):
    given = {
        "caption": "a red circle",
        "n": 1,
        "seed": 0,
        "prior": 2.0,
        "guidance": 2.0,
        "steps": 4,
        "sampler": "ddim",
    }

    def never(done, total):
        raise AssertionError("a step was done")

    with pytest.raises(UserError, match=message):
        studio.generate(*(given | changed).values(), progress=never)


def test_of_two_images_the_missing_one_is_named(studio, upload):
    with pytest.raises(UserError, match="second image: upload one first"):
        studio.interpolate(upload, None, "slerp", 3, 0, *own(studio.inverted), progress=ignore)


def test_a_folder_without_a_prior_says_so_and_still_varies(cascade, tmp_path, upload):
    for part in ("clip", "decoder", "upsampler"):
        shutil.copytree(cascade / part / "artifact", tmp_path / part)
    studio = Studio(Pipeline.load(tmp_path))
    assert "needs a prior, and the pipeline's folder has none" in studio.lacks(caption=True)
    assert studio.lacks(caption=False) is None
    assert len(studio.vary(upload, 0.5, 1, 0, *own(studio.inverted), progress=ignore)) == 1


def test_a_decoder_without_image_embeddings_draws_captions_only(cascade):
    whole = Pipeline.load(cascade)
    studio = Studio(
        Pipeline(
            dataclasses.replace(
                whole.cascade,
                prior=None,
                decoder=dataclasses.replace(whole.cascade.decoder, takes="text"),
                upsamplers=(),
            )
        )
    )
    assert studio.lacks(caption=True) is None
    assert "needs a decoder that takes image embeddings" in studio.lacks(caption=False)
    assert studio.size == 16
    knobs = own(studio.captioned)
    assert len(studio.generate("a red circle", 2, 0, *knobs, progress=ignore)) == 2
