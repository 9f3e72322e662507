"""A folder that is removed while a command writes there ends it in one line, and stays removed."""

from __future__ import annotations

import shutil

import pytest

from unclip.cli import main
from unclip.data.embedding_store.writer import Writer
from unclip.data.pack.manifest import Manifest
from unclip.runs import fit, train
from unclip.stages.pca import fit as pca
from unclip.stages.upsampler.stage import UpsamplerStage
from unclip.training.callbacks import Samples
from unclip.training.checkpoint_callback import CheckpointCallback


@pytest.fixture
def removing(tmp_path, monkeypatch):
    """Removes the folder that is written to before a function is called, the ``n``-th time."""

    def removing(owner, name, n=1):
        original, calls = getattr(owner, name), []

        def removes(*args, **kwargs):
            calls.append(name)
            if len(calls) == n:
                shutil.rmtree(tmp_path / "out")
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, removes)

    return removing


def ends(capsys, tmp_path, *words) -> str:
    assert main([str(word) for word in words]) == 2
    assert not (tmp_path / "out").exists()
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    (line,) = errors
    assert "gone: the folder was removed or moved" in line
    return line


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (UpsamplerStage, "validation_step"),
        (Samples, "draw"),
        (CheckpointCallback, "save"),
        (train, "finish"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_of_a_run(minute_experiment, tmp_path, capsys, removing, owner, name):
    removing(owner, name)
    more = ["trainer.sample_every=1", "trainer.val_every=2", f"run.dir={tmp_path / 'out'}"]
    ends(capsys, tmp_path, "train", minute_experiment("upsampler"), *more)


def test_of_samples_that_only_an_image_is_made_of(
    minute_experiment, tmp_path, capsys, removing, monkeypatch
):
    removing(UpsamplerStage, "preview")
    monkeypatch.setattr("unclip.tracking.local.JsonlLogger.log_metrics", lambda *_, **__: None)
    more = ["trainer.sample_every=1", f"run.dir={tmp_path / 'out'}"]
    ends(capsys, tmp_path, "train", minute_experiment("upsampler"), *more)


def test_of_a_fit(cascade, minute_experiment, tmp_path, capsys, removing):
    removing(pca, "fit_pca_codec")
    words = [minute_experiment("pca"), f"clip={cascade / 'clip'}", f"run.dir={tmp_path / 'out'}"]
    ends(capsys, tmp_path, "fit-pca", *words)


def test_of_a_fit_that_has_its_artifact(cascade, minute_experiment, tmp_path, capsys, removing):
    removing(fit, "tracked_run")
    words = [minute_experiment("pca"), f"clip={cascade / 'clip'}", f"run.dir={tmp_path / 'out'}"]
    ends(capsys, tmp_path, "fit-pca", *words)


def test_of_embeddings(cascade, tmp_path, capsys, removing):
    removing(Writer, "write", 2)
    words = ["scenes", "--clip", cascade / "clip", "--out", tmp_path / "out", "--shard-size", "16"]
    ends(capsys, tmp_path, "embed", *words, "data.scenes.count=48", "data.num_workers=0")


@pytest.mark.parametrize(("name", "n"), [("save", 1), ("save", 2), ("require_there", 3)])
def test_of_a_pack(tmp_path, capsys, removing, name, n):
    removing(Manifest, name, n)
    words = ["scenes", "--out", tmp_path / "out", "--shard-size", "16", "--limit", "48"]
    ends(capsys, tmp_path, "data", "pack", *words, "--workers", "0")
