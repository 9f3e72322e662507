"""Training that begins from trained weights."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from unclip.cli import main
from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.load import load_experiment, merge_overrides
from unclip.runs import init
from unclip.runs.parents import parents
from unclip.runs.train import assemble, train
from unclip.tracking.files import read_json

STAGES = ("clip", "prior", "ar_prior", "decoder", "upsampler")


@pytest.fixture
def resolved(minute_experiment, cascade, tmp_path):
    """A minute experiment of a kind, on the cascade's parents."""

    def resolved(kind, *overrides, folder="run"):
        given = [f"run.dir={tmp_path / folder}"]
        given += [f"clip={cascade / 'clip'}"] * (kind not in ("clip", "upsampler"))
        given += [f"pca={cascade / 'pca'}"] * (kind == "ar_prior")
        given = merge_overrides(given, overrides)
        return load_experiment(str(minute_experiment(kind)), given)

    return resolved


@pytest.fixture
def begun(resolved):
    """The stage that would be trained, and what is said of its beginning."""

    def begun(kind, *overrides):
        wanted = resolved(kind, *overrides)
        depends_on = parents(wanted)._replace(init=init.find(wanted))
        _, stage, found = assemble(wanted, depends_on)
        return stage, found

    return begun


def weights_of(folder):
    return artifacts.describe(folder).weights()


@pytest.mark.parametrize("kind", STAGES)
def test_network_and_average_begin_from_an_artifact_a_run_and_a_cascade(cascade, begun, kind):
    wanted = weights_of(cascade / kind)
    places = [cascade / kind, cascade / kind / "artifact"]
    places += [cascade] * (kind in ("decoder", "upsampler", "clip"))
    for place in places:
        stage, found = begun(kind, f"init={place}")
        for net in (stage.net, stage.ema):
            for name, tensor in net.state_dict().items() if net is not None else ():
                assert torch.equal(tensor, wanted[name.removeprefix("model.")].view_as(tensor)), (
                    name
                )
        assert (found.taken, found.new, found.left) == (len(wanted), (), ())


def test_a_network_without_init_begins_anew(cascade, begun):
    stage, found = begun("decoder")
    assert found is None
    name = "unet.out.weight"
    name = name if name in stage.net.state_dict() else next(iter(stage.net.state_dict()))
    assert any(
        not torch.equal(t, weights_of(cascade / "decoder")[n])
        for n, t in stage.net.state_dict().items()
    )


def test_an_experiment_names_its_newest_run(cascade, begun, tmp_path):
    for name in ("20260101-000000", "20260102-000000"):
        shutil.copytree(cascade / "decoder", tmp_path / "runs" / "decoder" / "tiny" / name)
    _, found = begun("decoder", "init=decoder/tiny", f"run.root={tmp_path / 'runs'}")
    assert "20260102" in found.source


def test_what_was_taken_is_printed_and_in_the_provenance(cascade, resolved, capsys, tmp_path):
    wanted = resolved("decoder", f"init={cascade / 'decoder'}", "init_skip=['z_i_to_time.*']")
    artifact = artifacts.describe(train(wanted).artifact)
    sha256 = artifacts.describe(cascade / "decoder").sha256
    assert artifact.provenance["parents"]["init"] == sha256
    assert {*artifact.provenance["init"]["new"]} == {"z_i_to_time.weight", "z_i_to_time.bias"}
    assert {*artifact.provenance["init"]["left"]} == {*artifact.provenance["init"]["new"]}
    err = capsys.readouterr().err
    assert f"({sha256[:12]})" in err
    assert "new: z_i_to_time." in err


@pytest.mark.slow
def test_a_resume_needs_no_weights_to_begin_from_and_ends_in_the_same_bits(
    cascade, resolved, tmp_path
):
    base = tmp_path / "base"
    shutil.copytree(cascade / "decoder", base)
    whole = train(resolved("decoder", f"init={base}", "trainer.max_steps=4", folder="whole"))
    train(resolved("decoder", f"init={base}", "trainer.max_steps=2", folder="parts"))
    shutil.rmtree(base)
    again = resolved("decoder", f"init={base}", "trainer.max_steps=4", folder="parts")
    parts = train(again, resume=True)
    for name, tensor in weights_of(parts.artifact).items():
        assert torch.equal(tensor, weights_of(whole.artifact)[name]), name
    assert (
        artifacts.describe(parts.artifact).provenance["init"]
        == artifacts.describe(whole.artifact).provenance["init"]
    )
    resumed = read_json(tmp_path / "parts" / "provenance.json")["resumed"]
    assert not {"init", "parents"} & {*resumed[0]}
    with pytest.raises(UserError, match=r"^--resume: init: "):
        train(resolved("decoder", "init=elsewhere", folder="parts"), resume=True)


def test_standardisation_is_that_of_the_weights_unless_it_is_skipped(cascade, resolved, begun):
    on = "model.standardise=true"
    base = train(resolved("prior", on, "data.scenes.count=16", folder="base")).artifact
    stage, _ = begun("prior", on, f"init={base}")
    assert torch.equal(stage.net.mean, weights_of(base)["mean"])
    fresh, _ = begun("prior", on)
    assert not torch.equal(fresh.net.mean, stage.net.mean)
    stage, _ = begun("prior", on, f"init={base}", "init_skip=[mean, std]")
    assert torch.equal(stage.net.mean, fresh.net.mean)
    assert torch.equal(stage.ema.std, fresh.net.std)


