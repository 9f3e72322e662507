"""Where a run comes from is written once, and what is new about a resumed one beside it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import unclip
from unclip.tracking import provenance

GIVEN = {"seed": 3, "processes": 1, "data_fingerprint": "abc", "parents": {"clip": "def"}}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of a package whose only file is under version control."""

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)

    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "__init__.py").write_text("a = 1\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "start")
    monkeypatch.setattr(unclip, "__file__", str(folder / "__init__.py"))
    return folder


def collect(**more):
    return provenance.collect(experiment="clip/tiny", **(GIVEN | more))


def read(folder):
    return json.loads((folder / "provenance.json").read_text())


def test_it_names_code_packages_machine_and_command(checkout, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/here/unclip", "train", "clip/tiny", "about=a b"])
    provenance.begin(tmp_path, collect())
    found = read(tmp_path)
    assert found["command"] == "unclip train clip/tiny 'about=a b'"
    assert len(found["git_revision"]) == 40
    assert found["git_dirty"] is False
    assert {"torch", "safetensors", "pillow", "pyarrow"} <= set(found["packages"])
    assert {"cpu", "cores", "memory_gib", "gpus"} <= set(found["hardware"])
    assert found["machine"] == found["hardware"]["cpu"]
    assert found["torch_threads"] == 1
    assert {k: found[k] for k in GIVEN} == GIVEN
    assert not (tmp_path / "code.diff").exists()


def test_changed_code_is_kept_and_cut_when_it_is_much(checkout, tmp_path, monkeypatch):
    (checkout / "__init__.py").write_text("a = 2\n")
    monkeypatch.setattr(provenance, "MOST_DIFF", 20)
    provenance.begin(tmp_path, collect())
    assert read(tmp_path)["git_dirty"] is True
    diff = (tmp_path / "code.diff").read_text()
    assert diff.startswith("diff --git a/__init_\n")
    assert "# cut: " in diff
    assert len(diff) < 60


def test_the_checkout_of_somebody_else_is_not_ours(checkout, tmp_path, monkeypatch):
    """An environment that lies in a project's folder, installed and not under its control."""
    inside = checkout / ".venv"
    inside.mkdir()
    (inside / "__init__.py").write_text("")
    monkeypatch.setattr(unclip, "__file__", str(inside / "__init__.py"))
    found = collect()
    assert found["git_revision"] is None
    assert found["git_dirty"] is None


def test_a_resumed_run_appends_what_is_new(checkout, tmp_path):
    (checkout / "__init__.py").write_text("a = 2\n")
    provenance.begin(tmp_path, collect())
    start = read(tmp_path)
    provenance.resume(tmp_path, collect(), {}, {})
    (checkout / "__init__.py").write_text("a = 3\n")
    provenance.resume(tmp_path, collect(processes=2), {}, {})
    found = read(tmp_path)
    first, second = found.pop("resumed")
    assert found == start
    assert set(first) == {"created", "command"}
    assert set(second) == {"created", "command", "processes", "code_diff"}
    assert second["code_diff"] == "code.1.diff"
    assert "+a = 2" in (tmp_path / "code.diff").read_text()
    assert "+a = 3" in (tmp_path / "code.1.diff").read_text()


def test_a_run_of_an_older_version_gets_one_when_it_is_resumed(tmp_path):
    provenance.resume(tmp_path, collect(), {}, {})
    assert read(tmp_path)["seed"] == 3
