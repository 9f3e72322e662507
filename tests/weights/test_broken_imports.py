"""Broken, hostile and mixed sources: one line with the file and the key, nothing written."""

from __future__ import annotations

import collections
import json
import os
import shutil
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from imports import GOLDENS, change, configure, karlo_folder

from unclip.cli import main
from unclip.common import artifacts
from unclip.weights import importing
from unclip.weights.reading.tensors import read_file

WEIGHTS = "diffusion_pytorch_model.safetensors"


def _missing(f):
    (f / "prior" / WEIGHTS).unlink()


def _missing_component(f):
    shutil.rmtree(f / "super_res_last")


def _truncated(f):
    file = f / "decoder" / WEIGHTS
    file.write_bytes(file.read_bytes()[:5000])


def _extra(f):
    change(f / "prior" / WEIGHTS, lambda s: s.update(norm2=torch.zeros(3)))


def _lacking(f):
    change(f / "text_proj" / WEIGHTS, lambda s: s.pop("embedding_proj.bias"))


def _shape(f):
    change(f / "prior" / WEIGHTS, lambda s: s.update(prd_embedding=torch.zeros(1, 1, 5)))


def _last_shape(f):
    change(f / "super_res_last" / WEIGHTS, lambda s: s.update({"conv_in.bias": torch.zeros(5)}))


def _vision_shape(f):
    name = "vision_model.embeddings.class_embedding"
    change(f / "image_encoder" / "model.safetensors", lambda s: s.update({name: torch.zeros(5)}))


def _vision_nan(f):
    name = "visual_projection.weight"
    change(f / "image_encoder" / "model.safetensors", lambda s: s[name].fill_(float("nan")))


def _value(f):
    configure(f / "prior" / "config.json", norm_in_type="layer")


def _scheduler(f):
    configure(f / "decoder_scheduler" / "scheduler_config.json", beta_schedule="sigmoid")


def _another_class(f):
    configure(f / "prior" / "config.json", _class_name="PriorTransformerV2")


def _many_blocks(f):
    configure(f / "super_res_first" / "config.json", layers_per_block=100)


def _learned_prior(f):
    configure(f / "prior_scheduler" / "scheduler_config.json", variance_type="learned_range")


def _unknown_key(f):
    configure(f / "super_res_first" / "config.json", tiling=True)


def _other_clip(f):
    for half in ("text_encoder", "image_encoder"):
        configure(f / half / "config.json", projection_dim=14)


def _nan(f):
    change(f / "super_res_first" / WEIGHTS, lambda s: s["conv_in.bias"].fill_(float("nan")))


def _half_nan(f):
    change(
        f / "text_encoder" / "model.safetensors",
        lambda s: s["text_projection.weight"][0].fill_(float("inf")),
    )


