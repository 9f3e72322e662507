"""One range of seeds wherever one is read: options, YAML, the demo, Python."""

from __future__ import annotations

import json

import pytest
import torch

from unclip.cli import main
from unclip.common.errors import UserError
from unclip.common.seeds import MAX_SEED, require_seed, seeds_from
from unclip.config.load import load_experiment
from unclip.demo import inputs
from unclip.evaluation.config import read_evaluation

COMMANDS = (
    "sample red",
    "vary a.png",
    "interpolate a.png b.png",
    "edit a.png --to red",
    "inpaint a.png --caption red --mask b.png",
    "degrade a.png --out b.png",
    "figures",
    "probe guidance",
    "probe pca",
    "evaluate prior/tiny",
    "evaluate cascade",
    "fit-probe aesthetics t.csv --clip c --out d",
    "sweep prior_lr --count 1",
)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**64])
@pytest.mark.parametrize("words", COMMANDS)
def test_an_option_out_of_range_is_refused(words, seed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), "--seed", str(seed)]) == 2
    assert capsys.readouterr().err == (
        f"unclip: error: --seed: {seed} must be from 0 to {MAX_SEED}\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", ["sample red --n 2", "vary a.png --n 2", "probe guidance --n 2"])
def test_the_last_of_several_counts_too(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), "--seed", str(MAX_SEED)]) == 2
    assert "the last of 2" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["trainer.seed", "data.scenes.seed"])
@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_of_an_experiment(key, seed, tmp_path):
    section, name = key.rsplit(".", 1)
    nested = {name: seed}
    for part in reversed(section.split(".")):
        nested = {part: nested}
    file = tmp_path / "a.yaml"
    file.write_text(json.dumps({"extends": "clip/tiny", **nested}))
    for given in ((str(file), []), ("clip/tiny", [f"{key}={seed}"])):
        with pytest.raises(UserError, match=rf"{key}.*must be from 0 to"):
            load_experiment(*given)
    load_experiment("clip/tiny", [f"{key}={MAX_SEED}"])


def test_of_an_evaluation_and_the_demo():
    with pytest.raises(UserError, match=f"seed.*must be from 0 to {MAX_SEED}"):
        read_evaluation([f"seed={MAX_SEED + 1}"])
    with pytest.raises(UserError, match="the last of 2"):
        inputs.seeds(float(MAX_SEED), 2)
    assert inputs.seeds(float(MAX_SEED), 1) == [MAX_SEED]


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 1.5, True, None, "1"])
def test_from_python(cascade, seed):
    from unclip import Pipeline

    pipeline = Pipeline.load(cascade, "cpu")
    image = torch.zeros(1, 3, 16, 16)
    for call in (
        lambda: pipeline.generate(["red"], [seed]),
        lambda: pipeline.vary(image[0], 1.0, [seed]),
        lambda: pipeline.interpolate(image[0], image[0], 2, seed=seed),
        lambda: pipeline.text_diff(image[0], None, "red", seed=seed),
        lambda: pipeline.reconstruct(None, seed=seed),
    ):
        with pytest.raises(UserError, match=r"^seeds?: "):
            call()


def test_the_ends_of_the_range_are_in_it():
    require_seed(0, "seed")
    assert seeds_from(MAX_SEED - 1, 2, "seed") == [MAX_SEED - 1, MAX_SEED]
