"""What a resume does with changed settings, parents and data, and with a run that did not end."""

from __future__ import annotations

import json
import re
import shutil
import typing
from pathlib import Path

import pytest
import torch
import yaml

from unclip.common import artifacts
from unclip.common.checks import choices_of
from unclip.common.errors import UserError
from unclip.common.fields import leaves
from unclip.config.load import load_experiment
from unclip.runs import finish, resume_rules
from unclip.runs import resume as resume_module
from unclip.runs.resume import continued
from unclip.runs.train import train
from unclip.tracking.files import read_metrics
from unclip.training.callbacks import Samples
from unclip.training.checkpoint_callback import run_of
from unclip.training.checkpoint_folders import checkpoints, size_and_sum
from unclip.training.optim import lr_factor

STAGES = ("clip", "prior", "ar_prior", "decoder", "upsampler")
DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def refused(minute_experiment):
    """The line with which resuming a run is refused; not a byte of it may change."""

    def refused(kind, folder, *overrides):
        before = files(folder)
        with pytest.raises(UserError) as caught:
            train(
                load_experiment(str(minute_experiment(kind)), [f"run.dir={folder}", *overrides]),
                resume=True,
            )
        assert files(folder) == before
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused


@pytest.fixture
def copy(cascade, tmp_path):
    """A copy of a finished run."""

    def copy(kind, name="run"):
        shutil.copytree(cascade / kind, tmp_path / name)
        return tmp_path / name

    return copy


def resume(experiment, folder, *overrides):
    given = [f"run.dir={folder}", *overrides]
    return train(load_experiment(str(experiment), given), resume=True)


def other(value, choices):
    """A value that is not ``value``, as one would type it."""
    if choices:
        return next(str(each) for each in choices if each != value)
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, list):
        return json.dumps(value[::-1] if value[::-1] != value else [*value, 8])
    if isinstance(value, int):
        return str(value + 1)
    if isinstance(value, float):
        return str(value / 2 or 0.125)
    return "3" if value is None else f"{value}-other"


SOME = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("ar_prior", "upsampler")]


@pytest.mark.parametrize("kind", ["clip", "prior", "decoder", *SOME])
def test_every_field_is_refused_or_comes_through(cascade, kind, monkeypatch):
    folder, reached = cascade / kind, 0
    before = files(folder)
    own = load_experiment(str(folder / "experiment.yaml"))
    for key, value in leaves(own.as_dict()):
        if key.startswith("run.") or key == "stage":
            continue
        typed = f"{key}={other(value, _choices(own.config, key))}"
        try:
            wanted = load_experiment(str(folder / "experiment.yaml"), [typed])
        except UserError:
            continue  # it is not an experiment at all
        loaded = {(): own, (typed,): wanted}  # loading is slow
        monkeypatch.setattr(
            resume_module, "load_experiment", lambda file, given=(): loaded[tuple(given)]
        )
        reached += 1
        if resume_rules.is_refused(key, own.config):
            with pytest.raises(UserError, match=f"^--resume: {re.escape(key)}: "):
                continued(wanted, folder)
        else:
            found = continued(wanted, folder)
            assert set(found.changed) == {key}
            assert dict(leaves(found.experiment.as_dict()))[key] != value
    assert reached > 50
    assert files(folder) == before


def _choices(config, key):
    *sections, name = key.split(".")
    for section in sections:
        config = getattr(config, section)
    return choices_of(typing.get_type_hints(type(config))[name])


def test_what_decides_the_training_is_refused():
    for key in resume_rules.fields_of_stages():
        effect = resume_rules.rule_of(key).effect
        decides = key.startswith(("model.", "diffusion.", "optim.", "ema.", "corruption.", "drop_"))
        assert not decides or effect == "refused", key
    for key in (
        "stage",
        "trainer.seed",
        "trainer.precision",
        "data.batch_size",
        "trainer.grad_clip",
    ):
        assert resume_rules.rule_of(key).effect == "refused"


