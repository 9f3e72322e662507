"""Every command that takes a cascade or a stage works on imported weights: the tiny Karlo."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from imports import CONTEXT, clip_folder, karlo_folder
from PIL import Image
from test_other_imports import glide_folder

from unclip.cli import main
from unclip.common import artifacts
from unclip.pipeline.cascade import open_folder
from unclip.weights.importing import import_weights

DECODER = ["decoder.steps=2", "upsampler.steps=2"]
STEPS = ["prior.steps=2", *DECODER]
ONCE = ["--iterations", "1"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the cascade ``karlo``, an image and a mask."""
    root = tmp_path_factory.mktemp("commands")
    import_weights(str(karlo_folder(root / "source")), root / "karlo")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "a.png")
    keep = np.full((40, 40), 255, np.uint8)
    keep[:, 20:] = 0
    Image.fromarray(keep).save(root / "mask.png")
    return root


@pytest.fixture
def run(project, monkeypatch, capsys):
    """Run a command there; returns what it printed."""
    monkeypatch.chdir(project)

    def command(*words, status=0):
        assert main([str(word) for word in words]) == status, capsys.readouterr().err
        said = capsys.readouterr()
        if status:
            assert [x for x in said.err.splitlines() if x.startswith("unclip: error")]
            assert "Traceback" not in said.err
        return said.err if status else said.out

    return command


HERE = ("--pipeline", "karlo")


@pytest.mark.parametrize("precision", ["32", "bf16", "fp16"])
def test_images_are_drawn_and_changed_in_every_precision(run, tmp_path, precision):
    hole = ["--mask", "mask.png", "--caption", "a cat", "--n", "1"]
    for words in (
        ["sample", "a corgi", *STEPS],
        ["vary", "a.png", "--n", "1", *DECODER, *ONCE],
        ["interpolate", "a.png", "a.png", "--n", "2", *DECODER, *ONCE],
        ["edit", "a.png", "--to", "a cat", "--n", "2", *DECODER, *ONCE],
        ["inpaint", "a.png", *hole, *STEPS],
    ):
        out = tmp_path / words[0]
        run(*words, *HERE, "--precision", precision, "--out", out)
        figure = "grid" if words[0] == "sample" else words[0]
        assert (out / f"{figure}.png").is_file()
    with Image.open(tmp_path / "sample" / "a-corgi_seed0.png") as found:
        assert found.size == (32, 32)


def test_an_inpainted_image_keeps_what_is_to_be_kept(run, tmp_path):
    words = ["--mask", "mask.png", "--caption", "a cat", "--n", "1", "--out", tmp_path]
    run("inpaint", "a.png", *words, *HERE, *STEPS)
    with Image.open(tmp_path / "a_seed0.png") as drawn, Image.open("a.png") as photo:
        wanted = photo.resize((32, 32), Image.Resampling.BICUBIC)
        apart = abs(np.asarray(drawn).astype(int) - np.asarray(wanted))
    assert apart[:, :12].mean() < 12 < apart[:, 20:].mean()


@pytest.mark.parametrize("verb", ["conditioning", "guidance", "binding", "relations"])
def test_probes_of_captions(run, tmp_path, verb):
    own = ["a corgi"] if verb in ("conditioning", "guidance") else []
    words = ["probe", verb, *own, "--n", "1", *HERE, "--precision", "bf16", "--out", tmp_path]
    run(*words, *STEPS)
    assert (tmp_path / f"{verb}.png").is_file()


def test_probes_of_images(run, tmp_path):
    words = ["--word", "iPod", "--label", "an apple", "--label", "an iPod", "--n", "1"]
    run("probe", "typographic", "a.png", *words, *HERE, *DECODER, "--out", tmp_path)
    assert (tmp_path / "typographic.png").is_file()
    said = run("probe", "pca", "a.png", *HERE, *DECODER, "--out", tmp_path, status=2)
    assert "make one with `unclip fit-pca`" in said


def test_a_pca_of_its_raw_embeddings_is_fitted_and_probed(run, project, tmp_path):
    out = project / "karlo" / "pca"
    fit = ["pca/tiny", "clip=karlo/clip", "pca.samples=200", "data.batch_size=50"]
    run("fit-pca", *fit, f"run.dir={out}", "pca.components=6", "pca.max_error=null")
    assert artifacts.describe(out).embeddings == "raw"
    run("probe", "pca", "a.png", "--dims", "2", "6", *HERE, *DECODER, "--out", tmp_path)
    assert (tmp_path / "pca.png").is_file()


def test_figures(run, tmp_path):
    images = ["--images", *["a.png"] * 4]
    run("figures", "karlo", *images, "--precision", "32", "--out", tmp_path / "f", *STEPS)
    page = (tmp_path / "f" / "index.html").read_text()
    assert "karlo" in page


@pytest.mark.slow
def test_figures_of_scenes_say_that_it_was_not_trained_on_them(run, tmp_path):
    run("figures", "karlo", "--out", tmp_path / "f", *STEPS)
    assert (tmp_path / "f" / "index.html").is_file()


def test_evaluations(run, tmp_path):
    found = json.loads(run("evaluate", "karlo", "--n", "2", "--json", *STEPS))
    assert found["oracle/colour"] >= 0
    run("evaluate", "karlo", "--n", "2", "precision=bf16", *STEPS)
    found = json.loads(run("evaluate", "karlo/prior", "--n", "4", "--json", "prior.steps=2"))
    assert found
    found = json.loads(
        run("evaluate", "karlo/upsampler", "--n", "2", "--json", "upsampler.steps=2")
    )
    assert found


