"""The wheel in an environment of its own and an empty folder: nothing of the checkout is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What would lead back to the checkout, or to another project's experiments.
HIDDEN = ("PYTHONPATH", "UNCLIP_EXPERIMENTS", "VIRTUAL_ENV")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The programs of an environment with the wheel; it borrows what unclip depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (wheel,) = folder.glob("unclip-*.whl")
    run(sys.executable, "-m", "venv", folder / "env", cwd=folder)
    bin = folder / "env" / "bin"
    run(bin / "python", "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=folder)
    own = run(bin / "python", "-c", "import sysconfig as s; print(s.get_path('purelib'))").strip()
    # A path in a .pth file is searched after the environment's own packages, and its own .pth files
    # (an editable install of the checkout is one) are not read.
    (Path(own) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return bin


def run(*words, cwd=None) -> str:
    """What a program prints; its complaints, if it fails."""
    env = {k: v for k, v in os.environ.items() if k not in HIDDEN}
    done = subprocess.run([str(w) for w in words], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_empty_folder_is_enough(installed, tmp_path):
    def unclip(*words):
        return run(installed / "unclip", *words, cwd=tmp_path)

    code = "import unclip, data_modules; print(unclip.__file__, *data_modules.__path__)"
    paths = [Path(p) for p in run(installed / "python", "-c", code, cwd=tmp_path).split()]
    assert all(path.is_relative_to(installed.parent) for path in paths)
    templates = {p.relative_to(ROOT / "src/unclip") for p in (ROOT / "src/unclip").rglob("*.html")}
    assert {p.relative_to(paths[0].parent) for p in paths[0].parent.rglob("*.html")} == templates

    rows = json.loads(unclip("experiments", "list", "--json"))
    shipped = {p.relative_to(ROOT / "experiments") for p in (ROOT / "experiments").rglob("*.yaml")}
    inside = Path(rows[0]["file"]).parents[1]
    assert inside.is_relative_to(installed.parent)
    assert {p.relative_to(inside) for p in inside.rglob("*.yaml")} == shipped

    assert unclip("experiments", "new", "mine", "--from", "clip/tiny", "trainer.seed=3") == (
        "experiments/clip/mine.yaml\nunclip train clip/mine\n"
    )
    assert "clip/mine " in unclip("experiments", "list", "mine")
    assert "ok      clip/mine" in unclip("experiments", "validate", "clip/mine", "prior/tiny")
    short = ["trainer.max_steps=3", "data.batch_size=4", "data.val_samples=8"]
    unclip("train", "clip/mine", *short, "trainer.accelerator=cpu")
    (artifact,) = (tmp_path / "runs" / "clip" / "mine").glob("*/artifact/artifact.json")
    assert artifact.stat().st_size > 0

    assert "scenes_gpu" in unclip("recipe", "--list")
    assert "unclip recipe quickstart" in unclip("recipe", "--help")
    assert "complete " in unclip("completion", "bash")
