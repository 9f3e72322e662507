"""A cosine schedule that was stretched before its end cannot be repeated, and that is said."""

from __future__ import annotations

import json
import shutil

import pytest

from unclip.cli import main
from unclip.common import yaml_text
from unclip.sharing.resumes import bent

STOPPED = {"step": 2, "changed": {"trainer.max_steps": [5, 3]}}
ENDED = {"step": 2, "changed": {"trainer.max_steps": [2, 3]}}
OTHER = {"step": 2, "changed": {"trainer.log_every": [5, 3]}}


@pytest.mark.parametrize(
    ("resumed", "schedule", "steps"),
    [
        ([STOPPED], "cosine", [2]),
        ([STOPPED], "constant", []),
        ([ENDED, OTHER], "cosine", []),
        ([{"step": "x"}, 3, {"step": 1, "changed": []}], "cosine", []),
        ("x", "cosine", []),
    ],
)
def test_it_is_known_from_the_resumes(resumed, schedule, steps):
    assert bent({"resumed": resumed}, {"optim": {"schedule": schedule}}) == steps


@pytest.mark.parametrize(("entry", "told"), [(STOPPED, True), (ENDED, False)])
def test_share_and_reproduce_say_so(cascade, tmp_path, capsys, entry, told):
    run = tmp_path / "run"
    shutil.copytree(cascade / "clip", run)
    file = run / "artifact/provenance.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "resumed": [entry]}))
    file = run / "artifact/config.yaml"
    config = yaml_text.read_file(file)
    config["optim"]["schedule"] = "cosine"
    file.write_text(yaml_text.document(config))
    assert main(["share", str(run), "--to", str(tmp_path / "b.zip")]) == 0
    line = "stopped at step 2 and continued with another trainer.max_steps: the cosine schedule"
    assert (line in capsys.readouterr().err) == told
    more = ["--check-only", "--dir", str(tmp_path / "again")]
    assert main(["reproduce", str(tmp_path / "b.zip"), *more]) == 0
    assert (line in capsys.readouterr().out) == told
