"""Trained from embeddings on disk, stages see the losses that they see encoding on the fly."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from unclip.cli import main
from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.data.config import ScenesConfig
from unclip.data.scenes.dataset import Scenes
from unclip.runs.fit import fit
from unclip.runs.train import train
from unclip.tracking.files import read_metrics

BATCHES = ("--shard-size", "24", "--batch-size", "4")  # as in training: products of the same shape


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Scenes as a parquet file, because the built-in ones have a split of their own."""
    folder = tmp_path_factory.mktemp("scenes")
    samples = list(Scenes(ScenesConfig(), size=16, count=64))
    columns = {"image": [], "caption": []}
    for sample in samples:
        file = folder / f"{sample.key}.png"
        Image.fromarray(sample.image).save(file)
        columns["image"].append({"bytes": file.read_bytes(), "path": file.name})
        columns["caption"].append(sample.captions[0])
    pq.write_table(pa.table(columns), folder / "scenes.parquet")
    return folder / "scenes.parquet"


@pytest.fixture(scope="module")
def embedded(scenes, cascade, tmp_path_factory):
    """Folders of its embeddings, by dtype."""
    root = tmp_path_factory.mktemp("embedded")
    for dtype in ("float32", "float16"):
        words = ["embed", str(scenes), "--clip", str(cascade / "clip"), "--out", str(root / dtype)]
        assert main([*words, "--dtype", dtype, *BATCHES, "--accelerator", "cpu"]) == 0
    return root


def steps(kind, more):
    """Twenty, but for the larger networks."""
    return 20 if kind != "decoder" and not more else 4


@pytest.fixture(scope="module")
def trained(cascade, minute_experiment, scenes, embedded, tmp_path_factory):
    """Trains each once, from embeddings (a dtype or a folder) or on the fly; the run's folder."""
    runs = {}

    def run(kind, dtype, *more):
        if (kind, dtype, more) not in runs:
            folder = runs[kind, dtype, more] = tmp_path_factory.mktemp("runs") / kind
            given = [f"clip={cascade / 'clip'}", f"run.dir={folder}", f"data.source={scenes}"]
            if kind == "ar_prior":
                given.append(f"pca={cascade / 'pca'}")
            if dtype is not None:
                given.append(f"data.embeddings={embedded / dtype}")
            common = ["data.held_out=0.1", f"trainer.max_steps={steps(kind, more)}"]
            train(load_experiment(str(minute_experiment(kind)), [*given, *common, *more]))
        return runs[kind, dtype, more]

    return run


def losses(run):
    rows = read_metrics(run / "metrics.jsonl")
    return torch.tensor(
        [row[name] for name in ("train/loss", "val/loss") for row in rows if name in row]
    )


OWN_TOKENS = ("model.caption=bpe", "model.context=20")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more"), [("prior", ()), ("prior", OWN_TOKENS), ("ar_prior", ()), ("decoder", ())]
)
def test_the_losses_are_those_of_encoding_on_the_fly(trained, kind, more):
    fly = losses(trained(kind, None, *more))
    assert len(fly) == steps(kind, more) + 2
    exact = losses(trained(kind, "float32", *more))
    torch.testing.assert_close(exact, fly, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "most"),
    [("prior", 1e-3), ("ar_prior", 0.03)],  # rounded, some numbers fall into the next bucket
)
def test_float16_costs_little(trained, kind, most):
    fly, half = losses(trained(kind, None)), losses(trained(kind, "float16"))
    torch.testing.assert_close(half, fly, atol=most, rtol=0)
    assert not torch.equal(half, fly)


