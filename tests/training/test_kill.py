"""Killed at random moments and continued, a run ends with the bits of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from unclip.tracking.files import read_metrics


def command(experiment, folder, clip, steps, precision):
    words = ["unclip", "train", str(experiment), f"run.dir={folder}", f"clip={clip}"]
    fields = {
        "trainer.max_steps": steps,
        "trainer.checkpoint_every": 2,
        "trainer.val_every": 5,
        "data.num_workers": 2,
        "data.batch_size": 8,
        "trainer.accumulate": 2,
        "trainer.precision": precision,
    }
    if precision == "16-mixed":
        fields["trainer.loss_scale"] = 2**24  # overflows
    return [sys.executable, "-m", *words, *(f"{k}={v}" for k, v in fields.items()), "--continue"]


def started(words):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def last_step(folder):
    rows = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    return max((row["step"] for row in rows if "train/loss" in row), default=-1)


def kill_somewhere(words, folder, dice):
    """Start, wait for some steps and a moment, kill without warning; True if it was finished."""
    process = started(words)
    target = last_step(folder) + dice.randint(1, 6)
    while process.poll() is None and last_step(folder) < target:
        time.sleep(0.005)
    time.sleep(dice.uniform(0, 0.3))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    out = process.communicate()[0].decode()
    if process.returncode not in (0, -signal.SIGKILL):
        raise AssertionError(out[-3000:])
    return process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "kills", "steps", "precision"),
    [
        ("prior", 20, 160, "bf16-mixed"),
        ("prior", 8, 80, "16-mixed"),  # skips at first
        ("prior", 8, 80, "bf16-true"),
        ("decoder", 20, 160, "bf16-mixed"),
    ],
)
def test_killed_at_random_moments(
    cascade, minute_experiment, tmp_path, kind, kills, steps, precision
):
    def words(name):
        experiment = minute_experiment(kind)
        return command(experiment, tmp_path / name, cascade / "clip", steps, precision)

    undisturbed = started(words("whole"))
    out = undisturbed.communicate()[0].decode()
    assert undisturbed.returncode == 0, out[-3000:]
    dice, killed = random.Random(kind), 0
    while killed < kills and not kill_somewhere(words("parts"), tmp_path / "parts", dice):
        killed += 1
    assert killed == kills, "too short a run for so many kills"
    last = started(words("parts"))
    out = last.communicate()[0].decode()
    assert last.returncode == 0, out[-3000:]
    found = [
        json.loads((tmp_path / name / "artifact/artifact.json").read_text())["sha256"]
        for name in ("whole", "parts")
    ]
    assert found[0] == found[1]
    if precision == "16-mixed":
        curves = []
        for name in ("whole", "parts"):
            rows = read_metrics(tmp_path / name / "metrics.jsonl")
            kinds = ("step", "train/skipped_steps", "train/loss_scale")
            curves.append([[row[kind] for kind in kinds] for row in rows if kinds[1] in row])
        assert curves[0] == curves[1]
        assert curves[0][0][1] == 1  # the first step already
        assert curves[0][-1][1] >= 3
