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
        (_lacking, ("embedding_proj.bias", "missing")),
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


def test_a_nearly_right_name_is_answered(tmp_path, capsys):
    for command in (["import", "karloo", "--out", str(tmp_path / "out")], ["plan", "karloo"]):
        assert main(command) == 2
        assert "did you mean the cascade 'karlo'?" in capsys.readouterr().err
    assert main(["sample", "a", "--pipeline", "karloo"]) == 2
    assert "did you mean the cascade 'karlo'?" in capsys.readouterr().err
    assert main(["plan", "runs/nowhere", "--device", "cpu"]) == 2
    assert "nor is it a folder of a cascade" in capsys.readouterr().err


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
