"""Every command that README and docs show is one that can be given; `make test-docs` runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pages
import pytest
import shown
from conftest import COMMON, FITTED, MINUTE

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


# What the pages run on.

NAMES = {
    "clip": ("tiny", "quickstart"),
    "prior": ("tiny", "diffusion_tiny", "quickstart"),
    "pca": ("tiny", "quickstart"),
    "ar_prior": ("ar_tiny",),
    "decoder": ("tiny", "quickstart"),
    "upsampler": ("tiny", "quickstart", "256_tiny", "1024_tiny", "photos"),
}
"""Experiments of which the pages get a minute one, in a project's own folder."""


def own_experiments(folder: Path) -> None:
    """Minute experiments under the names that pages use: they hide those that come with unclip."""
    folder.mkdir()
    (folder / "common.yaml").write_text(COMMON)
    for stage, names in NAMES.items():
        kind = "prior" if stage == "ar_prior" else stage
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            common = FITTED if stage == "pca" else "extends: ../common.yaml\n"
            (folder / kind / f"{name}.yaml").write_text(common + MINUTE[stage])


def own_images(folder: Path) -> None:
    """The files that readers have: photos with captions, single images, a mask, captions."""
    from itertools import product

    import numpy as np

    from unclip.common.images import save
    from unclip.data.scenes.render import Item, Scene, draw

    captions = []
    for colour, shape in product(("red", "blue", "green", "yellow"), ("circle", "square", "heart")):
        item = Item(shape=shape, colour=colour, size="large", x=0.5, y=0.5, radius=0.21)
        image = draw(Scene(background="white", items=(item,)), 64)
        captions.append(f"a {colour} {shape}")
        for place in ("photos", "samples", "real"):
            save(image, folder / place / f"{colour}_{shape}.png")
        (folder / "photos" / f"{colour}_{shape}.txt").write_text(captions[-1])
    for name, source in (("a", "red_circle"), ("b", "blue_square"), ("circle", "red_circle")):
        shutil.copy(folder / "photos" / f"{source}.png", folder / f"{name}.png")
    shutil.copy(folder / "a.png", folder / "photo.jpg")
    mask = np.full((64, 64, 3), 255, np.uint8)
    mask[16:48, 16:48] = 0
    save(mask, folder / "mask.png")
    (folder / "captions.txt").write_text("\n".join(captions[:3]) + "\n")
    (folder / "captions.csv").write_text("caption\n" + "\n".join(captions[:3]) + "\n")


@pytest.fixture(scope="session")
def readers_folder(cascade, tmp_path_factory) -> Path:
    """What a reader of a page has: the project's Makefile, images, a trained cascade."""
    folder = tmp_path_factory.mktemp("reader")
    own_experiments(folder / "experiments")
    own_images(folder)
    shutil.copytree(cascade, folder / "runs" / "quickstart")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (folder / name).symlink_to(pages.ROOT / name)
    (folder / "bin").mkdir()
    root = pages.ROOT
    exports = f'export PYTHONPATH="{root / "src"}:{root}"'
    programs = {
        "unclip": f'{exports}\nexec {sys.executable} -m unclip "$@"\n',
        "make": f'exec {shutil.which("make")} BIN="{folder / "bin"}" STAMP=.installed "$@"\n',
    }
    for name, text in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}")
        (folder / "bin" / name).chmod(0o755)
    (folder / ".installed").touch()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_run_one_after_the_other(page, readers_folder, tmp_path):
    commands = [line for each in SHOWN if each.page == page for line in each.runs]
    if not commands:
        pytest.skip("none is run")
    shutil.copytree(readers_folder, tmp_path / "w", symlinks=True)
    env = os.environ | {
        "PATH": f"{readers_folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "UNCLIP_CACHE": str(tmp_path / "cache"),
    }
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path / "w",
            env=env,
            capture_output=True,
            text=True,
            timeout=600,
        )
        print(f"$ {command}")
        assert done.returncode == 0, f"$ {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
