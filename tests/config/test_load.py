"""Experiment files: merging, origins, and one clear line for everything that is wrong."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unclip.common.errors import UserError
from unclip.common.fields import as_dataclass, from_text, leaves
from unclip.config.files import experiment_files, find_experiment, shipped_experiments
from unclip.config.load import OVERRIDE, load_experiment, parse_override
from unclip.config.text import opening
from unclip.stages import registry
from unclip.stages.decoder.config import DecoderExperiment
from unclip.stages.upsampler.config import UpsamplerSamplerConfig
from unclip.training.config import OptimConfig, TrainerConfig


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


def error(path, *overrides):
    with pytest.raises(UserError) as caught:
        load_experiment(str(path), list(overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_child_wins_over_its_parent_and_an_override_over_both(tmp_path):
    write(tmp_path, "a.yaml", "stage: clip\nmodel: {embed_dim: 8, text_width: 64, text_heads: 2}\n")
    write(tmp_path, "b.yaml", "extends: a\nmodel: {embed_dim: 16}\noptim: {lr: 1e-4}\n")
    child = write(tmp_path, "c.yaml", "extends: b.yaml\n")
    resolved = load_experiment(str(child), ["optim.lr=2e-4"])
    assert resolved.config.model.embed_dim == 16
    assert resolved.config.model.text_width == 64
    assert resolved.config.optim.lr == pytest.approx(2e-4)
    assert resolved.origins["model.embed_dim"].endswith("b.yaml")
    assert resolved.origins["model.text_width"].endswith("a.yaml")
    assert resolved.origins["optim.lr"] == OVERRIDE
    assert [p.name for p in resolved.files] == ["c.yaml", "b.yaml", "a.yaml"]


def test_a_tilde_is_the_users_home_in_files_and_overrides(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    file = write(tmp_path, "a.yaml", "stage: diffusion_prior\nclip: ~/clip\nabout: a ~ b\n")
    config = load_experiment(str(file), ["run.dir=~/runs/a", "data.source=~you/b"]).config
    assert (config.clip, config.run.dir) == ("/home/me/clip", "/home/me/runs/a")
    assert (config.about, config.data.source) == ("a ~ b", "~you/b")


def test_a_list_replaces_its_parents_list(tmp_path):
    write(tmp_path, "a.yaml", "stage: decoder\nmodel: {unet: {multiples: [1, 2, 3, 4]}}\n")
    child = write(
        tmp_path, "b.yaml", "extends: a\nmodel: {unet: {multiples: [1, 2], attention: [32]}}\n"
    )
    assert load_experiment(str(child)).config.model.unet.multiples == [1, 2]


def test_a_cycle_is_named(tmp_path):
    write(tmp_path, "a.yaml", "extends: b\n")
    path = write(tmp_path, "b.yaml", "extends: a\n")
    assert "cycle" in error(path)


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("model: {embed_dimm: 3}", [], "did you mean 'embed_dim'"),
        ("optimm: {lr: 3}", [], "did you mean 'optim'"),
        ("model: {embed_dim: many}", [], "model.embed_dim='many'"),
        ("", ["trainer.max_steps=-5"], "trainer.max_steps=-5: must be at least 1"),
        ("", ["trainer.max_steps=null"], "trainer.max_steps='null': must be a whole number"),
        ("sampler: {steps: []}", [], "unknown key"),
        (
            "trainer: {max_step: 3}",
            [],
            "x.yaml: trainer.max_step: unknown key; did you mean 'max_steps'",
        ),
        ("max_steps: 3", [], "max_steps: unknown key; did you mean 'trainer.max_steps'"),
        ("data: {limit: many}", [], "data.limit='many': must be a whole number or null"),
        ("data: {source: 5}", [], "data.source=5: must be text in quotes"),
        ("", ["data.flip=2"], "must be true or false"),
        ("", ["trainer.max_steps=true"], "must be a whole number"),
        ("", ["model=3"], "is a section"),
        ("", ["optim.lr.x=3"], "no keys below"),
        ("", ["nonsense"], "must look like key=value"),
        ("", ["data.source=${oc.env:HOME}"], "interpolation"),
        ("", ["optim.betas=[0.1]"], "two numbers"),
        (
            "",
            ["optim.name=sgd"],
            f"{OVERRIDE}: optim.name='sgd': must be one of adamw, adamw8bit, muon",
        ),
        ("data: {crop: [a]}", [], "x.yaml: data.crop=['a']: must be one of center, random"),
        ("", ["trainer.compile=null"], "trainer.compile='null': must be one of auto, none, blocks"),
        ("", ["trainer.compile=true"], "trainer.compile='true': must be one of auto, none, blocks"),
        ("extends: nowhere", [], "extends"),
        ("model: [1, 2]", [], "is a section"),
        ("optim: {lr: 1, lr: 2}", [], "twice"),
        ("about: !!python/object/apply:os.system [ls]", [], "x.yaml: line 2: has the tag"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, text, overrides, says):
    path = write(tmp_path, "x.yaml", f"stage: clip\n{text}\n")
    assert says in error(path, *overrides)


def test_the_file_that_set_a_bad_value_is_named(tmp_path):
    write(tmp_path, "parent.yaml", "stage: clip\noptim: {lr: -1}\n")
    path = write(tmp_path, "x.yaml", "extends: parent\n")
    assert "parent.yaml: optim.lr=-1" in error(path)


def test_a_choice_that_yaml_reads_as_a_number_is_still_that_choice(tmp_path):
    path = write(tmp_path, "x.yaml", "stage: clip\ntrainer: {precision: 32}\n")
    assert load_experiment(str(path)).config.trainer.precision == "32"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (OptimConfig(schedule="linear"), "optim.schedule='linear': must be one of constant, "),
        (
            TrainerConfig(precision=32),
            "trainer.precision=32: must be one of bf16-mixed, 16-mixed, bf16-true, 32",
        ),
        (UpsamplerSamplerConfig(clip="hard"), "sampler.clip='hard': must be one of none, static"),
        (DecoderExperiment(embedding="both"), "embedding='both': must be one of image, text"),
    ],
)
def test_a_config_made_in_code_refuses_the_same_choices(config, says):
    with pytest.raises(UserError) as caught:
        config.validate()
    assert str(caught.value).startswith(says)


def test_an_unknown_stage_lists_the_known_ones(tmp_path):
    path = write(tmp_path, "x.yaml", "stage: unclip.stages.clip.ClipStage\n")
    message = error(path)
    assert all(name in message for name in registry.STAGES)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("optim.lr=1e-05", 1e-5),  # as W&B writes it
        ("optim.lr=.5", 0.5),
        ("data.flip=True", True),
        ("data.limit=None", None),
        ("data.limit=null", None),
        ("tracking.entity=", None),
        ("optim.betas=[0.5, 1e-1]", [0.5, 0.1]),
        ("trainer.max_steps=010", 10),
        ("data.source=00000", "00000"),
        ("data.source=photos #1", "photos #1"),
        ("data.source={00000..00001}.tar", "{00000..00001}.tar"),
        ("data.source=[a", "[a"),
        ("data.source=a: b", "a: b"),
        ("data.source=null", "null"),
        ("data.source=true", "true"),
        ("data.source='a'", "'a'"),
        ("data.source=&a *b", "&a *b"),
        ("run.dir=01", "01"),
        ("run.dir=12:30", "12:30"),
        ("run.dir=1e5", "1e5"),
        ("run.dir=2026-01-01", "2026-01-01"),
        ("about=- a", "- a"),
    ],
)
def test_what_is_typed_is_read_by_the_type_of_its_field(tmp_path, override, read):
    path = write(tmp_path, "x.yaml", "stage: clip\n")
    values = dict(leaves(load_experiment(str(path), [override]).as_dict()))
    assert values[override.partition("=")[0]] == read


def test_patterns_need_no_quotes_of_yaml():
    assert from_text(list[str], "[*]", "") == ["*"]
    assert from_text(list[str] | None, "[*.bias, a.*]", "") == ["*.bias", "a.*"]
    assert from_text(list[str], "[]", "") == []
    for hint, text in ((list[float], "[*]"), (list[str], "[*"), (list[str], "[*, 'a]")):
        with pytest.raises(UserError, match=r"must be a list of .* \(not valid YAML"):
            from_text(hint, text, "key")


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))))
def test_a_text_is_what_was_typed_whatever_it_is(text):
    assert from_text(str, text, "") == text
    assert parse_override(f"about={text}") == ("about", text)


@pytest.mark.parametrize(
    "override",
    [
        "optim.lr=.inf",
        "optim.lr=1e999",
        "optim.lr=nan",
        "optim.lr=0x10",
        "optim.lr=true",
        "optim.betas=[0.9, .inf]",
        "optim.betas=0.9",
        "trainer.max_steps=0x10",
        "trainer.max_steps=1:30",
        "trainer.max_steps=1.5",
        "trainer.max_steps=" + 4300 * "9",
        "trainer.max_steps=[[[[",
        "data.flip=1",
        "data.limit=none of it",
    ],
)
def test_numbers_are_decimal_and_finite(tmp_path, override):
    message = error(write(tmp_path, "x.yaml", "stage: clip\n"), override)
    assert f"{OVERRIDE}: {override.partition('=')[0]}=" in message
    assert re.search("must be (a |true or false)", message)
    assert len(message) < 400


def test_a_resolved_experiment_reads_back_as_itself(tmp_path):
    resolved = load_experiment("decoder/tiny")
    copy = write(tmp_path, "copy.yaml", yaml.safe_dump(resolved.as_dict()))
    assert load_experiment(str(copy)).config == resolved.config


@pytest.mark.parametrize("name", [name for name, _ in experiment_files()])
def test_every_shipped_experiment_loads_builds_and_says_what_it_is_for(name):
    from unclip.runs.parents import count_parameters

    resolved = load_experiment(name)
    assert resolved.config.about
    pca = resolved.stage.name == "pca"
    command = f"unclip fit-pca {name}" if pca else f"make train-{resolved.stage.kind} EXP="
    assert command in find_experiment(name).read_text().split("# hardware:")[0]
    notes = opening(find_experiment(name))
    assert {"hardware", "time", "expect"} <= set(notes)
    assert notes.get("parameters") == (None if pca else f"{count_parameters(resolved):,}")


def test_every_recipe_loads_and_its_experiments_exist():
    from unclip.runs.recipe import load

    for path in (shipped_experiments() / "recipes").glob("*.yaml"):
        recipe = load(str(path))
        for name in (recipe.clip, recipe.prior, recipe.decoder, *recipe.upsamplers):
            load_experiment(name, recipe.overrides)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["experiments", "list"],
        ["experiments", "list", "--json"],
        ["experiments", "show", "prior/tiny"],
        ["experiments", "diff", "prior/tiny", "prior/ar_tiny", "--json"],
        ["experiments", "new", "mine", "--from", "prior/tiny", "model.wdth=3"],
        ["recipe", "--list"],
        ["completion", "bash"],
    ],
)
def test_quick_commands_import_no_heavy_library(words):
    code = (
        "import sys\nfrom unclip.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'lightning', 'wandb', 'open_clip', 'torchvision', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_entries_of_a_mixture_are_made_and_merged_by_name(tmp_path):
    write(tmp_path, "a.yaml", "stage: clip\ndata:\n  mixture: {x: {source: x.tar, weight: 3}}\n")
    child = write(
        tmp_path,
        "b.yaml",
        "extends: a\ndata:\n  source: mixture\n  mixture: {y: {source: 'y/{0..9}.tar'}}\n",
    )
    resolved = load_experiment(
        str(child), ["data.mixture.x.weight=2", "data.mixture.z.source=scenes"]
    )
    mixture = resolved.config.data.mixture
    assert {name: (part.source, part.weight) for name, part in mixture.items()} == {
        "x": ("x.tar", 2.0),
        "y": ("y/{0..9}.tar", 1.0),
        "z": ("scenes", 1.0),
    }
    copy = write(tmp_path, "copy.yaml", yaml.safe_dump(resolved.as_dict()))
    assert load_experiment(str(copy)).config == resolved.config
    assert as_dataclass(type(resolved.config), resolved.as_dict()) == resolved.config


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.source=mixture", "data.mixture={}: must name its sources"),
        ("data.mixture.x.sauce=y", "data.mixture.x.sauce: unknown key; did you mean 'source'?"),
        ("data.mixture.x=y", "data.mixture.x: is a section"),
        ("data.mixture=y", "data.mixture: is a section"),
        ("data.mixture.x.weight.y=1", "has no keys below it"),
        ("data.mixture.x.weight=true", "must be a finite number"),
        ("data.mixture.x.weight=1", "data.mixture.x.source='': must be a source"),
        ("data.mixture.x={source: mixture}", "data.mixture.x: is a section"),
    ],
)
def test_what_is_wrong_with_a_mixture_is_said(tmp_path, override, says):
    assert says in error(write(tmp_path, "x.yaml", "stage: clip\n"), override)


@pytest.mark.parametrize("weight", [0, -1, ".inf", ".nan"])
def test_weights_are_positive_and_finite(tmp_path, weight):
    path = write(
        tmp_path,
        "x.yaml",
        f"stage: clip\ndata: {{mixture: {{x: {{source: a, weight: {weight}}}}}}}\n",
    )
    assert "data.mixture.x.weight" in error(path)
    assert ("not finite" if isinstance(weight, str) else "must be more than 0") in error(path)


def test_names_of_parts_are_plain_words(tmp_path):
    path = write(tmp_path, "x.yaml", "stage: clip\ndata: {mixture: {a b: {source: c}}}\n")
    assert "name 'a b' must be of letters" in error(path)
