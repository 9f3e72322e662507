"""What the TAB key gets: the shells' protocol in processes of its own, and bash itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unclip.cli import main
from unclip.config.files import experiment_files


def offered(line, folder, *, heavy=("torch", "lightning", "wandb", "rich")):
    """What is offered at the end of ``line`` typed in ``folder``; no heavy library is imported."""
    code = (
        "import atexit, os, sys\nfrom unclip.cli import main\n"
        f"os._exit = lambda status: sys.exit(bool(set({heavy!r}) & set(sys.modules)))\n"
        "main([])"
    )
    answer = folder / ".answer"
    env = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    subprocess.run([sys.executable, "-c", code], env=env, cwd=folder, check=True)
    return answer.read_text().split("\n") if answer.read_text() else []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("unclip expe", ["experiments "]),
        ("unclip experiments ", ["list", "show", "diff", "validate", "new"]),
        ("unclip train prior/ti", ["prior/tiny "]),
        ("unclip train clip/m", ["clip/mine "]),  # of the folder that one is in
        ("unclip train experiments/clip/m", ["experiments/clip/mine.yaml "]),
        ("unclip train prior/tiny optim.l", ["optim.lr="]),
        ("unclip train prior/tiny data.limit=3 --resume optim.w", ["optim.w…", "optim.w…"]),
        ("unclip train prior/tiny optim.lr=", []),
        ("unclip train no/such optim.l", []),
        ("unclip train --with-p", ["--with-parents "]),
        ("unclip experiments diff prior/tiny clip/mi", ["clip/mine "]),
        ("unclip experiments new my", []),
        ("unclip experiments new x --from clip/mi", ["clip/mine "]),
        ("unclip experiments new x --from clip/mine model.text_l", ["model.text_layers="]),
        ("unclip plan decoder/tiny drop_c", ["drop_caption="]),
        ("unclip recipe sc", ["scenes_gpu "]),
        ("unclip completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_tab(line, words, tmp_path):
    mine = tmp_path / "experiments" / "clip" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("extends: tiny\n")
    assert [w if w in words else w[:7] + "…" for w in offered(line, tmp_path)] == words


def test_every_experiment_is_offered(tmp_path):
    assert offered("unclip train ", tmp_path) == [n for n, _ in experiment_files()]


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_in_bash(tmp_path):
    program = tmp_path / "unclip"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m unclip "$@"\n')
    program.chmod(0o755)
    script = """
        set -e
        eval "$(unclip completion bash)"
        complete -p unclip
        COMP_LINE='unclip train prior/tiny optim.l' COMP_POINT=31 COMP_TYPE=9
        _python_argcomplete unclip 2>/dev/null
        echo "${#COMPREPLY[@]} ${COMPREPLY[0]}"
    """
    env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    found = subprocess.run(
        ["bash", "--norc", "-c", script], env=env, check=True, capture_output=True, text=True
    )
    registered, answer = found.stdout.splitlines()
    assert registered.endswith("-F _python_argcomplete unclip")
    assert answer == "1 optim.lr="


@pytest.mark.parametrize(
    ("shell", "word"), [("bash", "complete "), ("zsh", "#compdef unclip"), ("fish", "commandline")]
)
def test_a_script_for_each_shell(shell, word, capsys):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert word in out
    assert str(Path(sys.executable)) not in out  # nothing of this machine