def test_further_channels_begin_without_effect(cascade, begun):
    with pytest.raises(UserError, match=r"init_skip=\[.*\]$"):
        begun("decoder", f"init={cascade / 'decoder'}", "model.inpaint=true")
    narrow, _ = begun("decoder", f"init={cascade / 'decoder'}")
    first = next(n for n, t in narrow.net.state_dict().items() if t.dim() == 4)
    wide, _ = begun(
        "decoder", f"init={cascade / 'decoder'}", "model.inpaint=true", f"init_skip=[{first}]"
    )
    old, new = narrow.net.state_dict()[first], wide.net.state_dict()[first]
    assert torch.equal(new[:, :3], old)
    assert new.shape[1] == 7
    assert not new[:, 3:].any()


@pytest.mark.parametrize(
    ("kind", "overrides", "line"),
    [
        ("decoder", ["init={}/upsampler"], "is an upsampler, but a decoder is needed"),
        ("decoder", ["init={}/nowhere"], "no such artifact; name the folder"),
        ("decoder", ["init=karlos"], "did you mean the cascade 'karlo'?"),
        ("decoder", ["init=decoder/tiny", "run.root={}"], "run `unclip train decoder/tiny` first"),
        ("decoder", ["init={}/decoder", "model.text.width=64"], r"has the shape \["),
        ("decoder", ["init={}/decoder", "model.unet.blocks=2"], "init_skip="),
        ("decoder", ["init={}/decoder", "model.unet.head_channels=16"], "was trained with 32"),
        ("decoder", ["init={}/decoder", "diffusion.prediction=v"], "was trained with eps"),
        ("prior", ["init={}/prior", "diffusion.schedule=linear"], "was trained with cosine"),
        ("decoder", ["init={}/decoder", "init_skip=[unet.nothing.*]"], "names no weight"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(
    cascade, resolved, tmp_path, kind, overrides, line
):
    given = [o.format(cascade) for o in overrides]
    with pytest.raises(UserError, match=line) as caught:
        train(resolved(kind, *given))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["init_skip=[a]"], "has no effect without init"),
        (["init=x", "init_skip=['']"], "has an empty pattern"),
    ],
)
def test_settings_that_say_nothing_are_refused(minute_experiment, overrides, line):
    with pytest.raises(UserError, match=line):
        load_experiment(str(minute_experiment("decoder")), overrides)


@pytest.mark.parametrize("damage", [3, {"source": "a"}, {"new": 1}])
def test_a_damaged_record_of_the_beginning_counts_as_none(tmp_path, damage):
    whole = {"source": "a", "sha256": "b", "taken": 1, "new": [], "left": []}
    (tmp_path / "provenance.json").write_text(json.dumps({"init": whole}))
    assert init.recorded(tmp_path).sha256 == "b"
    broken = whole | damage if damage == {"new": 1} else damage
    (tmp_path / "provenance.json").write_text(json.dumps({"init": broken}))
    assert init.recorded(tmp_path) is None


def test_an_empty_name_is_refused(minute_experiment, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: {minute_experiment('decoder')}\ninit: ''\n")
    with pytest.raises(UserError, match=r"init.*must name weights, or be null"):
        load_experiment(str(file))


def test_another_setting_that_no_weight_shows_is_taken_when_it_is_named(cascade, begun):
    _, found = begun(
        "decoder",
        f"init={cascade / 'decoder'}",
        "diffusion.prediction=v",
        "init_skip=[diffusion.prediction]",
    )
    assert found.new == found.left == ()


def test_dropout_may_differ(cascade, begun):
    _, found = begun("decoder", f"init={cascade / 'decoder'}", "model.unet.dropout=0.1")
    assert found.new == ()


def test_weights_of_another_clip_or_pca_are_refused(cascade, resolved, tmp_path):
    other = train(resolved("clip", "trainer.seed=5", folder="clip")).artifact
    with pytest.raises(UserError, match=rf"another CLIP.*clip={cascade / 'clip'}"):
        train(resolved("decoder", f"init={cascade / 'decoder'}", f"clip={other}"))
    from unclip.runs.fit import fit

    pca = fit(resolved("pca", "pca.reservoir=32", folder="pca"))
    with pytest.raises(UserError, match=rf"another PCA.*pca={cascade / 'pca'}"):
        train(resolved("ar_prior", f"init={cascade / 'ar_prior'}", f"pca={pca}"))


def test_a_run_does_not_replace_what_it_begins_from(cascade, resolved, tmp_path):
    shutil.copytree(cascade / "decoder", tmp_path / "run")
    before = weights_of(tmp_path / "run")
    with pytest.raises(UserError, match=r"run\.dir="):
        train(resolved("decoder", f"init={tmp_path / 'run'}"), force=True)
    assert weights_of(tmp_path / "run").keys() == before.keys()


def test_the_command_takes_it(cascade, minute_experiment, tmp_path, capsys):
    words = ["train", str(minute_experiment("upsampler")), f"init={cascade}"]
    assert main([*words, f"run.dir={tmp_path / 'up'}"]) == 0
    assert "weights of" in capsys.readouterr().err
    assert json.loads((tmp_path / "up" / "provenance.json").read_text())["init"]["taken"] > 0
