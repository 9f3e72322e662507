"""Every command that README and docs show is one that can be given; `make test-docs` runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pages
import pytest
import reader
import shown

from unclip import cli
from unclip.common.errors import UserError
from unclip.config.files import find_experiment
from unclip.stages.row import KINDS

PAGES = [page for page in pages.PAGES if page.name != "CHANGELOG.md" and page.parent.name != "adr"]
SHOWN = [each for page in PAGES for each in shown.places(page)]
OWN = re.compile(r"/(mine|ID|pencil)$")  # names that a reader chooses
TARGETS = re.findall(r"^([a-z-]+):", (pages.ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("each", SHOWN, ids=lambda each: each.where)
def test_a_command_is_one_that_can_be_given(each):
    """The parser takes it, and the experiments that it names exist."""
    for command in each.commands:
        if command.startswith("make "):
            assert command.split()[1] in TARGETS, command
        for words in shown.words_of(command):
            try:
                found = cli.parser().parse_args(words)
            except UserError as error:
                pytest.fail(f"{command}: {error}")
            for word in [getattr(found, "experiment", None), *getattr(found, "names", [])]:
                named = isinstance(word, str) and word.split("/")[0] in KINDS
                if named and not OWN.search(word) and not word.endswith(".yaml"):
                    find_experiment(word)


def test_a_comment_leaves_out_and_shrinks_what_is_there():
    for each in SHOWN:
        assert len(each.markers) <= 1, each.where
        for kind, texts in shown.OPTION.findall(" ".join(each.markers)):
            for text in texts.split(" | " if kind == "except" else ";"):
                text = text.partition(" => ")[0].strip()
                assert any(text in command for command in each.commands), f"{each.where}: {text}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_run_one_after_the_other(page, readers_folder, tmp_path):
    commands = [line for each in SHOWN if each.page == page for line in each.runs]
    if not commands or page.parent.name == "tutorials":  # those run as notebooks
        pytest.skip("none is run")
    shutil.copytree(readers_folder, tmp_path / "w", symlinks=True)
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path / "w",
            env=os.environ | reader.variables(tmp_path / "w"),
            capture_output=True,
            text=True,
            timeout=600,
        )
        print(f"$ {command}")
        assert done.returncode == 0, f"$ {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
