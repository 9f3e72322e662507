"""What `unclip experiments` and `unclip recipe --list` print, and what they say of broken files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unclip.cli import main
from unclip.config.cascades import cascade_files
from unclip.config.files import experiment_files, shipped_experiments
from unclip.config.load import load_experiment


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNCLIP_EXPERIMENTS", raising=False)
    return tmp_path


def write(path, text):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def listed(capsys, *words):
    assert main(["experiments", "list", *words, "--json"]) == 0
    said = capsys.readouterr()
    return json.loads(said.out), said.err.splitlines()


def test_the_shipped_experiments_are_listed_from_anywhere_with_every_field(project, capsys):
    rows, remarks = listed(capsys)
    assert not remarks
    row = next(r for r in rows if r["name"] == "decoder/paper")
    assert row == {
        "name": "decoder/paper",
        "stage": "decoder",
        "parameters": 3_563_695_622,
        "about": "the paper's decoder, table 3, GLIDE's 3.5B network with both CLIP paths",
        "hardware": "a cluster of 80 GB GPUs",
        "time": "800K iterations of 2048 samples; not measured (no GPU was at hand)",
        "parent": None,
        "file": str(shipped_experiments() / "decoder" / "paper.yaml"),
        "shipped": True,
        "hides": [],
    }
    assert next(r for r in rows if r["name"] == "prior/tiny")["parent"] == "prior/diffusion_tiny"
    assert next(r for r in rows if r["name"] == "pca/tiny")["parameters"] is None


def test_a_pipe_gets_a_line_each(project, capsys):
    write(
        "experiments/clip/mine.yaml",
        "# hardware: a toaster; time: long\nextends: tiny\nabout: toast\n",
    )
    assert main(["experiments", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(experiment_files())) + len(cascade_files())
    mine = next(x for x in lines if x.startswith("clip/mine "))
    cells = "clip/mine clip - a toaster clip/tiny toast [experiments/clip/mine.yaml]"
    assert " ".join(mine.split()) == cells
    assert next(x for x in lines if x.startswith("clip/paper ")).split()[:3] == [
        "clip/paper",
        "clip",
        "986M",
    ]


def test_a_terminal_gets_a_table_per_stage_that_fits(project, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["experiments", "list"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 120
    names = [name for name, _ in experiment_files()]
    assert [n for n in names if f"\n{n} " not in out] == []  # none is broken over lines
    assert "diffusion_prior: caption to image embedding, x0-predicting" in out


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("AR_PRIOR", {"prior/ar_tiny", "prior/ar_paper", "prior/table_ar"}),  # a stage
        ("pca/", {"pca/tiny", "pca/cifar", "pca/paper"}),
        ("glide's", {"decoder/paper", "decoder/s"}),  # what it is for
    ],
)
def test_the_filter_looks_at_name_stage_and_purpose_in_any_case(project, capsys, word, names):
    assert names <= {r["name"] for r in listed(capsys, word)[0]}
    assert "clip/tiny" not in {r["name"] for r in listed(capsys, word)[0]}


def test_a_filter_with_a_slash_is_of_names_alone(project, capsys):
    assert all(r["name"].startswith("prior/") for r in listed(capsys, "prior/")[0])


def test_nothing_that_matches_is_said(project, capsys):
    assert listed(capsys, "no such thing") == ([], [])
    assert main(["experiments", "list", "no such thing"]) == 2
    assert "no experiment matches 'no such thing'" in capsys.readouterr().err


def test_what_is_broken_is_said_and_hinders_no_other(project, capsys):
    write("experiments/clip/good.yaml", "extends: tiny\n")
    write("experiments/clip/cut.yaml", "stage: clip\nmodel: {a: 1\n")
    write("experiments/clip/odd.yaml", "stage: nonsense\n")
    write("experiments/clip/orphan.yaml", "extends: nowhere\n")
    write("experiments/clip/loop.yaml", "extends: loop\n")
    write("experiments/clip/latin.yaml", "").write_bytes(b"about: \xe4\n")
    (project / "experiments" / "clip" / "folder.yaml").mkdir()
    rows, remarks = listed(capsys)
    names = {r["name"] for r in rows if r["stage"] != "cascade"}
    assert names == {name for name, _ in experiment_files()} - {
        f"clip/{x}" for x in ("cut", "odd", "orphan", "loop", "latin")
    }
    assert len(remarks) == 5
    for name, says in {
        "cut": "not valid YAML: line 3",
        "odd": "stage: unknown stage 'nonsense'",
        "orphan": "extends: clip/nowhere: no such experiment",
        "loop": "is a cycle",
        "latin": "cannot be read",
    }.items():
        assert any(f"not listed: experiments/clip/{name}.yaml: {says}" in x for x in remarks) or (
            name == "loop" and any(says in x for x in remarks)
        )


def test_earlier_folders_hide_later_ones_and_say_so(project, capsys, monkeypatch):
    mine = write("experiments/clip/tiny.yaml", "stage: clip\nabout: mine\n")
    write("a/clip/tiny.yaml", "stage: clip\nabout: a\n")
    write("a/clip/both.yaml", "stage: clip\nabout: a\n")
    write("b/clip/both.yaml", "stage: clip\nabout: b\n")
    monkeypatch.setenv("UNCLIP_EXPERIMENTS", "a:b:gone")
    rows, remarks = listed(capsys, "clip/")
    found = {r["name"]: r for r in rows}
    assert found["clip/tiny"]["about"] == "mine"
    assert found["clip/tiny"]["file"] == str(mine)
    assert not found["clip/tiny"]["shipped"]
    shipped = str(shipped_experiments() / "clip" / "tiny.yaml")
    assert found["clip/tiny"]["hides"] == ["a/clip/tiny.yaml", shipped]
    assert found["clip/both"]["about"] == "a"
    assert remarks == [
        "unclip: $UNCLIP_EXPERIMENTS: gone is not a folder",
        "unclip: experiments/clip/tiny.yaml hides a/clip/tiny.yaml",
        f"unclip: experiments/clip/tiny.yaml hides {shipped}",
        "unclip: a/clip/both.yaml hides b/clip/both.yaml",
    ]


def test_show_names_the_origin_of_each_value(capsys):
    assert main(["experiments", "show", "prior/tiny", "model.width=64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    width = next(x for x in lines if x.strip().startswith("width:"))
    assert width.split() == ["width:", "64", "#", "command", "line"]
    assert all("  # " in x for x in lines[1:] if not x.endswith(":"))


@pytest.mark.parametrize(
    "name",
    [
        "clip/quickstart",
        "pca/cifar",
        "prior/ar_tiny",
        "prior/table_diffusion_cifar",
        "decoder/text_embedding_s",
        "upsampler/1024_s",
    ],
)
def test_what_show_prints_is_the_experiment(name, tmp_path, capsys):
    assert main(["experiments", "show", name]) == 0
    copy = write(tmp_path / "copy.yaml", capsys.readouterr().out)
    assert load_experiment(str(copy)).config == load_experiment(name).config


def _json(content):
    return json.dumps(content, ensure_ascii=False)


@pytest.mark.parametrize(
    "text",
    [
        "1e-4",
        "null",
        "a: b # c",
        "one\ntwo",
        "",
        " x",
        "'\"",
        "é😀",
        "{}",
        "\u2028",
        "07",
        "a...",
        "--- x",
        "a, b",
    ],
)
def test_show_keeps_any_text(text, tmp_path, capsys):
    original = write(tmp_path / "odd.yaml", _json({"stage": "clip", "about": text}))
    assert main(["experiments", "show", str(original), "data.mixture.x.source=y"]) == 0
    copy = write(tmp_path / "copy.yaml", capsys.readouterr().out)
    before = load_experiment(str(original), ["data.mixture.x.source=y"])
    assert load_experiment(str(copy)).config == before.config
    assert before.config.about == text


def test_diff_shows_only_what_differs(capsys):
    assert main(["experiments", "diff", "prior/tiny", "prior/tiny"]) == 0
    assert capsys.readouterr().out.strip() == "no difference"
    assert main(["experiments", "diff", "prior/diffusion_tiny", "prior/table_diffusion"]) == 0
    lines = [x.split() for x in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["prior/diffusion_tiny", "prior/table_diffusion"]
    assert ["model.width", "128", "140"] in lines
    assert not any(x[0] == "run.root" for x in lines)


def test_diff_as_json_leaves_out_what_a_stage_does_not_have(capsys):
    assert main(["experiments", "diff", "clip/tiny", "prior/tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["a"], found["b"]) == ("clip/tiny", "prior/tiny")
    assert found["fields"]["stage"] == {"a": "clip", "b": "diffusion_prior"}
    assert found["fields"]["model.patch_size"] == {"a": 16}
    assert found["fields"]["clip"] == {"b": "clip/tiny"}
    assert "run.root" not in found["fields"]
    assert main(["experiments", "diff", "clip/tiny", "clip/tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fields"] == {}


def test_validate_reports_every_failure(project, capsys):
    write("experiments/clip/good.yaml", "extends: tiny\n")
    write("experiments/clip/wide.yaml", "extends: tiny\nmodel: {text_width: 33}\n")
    write("experiments/clip/word.yaml", "extends: tiny\nmodle: {text_width: 32}\n")
    stale = write("far/stale.yaml", "# parameters: 8.1M\nextends: clip/tiny\n")
    names = ["clip/good", "clip/wide", "clip/word", str(stale), "clip/tiny", "clip/tinny"]
    assert main(["experiments", "validate", *names]) == 2
    said = capsys.readouterr()
    assert [line.split()[:2] for line in said.out.splitlines()] == [
        ["ok", "clip/good"],
        ["ok", "clip/tiny"],
    ]
    *lines, last = said.err.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["FAILED", "clip/wide"],
        ["FAILED", "clip/word"],
        ["FAILED", str(stale)],
        ["FAILED", "clip/tinny"],
    ]
    assert "does not divide" in lines[0]
    assert "modle: unknown key; did you mean 'model'?" in lines[1]
    assert f"{stale}: the comment says '8.1M'; write `# parameters: 8,061,145`" in lines[2]
    assert "did you mean 'clip/tiny'?" in lines[3]
    assert "4 of 6 invalid" in last
    assert main(["experiments", "validate", "clip/tinny"]) == 2
    assert "1 of 1 invalid" in capsys.readouterr().err


def test_recipes_are_listed(project, capsys):
    write("experiments/recipes/mine.yaml", "# time: an hour\nabout: my own\n")
    write("experiments/recipes/cut.yaml", "about: [")
    assert main(["recipe", "--list"]) == 0
    said = capsys.readouterr()
    lines = [line.split() for line in said.out.splitlines()]
    assert lines[0] == ["mine", "-", "an", "hour", "my", "own"]
    assert {path.stem for path in (shipped_experiments() / "recipes").glob("*.yaml")} == {
        line[0] for line in lines[1:]
    }
    assert "not listed: experiments/recipes/cut.yaml: not valid YAML" in said.err
    assert main(["recipe"]) == 2
    assert "give one of `unclip recipe --list`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["experiments", "show", "ar_tiny"], "did you mean 'prior/ar_tiny'?"),
        (["experiments", "show", "cifar"], "'clip/cifar' or 'pca/cifar' or 'prior/cifar' or"),
        (["experiments", "show", "xyz"], "see `unclip experiments list`"),
        (["recipe", "quickstrat"], "did you mean 'recipes/quickstart'?"),
        (["recipe", "xyz"], "see `unclip recipe --list`"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(project, capsys, words, hint):
    assert main(words) == 2
    assert hint in capsys.readouterr().err
