"""Commands that measure with a network in a precision that the user names."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from unclip.cli import main
from unclip.common import artifacts
from unclip.diffusion.analytic import x0_error
from unclip.stages.diffusion_prior import fits
from unclip.stages.diffusion_prior.x0_errors import read_x0_errors


def refused(capsys, *words) -> str:
    assert main([str(word) for word in words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_x0_errors_are_those_of_the_network_in_that_precision(
    cascade, tmp_path, precision, monkeypatch
):
    """As measured: those of a network that has learned nothing are clipped afterwards."""
    found = {}

    def seen(predictor, x0, noise):
        found.setdefault(name, x0_error(predictor, x0, noise))
        return found[name]

    monkeypatch.setattr(fits, "x0_error", seen)
    for name in ("32", precision):
        prior = tmp_path / name
        shutil.copytree(cascade / "prior", prior)
        words = ["--steps", "6", "--samples", "16", "--precision", name]
        assert main(["fit-variance", str(prior), *words]) == 0
        assert list(read_x0_errors(artifacts.describe(prior))) == ["6"]
    assert found[precision].dtype == torch.float64
    assert not torch.equal(found["32"], found[precision])
    torch.testing.assert_close(found[precision], found["32"], rtol=0.01, atol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_pca_of_half_precision_has_statistics_in_float32(
    cascade, minute_experiment, tmp_path, precision
):
    words = ["fit-pca", str(minute_experiment("pca")), f"clip={cascade / 'clip'}"]
    assert main([*words, f"run.dir={tmp_path / 'pca'}", "--precision", precision]) == 0
    half = artifacts.describe(tmp_path / "pca")
    assert half.config["pca"]["precision"] == precision
    exact = artifacts.describe(cascade / "pca").weights()
    for name, found in half.weights().items():
        assert found.dtype == exact[name].dtype != torch.float16
    mean = half.weights()["mean"]
    assert not torch.equal(mean, exact["mean"])
    torch.testing.assert_close(mean, exact["mean"], rtol=0, atol=0.01)


def test_embeddings_of_half_precision_point_nearly_the_same_way(cascade, tmp_path):
    found = {}
    for precision in ("32", "bf16", "fp16"):
        out = tmp_path / precision
        words = ["--limit", "8", "--batch-size", "4", "--dtype", "float32", "--accelerator", "cpu"]
        given = ["embed", "scenes", "--clip", str(cascade / "clip"), "--out", str(out), *words]
        assert main([*given, "--precision", precision]) == 0
        found[precision] = np.load(next(out.glob("img_emb/*.npy")))
    away = [1 - (found[name] * found["32"]).sum(axis=1).min() for name in ("fp16", "bf16")]
    assert 0 < away[0] < 1e-5  # fp16 rounds 8 times more finely
    assert away[0] < away[1] < 1e-3


def test_what_a_cpu_lacks_or_would_do_nothing_is_refused_first(
    cascade, minute_experiment, tmp_path, capsys
):
    fit = ["fit-pca", minute_experiment("pca"), f"clip={cascade / 'clip'}"]
    fit += [f"run.dir={tmp_path / 'pca'}"]
    assert "pca.precision tf32: only NVIDIA" in refused(capsys, *fit, "--precision", "tf32")
    assert "pca.precision" in refused(capsys, *fit, "--precision", "half")
    message = refused(capsys, *fit, "--precision", "bf16", "data.embeddings=somewhere")
    assert "pca.precision='bf16': data.embeddings are made already" in message
    embed = ["embed", "scenes", "--clip", cascade / "clip", "--out", tmp_path / "e"]
    embed += ["--limit", "8", "--accelerator", "cpu"]
    assert "--precision tf32: only NVIDIA" in refused(capsys, *embed, "--precision", "tf32")
    prior = ["fit-variance", cascade / "prior", "--samples", "4"]
    assert "--precision tf32: only NVIDIA" in refused(capsys, *prior, "--precision", "tf32")
    assert "--precision half: must be" in refused(capsys, *prior, "--precision", "half")
    assert not list(tmp_path.iterdir())


def test_steps_that_cannot_be_are_refused_before_others_are_fitted(cascade, capsys, monkeypatch):
    monkeypatch.setattr(fits, "x0_error", None)
    words = ["fit-variance", cascade / "prior", "--steps", "6", "--steps"]
    assert "--steps logsnr0: 'logsnr0' must be a number of steps" in refused(
        capsys, *words, "logsnr0"
    )
    assert "--steps 5000: 5000 steps do not fit" in refused(capsys, *words, "5000")


def test_only_a_diffusion_prior_is_fitted(cascade, capsys):
    line = refused(capsys, "fit-variance", cascade / "decoder")
    assert "is a decoder; Analytic-DPM is for a diffusion_prior" in line
