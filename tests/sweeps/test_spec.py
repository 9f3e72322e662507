"""Sweep files: the shipped ones fit their experiments, and what is wrong is one clear line."""

from __future__ import annotations

import json

import pytest
import yaml

from unclip.common.errors import UserError
from unclip.config.files import shipped_experiments
from unclip.config.load import load_experiment
from unclip.sweeps import spec

SHIPPED = sorted(spec.files())
ARGS = "${args_no_hyphens}"


def test_there_is_one_for_every_stage():
    verbs = [spec.load(name).words[:2] for name in SHIPPED]
    kinds = {name.split("/")[0] for verb, name in verbs if verb == "train"}
    assert kinds == {"clip", "prior", "decoder", "upsampler"}
    assert ("evaluate", "runs/quickstart") in verbs


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_sweep_is_read_alike_here_and_by_wandb_and_its_fields_exist(name):
    sweep = spec.load(name)
    assert yaml.safe_load(sweep.path.read_text()) == sweep.content
    head = sweep.path.read_text().split("name:")[0]
    assert all(f"# {word}: " in head for word in ("hardware", "time", "expect"))
    assert f"make sweep SWEEP={name}" in head
    assert sweep.content["name"] == name
    assert sweep.about
    spec.check(sweep, [])
    assert "tracking.wandb=true" in sweep.words
    assert not any(word.startswith("tracking.") for word in sweep.command({}))


@pytest.fixture(scope="module")
def logged(cascade):
    """Kind -> the metrics that a run of it logs at least once."""
    found = {}
    for kind in ("clip", "prior", "ar_prior", "decoder", "upsampler"):
        folder = cascade / kind
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        final = json.loads((folder / "summary.json").read_text())["metrics"]
        found[kind] = {name for line in lines for name in line} & set(final)
    return found


@pytest.mark.parametrize("name", [n for n in SHIPPED if spec.load(n).words[0] == "train"])
def test_the_metric_of_a_shipped_sweep_is_one_that_its_stage_logs(name, logged):
    sweep = spec.load(name)
    stage = load_experiment(sweep.words[1]).stage
    assert sweep.metric in logged["ar_prior" if stage.name == "ar_prior" else stage.kind]


def test_every_value_of_a_choice_between_experiments_is_one():
    for parameter in spec.load("quantizer_buckets").parameters:
        assert parameter.name == "pca"
        buckets = {load_experiment(value).config.pca.buckets for value in parameter.choices}
        assert len(buckets) == len(parameter.choices)


@pytest.mark.slow
def test_the_words_are_those_of_wandbs_agent(sweep_file, tmp_path):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    values = {"a": 512, "b": 1e-05, "c": True, "d": ["a", "b c"], "e": None, "f": "10,10"}
    theirs = create_sweep_command_args({"args": {k: {"value": v} for k, v in values.items()}})
    ours = spec.load(str(sweep_file())).command(values, ["z=1"], tmp_path)
    assert ours == [
        *("train", "clip/tiny"),
        *theirs["args_no_hyphens"],
        *("z=1", f"run.dir={tmp_path}", "--continue"),
    ]


def test_an_override_takes_the_place_of_the_files_own_word(sweep_file):
    file = sweep_file(**command("unclip", "train", "clip/tiny", "trainer.max_steps=5", "a=1"))
    words = spec.load(str(file)).command({"x": 2}, ["trainer.max_steps=9"])
    assert words == ["train", "clip/tiny", "a=1", "x=2", "trainer.max_steps=9"]


def test_the_command_for_wandb_has_the_overrides(sweep_file):
    sweep = spec.load(str(sweep_file()))
    assert sweep.online_command(["z=1"])[-4:] == ["train", "clip/tiny", "z=1", ARGS]


