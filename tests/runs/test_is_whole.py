"""A run has ended when everything that a run leaves is there."""

from __future__ import annotations

import json
import shutil

import pytest

from unclip.runs.resume import is_whole
from unclip.training.checkpoint_folders import MANIFEST

SUMMARY = {"steps": 4, "loss": 0.5, "has_samples": True}


@pytest.fixture
def run(tmp_path):
    files = {
        f"checkpoints/step_0000004/{MANIFEST}": {},
        "summary.json": SUMMARY,
        "samples/step_0000004.png": {},
        "artifact/artifact.json": {},
        "status.json": {"state": "finished"},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_a_run_with_all_of_it_is_whole_at_its_length_alone(run):
    assert is_whole(run, 4)
    assert not is_whole(run, 5)


@pytest.mark.parametrize("name", ["checkpoints", "summary.json", "samples", "artifact"])
def test_without_one_of_them_it_is_not(run, name):
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not is_whole(run, 4)


@pytest.mark.parametrize("change", [{"loss": None}, {"steps": 3}])
def test_with_an_unfinished_summary_it_is_not(run, change):
    (run / "summary.json").write_text(json.dumps(SUMMARY | change))
    assert not is_whole(run, 4)


def test_a_run_that_failed_is_not(run):
    (run / "status.json").write_text(json.dumps({"state": "failed"}))
    assert not is_whole(run, 4)


def test_a_stage_without_samples_needs_none(run):
    shutil.rmtree(run / "samples")
    (run / "summary.json").write_text(json.dumps(SUMMARY | {"has_samples": False}))
    assert is_whole(run, 4)