def test_the_table_in_the_docs_is_the_rules():
    """Write it anew with `PYTHONPATH=tests python tests/runs/test_resume.py`."""
    assert resume_rules.markdown() in DOCS.read_text()


def test_a_refusal_names_key_values_and_the_way(cascade, refused):
    line = refused(
        "clip", cascade / "clip", "trainer.max_steps=6", "optim.lr=1e-6", "optim.eps=1e-3"
    )
    assert line.startswith("--resume: optim.lr: 0.001 -> 1e-06 (also optim.eps): ")
    assert "start a new run" in line
    line = refused("clip", cascade / "prior")
    assert line.startswith("--resume: stage: diffusion_prior -> clip: ")


def test_a_run_cannot_end_before_its_checkpoint(cascade, refused):
    line = refused("clip", cascade / "clip", "trainer.max_steps=2")
    assert line.startswith("--resume: trainer.max_steps=2: the run has taken 3 steps")


def test_a_finished_run_is_left_alone(cascade, minute_experiment, capsys):
    before = files(cascade / "decoder")
    found = resume(minute_experiment("decoder"), cascade / "decoder")
    assert found.summary["steps"] == 3
    assert "has finished, at step 3" in capsys.readouterr().out
    assert files(cascade / "decoder") == before


@pytest.mark.parametrize(
    "change",
    [f"trainer.{k}=7" for k in ("log_every", "val_every", "sample_every", "checkpoint_every")]
    + ["trainer.keep_checkpoints=1", "data.max_skipped=0.5", "data.num_workers=1", "about=mine"],
)
def test_a_change_that_only_further_steps_would_show_leaves_a_finished_run_alone(
    cascade, minute_experiment, capsys, change
):
    def state(folder):
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    before = files(cascade / "upsampler"), state(cascade / "upsampler")
    resume(minute_experiment("upsampler"), cascade / "upsampler", change)
    assert (files(cascade / "upsampler"), state(cascade / "upsampler")) == before
    key = change.split("=")[0]
    says = f"{key}: takes effect with more steps"
    shown = capsys.readouterr().out
    assert (says in shown) == (key not in ("data.num_workers", "about"))


def test_another_sampler_in_a_finished_run_leaves_the_figures_of_its_training(
    copy, minute_experiment
):
    folder = copy("upsampler")
    file = folder / "summary.json"
    measured = {
        "samples_per_second": 12.5,
        "data_wait": 0.25,
        "data_skipped": 3,
        "peak_memory_gib": 77.0,
        "seconds": 3600.0,
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | measured))
    found = resume(minute_experiment("upsampler"), folder, "sampler.eta=1.0")
    assert artifacts.describe(folder).config["sampler"]["eta"] == 1.0
    assert {key: found.summary[key] for key in measured} == measured
    assert json.loads(file.read_text()) == found.summary


def test_a_resume_begins_from_the_settings_of_the_run(minute_experiment, tmp_path, capsys):
    more = ["data.batch_size=8", "trainer.max_steps=2", "optim.lr=1e-4"]
    file = str(minute_experiment("upsampler"))
    train(load_experiment(file, [f"run.dir={tmp_path / 'run'}", *more]))
    resume(file, tmp_path / "run", "trainer.max_steps=4")
    now = yaml.safe_load((tmp_path / "run/experiment.yaml").read_text())
    assert (now["data"]["batch_size"], now["optim"]["lr"], now["trainer"]["max_steps"]) == (
        8,
        1e-4,
        4,
    )
    assert "data.batch_size=8" in capsys.readouterr().err
    entry = json.loads((tmp_path / "run/provenance.json").read_text())["resumed"][0]
    assert (entry["step"], entry["changed"]) == (2, {"trainer.max_steps": [2, 4]})
    whole = [*more[:1], more[2], "trainer.max_steps=4", f"run.dir={tmp_path / 'whole'}"]
    train(load_experiment(file, whole))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def weights(folder):
    return (folder / "artifact" / "weights.safetensors").read_bytes()


