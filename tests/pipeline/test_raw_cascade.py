"""A minute cascade of raw embeddings, trained: lengths survive all that is done with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from unclip.common.artifacts import describe
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.data.scenes.render import Item, Scene, draw
from unclip.evaluation.features.network import open_network
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.runs.fit import fit
from unclip.runs.train import train

ALONE = Settings(batch=1, iterations=2)


def scene(colour: str, shape: str) -> torch.Tensor:
    item = Item(shape=shape, colour=colour, size="large", x=0.4, y=0.5, radius=0.21)
    return draw(Scene(background="grey", items=(item,)), 24)


IMAGES = [scene("red", "circle"), scene("blue", "square")]
CAPTIONS = ("a red circle", "a blue circle")


@pytest.fixture(scope="module")
def raw(tmp_path_factory, minute_experiment) -> Path:
    """The runs of a cascade; what follows the CLIP's ``embeddings: raw`` is not told of it."""
    root = tmp_path_factory.mktemp("raw")

    def made(kind, *changes, make=train, **parents):
        given = [f"run.dir={root / kind}", *changes]
        given += [f"{key}={root / path}" for key, path in parents.items()]
        make(load_experiment(str(minute_experiment(kind)), given))

    made("clip", "model.embeddings=raw")
    made("pca", make=fit, clip="clip")
    made("prior", "model.standardise=true", clip="clip")
    made("ar_prior", clip="clip", pca="pca")
    made("decoder", "noise_z_i=0.3", "model.null_z_i=learned", clip="clip")
    return root


@pytest.fixture(scope="module")
def pipeline(raw) -> Pipeline:
    return Pipeline.load(raw)


def lengths(z: torch.Tensor) -> torch.Tensor:
    return z.norm(dim=-1)


def test_every_stage_takes_what_its_clip_makes_and_says_so(raw):
    for kind in ("clip", "pca", "prior", "ar_prior", "decoder"):
        found = describe(raw / kind)
        assert found.embeddings == "raw"
        section = "pca" if kind == "pca" else "model"
        assert found.config[section]["embeddings"] == "raw"


def test_an_images_embedding_is_clips_projection(pipeline):
    clip = pipeline.cascade.clip.model
    z_i = pipeline.encode(IMAGES, settings=ALONE).z_i
    assert (lengths(z_i) - 1).abs().min() > 0.05
    clip.embeddings = "unit"
    try:
        unit = pipeline.encode(IMAGES, settings=ALONE).z_i
    finally:
        clip.embeddings = "raw"
    torch.testing.assert_close(F.normalize(z_i, dim=1), unit)


@pytest.mark.parametrize("kind", ["prior", "ar_prior"])
def test_a_prior_draws_embeddings_with_the_lengths_of_clips(raw, kind):
    pipeline = Pipeline.from_artifacts(
        clip=raw / "clip", prior=raw / kind, decoder=raw / "decoder", pca=raw / "pca"
    )
    z_i = pipeline.generate(CAPTIONS, [0, 1]).z_i
    true = lengths(pipeline.encode(IMAGES, settings=ALONE).z_i)
    assert (lengths(z_i) - 1).abs().min() > 0.05
    assert 0.5 < (lengths(z_i).mean() / true.mean()) < 2


def test_an_interpolation_goes_evenly_from_one_length_to_the_other(pipeline):
    latents = pipeline.encode(IMAGES, settings=ALONE)
    found = pipeline.interpolate(*IMAGES, 5, settings=ALONE)
    a, b = lengths(latents.z_i)
    torch.testing.assert_close(lengths(found.z_i)[0], torch.linspace(a, b, 5))
    assert torch.equal(found.z_i[0, [0, -1]], latents.z_i)


@pytest.mark.parametrize("direction", ["text", "prior"])
@pytest.mark.parametrize("source", [CAPTIONS[0], None])
def test_a_text_diff_turns_an_embedding_and_keeps_its_length(pipeline, direction, source):
    latents = pipeline.encode(IMAGES, settings=ALONE)
    found = pipeline.text_diff(
        latents, source, CAPTIONS[1], 1.0, 4, direction=direction, settings=ALONE
    )
    assert torch.equal(found.z_i[:, 0], latents.z_i)
    want = lengths(latents.z_i)[:, None].expand(-1, 4)
    torch.testing.assert_close(lengths(found.z_i), want)
    if direction == "text":
        z_t = F.normalize(pipeline.cascade.embed_captions(CAPTIONS), dim=1)
        aim = z_t[1] if source is None else F.normalize(z_t[1] - z_t[0], dim=0)
        torch.testing.assert_close(F.normalize(found.z_i[:, -1], dim=1), aim.expand(2, -1))


def test_variations_are_decoded_from_the_embedding_as_it_is(pipeline):
    latents = pipeline.encode(IMAGES, settings=ALONE)
    found = pipeline.vary(latents, 1.0, [0, 1], settings=ALONE)
    assert torch.equal(found.z_i, latents.z_i[:, None].expand(-1, 2, -1))


def test_all_components_give_the_embedding_back_with_its_length(pipeline):
    few = pipeline.pca_reconstructions(IMAGES, [1, 6], settings=ALONE).z_i
    z_i = pipeline.encode(IMAGES, settings=ALONE).z_i
    pca = pipeline.cascade.codec.pca
    torch.testing.assert_close(few[:, 1], pca.reconstruct(pca.project(z_i)))
    assert (lengths(few[:, 1]) / lengths(z_i) - 1).abs().max() < 0.2


def test_what_clip_takes_an_image_for_does_not_depend_on_lengths(pipeline):
    clip = pipeline.cascade.clip.model
    labels = ["a red circle", "a blue square"]
    before = pipeline.typographic(IMAGES, "pizza", labels, seeds=[0], settings=ALONE).before
    z_i = F.normalize(pipeline.encode(IMAGES, settings=ALONE).z_i, dim=1)
    z_t = F.normalize(pipeline.cascade.embed_captions(labels), dim=1)
    torch.testing.assert_close(before, (clip.scale() * z_i @ z_t.T).softmax(dim=1))


def test_sets_of_images_are_measured_by_directions(raw, pipeline):
    """CMMD's kernel has a width for unit embeddings."""
    network = open_network(f"own:{raw}", device=torch.device("cpu"))
    image = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    features = network.encode(image).features
    z_i = pipeline.cascade.clip.model.encode_image(image / 127.5 - 1)
    torch.testing.assert_close(features, F.normalize(z_i, dim=1))


@pytest.mark.parametrize("kind", ["prior", "decoder", "pca"])
def test_parts_that_disagree_are_refused_in_a_line(raw, tmp_path, kind):
    parts = {name: raw / name / "artifact" for name in ("clip", "decoder", "prior", "pca")}
    changed = shutil.copytree(parts[kind], tmp_path / kind)
    config = yaml.safe_load((changed / "config.yaml").read_text())
    config["pca" if kind == "pca" else "model"]["embeddings"] = "unit"
    (changed / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError) as caught:
        Pipeline.from_artifacts(**(parts | {kind: changed}))
    said = str(caught.value)
    assert said.startswith(f"{kind}={changed}: takes unit embeddings, but raw ones are made with")
    assert "\n" not in said


def test_an_experiment_that_contradicts_its_clip_is_refused(raw, minute_experiment, tmp_path):
    given = [f"clip={raw / 'clip'}", "model.embeddings=unit", f"run.dir={tmp_path / 'run'}"]
    with pytest.raises(UserError, match="embeddings=unit: takes unit embeddings, but raw"):
        train(load_experiment(str(minute_experiment("prior")), given))