def command(*words):
    return {"command": [*words, ARGS]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methd": "grid"}, "methd: unknown key; did you mean 'method'?"),
        ({"method": "annealing"}, "method: 'annealing' must be one of grid, random, bayes"),
        ({"method": None}, "method: None must be one of"),
        ({"parameters": None}, "parameters: must be a mapping"),
        ({"parameters": {"x": {"vals": [1]}}}, "parameters.x.vals: is not a key of uniform"),
        ({"method": "grid"}, "parameters.x: a grid needs `values`"),
        ({"metric": None}, "metric.name: name the metric to optimise"),
        ({"metric": {"name": "a", "goal": "high"}}, "metric.goal: 'high' must be minimize or max"),
        ({"metric": {"name": "a", "target": "0"}}, "metric.target: '0' must be a number"),
        ({"metric": {"name": "a", "golas": 1}}, "metric.golas: unknown key; did you mean 'goal'?"),
        ({"run_cap": 0}, "run_cap: 0 must be a whole number from 1"),
        ({"early_terminate": {"type": "median"}}, "early_terminate.type: must be hyperband"),
        ({"command": None}, "command: must be a list of words"),
        ({"command": ["unclip", "train", "clip/tiny"]}, f"command: must hold {ARGS} once"),
        (command("rm", "-rf", "/"), "command: must run `unclip train` or `unclip evaluate`"),
        (command("python", "evil.py"), "command: must run `unclip train` or `unclip evaluate`"),
        (command("unclip", "data", "x"), "command: must run `unclip train` or `unclip evaluate`"),
        (command("unclip", "train", "a", "--force"), "command: --force is not allowed in a sweep"),
        (command("unclip", "evaluate", "a", "--out=/x"), "command: --out=/x is not allowed"),
        (command("unclip", "train", "a", "${args}"), "command: ${args} is not read here"),
        (command("unclip", "train", "a", "run.dir=/etc"), "run.dir: where runs go is not for"),
        ({"parameters": {"run.root": {"value": "/etc"}}}, "run.root: where runs go is not for"),
        (
            {"method": "grid", "parameters": {k: {"values": list(range(99))} for k in "abc"}},
            "parameters: a grid of more than 100,000 points",
        ),
    ],
)
def test_what_is_wrong_is_said(sweep_file, changes, message):
    path = sweep_file(**changes)
    with pytest.raises(UserError) as caught:
        spec.load(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "overrides", "message"),
    [
        ({"optim.l": {"value": 1}}, [], "mine.yaml: optim.l: unknown key; did you mean 'lr'?"),
        ({"optim.lr": {"values": [-1.0]}}, [], "mine.yaml: optim.lr=-1.0: must be positive"),
        ({"optim.lr": {"value": 1.0}}, ["optim.lr=2"], "optim.lr: is searched; leave it out"),
        ({"optim.lr": {"value": 1.0}}, ["run.dir=x"], "run.dir: is for the sweep to say (--dir)"),
        ({"optim.lr": {"value": 1.0}}, ["optim.x=1"], "mine.yaml: optim.x: unknown key"),
    ],
)
def test_what_no_trial_could_be_is_refused_beforehand(sweep_file, parameters, overrides, message):
    with pytest.raises(UserError) as caught:
        spec.check(spec.load(str(sweep_file(parameters=parameters))), overrides)
    assert message in str(caught.value)


def test_an_evaluations_fields_are_checked_too(sweep_file):
    file = sweep_file(
        parameters={"decoder.guidanc": {"value": 1.0}}, **command("unclip", "evaluate", "runs/q")
    )
    with pytest.raises(UserError, match=r"decoder\.guidanc: .* did you mean 'guidance'"):
        spec.check(spec.load(str(file)), [])


def test_an_unknown_name_gets_the_nearest_and_an_own_file_goes_before(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="prior_rl: no such sweep; did you mean 'prior_lr'"):
        spec.load("prior_rl")
    shipped = shipped_experiments() / "sweeps" / "prior_lr.yaml"
    (tmp_path / "experiments" / "sweeps").mkdir(parents=True)
    own = tmp_path / "experiments" / "sweeps" / "prior_lr.yaml"
    own.write_text(shipped.read_text().replace("max: 1.0e-2", "max: 2.0e-2"))
    monkeypatch.chdir(tmp_path)
    assert spec.load("prior_lr").parameters[0].highest == 2e-2
    assert "clip_lr" in spec.files()