def test_what_takes_effect_does(copy, minute_experiment):
    folder = copy("upsampler")
    rhythm = {
        "max_steps": 8,
        "log_every": 2,
        "val_every": 4,
        "sample_every": 5,
        "checkpoint_every": 1,
    }
    given = [f"trainer.{key}={value}" for key, value in rhythm.items()]
    resume(
        minute_experiment("upsampler"),
        folder,
        *given,
        "trainer.keep_checkpoints=3",
        "sampler.eta=1.0",
    )
    rows = read_metrics(folder / "metrics.jsonl")
    assert [r["step"] for r in rows if "train/loss" in r] == [0, 1, 2, 3, 5, 7]
    assert [r["step"] for r in rows if "val/loss" in r] == [2, 3, 7]  # of steps 3, 4 and 8
    names = sorted(p.name for p in (folder / "samples").iterdir())
    assert names == [f"step_{step:07d}.png" for step in (3, 5, 8)]
    kept = {p.name for p in checkpoints(folder)}
    assert {f"step_{step:07d}" for step in (6, 7, 8)} <= kept
    assert artifacts.describe(folder).config["sampler"]["eta"] == 1.0


def test_a_cosine_schedule_is_stretched_to_the_new_end(minute_experiment, tmp_path, capsys):
    file, folder = str(minute_experiment("clip")), tmp_path / "run"
    train(load_experiment(file, [f"run.dir={folder}", "optim.schedule=cosine"]))
    resume(file, folder, "trainer.max_steps=6")
    optim = load_experiment(str(folder / "experiment.yaml")).config.optim
    rows = [r for r in read_metrics(folder / "metrics.jsonl") if "lr-AdamW/pg1" in r]
    ends = [3, 3, 3, 6, 6, 6]
    assert [r["lr-AdamW/pg1"] for r in rows] == [
        pytest.approx(optim.lr * lr_factor(step, optim, end)) for step, end in enumerate(ends)
    ]
    assert "now falls to 0 at step 6" in capsys.readouterr().err


def test_the_first_step_after_the_old_end_is_taken_at_the_new_rate(minute_experiment, tmp_path):
    file, folder = str(minute_experiment("clip")), tmp_path / "run"
    train(load_experiment(file, [f"run.dir={folder}", "optim.schedule=cosine"]))
    before = weights(folder)
    resume(file, folder, "trainer.max_steps=4", "trainer.checkpoint_every=1")
    assert weights(folder) != before


def test_other_parents_are_refused(cascade, refused, minute_experiment, tmp_path):
    clip = tmp_path / "clip"
    train(load_experiment(str(minute_experiment("clip")), [f"run.dir={clip}", "trainer.seed=1"]))
    for kind in ("prior", "decoder"):
        line = refused(kind, cascade / kind, "trainer.max_steps=4", f"clip={clip}")
        assert line.startswith(f"--resume: clip={clip}: has other weights (")
    pca = tmp_path / "pca"
    from unclip.runs.fit import fit

    given = [f"run.dir={pca}", f"clip={cascade / 'clip'}", "data.limit=40"]
    fit(load_experiment(str(minute_experiment("pca")), given))
    line = refused("ar_prior", cascade / "ar_prior", "trainer.max_steps=4", f"pca={pca}")
    assert line.startswith(f"--resume: pca={pca}: has other weights (")


def test_the_same_parents_may_be_elsewhere(cascade, copy, minute_experiment):
    folder, clip = copy("prior"), copy("clip", "moved")
    resume(minute_experiment("prior"), folder, "trainer.max_steps=4", f"clip={clip}")
    assert yaml.safe_load((folder / "experiment.yaml").read_text())["clip"] == str(clip)


