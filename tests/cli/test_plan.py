"""`unclip plan` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from unclip.cli import main


def test_help_imports_no_torch():
    code = "import sys, unclip.cli as c\ntry: c.main(['plan', '--help'])\nexcept SystemExit: pass\n"
    check = "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--gpus" in done.stdout


def test_json_is_one_object(minute_experiment, capsys):
    words = ["plan", str(minute_experiment("upsampler")), "--gpus", "2", "--device", "h100"]
    assert main([*words, "--json", "trainer.max_steps=1000"]) == 0
    found = json.loads(capsys.readouterr().out)
    wanted = {"parameters", "flops_per_step", "memory_bytes_per_gpu", "memory", "fits", "strategy"}
    assert wanted | {"step_seconds", "days"} <= found.keys()
    assert found["max_steps"] == 1000


def test_text_names_the_choice_and_what_to_type(minute_experiment, capsys):
    words = ["plan", str(minute_experiment("upsampler")), "--gpus", "2", "--device", "a100"]
    assert main(words) == 0
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last == ["first that fits: ddp, checkpointing none", "run with: trainer.devices=2"]


def test_mistakes_are_one_line(minute_experiment, capsys):
    experiment = str(minute_experiment("upsampler"))
    for words in (
        [experiment, "--gpus", "0", "--device", "h100"],
        [experiment, "--gpus", "1", "--device", "b200"],
        [experiment, "--gpus", "3", "--device", "h100"],
        ["pca/tiny", "--gpus", "1", "--device", "h100"],
        ["decoder/tinny", "--gpus", "1", "--device", "h100"],
    ):
        assert main(["plan", *words]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("unclip: error: ")
        assert len(error.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment", ["prior/ar_s", pytest.param("prior/ar_l", marks=pytest.mark.slow)]
)
def test_a_context_that_is_too_short_for_the_codes_names_the_ways_out(experiment, capsys):
    words = ["plan", experiment, "--gpus", "1", "--device", "h100"]
    clip = "clip=open_clip:ViT-L-14/openai"
    assert main([*words, clip]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "model.context: 384 cannot hold 768 codes of the PCA" in error
    assert "take a PCA of fewer components (pca/paper), or model.context=770" in error
    for way in ("pca=pca/paper", "model.context=770"):  # both lead out
        assert main([*words, clip, way]) == 0
