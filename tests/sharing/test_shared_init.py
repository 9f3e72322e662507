"""Bundles of runs that began from other weights: these are named by their checksum."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest

from unclip.cli import main
from unclip.common import artifacts
from unclip.sharing import rerun


@pytest.fixture
def shared(cascade, minute_experiment, tmp_path, monkeypatch):
    """A bundle of an upsampler that began from that of the cascade."""
    monkeypatch.setattr(rerun, "in_a_process", lambda words, variables: main(words))
    monkeypatch.chdir(tmp_path)
    words = ["train", str(minute_experiment("upsampler")), "run.dir=run"]
    assert main([*words, f"init={cascade / 'upsampler'}"]) == 0
    assert main(["share", "run", "--to", "b.zip", "--weights"]) == 0
    return tmp_path / "b.zip"


def error(capsys, *words):
    capsys.readouterr()
    assert main(list(words)) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_reproduced_from_the_same_weights_it_has_the_same_bits(shared, cascade, capsys):
    with zipfile.ZipFile(shared) as archive:
        assert not [name for name in archive.namelist() if "init" in name]
        provenance = json.loads(archive.read("provenance.json"))
        assert b"init: parents/init" in archive.read("experiment.yaml")
    sha256 = artifacts.describe(cascade / "upsampler").sha256
    assert provenance["parents"]["init"] == provenance["init"]["sha256"] == sha256
    assert str(cascade) not in json.dumps(provenance)
    assert main(["reproduce", "b.zip", f"init={cascade}", "--dir", "out"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("bit-identical")
    assert "init." not in said


def test_without_them_or_from_others_nothing_is_trained(shared, tmp_path, capsys):
    line = error(capsys, "reproduce", "b.zip", "--dir", "out")
    assert "began from other weights" in line
    assert "init=PATH" in line
    assert "than the run began from" in error(capsys, "reproduce", "b.zip", "init=run")
    assert not (tmp_path / "out").exists()


def test_a_hostile_place_to_begin_from_is_refused(shared, tmp_path, capsys):
    with zipfile.ZipFile(shared) as archive:
        archive.extractall(tmp_path / "open")
    file = tmp_path / "open" / "experiment.yaml"
    file.write_text(file.read_text().replace("init: parents/init", "init: decoder/tiny"))
    twin = tmp_path / "open" / "artifact" / "config.yaml"
    twin.write_text(file.read_text())
    from unclip.common.hashing import file_sha256

    manifest = json.loads((tmp_path / "open" / "manifest.json").read_text())
    for name in ("experiment.yaml", "artifact/config.yaml"):
        path = tmp_path / "open" / name
        manifest["files"][name] = {"sha256": file_sha256(path), "size": path.stat().st_size}
    (tmp_path / "open" / "manifest.json").write_text(json.dumps(manifest))
    assert "must be parents/init" in error(capsys, "reproduce", "open")


def test_a_run_over_an_imported_clip_asks_for_it(
    cascade, minute_experiment, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(rerun, "in_a_process", lambda words, variables: main(words))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(artifacts.describe(cascade / "clip").path, "clip")
    file = tmp_path / "clip" / "provenance.json"
    provenance = json.loads(file.read_text()) | {"imported": {"source": "karlo"}}
    del provenance["metrics"]  # which an import has none of
    file.write_text(json.dumps(provenance))
    assert main(["train", str(minute_experiment("prior")), "run.dir=run", "clip=clip"]) == 0
    assert main(["share", "run", "--to", "b.zip"]) == 0
    line = error(capsys, "reproduce", "b.zip", "--dir", "out")
    assert "its clip was imported (from karlo), not trained; give clip=PATH" in line
    assert not (tmp_path / "out").exists()
    assert main(["reproduce", "b.zip", "clip=clip", "--dir", "out"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("bit-identical")
    assert main(["share", "run", "--to", "whole.zip", "--weights"]) == 0
    assert main(["reproduce", "whole.zip", "--dir", "again"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("bit-identical")
    (tmp_path / "run" / "metrics.jsonl").unlink()  # as of a run of a few steps
    assert main(["share", "run", "--to", "short.zip"]) == 0