def test_a_newer_clip_of_the_same_name_is_not_taken(minute_experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("clip", "prior"):
        (tmp_path / "experiments" / kind).mkdir(parents=True)
        text = minute_experiment(kind).read_text().replace("common.yaml", "../common.yaml")
        (tmp_path / f"experiments/{kind}/mine.yaml").write_text(text)
    shutil.copy(minute_experiment("clip").parent / "common.yaml", tmp_path / "experiments")
    train(load_experiment("clip/mine"))
    train(load_experiment("prior/mine", ["run.dir=run", "clip=clip/mine"]))
    before = json.loads(Path("run/provenance.json").read_text())["parents"]
    train(load_experiment("clip/mine", ["trainer.seed=1"]))
    resume("prior/mine", "run", "trainer.max_steps=4")
    assert artifacts.describe("run").provenance["parents"] == before
    assert artifacts.describe("run").clip_fingerprint == before["clip"]


def test_other_data_are_refused(refused, minute_experiment, tmp_path):
    from PIL import Image

    for name, colour in (("one", "red"), ("two", "blue")):
        (tmp_path / name).mkdir()
        for k in range(12):
            Image.new("RGB", (16, 16), colour).save(tmp_path / name / f"{name}{k}.png")
            (tmp_path / name / f"{name}{k}.txt").write_text(colour)
    file, folder = str(minute_experiment("clip")), tmp_path / "run"
    train(load_experiment(file, [f"run.dir={folder}", f"data.source={tmp_path / 'one'}"]))
    line = refused("clip", folder, "trainer.max_steps=4", f"data.source={tmp_path / 'two'}")
    assert line.startswith(f"--resume: data.source={tmp_path / 'two'}: other samples (fingerprint ")


# --- what a checkpoint says of its run, whatever became of the files beside it --------------------


def edit(folder, key, value):
    """Change a setting in a run's experiment.yaml, as with an editor."""
    file = folder / "experiment.yaml"
    content = yaml.safe_load(file.read_text())
    *sections, name = key.split(".")
    section = content
    for each in sections:
        section = section[each]
    assert section[name] != value
    section[name] = value
    file.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("clip", "optim.lr", 0.5),
        ("clip", "data.batch_size", 8),
        ("clip", "trainer.seed", 3),
        ("prior", "drop_text", 0.5),
        ("ar_prior", "optim.betas", [0.5, 0.5]),
        ("decoder", "diffusion.schedule", "linear"),
        ("upsampler", "ema.decay", 0.5),
    ],
)
def test_a_setting_edited_in_the_run_is_refused(copy, refused, kind, key, value):
    folder = copy(kind)
    edit(folder, key, value)
    line = refused(kind, folder, "trainer.max_steps=4")
    assert line.startswith(f"--resume: {key}: {folder}/experiment.yaml says {value}, but ")
    assert f"{folder}/checkpoints/step_0000003 was trained with " in line


@pytest.mark.parametrize(
    ("key", "value"), [("trainer.log_every", 2), ("sampler.steps", 3), ("about", "mine")]
)
def test_what_can_change_may_be_edited_in_the_run(copy, minute_experiment, key, value):
    folder = copy("prior")
    edit(folder, key, value)
    resume(minute_experiment("prior"), folder, "trainer.max_steps=4")
    assert [p.name for p in checkpoints(folder)][-1] == "step_0000004"


def test_a_checkpoint_of_another_run_is_refused(copy, refused, minute_experiment, tmp_path):
    other = tmp_path / "other"
    train(load_experiment(str(minute_experiment("clip")), [f"run.dir={other}", "trainer.seed=1"]))
    folder = copy("clip")
    newest = checkpoints(folder)[-1]
    shutil.rmtree(newest)
    shutil.copytree(checkpoints(other)[-1], newest)
    line = refused("clip", folder, "trainer.max_steps=4")
    assert line.startswith("--resume: trainer.seed: ")
    assert "was trained with 1" in line


def test_parents_and_data_are_known_without_the_provenance(copy, refused, minute_experiment):
    folder, clip = copy("prior"), copy("clip", "other")
    train(
        load_experiment(str(minute_experiment("clip")), [f"run.dir={clip}", "trainer.seed=1"]),
        force=True,
    )
    (folder / "provenance.json").unlink()
    line = refused("prior", folder, "trainer.max_steps=4", f"clip={clip}")
    assert line.startswith(f"--resume: clip={clip}: has other weights (")


