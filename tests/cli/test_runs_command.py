"""`unclip runs`, as a user types it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unclip.cli import main


@pytest.fixture
def root(cascade, tmp_path, monkeypatch):
    """A folder with two finished runs, and a third that differs from one of them."""
    monkeypatch.chdir(tmp_path)
    for kind in ("clip", "prior"):
        shutil.copytree(cascade / kind, tmp_path / "runs/mine" / kind)
    other = tmp_path / "runs/other/prior"
    shutil.copytree(cascade / "prior", other)
    file = other / "experiment.yaml"
    file.write_text(file.read_text().replace("lr: 0.001", "lr: 0.002"))
    file = other / "provenance.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    return tmp_path / "runs"


def test_list_shows_filters_and_speaks_json(root, capsys):
    assert main(["runs", "list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["run", "experiment", "status", "started"]
    assert {line.split()[0] for line in lines} == {"mine/clip", "mine/prior", "other/prior"}
    assert all("finished" in line for line in lines)
    assert main(["runs", "list", "clip", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["folder"] == "runs/mine/clip"
    assert (run["status"], run["steps"]) == ("finished", 3)


def test_list_imports_no_torch(root):
    code = f"""
import sys
from unclip.cli import main
assert main(["runs", "list", "--root", {str(root)!r}]) == 0
assert not {{"torch", "lightning", "matplotlib"}} & set(sys.modules)
"""
    here = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=here)


def test_show_tells_settings_figures_origin_and_files(root, capsys, minute_experiment):
    shutil.copytree(minute_experiment("prior").parent, root.parent / "experiments/prior")
    assert main(["runs", "show", "mine/prior"]) == 0
    out = capsys.readouterr().out
    heads = ["experiment", "summary", "provenance", "files"]
    assert [line for line in out.splitlines() if line in heads] == heads
    assert re.search(r"^  seed +0$", out, re.MULTILINE)
    assert re.search(r"^  artifact/ +\d", out, re.MULTILINE)
    assert re.search(r"^  parents\.clip +[0-9a-f]{64}$", out, re.MULTILINE)


def test_show_names_what_differs_from_the_experiment_file(root, capsys):
    kind = root.parent / "experiments/prior"
    kind.mkdir(parents=True)
    stored = (root / "other/prior/experiment.yaml").read_text()
    (kind / "prior.yaml").write_text(stored.replace("lr: 0.002", "lr: 0.5"))
    assert main(["runs", "show", "other/prior"]) == 0
    section = capsys.readouterr().out.split("\n\n")[1]
    assert section.splitlines()[1:] == [
        "  (base)    experiments/prior/prior.yaml",
        "  optim.lr  0.002",
    ]


def test_compare_says_what_differs_and_draws_it(root, capsys):
    words = ["runs", "compare", "runs/mine/prior", "other/prior", "mine/clip", "--out", "look"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert re.search(r"optim\.lr +0\.001 +0\.002", shown.out)
    assert re.search(r"seed +0 +1 +0", shown.out)
    assert "run.dir" not in shown.out
    assert "written to look/compare.html" in shown.err
    with Image.open(root.parent / "look/compare.png") as picture:
        assert picture.width > 400
        assert len(picture.convert("RGB").getcolors(2**20)) > 3
    page = (root.parent / "look/compare.html").read_text()
    assert page.count("data:image/png;base64,") == 4  # the curves, a sheet of samples each
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<td>optim.lr</td>" in page


def test_compare_of_runs_without_figures_or_samples(root, capsys):
    for name in ("mine", "other"):
        shutil.rmtree(root / name / "prior/samples")
        for file in ("metrics.jsonl", "summary.json", "provenance.json", "status.json"):
            (root / name / "prior" / file).write_text("{")
        (root / name / "prior/artifact/provenance.json").unlink()
    assert main(["runs", "compare", "mine/prior", "other/prior", "--out", "look"]) == 0
    assert "What differs in code, packages and machine: nothing" in capsys.readouterr().out
    assert "Newest samples" not in (root.parent / "look/compare.html").read_text()


def test_labels_and_values_of_others_are_escaped(root):
    evil = root / "<script>alert(1)"
    shutil.copytree(root / "mine/prior", evil)
    (evil / "experiment.yaml").write_text("about: <img src=x onerror=alert(1)>\n")
    rows = [{"step": step, "<script>": 1.0, r"val/$\no_formula$": 1.0} for step in (1, 2)]
    (evil / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (8, 8)).save(evil / "samples" / "z<script>.png")
    assert main(["runs", "compare", "mine/prior", str(evil), "--out", "look"]) == 0
    page = (root.parent / "look/compare.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "<td>&lt;script&gt;</td>" in page
    assert "&lt;script&gt;alert(1), z&lt;script&gt;</p>" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "nothing"], "--root runs: no run there matches 'nothing'"),
        (["list", "--root", "nowhere"], "--root nowhere: no such folder"),
        (["show", "mine/priorr"], "no such run in runs; did you mean 'mine/prior'?"),
        (["compare", "mine/prior"], "name two runs or more"),
        (["compare", "mine/prior", "runs/mine/prior"], "is compared already"),
        (["compare", "mine/prior", "mine/clip", "--out", "file"], "--out file: "),
    ],
)
def test_wrong_uses_are_one_line(root, capsys, words, said):
    (root.parent / "file").write_text("in the way")
    assert main(["runs", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
