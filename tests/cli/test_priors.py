"""Both priors from the command line, on minute networks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from unclip.cli import main
from unclip.common import artifacts
from unclip.common.hashing import file_sha256
from unclip.pipeline.pipeline import Pipeline
from unclip.stages.diffusion_prior.x0_errors import read_x0_errors


@pytest.fixture
def other_clip(minute_experiment, tmp_path):
    """A CLIP of the same shape and other weights."""
    words = ["train", str(minute_experiment("clip")), f"run.dir={tmp_path / 'clip'}"]
    assert main([*words, "trainer.seed=9"]) == 0
    return tmp_path / "clip"


def error(capsys, *words) -> str:
    assert main([str(word) for word in words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    found = [line for line in lines if line.startswith("unclip: error: ")]
    assert len(found) == 1
    return found[0]


def test_fit_pca_writes_an_artifact_a_spectrum_and_the_error_of_every_k(cascade):
    artifact = artifacts.describe(cascade / "pca")
    assert (artifact.stage, artifact.embed_dim) == ("pca", 16)
    assert artifact.weights()["components"].shape == (6, 16)
    rows = (cascade / "pca" / "errors.csv").read_text().splitlines()
    assert len(rows) == 18  # a header, k = 0 to 16
    lost = [float(row.split(",")[2]) for row in rows[1:]]
    assert lost[0] == 1
    assert lost[-1] < 1e-9
    assert lost == sorted(lost, reverse=True)
    assert (cascade / "pca" / "spectrum.png").stat().st_size > 1000


@pytest.mark.slow
def test_two_processes_fit_the_same_codec(cascade, minute_experiment, tmp_path):
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "unclip"]
    words = ["fit-pca", str(minute_experiment("pca")), f"clip={cascade / 'clip'}"]
    subprocess.run([*run, *words, f"run.dir={tmp_path / 'pca'}"], check=True, timeout=300)
    alone, both = (artifacts.describe(f / "pca").weights() for f in (cascade, tmp_path))
    for name in alone:
        torch.testing.assert_close(both[name], alone[name], rtol=0, atol=1e-6)


def test_the_cascade_draws_with_either_prior(cascade, tmp_path):
    words = ["sample", "a red circle", "--pipeline", str(cascade), "--out", str(tmp_path)]
    more = ["--prior", str(cascade / "ar_prior"), "prior.top_k=4", "prior.temperature=1"]
    assert main([*words, *more]) == 0
    assert (tmp_path / "a-red-circle_seed0.png").is_file()
    parts = {"clip": str(cascade / "clip"), "decoder": cascade / "decoder"}
    found = []
    for name in ("prior", "ar_prior", "ar_prior"):
        pipeline = Pipeline.from_artifacts(prior=cascade / name, **parts)
        both = pipeline.generate(["a red circle", "a blue star"], [0, 7]).z_i
        alone = pipeline.generate(["a blue star"], [7]).z_i
        torch.testing.assert_close(alone, both[1:], atol=1e-5, rtol=0)
        found.append(both)
    assert torch.equal(found[1], found[2])
    assert not torch.allclose(found[0], found[1], atol=0.1)


def test_a_setting_of_the_other_prior_is_refused(cascade, tmp_path, capsys):
    words = ["sample", "a red circle", "--pipeline", cascade, "--out", tmp_path]
    assert "prior.temperature" in error(capsys, *words, "prior.temperature=1")
    message = error(capsys, *words, "--prior", cascade / "ar_prior", "prior.steps=4")
    assert "prior.steps" in message
    assert "top_k" in message


def test_evaluate_prints_one_column_per_prior(cascade, tmp_path, capsys):
    words = [str(cascade / name) for name in ("prior", "ar_prior")]
    assert main(["evaluate", *words, "--n", "12", "--batch", "5", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in rows] == ["diffusion_prior", "ar_prior"]
    for row in rows:
        assert row["metrics"]["n"] == 12
        assert 1 <= row["metrics"]["retrieval_rank"] <= 12
        assert row["training_flops"] > 0
    few = ["--n", "12", "--batch", "5", "--json", "prior.steps=2"]
    assert main(["evaluate", *words, *few]) == 0
    fewer = json.loads(capsys.readouterr().out)
    assert fewer[0]["metrics"] != rows[0]["metrics"]
    assert fewer[1]["metrics"] == rows[1]["metrics"]  # it has no steps
    assert rows[0]["metrics"]["true_cosine_z_t"] == rows[1]["metrics"]["true_cosine_z_t"]
    again = ["evaluate", words[0], "--n", "12", "--batch", "12", "--out", str(tmp_path / "t.md")]
    assert main(again) == 0
    table = (tmp_path / "t.md").read_text()
    assert f"| {rows[0]['metrics']['cosine']:.4g} |" in table  # whatever the batches


def test_evaluate_answers_its_former_options(cascade, tmp_path, capsys):
    message = error(capsys, "evaluate", cascade / "prior", "--steps", 2)
    assert "prior.steps=2 or upsampler.steps=2" in message
    words = ["evaluate", cascade / "upsampler", "--picture", tmp_path / "a.png", "--n", 1]
    assert main([str(word) for word in words]) == 0
    assert "--picture: has been renamed to --image" in capsys.readouterr().err
    assert (tmp_path / "a.png").is_file()


def test_evaluate_refuses_a_setting_that_neither_prior_has(cascade, capsys):
    words = [cascade / name for name in ("prior", "ar_prior")]
    message = error(capsys, "evaluate", *words, "prior.stepz=2")
    assert "prior.stepz" in message
    assert "did you mean 'steps'" in message
    assert "top_k" in error(capsys, "evaluate", *words, "prior.nothing=2")


@pytest.mark.parametrize("setting", ["prior.steps=5000", "prior.sampler=analytic"])
def test_every_prior_is_checked_before_the_first_is_measured(cascade, capsys, setting, monkeypatch):
    monkeypatch.setattr("unclip.evaluation.protocols.priors.evaluate_prior", None)
    words = [cascade / name for name in ("ar_prior", "prior")]
    assert setting in error(capsys, "evaluate", *words, setting).replace(": 5000", "=5000")


def test_fit_variance_makes_analytic_sampling_possible(cascade, tmp_path, capsys):
    prior = tmp_path / "prior"
    shutil.copytree(cascade / "prior", prior)
    words = ["sample", "a red circle", "--pipeline", cascade, "--prior", prior, "--out", tmp_path]
    analytic = ["prior.sampler=analytic", "prior.steps=6"]
    assert "unclip fit-variance" in error(capsys, *words, *analytic)
    assert main(["fit-variance", str(prior), "--steps", "6", "--samples", "16"]) == 0
    found = read_x0_errors(artifacts.describe(prior))
    assert list(found) == ["6"]
    assert all(0 <= value <= 0.28890625 for value in found["6"])  # unit norms at that scale
    assert found["6"][0] <= found["6"][-1]
    assert main([str(word) for word in (*words, *analytic)]) == 0
    assert "is an ar_prior" in error(capsys, "fit-variance", cascade / "ar_prior")
    assert "--samples 0" in error(capsys, "fit-variance", prior, "--samples", "0")
    (tmp_path / "empty").mkdir()
    assert "data.source" in error(capsys, "evaluate", prior, "--data", tmp_path / "empty")


def test_a_pca_of_empty_data_is_refused(cascade, minute_experiment, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    words = ["fit-pca", minute_experiment("pca"), f"clip={cascade / 'clip'}"]
    assert "data.source" in error(capsys, *words, f"data.source={tmp_path / 'empty'}")


def test_priors_and_codecs_of_another_clip_are_refused(
    cascade, other_clip, minute_experiment, tmp_path, capsys
):
    message = error(capsys, "evaluate", cascade / "ar_prior", "--clip", other_clip)
    assert "another CLIP" in message
    train = ["train", minute_experiment("ar_prior"), f"clip={other_clip}", f"pca={cascade / 'pca'}"]
    message = error(capsys, *train, f"run.dir={tmp_path / 'run'}")
    assert "pca=" in message
    assert "another CLIP" in message


def test_wrong_pcas_are_refused(cascade, minute_experiment, tmp_path, capsys):
    clip, pca = f"clip={cascade / 'clip'}", f"pca={cascade / 'pca'}"
    fit = ["fit-pca", minute_experiment("pca"), clip]
    assert "give at most 16" in error(capsys, *fit, "pca.components=17")
    assert "pca.components" in error(capsys, *fit, "pca.max_error=0.1")
    assert "fitted, not trained" in error(capsys, "train", minute_experiment("pca"), clip)
    assert "is a clip" in error(capsys, "fit-pca", minute_experiment("clip"))
    train = ["train", minute_experiment("ar_prior"), clip, f"run.dir={tmp_path / 'run'}"]
    assert "model.codes" in error(capsys, *train, pca, "model.codes=5")
    assert "is a clip, but a pca is needed" in error(capsys, *train, f"pca={cascade / 'clip'}")
    assert "no such artifact" in error(capsys, *train, "pca=nowhere")


def test_embeddings_that_are_no_numbers_are_named(cascade, minute_experiment, tmp_path, capsys):
    clip = tmp_path / "clip"
    shutil.copytree(cascade / "clip" / "artifact", clip)
    from safetensors.torch import load_file, save_file

    weights = load_file(clip / "weights.safetensors")
    weights["visual.proj"] = torch.full_like(weights["visual.proj"], 3e38)  # overflows
    save_file(weights, clip / "weights.safetensors")
    header = json.loads((clip / "artifact.json").read_text())
    header["sha256"] = file_sha256(clip / "weights.safetensors")
    (clip / "artifact.json").write_text(json.dumps(header))
    words = ["fit-pca", minute_experiment("pca"), f"clip={clip}", f"run.dir={tmp_path / 'run'}"]
    message = error(capsys, *words)
    assert "image embeddings" in message
    assert "scene-" in message


def test_standardisation_is_fitted_before_training_and_travels(
    cascade, minute_experiment, tmp_path
):
    words = ["train", str(minute_experiment("prior")), f"clip={cascade / 'clip'}"]
    more = ["model.standardise=true", f"run.dir={tmp_path / 'prior'}"]
    assert main([*words, *more]) == 0
    weights = artifacts.describe(tmp_path / "prior").weights()
    assert weights["mean"].abs().max() > 0.01
    assert 0 < weights["std"].max() < 1
    words = ["sample", "a red circle", "--pipeline", str(cascade), "--out", str(tmp_path / "o")]
    assert main([*words, "--prior", str(tmp_path / "prior")]) == 0
