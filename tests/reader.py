"""What the reader of a page has: the project's Makefile, images, a trained cascade, `unclip`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pages
import pytest
from conftest import COMMON, FITTED, MINUTE

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


def variables(folder: Path) -> dict[str, str]:
    """The environment in which a copy of the reader's folder runs what a page shows."""
    return {
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "UNCLIP_CACHE": str(folder / ".cache"),
    }
