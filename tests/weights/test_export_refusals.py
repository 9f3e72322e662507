"""What diffusers cannot hold is refused in one line with its key, and nothing is written."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from imports import karlo_folder
from own_cascade import write_own
from safetensors.torch import load_file, save_file

from unclip.cli import main
from unclip.common import artifacts
from unclip.weights.importing import import_weights


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_own(tmp_path_factory.mktemp("own") / "cascade")


@pytest.fixture
def cascade(written, tmp_path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(written, tmp_path / "cascade")


@pytest.fixture
def karlo_text(tmp_path) -> Path:
    """The tiny Karlo, imported with the text half of its CLIP alone."""
    import_weights(str(karlo_folder(tmp_path / "source", image=False)), tmp_path / "text")
    return tmp_path / "text"


def refused(capsys, cascade: Path, *words: str) -> str:
    """The only line of a refused export into ``out`` beside the cascade, which stays as it was."""
    out = cascade.parent / "out"
    before = sorted(cascade.parent.rglob("*"))
    capsys.readouterr()
    assert main(["export", str(cascade), "--to", "diffusers", "--out", str(out), *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert sorted(cascade.parent.rglob("*")) == before
    return lines[0]


def configure(artifact: Path, key: str, value: object) -> None:
    file = artifact / "config.yaml"
    config = yaml.safe_load(file.read_text())
    section, *rest = key.split(".")
    place = config
    for name in (section, *rest)[:-1]:
        place = place[name]
    place[key.split(".")[-1]] = value
    file.write_text(yaml.safe_dump(config))


def change_weights(place: Path, edit) -> None:
    """Write an artifact again with tensors that ``edit`` changes in a table of them."""
    found = artifacts.describe(place)
    weights = found.weights()
    edit(weights)
    artifacts.export(
        place,
        stage=found.stage,
        weights=weights,
        config=found.config,
        provenance=found.provenance,
        clip_fingerprint=found.clip_fingerprint,
    )


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("clip", "model.embeddings", "unit"),
        ("prior", "model.embeddings", "unit"),
        ("prior", "model.caption", "bpe"),
        ("prior", "model.null_text", "padding"),
        ("prior", "diffusion.schedule", "linear"),
        ("prior", "diffusion.prediction", "v"),
        ("prior", "diffusion.variance", "fixed_large"),
        ("prior", "sampler.clip", "dynamic"),
        ("prior", "model.context", 5),
        ("decoder", "model.embeddings", "unit"),
        ("decoder", "model.caption", "bpe"),
        ("decoder", "model.use_z_i", False),
        ("decoder", "model.null_text", "padding"),
        ("decoder", "model.inpaint", True),
        ("decoder", "embedding", "text"),
        ("decoder", "diffusion.variance", "fixed_small"),
        ("decoder", "diffusion.schedule", "linear"),
        ("decoder", "sampler.clip", "dynamic"),
        ("decoder", "model.unet.multiples", [2, 2, 4]),
        ("decoder", "model.unet.attention", []),
        ("decoder", "model.clip_text_width", 24),
        ("upsampler", "model.noise_levels", 50),
        ("upsampler", "model.enlarge", "bilinear"),
        ("upsampler", "model.low_8_bit", True),
        ("upsampler", "model.inpaint", True),
        ("upsampler", "model.unet.attention", [8]),
        ("upsampler", "model.unet.multiples", [2, 4]),
        ("upsampler", "model.low_size", 4),
        ("upsampler", "diffusion.prediction", "v"),
        ("upsampler", "diffusion.variance", "fixed_large"),
    ],
)
def test_the_key_in_the_way_is_named(capsys, cascade, kind, key, value):
    if key == "model.unet.attention" and value:
        configure(cascade / kind, "model.unet.head_channels", 8)
    configure(cascade / kind, key, value)
    shown = str(value).lower() if isinstance(value, bool) else value
    line = refused(capsys, cascade)
    assert f"{cascade / kind / 'config.yaml'}: {key}={shown}: " in line
    assert "only " in line


def test_a_decoder_without_captions_is_refused(capsys, cascade):
    for key, value in {"caption": "bpe", "context_mask": False, "null_text": "padding"}.items():
        configure(cascade / "decoder", f"model.{key}", value)
    configure(cascade / "decoder", "model.use_caption", False)
    assert "decoder/config.yaml: model.use_caption=false: " in refused(capsys, cascade)


def test_a_clip_of_another_kind_is_refused(capsys, cascade):
    configure(cascade / "clip", "model.image_size", 32)
    configure(cascade / "clip", "model.vision", "resnet")
    assert "clip/config.yaml: model.vision=resnet: " in refused(capsys, cascade)


def test_token_features_of_another_width_than_the_embeddings_are_refused(capsys, cascade):
    configure(cascade / "clip", "model.text_width", 24)
    line = refused(capsys, cascade)
    assert "clip/config.yaml: model.text_width=24: " in line
    assert "only 12 can be exported" in line


@pytest.mark.parametrize("stage", ["ar_prior", "laion_prior"])
def test_a_prior_of_another_network_is_refused(capsys, cascade, stage):
    for file, old in (("artifact.json", '"diffusion_prior"'), ("config.yaml", "diffusion_prior")):
        path = cascade / "prior" / file
        path.write_text(path.read_text().replace(old, old.replace("diffusion_prior", stage)))
    assert f"prior/config.yaml: stage={stage}: " in refused(capsys, cascade)


def test_without_images_a_clip_of_text_alone_is_no_hindrance(karlo_text, tmp_path):
    again = tmp_path / "again"
    words = ["export", str(karlo_text), "--to", "diffusers", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert not (tmp_path / "out" / "image_encoder").exists()
    assert main(["import", str(tmp_path / "out"), "--out", str(again)]) == 0
    one, two = (artifacts.describe(root / "clip") for root in (karlo_text, again))
    assert one.sha256 == two.sha256
    assert one.config == two.config


def test_a_second_upsampler_is_refused(capsys, cascade):
    shutil.copytree(cascade / "upsampler", cascade / "upsampler-2")
    assert f"{cascade / 'upsampler-2'}: diffusers' pipelines have one" in refused(capsys, cascade)


def test_what_is_no_cascade_is_refused(capsys, cascade, tmp_path):
    (tmp_path / "runs").mkdir()
    blank = {"weights": {}, "config": {"stage": "pca"}, "provenance": {}}
    artifacts.export(tmp_path / "fitted", stage="pca", **blank)
    assert "no such folder" in refused(capsys, tmp_path / "none")
    assert "holds no clip, prior, decoder or upsampler" in refused(capsys, tmp_path / "runs")
    assert "is of stage pca, of which" in refused(capsys, tmp_path / "fitted")
    (cascade / "clip" / "artifact.json").unlink()
    assert "not an artifact: artifact.json missing" in refused(capsys, cascade)


def test_weights_are_checked_as_they_are_read(capsys, cascade):
    change_weights(cascade / "upsampler", lambda w: w["unet.out.bias"].fill_(70_000))
    assert "unet.out.bias has a number beyond 65,504" in refused(capsys, cascade, "--half")
    file = cascade / "prior" / "weights.safetensors"
    weights = load_file(file)
    del weights["query"]
    save_file(weights, file)
    assert "query has the shape none" in refused(capsys, cascade)


def test_stages_of_another_clip_are_refused(capsys, cascade):
    change_weights(cascade / "clip", lambda w: w["text_projection"].add_(1))
    line = refused(capsys, cascade)
    assert f"{cascade / 'prior'}: was trained on the embeddings of another CLIP" in line


def test_what_is_there_is_kept_unless_it_is_an_earlier_export(capsys, cascade, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    words = ["export", str(cascade), "--to", "diffusers", "--out", str(out)]
    (out / "thesis.txt").write_text("years")
    assert "exists; name another folder, or add --force" in refused(capsys, cascade)
    assert "is not an export of unclip" in refused(capsys, cascade, "--force")
    (out / "thesis.txt").unlink()
    assert main(words) == 0
    assert ": exists" in refused(capsys, cascade)
    (out / "model_index.json").write_text("{}")
    assert main([*words, "--force"]) == 0
    assert "UnCLIPPipeline" in (out / "model_index.json").read_text()
    (tmp_path / "file").write_text("")
    assert main([*words[:-1], str(tmp_path / "file")]) == 2
    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("size", [0, 300, 30_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(capsys, cascade, size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        line = refused(capsys, cascade)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"--out {cascade.parent / 'out'}: " in line


def test_a_layout_that_nobody_knows_is_refused(capsys, cascade, tmp_path):
    assert main(["export", str(cascade), "--to", "onnx", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "--to" in error
    assert "diffusers" in error
    assert len(error.strip().splitlines()) == 1


def test_what_diffusers_has_no_place_for_is_said(capsys, cascade, tmp_path):
    (cascade / "pca").mkdir()
    (cascade / "ar_prior").mkdir()
    configure(cascade / "decoder", "sampler.guidance_interval", [0.1, 0.8])
    configure(cascade / "upsampler", "sampler.start_scale", 0.997)
    configure(cascade / "upsampler", "sampler.steps", "3,2")
    words = ["export", str(cascade), "--to", "diffusers", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    error = capsys.readouterr().err
    assert "prior.sampler=ddim, prior.candidates=2, decoder.guidance_interval=[0.1, 0.8]" in error
    assert "upsampler.steps=3,2, upsampler.start_scale=0.997: diffusers samples in its own" in error
    assert f"{cascade / 'pca'}: left out" in error
    assert f"{cascade / 'ar_prior'}: left out" in error


def test_notes_of_a_hostile_artifact_do_not_reach_the_files(cascade, tmp_path):
    """Only fields that a reader ignores are taken from provenance, and only plain values."""
    found = artifacts.describe(cascade / "clip")
    hostile = {
        "auto_map": {"AutoModel": "evil.Model"},
        "hidden_size": 1,
        "eos_token_id": {"a": 1},
        "attention_dropout": 0.5,
    }
    artifacts.export(
        cascade / "clip",
        stage="clip",
        weights=found.weights(),
        config=found.config,
        provenance={"imported": {"settings": {"text_encoder": hostile}, "half": [1]}},
    )
    words = ["export", str(cascade), "--to", "diffusers", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    values = json.loads((tmp_path / "out" / "text_encoder" / "config.json").read_text())
    assert "auto_map" not in values
    assert values["hidden_size"] == 12
    assert values["eos_token_id"] == 49407
    assert values["attention_dropout"] == 0.5
    assert (
        load_file(tmp_path / "out/text_encoder/model.safetensors")["text_projection.weight"].dtype
        == torch.float32
    )


@pytest.mark.parametrize("more", ["thesis.txt", "prior/thesis.txt", "photos/a.png"])
def test_an_earlier_export_with_more_in_it_stays(capsys, cascade, tmp_path, more):
    words = ["export", str(cascade), "--to", "diffusers", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert main([*words, "--force"]) == 0
    file = tmp_path / "out" / more
    file.parent.mkdir(exist_ok=True)
    file.write_text("years")
    assert f"holds {more}" in refused(capsys, cascade, "--force")
    assert file.read_text() == "years"


def test_a_pipeline_of_somebody_else_stays(capsys, cascade, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert "is not an export of unclip" in refused(capsys, cascade, "--force")
    (tmp_path / "real").mkdir()
    (out / "model_index.json").rename(tmp_path / "real/model_index.json")
    out.rmdir()
    out.symlink_to(tmp_path / "real")
    refused(capsys, cascade, "--force")
    assert (tmp_path / "real/model_index.json").is_file()
