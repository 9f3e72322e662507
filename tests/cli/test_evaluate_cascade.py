"""`unclip evaluate` of a whole cascade: the oracle's shares, as a run's folder holds them."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from unclip.cli import main
from unclip.evaluation.config import read_evaluation
from unclip.evaluation.oracle.oracle import check
from unclip.evaluation.protocols.cascades import evaluate_cascade


def evaluated(cascade, *words):
    return evaluate_cascade(str(cascade), *read_evaluation(words))


def test_its_figures_are_those_of_its_images_and_are_written_as_a_runs(cascade, tmp_path):
    found = evaluated(cascade, "n=6", f"run.dir={tmp_path / 'e'}")
    verdicts = [check(drawn.image, drawn.prompt.scene) for drawn in found.drawn]
    both = sum(v.colour and v.shape for v in verdicts) / 6
    assert found.metrics["oracle/colour_and_shape"] == both
    stated = [v for v, d in zip(verdicts, found.drawn) if "background" in d.prompt.stated]
    assert found.metrics["oracle/background"] == sum(v.background for v in stated) / len(stated)
    assert "oracle/relation" not in found.metrics  # one object has none
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    row = json.loads((tmp_path / "e" / "metrics.jsonl").read_text())
    assert summary["metrics"] == found.metrics == {k: row[k] for k in found.metrics}
    assert summary["settings"]["n"] == 6
    assert (tmp_path / "e" / "images.png").is_file()


@pytest.mark.slow
def test_settings_reach_the_sampler_and_the_seed_the_captions(cascade):
    def pictures(*words):
        drawn = evaluated(cascade, *words).drawn
        return [(d.prompt.caption, d.small.tobytes()) for d in drawn]

    plain = pictures("n=2")
    assert pictures("n=2", "batch=1") == plain
    for word in ("decoder.guidance=8.0", "decoder.steps=2", "prior.guidance=9.0", "seed=1"):
        assert pictures("n=2", word) != plain
    assert pictures("n=2", "decoder.guidance=2.0", "decoder.steps=4") == plain  # the stage's own


def test_from_the_command_line(cascade, capsys, tmp_path):
    words = ["evaluate", str(cascade), "decoder.steps=2", "--n", "2", "--json"]
    assert main([*words, f"run.dir={tmp_path / 'e'}"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "e" / "summary.json").read_text())["metrics"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["CASCADE", "decoder.steps=1"], "decoder.steps: 1 must be a number of steps"),
        (["CASCADE", "decoder.sampler=magic"], "decoder.sampler='magic': must be one of"),
        (
            ["CASCADE", "upsampler.guidance=2.0"],
            "upsampler.guidance: this upsampler has no such setting",
        ),
        (["CASCADE", "decoder.candidates=2"], "decoder.candidates: this decoder has no such"),
        (
            ["CASCADE", "decoder.stps=2"],
            "decoder.stps: this decoder has no such setting; did you mean 'steps'?",
        ),
        (["CASCADE", "objects=3"], "objects=3: must be 1 or 2"),
        (
            ["CASCADE", "--decoder-steps", "4"],
            "has been replaced by decoder.steps=4",
        ),
        (["CASCADE", "CASCADE"], "give one cascade, and nothing else, at a time"),
        (
            ["CASCADE/prior", "n=3"],
            "n=3: priors have no such setting",
        ),
        (["n=3"], "evaluate: name a stage or a cascade to evaluate"),
    ],
)
def test_what_is_wrong_is_said(cascade, capsys, words, message):
    assert main(["evaluate", *(w.replace("CASCADE", str(cascade)) for w in words)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("unclip: error: ")
    assert message in error


def test_a_cascade_of_other_images_is_refused(cascade, capsys, tmp_path):
    shutil.copytree(cascade / "decoder" / "artifact", tmp_path / "decoder")
    file = tmp_path / "decoder" / "config.yaml"
    content = yaml.safe_load(file.read_text())
    content["data"]["source"] = "photos.parquet"
    file.write_text(yaml.safe_dump(content))
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "was trained on photos.parquet; the oracle judges scenes alone" in (
        capsys.readouterr().err
    )
