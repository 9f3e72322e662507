"""Adapters given to a pipeline are those that `unclip merge` would write into its weights."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image, ImageChops

from unclip import Pipeline
from unclip.cli import main
from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.runs.train import train


@pytest.fixture(scope="module")
def adapters(cascade, minute_experiment, tmp_path_factory):
    """Two of the decoder and one of the upsampler."""
    root = tmp_path_factory.mktemp("adapters")

    def run(kind, name, seed):
        given = [f"run.dir={root / name}", f"init={cascade / kind}", "adapter.kind=lora"]
        given += [f"clip={cascade / 'clip'}"] * (kind == "decoder")
        given += ["optim.lr=0.05", f"trainer.seed={seed}", "ema.decay=0.1", "trainer.max_steps=2"]
        train(load_experiment(str(minute_experiment(kind)), given))
        return root / name

    return run("decoder", "one", 1), run("decoder", "two", 2), run("upsampler", "high", 3)


@pytest.mark.slow
def test_a_pipeline_with_adapters_is_that_of_the_merged_weights(cascade, adapters, tmp_path):
    one, two, high = adapters
    words = [f"{one}:0.5", f"{two}:-1.5"]
    assert main(["merge", *words, "--out", str(tmp_path / "both")]) == 0
    found = Pipeline.load(cascade, adapters=[words[0], str(high), words[1]]).cascade
    wanted = artifacts.describe(tmp_path / "both").weights()
    own = artifacts.describe(cascade / "decoder").weights()
    for name, tensor in found.decoder.net.state_dict().items():
        assert torch.allclose(tensor, wanted[name], atol=1e-6), name
    assert any(not torch.equal(wanted[name], own[name]) for name in own)
    plain = artifacts.describe(cascade / "upsampler").weights()
    enlarging = found.upsamplers[0].net.state_dict()
    assert any(not torch.equal(enlarging[name], plain[name]) for name in plain)

    draw = ["sample", "a star", "--pipeline", str(cascade), "--device", "cpu", "--out"]
    given = [word for each in words for word in ("--adapter", each)]
    assert main([*draw, str(tmp_path / "a"), *given]) == 0
    assert main([*draw, str(tmp_path / "b"), "--decoder", str(tmp_path / "both")]) == 0
    assert main([*draw, str(tmp_path / "c")]) == 0
    a, b, c = (Image.open(next((tmp_path / k).glob("*seed0.png"))) for k in "abc")
    assert ImageChops.difference(a, b).getbbox() is None
    assert ImageChops.difference(a, c).getbbox() is not None


@pytest.mark.slow
def test_an_adapter_of_other_weights_is_one_line(cascade, adapters, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(adapters[0] / "artifact", other)
    origin = json.loads((other / "provenance.json").read_text())
    origin["parents"]["init"] = "0" * 64
    (other / "provenance.json").write_text(json.dumps(origin))
    for word, line in (
        (str(other), "was trained on the weights 000000000000, which are not in this cascade"),
        (str(cascade / "decoder"), "has whole weights"),
        (f"{adapters[0]}:much", "'much' is not a number"),
        ("nowhere", "no such artifact"),
    ):
        with pytest.raises(UserError, match=line):
            Pipeline.load(cascade, adapters=[word])
    words = ["--pipeline", str(cascade), "--adapter", str(other), "--out", str(tmp_path / "no")]
    assert main(["sample", "a star", *words]) == 2
    assert "adapter=" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "no").exists()
    with pytest.raises(UserError, match="must be a list of texts"):
        Pipeline.load(cascade, adapters=str(other))


def test_a_cascade_is_evaluated_with_adapters(cascade, adapters, tmp_path, capsys):
    words = ["evaluate", str(cascade), "--n", "2", "decoder.steps=2", "--json"]

    def images(name, *more):
        assert main([*words, f"run.dir={tmp_path / name}", *more]) == 0
        capsys.readouterr()
        return (tmp_path / name / "images.png").read_bytes()

    given = ["--adapter", f"{adapters[0]}:4", "--adapter", str(adapters[2])]
    plain, adapted = images("plain"), images("adapted", *given)
    assert plain != adapted
    assert adapted == images("again", *given)
    summary = json.loads((tmp_path / "adapted/summary.json").read_text())
    assert summary["settings"]["adapters"] == given[1::2]
    assert main([*words, "--adapter", str(cascade / "decoder")]) == 2
    assert "has whole weights" in capsys.readouterr().err
    assert main(["evaluate", str(cascade / "prior"), "--adapter", str(adapters[0])]) == 2
    assert "--adapter: is for a cascade" in capsys.readouterr().err