def test_a_folder_without_texts_tokens_and_manifest_gives_the_same_losses(
    trained, embedded, tmp_path
):
    for kind in ("img_emb", "metadata"):  # what clip-retrieval writes at the least
        shutil.copytree(embedded / "float32" / kind, tmp_path / kind)
    fly = losses(trained("prior", None))
    torch.testing.assert_close(losses(trained("prior", tmp_path)), fly, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_without_images_a_prior_has_its_metrics_and_a_decoder_its_samples(trained):
    prior, decoder = trained("prior", "float32"), trained("decoder", "float32")
    for run, metric in ((prior, "val/cosine"), (decoder, "val/clip_cosine")):
        summary, on_the_fly = (
            json.loads((folder / "summary.json").read_text())["metrics"][metric]
            for folder in (run, trained(run.name, None))
        )
        assert summary == pytest.approx(on_the_fly, abs=1e-4)
    assert not (prior / "samples").exists()
    assert (decoder / "samples/step_0000004.png").is_file()


@pytest.mark.slow
def test_a_codec_fitted_to_embeddings_is_that_of_the_images(
    cascade, minute_experiment, scenes, embedded, tmp_path
):
    def fitted(name, *more):
        given = [f"clip={cascade / 'clip'}", f"run.dir={tmp_path / name}", f"data.source={scenes}"]
        fit(load_experiment(str(minute_experiment("pca")), [*given, *more]))
        return artifacts.describe(tmp_path / name).weights()

    fly = fitted("fly")
    stored = fitted("stored", f"data.embeddings={embedded / 'float32'}")
    for name, value in fly.items():
        torch.testing.assert_close(stored[name], value, atol=1e-5, rtol=0)


def test_standardisation_and_evaluation_read_embeddings_too(trained, scenes, capsys):
    run = trained("prior", "float32", "model.standardise=true")
    weights = artifacts.describe(run).weights()
    assert 0 < weights["std"].max() < 1
    capsys.readouterr()
    found = {}
    for name, more in {"stored": [], "images": ["--data", str(scenes)]}.items():
        assert main(["evaluate", str(run), "--n", "6", "--json", *more]) == 0
        found[name] = json.loads(capsys.readouterr().out)[0]["metrics"]
    assert found["stored"]["n"] == found["images"]["n"]
    for name, value in found["images"].items():
        assert found["stored"][name] == pytest.approx(value, abs=1e-3, rel=1e-3), name
    assert main(["fit-variance", str(run), "--steps", "4", "--samples", "16"]) == 0


def test_a_prior_memorises_a_batch_of_embeddings_or_says_what_came_of_it(
    cascade, minute_experiment, embedded, monkeypatch, capsys
):
    monkeypatch.setattr("unclip.runs.overfit.STEPS", 2)
    given = [f"clip={cascade / 'clip'}", f"data.embeddings={embedded / 'float32'}"]
    words = ["overfit", str(minute_experiment("prior")), *given]
    assert main(words) == 2
    assert "not memorised in 2 steps of 4 samples" in capsys.readouterr().err


def test_a_missing_codec_is_fitted_to_the_same_embeddings(
    cascade, minute_experiment, embedded, tmp_path, monkeypatch
):
    seen = []

    def fit(resolved, **options):
        seen.append(resolved.config.data.embeddings)
        raise UserError("enough")

    monkeypatch.setattr("unclip.runs.train.fit", fit)
    given = [f"clip={cascade / 'clip'}", f"run.root={tmp_path}", "pca=pca/tiny"]
    folder = str(embedded / "float16")
    resolved = load_experiment(
        str(minute_experiment("ar_prior")), [*given, f"data.embeddings={folder}"]
    )
    with pytest.raises(UserError, match="enough"):
        train(resolved, with_parents=True)
    assert seen == [folder]


def test_embeddings_of_another_clip_are_refused(
    cascade, minute_experiment, embedded, tmp_path, capsys
):
    words = ["train", str(minute_experiment("clip")), f"run.dir={tmp_path / 'clip'}"]
    assert main([*words, "trainer.seed=9", "trainer.max_steps=1"]) == 0
    given = [f"clip={tmp_path / 'clip'}", f"data.embeddings={embedded / 'float16'}"]
    for kind in ("prior", "decoder"):
        words = ["train", str(minute_experiment(kind)), *given, f"run.dir={tmp_path / kind}"]
        capsys.readouterr()
        assert main(words) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith("unclip: error: data.embeddings: ")
        assert "was made with another CLIP" in line
        assert "\n" not in line


@pytest.mark.parametrize("kind", ["prior", "ar_prior", "decoder"])
def test_a_resume_with_other_embeddings_is_refused_and_changes_nothing(
    trained, minute_experiment, embedded, kind
):
    run = trained(kind, "float32")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    other = f"data.embeddings={embedded / 'float16'}"
    given = [f"run.dir={run}", other, "trainer.max_steps=30"]
    with pytest.raises(UserError) as caught:
        train(load_experiment(str(minute_experiment(kind)), given), resume=True)
    line = str(caught.value)
    assert line.startswith("--resume: data.source=")
    assert f"{other}: other samples (fingerprint " in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_same_embeddings_may_be_elsewhere_on_a_resume(
    trained, minute_experiment, embedded, tmp_path
):
    run = shutil.copytree(trained("prior", "float32"), tmp_path / "run")
    moved = shutil.copytree(embedded / "float32", tmp_path / "moved")
    given = [f"run.dir={run}", f"data.embeddings={moved}", "trainer.max_steps=21"]
    found = train(load_experiment(str(minute_experiment("prior")), given), resume=True)
    assert found.summary["steps"] == 21
