"""An artifact that somebody else made is refused in one line, before anything large is built."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from unclip.common.artifacts import describe
from unclip.common.errors import UserError
from unclip.common.hashing import file_sha256
from unclip.stages import registry

DEEP = "[" * 100_000


@pytest.fixture
def stages(cascade, tmp_path):
    """Artifacts that may be spoilt."""
    for path in cascade.iterdir():
        shutil.copytree(path / "artifact", tmp_path / path.name)
    return tmp_path


def load(stages: Path, name: str) -> None:
    rows = {"prior": "diffusion_prior"}
    clip = registry.STAGES["clip"].load(stages / "clip") if name != "clip" else None
    registry.STAGES[rows.get(name, name)].load(stages / name, clip)


def refused(stages: Path, name: str) -> str:
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        load(stages, name)
    assert time.monotonic() - began < 60  # a hang is the fault looked for
    message = str(caught.value)
    assert str(stages / name) in message
    assert message.isprintable()
    return message


def set_config(stages: Path, name: str, key: str, value: object) -> None:
    file = stages / name / "config.yaml"
    content = node = yaml.safe_load(file.read_text())
    *sections, last = key.split(".")
    for section in sections:
        node = node[section]
    node[last] = value
    file.write_text(yaml.safe_dump(content))


def set_weights(stages: Path, name: str, change) -> None:
    file = stages / name / "weights.safetensors"
    weights = load_file(file)
    key = max(weights, key=lambda k: weights[k].numel())
    weights[key] = change(weights[key])
    save_file(weights, file)
    header = json.loads((stages / name / "artifact.json").read_text())
    header["sha256"] = file_sha256(file)
    (stages / name / "artifact.json").write_text(json.dumps(header))


def test_the_artifacts_load_as_they_are(stages):
    for name in ("clip", "pca", "prior", "ar_prior", "decoder", "upsampler"):
        load(stages, name)


@pytest.mark.parametrize(
    ("name", "key", "value", "says"),
    [
        (
            "decoder",
            "model.unet.blocks",
            1_000_000,
            "model.unet.blocks=1000000: must be at most 64",
        ),
        ("decoder", "model.unet.blocks", 64, "weights do not fit config.yaml"),
        ("decoder", "model.unet.channels", 4_194_304, "must be at most 65,536"),
        ("decoder", "model.unet.channels", 65_536, "weights do not fit config.yaml"),
        ("decoder", "model.unet.channels", 1e12, "must be a whole number"),
        ("decoder", "model.unet.channels", -32, "model.unet.channels=-32: must be at least 1"),
        ("decoder", "model.unet.head_channels", 0, "must be at least 1"),
        ("decoder", "model.unet.multiples", [1] * 1000, "has 1,000 numbers"),
        ("decoder", "model.unet.multiples", [1, 0], "must be at least 1"),
        ("decoder", "model.unet", "x", "model.unet: is a section"),
        ("decoder", "model", [1], "model=[1]: must be a section"),
        ("decoder", "model", None, "model=None: must be a section"),
        ("decoder", "model.text.layers", 10**9, "must be at most 256"),
        ("decoder", "model.text.context", "x", "model.text.context='x': must be a whole number"),
        ("decoder", "diffusion.steps", 10_000_000_000, "must be at most 100,000"),
        ("decoder", "diffusion.steps", 0, "diffusion.steps"),
        ("decoder", "sampler.steps", 10_000_000_000, "must be at most 100,000"),
        ("decoder", "sampler.steps", 99_999, "does not fit into diffusion.steps"),
        ("decoder", "sampler.sampler", "x", "must be one of"),
        ("decoder", "sampler.guidance", float("inf"), "not finite"),
        ("decoder", "stage", "upsampler", "artifact.json is of stage decoder"),
        ("decoder", "model.embed_dim", 8, "artifact.json has embed_dim 16, config.yaml 8"),
        ("clip", "model.vision_layers", 10**7, "must be at most 256"),
        ("clip", "model.vision_width", 32 * 1024, "weights do not fit config.yaml"),
        ("clip", "model.patch_size", 0, "must be at least 1"),
        ("clip", "model.context", 65_536, "weights do not fit config.yaml"),
        ("prior", "model.layers", 200, "weights do not fit config.yaml"),
        ("prior", "model.heads", 0, "must be at least 1"),
        ("prior", "sampler.candidates", 10**6, "must be at most 1,024"),
        ("ar_prior", "model.width", 65_536, "weights do not fit config.yaml"),
        ("upsampler", "model.unet.blocks", 50, "weights do not fit config.yaml"),
        ("upsampler", "model.low_size", -16, "must be at least 1"),
    ],
)
def test_a_config_is_held_to_what_an_experiment_is(stages, name, key, value, says):
    set_config(stages, name, key, value)
    assert says in refused(stages, name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: torch.full_like(t, torch.nan), "NaN, infinite or complex"),
        (lambda t: t.clone().index_fill_(0, torch.tensor(0), torch.inf), "NaN, infinite"),
        (lambda t: t.to(torch.complex64), "NaN, infinite or complex"),
        (lambda t: t.to(torch.int32), "int32"),
        (lambda t: t > 0, "bool"),
        (lambda t: t[:1].clone(), "shape"),
    ],
)
@pytest.mark.parametrize("name", ["clip", "pca", "prior", "ar_prior", "decoder", "upsampler"])
def test_weights_are_finite_real_numbers_of_the_right_shape(stages, name, change, says):
    set_weights(stages, name, change)
    assert says in refused(stages, name)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("artifact.json", DEEP, "nested deeper"),
        ("artifact.json", "[1]", "not a JSON object"),
        ("artifact.json", "{}", "'format_version' is missing"),
        ("artifact.json", '{"format_version": ' + "9" * 5000 + "}", "5,000 digits"),
        ("provenance.json", DEEP, "nested deeper"),
        ("provenance.json", '{"a": "\\u001b[2J"}', "control characters"),
        ("config.yaml", "a: " + DEEP, "nested deeper"),
        ("config.yaml", "a: &x 1\nb: *x\n", "has an alias"),
        ("config.yaml", "[1]", "must be a mapping"),
    ],
)
def test_descriptions_are_bounded(stages, file, text, says):
    (stages / "decoder" / file).write_text(text)
    assert says in refused(stages, "decoder")


@pytest.mark.parametrize(
    ("field", "value"),
    [("embed_dim", "16"), ("embed_dim", True), ("stage", 3), ("sha256", None), ("sha256", "x")],
)
def test_a_header_has_its_types(stages, field, value):
    file = stages / "decoder" / "artifact.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    assert refused(stages, "decoder")


def test_provenance_may_hold_the_nan_of_a_metric_without_samples(stages):
    file = stages / "decoder" / "provenance.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"metrics": {"x": float("nan")}}))
    assert describe(stages / "decoder").provenance["metrics"]["x"] != 0