def test_a_checkpoint_that_says_nothing_of_its_run_is_continued(copy, minute_experiment):
    """As of an older version; what is written from then on says it."""
    folder = copy("clip")
    newest = checkpoints(folder)[-1]
    rest = torch.load(newest / "rest.pt", weights_only=True)
    del rest["unclip"]["run"]
    torch.save(rest, newest / "rest.pt")
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"]["rest.pt"] = size_and_sum(newest / "rest.pt")
    (newest / "manifest.json").write_text(json.dumps(manifest))
    resume(minute_experiment("clip"), folder, "trainer.max_steps=4")
    assert run_of(checkpoints(folder)[-1])["settings"]["optim.lr"] == 1e-3


# --- the end of a run -----------------------------------------------------------------------------


TIMED = (
    "seconds",
    "cpu_seconds",
    "training_seconds",
    "samples_per_second",
    "data_wait",
    "peak_memory_gib",
)


def figures(folder):
    """All that a run says of itself, but for times, in flat keys."""
    found = dict(leaves(json.loads((folder / "summary.json").read_text())))
    found |= {
        f"artifact/{k}": v for k, v in artifacts.describe(folder).provenance["metrics"].items()
    }
    for row in read_metrics(folder / "metrics.jsonl"):
        step = row.pop("step")
        del row["time"]
        kind = "loss" if "val/loss" in row else "other"
        for key, value in row.items():
            assert f"{kind}/{step}/{key}" not in found, "twice in metrics.jsonl"
            found[f"{kind}/{step}/{key}"] = value
    return {k: v for k, v in found.items() if k.split("/")[-1] not in TIMED}


def alike(one, two):
    """Whether two runs left the same; samples of minute networks may differ in the last bit."""
    own, others = figures(one), figures(two)
    assert own.keys() == others.keys()
    for key, value in own.items():
        same = pytest.approx(others[key], rel=1e-5) if type(value) is float else others[key]
        assert value == same, key
    assert weights(one) == weights(two)
    assert sorted(p.name for p in (one / "samples").iterdir()) == sorted(
        p.name for p in (two / "samples").iterdir()
    )
    assert set(files(one)) == set(files(two))


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("clip", "samples"),
        ("ar_prior", "artifact"),
        ("decoder", "artifact"),
        ("upsampler", "samples"),
    ],
)
def test_the_end_is_made_again_until_it_is_whole(
    cascade, minute_experiment, tmp_path, monkeypatch, kind, where
):
    parents = [f"{p}={cascade / p}" for p in ("clip", "pca")]
    given = [
        p
        for p in parents
        if p.split("=")[0] in load_experiment(str(minute_experiment(kind))).stage.parents
    ]
    given += ["trainer.val_every=3", "trainer.checkpoint_every=3", "trainer.log_every=2"]
    train(load_experiment(str(minute_experiment(kind)), [*given, f"run.dir={tmp_path / 'whole'}"]))

    def killed(*args, **kwargs):
        raise MemoryError("killed")

    with monkeypatch.context() as patched:
        if where == "samples":
            patched.setattr(Samples, "draw", killed)
        else:
            patched.setattr(finish.artifacts, "export", killed)
        with pytest.raises(MemoryError):
            train(
                load_experiment(
                    str(minute_experiment(kind)), [*given, f"run.dir={tmp_path / 'run'}"]
                )
            )
    assert not (tmp_path / "run/artifact").exists()
    resume(minute_experiment(kind), tmp_path / "run")
    alike(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("lost", ["artifact", "summary.json", "samples"])
def test_what_is_missing_of_a_finished_run_is_made_again(cascade, copy, minute_experiment, lost):
    folder = copy("decoder")
    (shutil.rmtree if (folder / lost).is_dir() else Path.unlink)(folder / lost)
    resume(minute_experiment("decoder"), folder)
    alike(folder, cascade / "decoder")


if __name__ == "__main__":
    text = DOCS.read_text()
    first, last = "| field | stages | on resume | |", "\n\n"
    start = text.index(first)
    end = (text + "\n").index(last, start)
    DOCS.write_text(text[:start] + resume_rules.markdown().rstrip("\n") + text[end:])
