"""A cascade goes to diffusers' folders and comes back bit for bit; both draw the same images."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers_pipeline import (
    from_components,
    open_pipeline,
    our_images,
    their_images,
)
from imports import D, karlo_folder
from own_cascade import write_own
from safetensors.torch import load_file

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.embeddings.tokens import token_mask
from unclip.pipeline.cascade import open_folder
from unclip.pipeline.settings import Settings
from unclip.weights.exporting import export_diffusers
from unclip.weights.importing import import_weights


@pytest.fixture(scope="module")
def karlo(tmp_path_factory) -> Path:
    """The tiny Karlo of diffusers' layout in ``source``, imported, and exported to ``out``."""
    root = tmp_path_factory.mktemp("karlo")
    import_weights(str(karlo_folder(root / "source")), root / "cascade")
    export_diffusers(root / "cascade", root / "out")
    return root


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("own")
    write_own(root / "cascade")
    export_diffusers(root / "cascade", root / "out")
    return root


def test_there_and_back_is_bit_identical(karlo):
    """Every tensor, in the precision that it had, and every value of every configuration."""
    seen = 0
    for file in sorted((karlo / "source").glob("*/*")):
        back = karlo / "out" / file.relative_to(karlo / "source")
        if file.suffix == ".safetensors":
            before, after = load_file(file), load_file(back)
            assert before.keys() == after.keys()
            assert all(before[k].dtype == after[k].dtype for k in before)
            assert all(torch.equal(before[k], after[k]) for k in before)
        else:
            values, written = json.loads(file.read_text()), json.loads(back.read_text())
            assert {name: written.get(name, "absent") for name in values} == values, file
        seen += 1
    assert seen == 17
    old, new = (json.loads((karlo / f / "model_index.json").read_text()) for f in ("source", "out"))
    assert {k: v[-1] for k, v in new.items() if k[0] != "_"} == {
        k: v[-1] for k, v in old.items() if k[0] != "_"
    }


@pytest.mark.parametrize("which", ["karlo", "own"])
def test_an_export_is_imported_as_the_same_artifacts(which, request, tmp_path):
    """Own upsamplers without a last-step network come back with one, the same again."""
    root = request.getfixturevalue(which)
    import_weights(str(root / "out"), tmp_path / "again")
    for kind in ("clip", "prior", "decoder", "upsampler"):
        before, after = (
            artifacts.describe(r / kind) for r in (root / "cascade", tmp_path / "again")
        )
        one, two = before.weights(), after.weights()
        assert all(torch.equal(two[name], one[name]) for name in one)
        assert after.clip_fingerprint == before.clip_fingerprint
        for section in ("model", "diffusion", "sampler"):
            if which == "karlo" or section == "sampler":
                assert after.config.get(section) == before.config.get(section)
        if which == "karlo":
            assert one.keys() == two.keys()
            assert before.sha256 == after.sha256


