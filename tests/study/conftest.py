"""Minute studies, of images that need no cascade."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unclip.study.folder import StudyConfig
from unclip.study.new import ArmSource, make_study
from unclip.study.study import Study, load_study

CAPTIONS = 20
MARKUP = '<img src=x onerror="document.title=1">'


def write_arm(folder: Path, level: int, *, captions: int = CAPTIONS, side: int = 16) -> Path:
    """16 images of each caption, brighter by ``level``; the first caption is markup."""
    rows = []
    (folder / "img").mkdir(parents=True)
    rng = np.random.default_rng(level)
    for k in range(captions):
        for j in range(16):
            image = rng.integers(0, 60, (side, side, 3), dtype=np.uint8) + np.uint8(level)
            Image.fromarray(image).save(folder / f"img/{k}_{j}.png", compress_level=1)
            caption = MARKUP if k == 0 else f"caption {k}"
            rows.append({"file": f"img/{k}_{j}.png", "caption": caption, "seed": j})
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make(root: Path, out: Path, *, force: bool = False, **config) -> Study:
    given = {"questions": ["photorealism", "caption", "diversity"], "n": 20, "seed": 5} | config
    sources = {arm: ArmSource(f"--{arm}", str(root / arm)) for arm in ("a", "b")}
    make_study(sources, None, out, StudyConfig(**given), force=force)
    return load_study(out)


@pytest.fixture(scope="session")
def arms(tmp_path_factory) -> Path:
    """A folder of two folders of images: of ``a`` all are darker than 100, of ``b`` lighter."""
    root = tmp_path_factory.mktemp("arms")
    for name, level in (("a", 20), ("b", 120)):
        write_arm(root / name, level)
    return root


@pytest.fixture(scope="session")
def study(arms, tmp_path_factory) -> Study:
    """60 pairs, and 9 catch pairs. Votes go elsewhere."""
    return make(arms, tmp_path_factory.mktemp("study") / "study")
