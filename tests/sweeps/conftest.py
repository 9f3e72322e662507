"""Sweep files for the tests."""

from __future__ import annotations

import pytest
import yaml

PLAIN = {
    "method": "bayes",
    "metric": {"name": "val/loss"},
    "parameters": {"x": {"min": 0.0, "max": 1.0}},
    "command": ["${env}", "python", "-m", "unclip", "train", "clip/tiny", "${args_no_hyphens}"],
}


@pytest.fixture
def sweep_file(tmp_path):
    """Writes a sweep file: `sweep_file(method="grid", parameters={...})`."""

    def write(name="mine", **changes):
        path = tmp_path / f"{name}.yaml"
        content = {k: v for k, v in {**PLAIN, **changes}.items() if v is not None}
        path.write_text(yaml.safe_dump(content))
        return path

    return write