def test_an_import_draws_the_images_of_diffusers_own_pipeline(karlo):
    theirs = their_images(from_components(karlo / "source"))
    ours = our_images(open_folder(karlo / "cascade"))
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("which", ["karlo", "own"])
def test_diffusers_draws_our_images_from_an_export(which, request):
    root = request.getfixturevalue(which)
    theirs = their_images(open_pipeline(root / "out"))
    ours = our_images(open_folder(root / "cascade"))
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_without_a_prior_it_is_the_pipeline_of_variations(own, tmp_path):
    for kind in ("clip", "decoder", "upsampler"):
        shutil.copytree(own / "cascade" / kind, tmp_path / "cascade" / kind)
    export_diffusers(tmp_path / "cascade", tmp_path / "out")
    pipeline = open_pipeline(tmp_path / "out", "UnCLIPImageVariationPipeline")
    z_i = 0.5 * torch.randn(2, D, generator=torch.Generator().manual_seed(1))
    found = pipeline(
        image_embeddings=z_i,
        decoder_num_inference_steps=4,
        super_res_num_inference_steps=3,
        decoder_guidance_scale=2.5,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    theirs = torch.from_numpy(found).permute(0, 3, 1, 2) * 2 - 1
    cascade, generator = open_folder(tmp_path / "cascade"), torch.Generator().manual_seed(0)

    def noise(shape, device):
        return torch.randn(tuple(shape), generator=generator)

    how = Settings({"decoder": {"steps": 4, "guidance": 2.5}}).apply("decoder", cascade.decoder)
    small = cascade.decoder.draw(z_i, None, noise, sampler=how)
    upsampler = cascade.upsamplers[0]
    how = dataclasses.replace(upsampler.sampler, steps=3)
    ours = upsampler.draw(small, noise, sampler=how)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_the_clip_of_an_export_is_ours(own):
    from transformers import CLIPImageProcessor, CLIPTokenizer, CLIPVisionModelWithProjection

    clip = open_folder(own / "cascade").clip.model
    words = CLIPTokenizer.from_pretrained(own / "out" / "tokenizer")
    captions = ["A photo of  a corgi!", "it's 3 p.m.", "", "naïve café: " + "x " * 40]
    given = words(captions, padding="max_length", truncation=True, return_tensors="pt")
    tokens = clip.tokenize(captions)
    mask = token_mask(tokens)
    assert torch.equal(given.attention_mask.bool(), mask)
    assert torch.equal(given.input_ids[mask], tokens[mask])
    side = clip.image_size
    image = torch.randint(0, 256, (2, 3, side, side), generator=torch.Generator().manual_seed(0))
    pixels = CLIPImageProcessor.from_pretrained(own / "out" / "feature_extractor")(
        images=list(image.to(torch.uint8)), return_tensors="pt"
    ).pixel_values
    encoder = CLIPVisionModelWithProjection.from_pretrained(own / "out" / "image_encoder")
    with torch.no_grad():
        theirs, ours = encoder(pixels).image_embeds, clip.encode_image(image / 127.5 - 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_half_rounds_every_number_and_is_read_again(own, tmp_path):
    export_diffusers(own / "cascade", tmp_path / "half", half=True)
    for file in (tmp_path / "half").rglob("*.safetensors"):
        whole = load_file(own / "out" / file.relative_to(tmp_path / "half"))
        for name, tensor in load_file(file).items():
            assert tensor.dtype == torch.float16
            assert torch.equal(tensor, whole[name].half())
    import_weights(str(tmp_path / "half"), tmp_path / "again")
    assert open_folder(tmp_path / "again").prior.sampler.steps == 9


@pytest.mark.parametrize("licences", [("mit",), ("mit", "other"), ("[mit]",)])
def test_the_licence_of_imported_weights_stays_with_them(karlo, tmp_path, licences):
    source = karlo_folder(tmp_path / "source")
    for k, each in enumerate(licences):
        (source / "README.md").write_text(f"---\nlicense: {each}\n---\n")
        import_weights(str(source), tmp_path / "cascade", force=True)
        if k:
            shutil.rmtree(tmp_path / "cascade" / "prior")
            shutil.copytree(tmp_path / "first", tmp_path / "cascade" / "prior")
        else:
            shutil.copytree(tmp_path / "cascade" / "prior", tmp_path / "first")
    export_diffusers(tmp_path / "cascade", tmp_path / "out")
    import_weights(str(tmp_path / "out"), tmp_path / "again")
    found = artifacts.describe(tmp_path / "again" / "decoder").provenance["imported"]["licence"]
    assert found == ("mit" if licences == ("mit",) else None)


@pytest.mark.parametrize("tables", ["float32", "float64"])
def test_the_precision_of_a_schedule_comes_back(own, tmp_path, tables):
    shutil.copytree(own / "out", tmp_path / "out")
    file = tmp_path / "out" / "provenance.json"
    content = json.loads(file.read_text())
    noted = content["exported"]["stages"]
    assert [noted[kind].get("tables") for kind in noted] == [None, *["float32"] * 3]
    noted["decoder"]["tables"] = tables
    file.write_text(json.dumps(content))
    import_weights(str(tmp_path / "out"), tmp_path / "again")
    assert artifacts.describe(tmp_path / "again/decoder").config["diffusion"]["tables"] == tables
    noted["decoder"]["tables"] = "float16"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"provenance\.json: diffusion\.tables"):
        import_weights(str(tmp_path / "out"), tmp_path / "other")


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("prior", "sampler.guidance", -1),
        ("prior", "sampler.candidates", 0),
        ("decoder", "sampler.eta", 1e30),
        ("decoder", "sampler.steps", "../../x"),
        ("upsampler", "sampler.noise_level", -1),
        ("upsampler", "sampler.steps", [2]),
        ("upsampler", "tables", "float16"),
    ],
)
def test_a_value_beside_an_export_is_refused_by_its_file(karlo, tmp_path, kind, key, value):
    copy = shutil.copytree(karlo / "out", tmp_path / "copy")
    file = copy / "provenance.json"
    content = json.loads(file.read_text())
    section = content["exported"]["stages"][kind]
    *above, last = key.split(".")
    for name in above:
        section = section[name]
    section[last] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"provenance\.json: .*{last}"):
        import_weights(str(copy), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_says_where_its_stages_are_from(karlo):
    told = json.loads((karlo / "out" / "provenance.json").read_text())["exported"]["stages"]
    assert list(told) == ["clip", "decoder", "prior", "upsampler"]
    assert told["prior"]["imported"]["source"] == "source"
    before = artifacts.describe(karlo / "cascade" / "prior")
    assert told["prior"]["imported"]["files"] == before.provenance["imported"]["files"]
    assert told["prior"]["sha256"] == before.sha256