def _escape(f):
    (f / "prior" / WEIGHTS).rename(f.parent / "outside.safetensors")
    index = {"weight_map": {"prd_embedding": "../../outside.safetensors"}}
    (f / "prior" / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def _link(f):
    (f / "prior" / WEIGHTS).rename(f.parent / "outside.safetensors")
    (f / "prior" / WEIGHTS).symlink_to(f.parent / "outside.safetensors")


def _two_projections(f):
    shutil.copytree(f / "text_proj", f / "text_proj2")


def _beyond(f):
    numbers = torch.full((1, 12), 1e300, dtype=torch.float64)
    change(f / "prior" / WEIGHTS, lambda s: s.update(clip_mean=numbers))


def _no_deviation(f):
    change(f / "prior" / WEIGHTS, lambda s: s["clip_std"].zero_())


def _loop(f):
    (f / "prior" / WEIGHTS).unlink()
    (f / "prior" / WEIGHTS).symlink_to(WEIGHTS)


def _long_name(f):
    change(f / "prior" / WEIGHTS, lambda s: s.update({"a" * 100_000: torch.zeros(3)}))


def _revisions(f):
    notes = f / ".cache" / "huggingface" / "download"
    for k, name in enumerate(("prior", "decoder")):
        (notes / name).mkdir(parents=True)
        (notes / name / f"{WEIGHTS}.metadata").write_text(f"{k}abcdef\netag\n1.0\n")


def _another_scheduler(f):
    index = json.loads((f / "model_index.json").read_text())
    index |= {"prior_scheduler": ["diffusers", "DDPMScheduler"]}
    (f / "model_index.json").write_text(json.dumps(index))


def _latent(f):
    index = json.loads((f / "model_index.json").read_text())
    (f / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "VQModel"]}))


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (_missing, ("prior", "missing")),
        (_missing_component, ("super_res_last", "missing")),
        (_truncated, ("decoder/" + WEIGHTS, "safetensors")),
        (_extra, ("prior", "norm2")),
        (_lacking, ("source/text_proj: text_proj.embedding_proj.bias", "missing")),
        (_last_shape, ("source/super_res_last: super_res_last.conv_in.bias", "[5]")),
        (_vision_shape, ("source/image_encoder: vision_model", "[5]")),
        (_vision_nan, ("source/image_encoder: visual_projection.weight", "NaN")),
        (_shape, ("prd_embedding", "[1, 1, 5]")),
        (_value, ("prior/config.json", "norm_in_type=layer")),
        (_scheduler, ("decoder_scheduler", "beta_schedule=sigmoid")),
        (_another_class, ("prior/config.json", "_class_name='PriorTransformerV2'")),
        (_many_blocks, ("super_res_first/config.json", "layers_per_block=100")),
        (_learned_prior, ("prior_scheduler", "variance_type=learned_range")),
        (_unknown_key, ("super_res_first/config.json", "tiling=True")),
        (_other_clip, ("another CLIP", "embed_dim", "14")),
        (_nan, ("conv_in.bias", "NaN")),
        (_half_nan, ("text_projection.weight", "infinite")),
        (_escape, ("index.json", "../../outside.safetensors")),
        (_link, ("prior/" + WEIGHTS, "symbolic link")),
        (_two_projections, ("has 2 of UnCLIPTextProjModel",)),
        (_beyond, ("source/prior: clip_mean", "beyond 3.4e38")),
        (_no_deviation, ("source/prior: clip_std", "not above 0")),
        (_loop, ("prior/" + WEIGHTS, "symbolic link")),
        (_long_name, ("prior/" + WEIGHTS, "aaa...: is a name of 100,000 characters")),
        (_revisions, ("different revisions", "0abcdef", "1abcdef")),
        (_another_scheduler, ("model_index.json", "prior_scheduler=DDPMScheduler")),
        (_latent, ("model_index.json", "vae=VQModel")),
    ],
)
def test_a_broken_folder_is_one_line(tmp_path, capsys, breaks, says):
    source, out = karlo_folder(tmp_path / "source"), tmp_path / "out"
    breaks(source)
    assert main(["import", str(source), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert len(error) < 1000
    for word in says:
        assert word in error
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "outside.safetensors") == [
        "source"
    ]


class Evil:
    """Unpickled, it makes a file in the working folder."""

    def __reduce__(self):
        return os.system, ("touch was_run",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (Evil(), "system"),
        ({"state_dict": {}, "version": Decimal(1)}, "Decimal"),
        ({"state_dict": {"model.prd_emb": "text"}}, "model.prd_emb"),
        ({"state_dict": {"a": torch.zeros(2), "module.a": torch.ones(2)}}, "twice"),
    ],
)
def test_a_pickle_runs_nothing_and_its_class_is_named(tmp_path, monkeypatch, capsys, content, says):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "prior.ckpt")
    assert main(["import", str(tmp_path / "prior.ckpt"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not Path("was_run").exists()


class Named:
    """Unpickled, it calls a function of a module whose objects are passed over."""

    def __reduce__(self):
        return collections.namedtuple, ("Made", "field")


def test_objects_that_are_passed_over_are_not_made(tmp_path, monkeypatch):
    torch.save({"version": Named(), "state_dict": {"a": torch.ones(2)}}, tmp_path / "prior.ckpt")
    made = []
    monkeypatch.setattr(collections, "namedtuple", lambda *given: made.append(given))
    found = read_file(tmp_path / "prior.ckpt", "prior.ckpt")
    assert torch.equal(found["state_dict"]["a"], torch.ones(2))
    assert made == []


@pytest.mark.parametrize("cut", [100, 60_000])
def test_a_truncated_checkpoint_is_one_line(tmp_path, capsys, cut):
    file = tmp_path / "prior.ckpt"
    file.write_bytes((GOLDENS / "karlo" / "prior.ckpt").read_bytes()[:cut])
    assert main(["import", str(file), "--out", str(tmp_path / "out")]) == 2
    assert "prior.ckpt" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


def test_what_is_there_is_kept_unless_forced(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["import", str(GOLDENS / "karlo-diffusers"), "--out", str(out)]
    assert main(command) == 0
    before = (out / "prior" / "weights.safetensors").stat().st_mtime_ns
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err
    assert (out / "prior" / "weights.safetensors").stat().st_mtime_ns == before
    assert main([*command, "--force"]) == 0
    clip = ["import", str(GOLDENS / "clip-transformers"), "--out", str(out)]
    assert main(clip) == 2
    assert "another CLIP" in capsys.readouterr().err


@pytest.mark.parametrize("holds", ["a run", "a file", "a link"])
def test_force_replaces_what_was_imported_and_nothing_else(tmp_path, capsys, holds):
    out = tmp_path / "out"
    command = ["import", str(GOLDENS / "karlo-diffusers"), "--out", str(out), "--force"]
    assert main(command) == 0
    assert main(command) == 0
    if holds == "a link":  # of the last stage: those before it stay too
        (out / "upsampler").rename(tmp_path / "mine")
        (out / "upsampler").symlink_to(tmp_path / "mine")
    else:
        name = "checkpoints/step_3.ckpt" if holds == "a run" else "thesis.txt"
        (out / "prior" / name).parent.mkdir(exist_ok=True)
        (out / "prior" / name).write_text("years")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(out / ("upsampler" if holds == "a link" else "prior")) in error
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("before", [True, False])
def test_of_two_imports_at_once_the_faster_one_stays(tmp_path, monkeypatch, capsys, before):
    """Also where the cascade's folder was there ``before`` either."""
    out, other = tmp_path / "out", tmp_path / "other"
    command = ["import", str(GOLDENS / "karlo-diffusers"), "--out"]
    assert main([*command, str(other)]) == 0
    if before:
        out.mkdir()
    check = importing.check_those_there

    def meanwhile(*args):
        check(*args)
        shutil.copytree(other / "prior", out / "prior")

    monkeypatch.setattr(importing, "check_those_there", meanwhile)
    capsys.readouterr()
    assert main([*command, str(out)]) == 2
    assert f"--out {out}: {out / 'prior'} exists" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["prior"]


def test_a_nearly_right_name_is_answered(tmp_path, capsys):
    for command in (["import", "karloo", "--out", str(tmp_path / "out")], ["plan", "karloo"]):
        assert main(command) == 2
        assert "did you mean the cascade 'karlo'?" in capsys.readouterr().err
    assert main(["sample", "a", "--pipeline", "karloo"]) == 2
    assert "did you mean the cascade 'karlo'?" in capsys.readouterr().err
    assert main(["plan", "runs/nowhere", "--device", "cpu"]) == 2
    assert "nor is it a folder of a cascade" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model_index.json", "model_index.json: is not a file of weights"),
        ("prior/config.json", "config.json: is not a file of weights"),
        ("model-00001-of-00002.safetensors", "is one shard of several; name their folder"),
        ("prior.ckpt", "(ViT-L-14_stats.th) too; give a folder with both"),
    ],
)
def test_a_file_that_is_not_enough_by_itself_names_its_folder(tmp_path, capsys, name, says):
    source = karlo_folder(tmp_path / "source")
    shutil.copy(source / "prior" / WEIGHTS, source / "model-00001-of-00002.safetensors")
    for original in ("prior.ckpt", "stats.th"):
        shutil.copy(GOLDENS / "karlo" / original, source)
    assert main(["import", str(source / name), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        (torch.zeros(5), "stats.th: stats.mean has the shape [5]"),
        (torch.full((12,), float("nan")), "stats.th: stats.mean has a NaN"),
        (None, "stats.th: is a second pair of statistics beside"),
    ],
)
def test_statistics_are_refused_by_their_own_file(tmp_path, capsys, numbers, says):
    for name in ("prior.ckpt", "stats.th", "config.json"):
        shutil.copy(GOLDENS / "karlo" / name, tmp_path)
    if numbers is None:
        shutil.copy(tmp_path / "stats.th", tmp_path / "again.th")
    else:
        torch.save((numbers, torch.ones(len(numbers))), tmp_path / "stats.th")
    assert main(["import", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/{says}" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["a b", "a \N{DOG FACE}", "two\nlines", "\x1b[31mred"])
def test_a_folder_may_have_any_name(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(GOLDENS / "karlo-diffusers" / "prior", tmp_path / name / "prior")
    note = tmp_path / name / ".cache/huggingface/download/prior/config.json.metadata"
    note.parent.mkdir(parents=True)
    note.write_bytes(b"\xff\x00\n")
    out = f"out {name.strip(chr(27))}"
    assert main(["import", name, "--out", out]) == 0
    assert main(["import", name, "--out", out]) == 2
    assert main(["export", out, "--to", "diffusers", "--out", f"back {name}"]) == 0
    assert "\x1b" not in capsys.readouterr().err
    imported = artifacts.describe(Path(out) / "prior").provenance["imported"]
    assert "revision" not in imported
    assert imported["source"].isprintable()


@pytest.mark.parametrize(
    ("source", "out", "says"),
    [
        ("fine", "\x1b[31mred", "--out \\x1b[31mred: holds control characters"),
        ("fine", "\udcff", "\\udcff: its name is not UTF-8"),
        ("\udcff", "fine", "\\udcff: its name is not UTF-8"),
    ],
)
def test_names_that_no_file_can_hold_are_refused(tmp_path, monkeypatch, capsys, source, out, says):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(GOLDENS / "karlo-diffusers" / "prior", tmp_path / source)
    before = set(tmp_path.iterdir())
    assert main(["import", source, "--out", out]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_of_another_source_only_its_clip_is_asked(tmp_path, capsys):
    """Networks beside the CLIP need nothing, such as GLIDE's merges or Karlo's statistics."""
    source, clip, out = tmp_path / "source", tmp_path / "clip", tmp_path / "out"
    shutil.copytree(GOLDENS / "karlo-diffusers" / "prior", source)
    command = ["import", str(source), "--out", str(out), "--clip"]
    for name in ("glide/base.pt", "karlo/prior.ckpt"):
        clip.mkdir(exist_ok=True)
        shutil.copy(GOLDENS / name, clip)
        assert main([*command, str(clip)]) == 2
        assert capsys.readouterr().err == f"unclip: error: --clip {clip}: holds no CLIP\n"
    shutil.rmtree(clip)
    karlo_folder(clip)
    shutil.rmtree(clip / "decoder")  # so that its model_index.json is not true
    assert main([*command, str(clip)]) == 0
    assert main([*command, str(clip / "image_encoder"), "--force"]) == 2
    assert (
        "image_encoder: holds the image half of a CLIP; give both halves" in capsys.readouterr().err
    )


def test_what_holds_no_stage_is_refused(tmp_path, capsys):
    source, out = karlo_folder(tmp_path / "source"), tmp_path / "out"
    before = sorted(tmp_path.rglob("*"))
    for words, says in (
        ([str(source / "text_proj"), "--out", str(out)], "text_proj: holds no whole stage"),
        (["", "--out", str(out)], "SOURCE: must not be empty"),
        ([str(source), "--out", str(source)], "source: is the source itself"),
    ):
        assert main(["import", *words]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
