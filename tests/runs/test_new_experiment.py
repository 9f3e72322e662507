"""`unclip experiments new` writes a valid child, and nothing where it must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from unclip.cli import main
from unclip.config.files import find_experiment
from unclip.config.load import load_experiment
from unclip.config.text import opening
from unclip.runs.parents import count_parameters


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNCLIP_EXPERIMENTS", raising=False)
    return tmp_path


def new(*words):
    return main(["experiments", "new", *words])


def files():
    return sorted(str(p) for p in Path().rglob("*") if p.is_file())


def test_the_file_says_what_changes_and_what_the_parent_has(capsys):
    words = ["mine", "--from", "clip/tiny", "model.text_layers=1", "optim.lr=3e-4"]
    assert new(*words, "data.limit=None") == 0
    assert capsys.readouterr().out == "experiments/clip/mine.yaml\nunclip train clip/mine\n"
    assert Path("experiments/clip/mine.yaml").read_text() == (
        "# unclip train clip/mine\n"
        "# parameters: 7,862,873\n"
        "# hardware: not measured; time: not measured\n"
        "# expect: not measured\n"
        "extends: clip/tiny\n"
        "about: clip/tiny with model.text_layers=1, optim.lr=0.0003, data.limit=null\n"
        "model:\n"
        "  text_layers: 1                              # clip/tiny has 2\n"
        "optim:\n"
        "  lr: 0.0003                                  # clip/tiny has 0.001\n"
        "data:\n"
        "  limit: null                                 # clip/tiny has null\n"
    )
    assert files() == ["experiments/clip/mine.yaml"]
    assert main(["experiments", "validate", "clip/mine"]) == 0


@pytest.mark.parametrize(
    ("parent", "overrides"),
    [
        ("prior/ar_tiny", ["model.context=80", "data.mixture.x.source=y"]),
        ("decoder/tiny", ["model.unet.multiples=[1, 2, 2]", "about='its # own: words'"]),
        ("pca/tiny", ["pca.buckets=32"]),
        ("upsampler/tiny", []),
    ],
)
def test_it_is_the_parent_with_the_overrides(parent, overrides, capsys):
    kind = parent.split("/")[0]
    assert new(f"{kind}/mine", "--from", parent, *overrides) == 0
    verb = "fit-pca" if kind == "pca" else "train"
    assert capsys.readouterr().out.splitlines()[1] == f"unclip {verb} {kind}/mine"
    mine, wanted = load_experiment(f"{kind}/mine"), load_experiment(parent, overrides)
    if not any(x.startswith("about=") for x in overrides):
        assert mine.config.about.startswith(f"{parent} with ")
        mine.config.about = wanted.config.about
    assert mine.config == wanted.config
    notes = opening(mine.files[0])
    assert notes.get("parameters") == (f"{count_parameters(mine):,}" if kind != "pca" else None)


def test_a_child_of_a_child_and_of_a_path(capsys):
    assert new("one", "--from", "clip/tiny", "optim.lr=1e-4") == 0
    assert new("two", "--from", "clip/one", "optim.eps=1e-5") == 0
    assert new("three", "--from", "experiments/clip/two.yaml", "--dir", "far off") == 0
    capsys.readouterr()
    path = Path("far off/clip/three.yaml")
    assert "extends: ../../experiments/clip/two.yaml\n" in path.read_text()
    three = load_experiment(str(path))
    assert (three.config.optim.lr, three.config.optim.eps) == (1e-4, 1e-5)
    assert len(three.files) == 4


def test_the_command_is_one_that_finds_it(capsys, monkeypatch):
    assert new("mine", "--from", "clip/tiny", "--dir", "far off") == 0
    assert capsys.readouterr().out.splitlines()[1] == "unclip train 'far off/clip/mine.yaml'"
    monkeypatch.setenv("UNCLIP_EXPERIMENTS", "near")
    assert new("mine", "--from", "clip/tiny", "--dir", "near") == 0
    assert capsys.readouterr().out.splitlines()[1] == "unclip train clip/mine"
    assert find_experiment("clip/mine") == Path("near/clip/mine.yaml")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["clip/tiny", "--from", "clip/tiny", "--force"], "clip/tiny: is part of its own parent"),
        (["tiny", "--from", "clip/quickstart"], "clip/tiny: is part of its own parent"),
        (["scenes", "--from", "clip/tiny"], "clip/scenes: is the name of "),
        (
            ["prior/mine", "--from", "clip/tiny"],
            "its parent is of the kind clip; call it clip/mine",
        ),
        (["../mine", "--from", "clip/tiny"], "'../mine': a name is of letters"),
        (["/mine", "--from", "clip/tiny"], "'/mine': a name is of letters"),
        (["clip/../mine", "--from", "clip/tiny"], "a name is of letters"),
        (["mine.yaml", "--from", "clip/tiny"], "a name is of letters"),
        (["m\nx", "--from", "clip/tiny"], "a name is of letters"),
        (["", "--from", "clip/tiny"], "a name is of letters"),
        (["mine", "--from", "tiny"], "did you mean 'clip/tiny' or"),
        (["mine", "--from", "clip/tiny", "modle.width=3"], "did you mean 'model'?"),
        (["mine", "--from", "prior/ar_tiny", "model.context=9"], "cannot hold 64 codes"),
        (
            ["mine", "--from", "clip/tiny", "model.text_heads=0"],
            "must be at least 1",
        ),
        (
            ["mine", "--from", "clip/tiny", "model.embed_dim=-1"],
            "must be at least 1",
        ),
        (["mine", "--from", "clip/tiny", "model.text_heads=3"], "does not divide"),
        (["mine", "--from", "decoder/tiny", "clip=gone"], "clip=gone"),
        (
            ["mine", "--from", "clip/tiny", "--dir", "file"],
            "--dir file: file is not a folder",
        ),
    ],
)
def test_what_will_not_do_is_refused_and_nothing_is_written(words, says, capsys):
    Path("file").write_text("mine")
    assert new(*words) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert len(said.err.splitlines()) == 1
    assert files() == ["file"]


def test_force_replaces_a_file_and_hides_a_shipped_one(capsys):
    assert new("mine", "--from", "clip/tiny") == 0
    assert new("mine", "--from", "clip/tiny", "optim.lr=1e-4") == 2
    assert "experiments/clip/mine.yaml: exists; take another name, or --force" in (
        capsys.readouterr().err
    )
    assert new("mine", "--from", "clip/tiny", "optim.lr=1e-4", "--force") == 0
    assert load_experiment("clip/mine").config.optim.lr == 1e-4
    assert new("scenes", "--from", "clip/tiny", "--force") == 0
    assert find_experiment("clip/scenes") == Path("experiments/clip/scenes.yaml")


def test_a_file_that_extends_its_own_name_is_a_cycle_of_one(capsys):
    path = Path("experiments/prior/tiny.yaml")
    path.parent.mkdir(parents=True)
    path.write_text("extends: tiny\n")
    assert main(["experiments", "show", "prior/tiny"]) == 2
    assert f"extends: {path} -> {path} is a cycle" in capsys.readouterr().err


def test_the_opening_comment_is_read_up_to_its_end(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        "# make x; hardware: none\n"
        "# hardware: one GPU (16 GB; less will do); time: 3 h; memory: 2 GiB\n"
        "# a line of words\n"
        "# expect: 70 % right; time will tell\n"
        "stage: clip\n"
        "# parameters: 3\n"
    )
    assert opening(path) == {
        "hardware": "one GPU (16 GB; less will do)",
        "time": "3 h",
        "memory": "2 GiB",
        "expect": "70 % right; time will tell",
    }
