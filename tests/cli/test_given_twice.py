"""A setting or an option that is given twice is refused in one line, before any work."""

from __future__ import annotations

import argparse

import pytest

from unclip.cli import main, parser
from unclip.cli.command_parser import CommandParser
from unclip.common.errors import UserError
from unclip.config.load import load_experiment, merge_overrides
from unclip.evaluation.config import read_changes
from unclip.runs import recipe
from unclip.sweeps import spec

TWICE = {
    "train clip/tiny optim.lr=1e-3 trainer.seed=1 optim.lr=2e-3": "optim.lr",
    "train clip/tiny trainer.seed=1 --resume trainer.seed=1": "trainer.seed",
    "fit-pca pca/tiny pca.components=4 pca.components=8": "pca.components",
    "overfit clip/tiny trainer.seed=1 trainer.seed=2": "trainer.seed",
    "plan clip/tiny --gpus 1 --device cpu data.batch_size=8 data.batch_size=8": "data.batch_size",
    "plan karlo decoder.steps=4 decoder.steps=8": "decoder.steps",
    "recipe quickstart trainer.seed=1 trainer.seed=2": "trainer.seed",
    "sweep prior_lr --count 1 trainer.max_steps=1 trainer.max_steps=2": "trainer.max_steps",
    "sample red decoder.steps=4 decoder.steps=8": "decoder.steps",
    "figures upsampler.steps=4 --seed 1 upsampler.steps=4": "upsampler.steps",
    "probe guidance red decoder.eta=0 decoder.eta=1": "decoder.eta",
    "evaluate mine objects=1 objects=2": "objects",
    "evaluate mine decoder.steps=1 decoder.steps=2": "decoder.steps",
    "evaluate mine --n 3 n=4": "n",
    "evaluate mine --seed 3 seed=4": "seed",
    "embed scenes --clip a --out b --batch-size 2 data.batch_size=3": "data.batch_size",
    "experiments show clip/tiny trainer.seed=1 trainer.seed=2": "trainer.seed",
    "experiments new mine --from clip/tiny trainer.seed=1 trainer.seed=2": "trainer.seed",
}


def _options_of_one_value() -> dict[str, tuple[CommandParser, str]]:
    """Every option of every command that keeps one value."""
    found, todo = {}, [parser()]
    while todo:
        each = todo.pop()
        todo += each.verbs.values()
        for action in each._actions:
            if isinstance(action, argparse._SubParsersAction):
                todo += action.choices.values()
            elif isinstance(action, argparse._StoreAction) and action.option_strings:
                option = action.option_strings[-1]
                found[f"{each.prog} {option}"] = (each, option)
    return found


@pytest.mark.parametrize("option", OPTIONS := _options_of_one_value())
def test_an_option_keeps_no_second_value(option):
    command, name = OPTIONS[option]
    (action,) = (each for each in command._actions if name in each.option_strings)
    value = str((action.choices or ["1"])[0])
    with pytest.raises(UserError, match=rf"^{name}: given twice \(.*give it once$"):
        command.parse_args([name, value, f"{name}={value}"])


def test_an_option_of_several_values_and_another_call_are_no_second_value():
    top = parser()
    for _ in range(2):
        words = ["sample", "red", "--n", "2", "--upsampler", "a", "--upsampler", "b", "--force"]
        assert [str(p) for p in top.parse_args([*words, "--force"]).upsampler] == ["a", "b"]


@pytest.mark.parametrize("words", TWICE)
def test_what_is_given_twice_is_refused(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "decoder").mkdir(parents=True)
    assert main(words.split()) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"{TWICE[words]}: given " in line
    assert "give it once" in line


def test_from_python_too():
    with pytest.raises(UserError, match=r"optim\.lr: given twice \(optim\.lr=1, optim\.lr=2\)"):
        load_experiment("clip/tiny", ["optim.lr=1", "optim.lr=2"])
    with pytest.raises(UserError, match=r"decoder\.steps: given twice"):
        read_changes(["decoder.steps=1", "decoder.steps=1"])


def test_what_is_typed_replaces_what_a_recipe_says(tmp_path):
    """The file's override and the user's are two lists, of which the second wins."""
    assert merge_overrides(["a=1", "b=2"], ["b=3"]) == ["a=1", "b=3"]
    file = tmp_path / "mine.yaml"
    file.write_text("overrides: [trainer.seed=1, trainer.max_steps=7]\n")
    tasks = recipe.plan(recipe.load(str(file)), ["trainer.seed=2"])
    assert tasks[0].overrides[:2] == ["trainer.seed=2", "trainer.max_steps=7"]
    file.write_text("overrides: [trainer.seed=1, trainer.seed=2]\n")
    with pytest.raises(UserError, match=r"trainer\.seed: given twice"):
        recipe.plan(recipe.load(str(file)), [])


@pytest.mark.parametrize("key", ["run.dir", "run.root", "clip"])
def test_what_a_recipe_sets_itself_is_not_overridden_unseen(key):
    with pytest.raises(UserError, match=rf"{key}: .*; leave it out"):
        recipe.plan(recipe.load("quickstart"), [f"{key}=x"])


SWEEP = """
method: grid
metric: {name: val/loss}
parameters: {optim.lr: {values: [1, 2]}}
command: [unclip, train, prior/tiny, trainer.max_steps=9, WORD, "${args_no_hyphens}"]
"""


def test_a_sweeps_command_gives_a_setting_once(tmp_path):
    file = tmp_path / "mine.yaml"
    for word in ("optim.lr=3", "trainer.max_steps=8"):
        file.write_text(SWEEP.replace("WORD", word))
        with pytest.raises(UserError, match=rf"command: {word.split('=')[0]}: (given|is a)"):
            spec.load(str(file))
    file.write_text(SWEEP.replace("WORD, ", ""))
    words = spec.load(str(file)).online_command(["trainer.max_steps=3"])
    assert [word for word in words if "=" in word] == ["trainer.max_steps=3"]