def test_variances_are_fitted_to_its_prior(run):
    run("fit-variance", "karlo/prior", "--samples", "8", "--steps", "3")


def test_plans_and_listings(run):
    assert "parameters, 1 image at a time" in run("plan", "karlo", "--device", "cpu")
    assert "there is no run in it" in run("runs", "list", "--root", "karlo/prior", status=2)
    assert "experiment.yaml" in run("runs", "show", "karlo/prior", status=2)


def test_it_is_not_a_run_to_share_and_says_so(run, tmp_path):
    said = run("share", "karlo", "--to", tmp_path / "karlo.zip", "--weights", status=2)
    assert "karlo/clip was imported and has no run to repeat" in said
    said = run("share", "karlo/prior", "--to", tmp_path / "prior.zip", status=2)
    assert "karlo/prior was imported and has no run to repeat" in said
    assert not list(tmp_path.iterdir())


def test_a_demo_can_do_everything_with_it(run):
    from unclip.demo.studio import Studio
    from unclip.pipeline.pipeline import Pipeline

    studio = Studio(Pipeline.load("karlo"))
    assert studio.size == 32
    assert studio.lacks(caption=True) is None
    assert studio.lacks(caption=False) is None


def test_a_stage_is_trained_further_over_its_clip(run, project, tmp_path):
    small = ["trainer.max_steps=2", "trainer.accelerator=cpu", "data.batch_size=4"]
    small += ["data.val_samples=4", "trainer.val_every=2", "trainer.sample_every=0"]
    run("train", "prior/tiny", "clip=karlo/clip", f"run.dir={tmp_path / 'run'}", *small)
    assert artifacts.describe(tmp_path / "run").embeddings == "raw"
    assert Path("karlo/clip").is_dir()


@pytest.fixture(scope="module")
def glide(project):
    """GLIDE's inpainting decoder in the folder ``glide``, and beside a CLIP in ``with-clip``."""
    source = str(glide_folder(project / "glide-source", "base_inpaint"))
    import_weights(source, project / "glide")
    clip = str(clip_folder(project / "clip-source"))
    return import_weights(source, project / "with-clip", clip=clip)


GLIDE = ("--pipeline", "glide", "decoder.steps=3")


def test_glides_inpainting_network_does_without_repaint(run, glide, tmp_path, monkeypatch):
    from unclip.stages.decoder import sampling

    def repaint(*args, **kwargs):
        raise AssertionError("RePaint")

    words = ["a.png", "--mask", "mask.png", "--caption", "a cat", "--n", "1"]
    run("inpaint", *words, "--resample", "2", *GLIDE, "--out", tmp_path / "repaint")
    monkeypatch.setattr(sampling, "inpaint", repaint)
    run("inpaint", *words, *GLIDE, "--out", tmp_path / "trained")
    with pytest.raises(AssertionError, match="RePaint"):
        run("inpaint", *words, "--resample", "2", *GLIDE, "--out", tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["glide", pytest.param("with-clip", marks=pytest.mark.slow)])
def test_the_other_commands_on_glide(run, glide, tmp_path, name):
    place = ("--pipeline", name, "decoder.steps=3")
    run("sample", "a cat", *place, "--precision", "bf16", "--out", tmp_path / "s")
    stages = json.loads(run("plan", name, "--device", "l4", "--json"))["stages"]
    assert len(stages) == 1 + (name == "with-clip")
    run("evaluate", name, "--n", "1", "decoder.steps=3")
    for words in (
        ["vary", "a.png", "--n", "1"],
        ["interpolate", "a.png", "a.png"],
        ["edit", "a.png", "--to", "a cat"],
        ["probe", "typographic", "a.png", "--word", "x", "--label", "a", "--label", "b"],
    ):
        said = run(*words, *place, "--out", tmp_path / words[0], status=2)
        assert "takes" in said or ("clip: " in said and name == "glide")
        assert said.count("\n") == 1
    run("figures", name, "decoder.steps=3", "--out", tmp_path / "f")


def test_a_clip_changes_no_image_of_glides(run, glide, tmp_path, capsys):
    """Nor does the import say that sampling needs one, as it does of Karlo's decoder."""
    assert main(["import", "glide-source", "--out", str(tmp_path / "again")]) == 0
    assert capsys.readouterr().err == ""
    for name in ("glide", "with-clip"):
        words = ["--pipeline", name, "decoder.steps=3", "--out", tmp_path / name]
        run("sample", "a cat", "word " * 90, *words)
    one, two = (sorted((tmp_path / name).rglob("*.png")) for name in ("glide", "with-clip"))
    assert [Image.open(p).tobytes() for p in one] == [Image.open(p).tobytes() for p in two]
    assert one


def test_a_caption_is_counted_by_what_reads_it(glide, project):
    for name in ("glide", "with-clip"):
        cascade = open_folder(project / name)
        assert cascade.tokenizer.context == cascade.decoder.net.config.text.context
    assert open_folder(project / "karlo").tokenizer.context == CONTEXT


def test_what_reads_a_clip_is_refused_without_it(run, project, tmp_path):
    shutil.copytree(project / "karlo", tmp_path / "karlo")
    shutil.rmtree(tmp_path / "karlo" / "clip")
    said = run("sample", "a cat", "--pipeline", tmp_path / "karlo", status=2)
    assert f"decoder={tmp_path}/karlo/decoder: depends on a CLIP, and clip is missing; add" in said
