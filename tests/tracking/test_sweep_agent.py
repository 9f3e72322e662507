"""Sweeps by the real W&B client and agent, talking to a server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml
from wandb_server import serving

from unclip.common.errors import UserError
from unclip.sweeps import online

SPEC = {
    "method": "grid",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "parameters": {
        "optim.lr": {"values": [0.001, 0.002, 0.003]},
        "optim.schedule": {"value": "cosine"},
        "tracking.entity": {"values": [None]},
    },
}
TRIALS = [
    {"optim.lr": lr, "optim.schedule": "cosine", "tracking.entity": None}
    for lr in (0.001, 0.002, 0.003)
]
SWEEP = """
import json, sys
from unclip.sweeps import online
online.run_agent(online.create(json.loads(sys.argv[1])), int(sys.argv[2]))
"""


def environment(server, home):
    """Of a user whose key is for ``server``; his Python's folder is not in PATH."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    search = os.pathsep.join([os.path.abspath(p) for p in sys.path if p])
    given = {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": search}
    return {**kept, **given, "OMP_NUM_THREADS": "1", **server.environment()}


def sweep(server, folder, command, trials, timeout):
    """Creates a sweep and runs its agent in ``folder``; gives what they said."""
    server.trials = list(trials)
    spec = {**SPEC, "command": command}
    done = subprocess.run(
        [sys.executable, "-c", SWEEP, json.dumps(spec), str(len(trials))],
        cwd=folder,
        env=environment(server, folder),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_agent_runs_the_command_with_each_trials_values(tmp_path):
    note = "import sys; open('said', 'a').write(' '.join(sys.argv[1:]) + '\\n')"
    command = ["${env}", "python", "-c", note, "${args_no_hyphens}"]
    with serving() as server:
        said = sweep(server, tmp_path, command, TRIALS[:1], timeout=120)
    assert "another machine joins by: wandb agent us/unclip/sweep0\n" in said
    [kept] = server.sweeps.values()
    assert kept["command"] == [*command, "tracking.wandb=true"]
    assert kept["metric"] == SPEC["metric"]
    values = "optim.lr=0.001 optim.schedule=cosine tracking.entity=None"
    assert (tmp_path / "said").read_text() == f"{values} tracking.wandb=true\n"


@pytest.mark.slow
def test_three_trials_train_for_real(minute_experiment, tmp_path):
    words = ["python", "-m", "unclip", "train", str(minute_experiment("clip"))]
    with serving() as server:
        sweep(server, tmp_path, ["${env}", *words, "${args_no_hyphens}"], TRIALS, timeout=600)
    assert sorted(server.runs) == ["trial0", "trial1", "trial2"]
    arrived = {}
    for name, run in server.runs.items():
        assert run["sweep"] == "sweep0"
        assert run["exitcode"] == 0
        values = {key: each["value"] for key, each in run["config"].items()}
        assert values["optim"]["schedule"] == values["optim.schedule"] == "cosine"
        assert values["tracking"]["entity"] is None
        assert len(server.received(name, "train/loss")) == 3
        arrived[values["optim"]["lr"]] = run["summary"]["loss"]
    trained = {}
    for file in tmp_path.glob("runs/clip/clip/*/summary.json"):
        swept = yaml.safe_load((file.parent / "experiment.yaml").read_text())
        trained[swept["optim"]["lr"]] = json.loads(file.read_text())["loss"]
    assert sorted(trained) == [0.001, 0.002, 0.003]
    assert len(set(trained.values())) == 3
    assert arrived == pytest.approx(trained)


def test_without_a_key_no_sweep_is_created(client):
    with pytest.raises(UserError, match="W&B: no API key: run `wandb login`; or sweep without it"):
        online.create({**SPEC, "command": []})


def test_a_sweep_that_wandb_refuses_is_said_in_a_line(server):
    with pytest.raises(UserError, match=r"^W&B: .*UpsertSweep: not here"):
        online.create({"method": "guess", "parameters": {}, "command": ["train"]})
