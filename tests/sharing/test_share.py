"""What is packed, where it goes, and what it does not tell."""

from __future__ import annotations

import getpass
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from unclip.cli import main
from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.sharing.bundle import read
from unclip.sharing.layout import read_manifest


def error(capsys, *words) -> str:
    assert main([str(word) for word in words]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("unclip: error: ")
    assert len(line.splitlines()) == 1
    return line


@pytest.fixture(scope="module")
def marked(cascade, tmp_path_factory) -> Path:
    """The AR prior's run and its parents below a folder of a telling name."""
    root = tmp_path_factory.mktemp("marigold") / "home of marigold"
    for kind in ("clip", "pca", "ar_prior"):
        shutil.copytree(cascade / kind, root / kind)
        for name in ("experiment.yaml", "artifact/config.yaml", "artifact/provenance.json"):
            text = (root / kind / name).read_text()
            (root / kind / name).write_text(text.replace(str(cascade), str(root)))
    record = root / "ar_prior" / "artifact" / "provenance.json"
    words = f"unclip train '{root}/x.yaml' 'clip={root}/clip' run.root=../../marigold/runs"
    machine = {"home": f"~{getpass.getuser()}/marigold/x", "of": ["gpu on lab7.example.org"]}
    content = json.loads(record.read_text()) | {"command": words, "machine": machine}
    record.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("to", ["bundle.zip", "bundle"])
def test_a_bundle_holds_the_run_and_its_parents(marked, tmp_path, capsys, to):
    where = tmp_path / to
    assert main(["share", str(marked / "ar_prior"), "--to", str(where), "--weights"]) == 0
    assert capsys.readouterr().out.strip() == str(where)
    if to.endswith(".zip"):
        zipfile.ZipFile(where).extractall(tmp_path / "bundle")
    folder = tmp_path / "bundle"
    bundle = read(folder, read_manifest(folder / "manifest.json", to), to)
    assert list(bundle.parts) == ["run", "clip", "pca"]
    assert {name: part.experiment.stage.name for name, part in bundle.parts.items()} == {
        "run": "ar_prior",
        "clip": "clip",
        "pca": "pca",
    }
    settings = bundle.run.experiment.config
    assert (settings.clip, settings.pca) == ("parents/clip", "parents/pca")
    assert bundle.parts["pca"].experiment.config.clip == "parents/clip"
    assert (
        settings.trainer == load_experiment(str(marked / "ar_prior/experiment.yaml")).config.trainer
    )
    assert len(list(folder.glob("samples/*.png"))) == 1
    for name, part in bundle.parts.items():
        there = marked / ("ar_prior" if name == "run" else name)
        assert artifacts.describe(part.folder).sha256 == artifacts.describe(there).sha256


def test_it_does_not_tell_where_nor_by_whom(marked, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.node", lambda: "lab7.example.org")
    main(["share", str(marked / "ar_prior"), "--to", str(tmp_path / "b"), "--weights"])
    for path in (tmp_path / "b").rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            data = path.read_bytes()
            assert b"marigold" not in data, path
            assert b"lab7" not in data, path
    provenance = json.loads((tmp_path / "b" / "provenance.json").read_text())
    assert provenance["machine"] == {"home": "x", "of": ["gpu on host"]}
    assert provenance["command"] == "unclip train x.yaml clip=clip run.root=runs"
    experiment = yaml.safe_load((tmp_path / "b" / "experiment.yaml").read_text())
    assert experiment["run"] == {"root": "runs", "dir": None}


def test_the_same_run_gives_the_same_bytes(marked, tmp_path):
    for name in ("one.zip", "two.zip"):
        assert main(["share", str(marked / "ar_prior"), "--to", str(tmp_path / name)]) == 0
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_without_weights_it_has_none(packed):
    assert not any(name.endswith(".safetensors") for name in packed(weights=False))
    assert set(packed()) - set(packed(weights=False)) == {
        f"{part}artifact/{name}" for part in ("", "parents/clip/") for name in artifacts.FILES
    }


def test_the_card_says_what_it_is(marked, tmp_path):
    words = ["--to", str(tmp_path / "b"), "--license", "cc-by-4.0"]
    assert main(["share", str(marked / "ar_prior"), *words]) == 0
    _, head, text = (tmp_path / "b" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head) == {
        "license": "cc-by-4.0",
        "library_name": "unclip",
        "tags": ["unclip", "dall-e-2", "ar-prior"],
    }
    provenance = artifacts.describe(marked / "ar_prior").provenance
    assert provenance["data_fingerprint"] in text
    assert f"| val/loss | {provenance['metrics']['val/loss']:.6g} |" in text
    assert "unclip reproduce BUNDLE" in text
    assert "## Limits" in text
    (sample,) = (tmp_path / "b" / "samples").iterdir()
    assert f"(samples/{sample.name})" in text


def test_nothing_is_replaced_unasked(cascade, tmp_path, capsys):
    for to, more in (("b.zip", []), ("b", [])):
        words = ["share", cascade / "clip", "--to", tmp_path / to]
        assert main([str(w) for w in words]) == 0
        capsys.readouterr()
        assert "exists; name another" in error(capsys, *words)
        assert main([*(str(w) for w in words), "--force"]) == 0
    (tmp_path / "dear").mkdir()
    (tmp_path / "dear" / "letter").write_text("dear")
    words = ["share", cascade / "clip", "--to", tmp_path / "dear", "--force"]
    capsys.readouterr()
    assert "--force replaces bundles only" in error(capsys, *words)
    assert [p.name for p in (tmp_path / "dear").iterdir()] == ["letter"]


def test_what_cannot_be_shared(marked, cascade, minute_experiment, tmp_path, capsys):
    to = ["--to", tmp_path / "b.zip"]
    assert "no such experiment" in error(capsys, "share", "prior/nowhere", *to)
    (tmp_path / "empty").mkdir()
    assert "RUN=" in error(capsys, "share", tmp_path / "empty", *to)
    artifact = marked / "ar_prior" / "artifact"
    shutil.copytree(artifact, tmp_path / "alone" / "artifact")
    assert "which has a summary.json" in error(capsys, "share", tmp_path / "alone", *to)
    wrong = [*to, "--license", "My Own"]
    assert "--license My Own: must be" in error(capsys, "share", cascade / "clip", *wrong)
    assert "cannot be written" in error(
        capsys, "share", cascade / "clip", "--to", "/proc/nowhere/b.zip"
    )
    assert not list(tmp_path.glob("b*"))


def test_a_parent_that_has_changed_is_refused(cascade, minute_experiment, tmp_path, capsys):
    shutil.copytree(cascade / "prior", tmp_path / "prior")
    words = ["train", str(minute_experiment("clip")), f"run.dir={tmp_path / 'other'}"]
    assert main([*words, "trainer.seed=9"]) == 0
    file = tmp_path / "prior" / "artifact" / "config.yaml"
    text = file.read_text()
    file.write_text(text.replace(str(cascade / "clip"), str(tmp_path / "other")))
    assert file.read_text() != text
    capsys.readouterr()
    message = error(capsys, "share", tmp_path / "prior", "--to", tmp_path / "b.zip")
    assert "is not the CLIP that" in message


def test_what_others_could_not_take_is_not_shared(cascade, tmp_path):
    from unclip.sharing.gather import gather

    shutil.copytree(cascade / "clip", tmp_path / "clip")
    file = tmp_path / "clip" / "artifact" / "config.yaml"
    file.write_text(file.read_text().replace("max_steps: 3", "max_steps: 20000000"))
    with pytest.raises(UserError, match=r"max_steps=20000000: the most that a bundle may have"):
        gather(str(tmp_path / "clip"), weights=False)


def test_a_fitted_pca_is_shared_and_verified_like_a_trained_stage(cascade, tmp_path, capsys):
    assert main(["share", str(cascade / "pca"), "--to", str(tmp_path / "b"), "--weights"]) == 0
    text = (tmp_path / "b" / "README.md").read_text()
    assert "| explained_variance |" in text
    assert "optimizer steps" not in text
    assert main(["reproduce", str(tmp_path / "b"), "--check-only"]) == 0


def test_a_run_whose_samples_are_gone_is_refused(cascade, tmp_path, capsys):
    for kind in ("clip", "prior"):
        shutil.copytree(cascade / kind, tmp_path / kind)
    summary = tmp_path / "prior/summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"has_samples": True}))
    shutil.rmtree(tmp_path / "prior/samples", ignore_errors=True)
    line = error(capsys, "share", tmp_path / "prior", "--to", tmp_path / "bundle.zip")
    assert f"{tmp_path / 'prior/samples'}: its samples are gone" in line
    assert "--resume" in line
    assert not (tmp_path / "bundle.zip").exists()


@pytest.mark.parametrize("to", ["b.zip", "b"])
def test_a_cascades_bundle_is_replaced_too(cascade, tmp_path, capsys, to):
    root = tmp_path / "cascade"
    for kind in ("clip", "prior", "decoder", "upsampler"):
        shutil.copytree(cascade / kind, root / kind)
    words = ["share", str(root), "--to", str(tmp_path / to), "--weights"]
    for more in ([], ["--force"], ["--force"]):
        assert main([*words, *more]) == 0
    if to == "b":
        (tmp_path / "b/thesis.txt").write_text("years")
        assert "holds thesis.txt" in error(capsys, *words, "--force")
        assert (tmp_path / "b/thesis.txt").read_text() == "years"
