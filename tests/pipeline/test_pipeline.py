"""The cascade from its artifacts: what an image depends on, and what does not go together."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.common.hashing import file_sha256
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings


@pytest.fixture(scope="module")
def pipeline(cascade):
    return Pipeline.load(cascade)


@pytest.fixture
def copy(cascade, tmp_path):
    for kind in ("clip", "prior", "decoder", "upsampler"):
        shutil.copytree(cascade / kind / "artifact", tmp_path / kind)
    return tmp_path


def test_sizes_and_ranges(pipeline):
    found = pipeline.generate(["a red circle", "a blue star"], [0, 1])
    assert found.small.shape == (2, 3, 16, 16)
    assert found.image.shape == (2, 3, 32, 32)
    assert found.image.abs().max() <= 1
    torch.testing.assert_close(found.z_i.norm(dim=-1), torch.ones(2))


def test_an_upsampler_given_twice_enlarges_twice(cascade, pipeline):
    one = cascade / "upsampler"
    twice = Pipeline.from_artifacts(
        clip=str(cascade / "clip"),
        prior=cascade / "prior",
        decoder=cascade / "decoder",
        upsamplers=[one, one],
    )
    model = twice.cascade.upsamplers[0].net.config
    factor = model.image_size // model.low_size
    once = pipeline.generate(["a red circle"], [3]).image
    found = twice.generate(["a red circle"], [3]).image
    assert found.shape[-1] == factor * once.shape[-1]


def test_the_same_seed_gives_the_same_image_and_another_seed_another(pipeline):
    a = pipeline.generate(["a red circle"], [3]).image
    assert torch.equal(a, pipeline.generate(["a red circle"], [3]).image)
    assert not torch.equal(a, pipeline.generate(["a red circle"], [4]).image)


def test_a_image_does_not_depend_on_its_batch(pipeline):
    together = pipeline.generate(["a red circle", "a blue star"], [3, 4])
    alone = pipeline.generate(["a blue star"], [4])
    torch.testing.assert_close(together.image[1:], alone.image, atol=1e-4, rtol=0)


def test_settings_change_the_sampling_and_are_checked(pipeline):
    plain = pipeline.generate(["a red circle"], [0]).image
    other = pipeline.generate(
        ["a red circle"], [0], settings=Settings({"decoder": {"sampler": "ddpm"}})
    )
    assert not torch.equal(plain, other.image)
    with pytest.raises(UserError, match=r"decoder\.steps"):
        pipeline.generate(["a"], [0], settings=Settings({"decoder": {"steps": -3}}))


def test_progress_counts_all_stages_together(pipeline):
    seen = []
    pipeline.generate(["a"], [0], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(k, 12) for k in range(1, 13)]


def test_loading_leaves_no_gradients(pipeline):
    assert not any(p.requires_grad for p in pipeline.cascade.decoder.net.parameters())


def test_a_missing_part_is_named(copy):
    shutil.rmtree(copy / "decoder")
    with pytest.raises(UserError, match="decoder missing"):
        Pipeline.load(copy)


def test_a_stage_in_anothers_place_is_refused(copy):
    shutil.rmtree(copy / "decoder")
    shutil.copytree(copy / "prior", copy / "decoder")
    with pytest.raises(UserError, match="is a diffusion_prior, but a decoder is needed"):
        Pipeline.load(copy)


def test_another_clips_embeddings_are_refused(copy):
    file = copy / "clip" / "weights.safetensors"
    weights = load_file(file)
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, file)
    header = json.loads((copy / "clip" / "artifact.json").read_text())
    header["sha256"] = file_sha256(file)
    (copy / "clip" / "artifact.json").write_text(json.dumps(header))
    with pytest.raises(UserError, match="another CLIP"):
        Pipeline.load(copy)


def test_damaged_weights_are_noticed(copy):
    file = copy / "prior" / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="checksum"):
        Pipeline.load(copy)


def test_a_future_format_is_refused(copy):
    header = json.loads((copy / "prior" / "artifact.json").read_text())
    (copy / "prior" / "artifact.json").write_text(json.dumps({**header, "format_version": 99}))
    with pytest.raises(UserError, match="format version 99"):
        Pipeline.load(copy)


@pytest.mark.parametrize("name", artifacts.FILES)
def test_a_half_copied_artifact_is_refused(copy, name):
    (copy / "prior" / name).unlink()
    with pytest.raises(UserError, match="missing in"):
        Pipeline.load(copy)


def test_a_field_of_another_version_is_named(copy):
    path = copy / "prior" / "config.yaml"
    path.write_text(path.read_text().replace("layers:", "layerss:"))
    with pytest.raises(UserError, match="layerss"):
        Pipeline.load(copy)
