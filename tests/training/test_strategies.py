"""The same batch on one process or on several, replicated or sharded, gives the same curve."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unclip.tracking.files import read_metrics

STAGES = ("clip", "prior", "ar_prior", "decoder", "upsampler")
STEPS = 20


def start(jobs, folder, processes):
    """Run jobs by `several.py` under torchrun; its output if it fails."""
    file = folder / f"jobs_{processes}.json"
    file.write_text(json.dumps(jobs))
    script = str(Path(__file__).parent / "several.py")
    command = [sys.executable, script, str(file)]
    if processes > 1:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*torchrun, f"--nproc-per-node={processes}", script, str(file)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def losses(folder):
    return [
        row["train/loss"] for row in read_metrics(folder / "metrics.jsonl") if "train/loss" in row
    ]


@pytest.fixture(scope="module")
def jobs(cascade, minute_experiment):
    """The job of a stage in a folder, with more overrides."""

    def job(kind, folder, *more, resume=False):
        given = [f"run.dir={folder}", f"trainer.max_steps={STEPS}", "trainer.checkpoint_every=10"]
        if kind not in ("clip", "upsampler"):
            given.append(f"clip={cascade / 'clip'}")
        if kind in ("decoder", "upsampler"):
            given.append("model.unet.dropout=0")  # each process draws its own masks
        if kind == "ar_prior":
            given.append(f"pca={cascade / 'pca'}")
        return {
            "experiment": str(minute_experiment(kind)),
            "overrides": [*given, *more],
            "resume": resume,
        }

    return job


@pytest.fixture(scope="module")
def alone(jobs, tmp_path_factory):
    """Each stage trained by one process."""
    root = tmp_path_factory.mktemp("alone")
    start([jobs(kind, root / kind) for kind in STAGES], root, 1)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_have_the_curve_of_one(alone, jobs, tmp_path, strategy):
    more = [f"trainer.strategy={strategy}", "trainer.devices=2"]
    start([jobs(kind, tmp_path / kind, *more) for kind in STAGES], tmp_path, 2)
    for kind in STAGES:
        expected, found = losses(alone / kind), losses(tmp_path / kind)
        assert len(expected) == STEPS
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5), kind


def halfway(finished, folder):
    """The run as it was at step 10."""
    shutil.copytree(finished, folder)
    for path in (folder / "checkpoints").glob("step_*"):
        if path.name != "step_0000010":
            shutil.rmtree(path)
    shutil.rmtree(folder / "artifact")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_checkpoint_of_one_process_continues_on_two_and_back(alone, jobs, tmp_path, strategy):
    several = [f"trainer.strategy={strategy}", "trainer.devices=2"]
    for kind in STAGES:
        halfway(alone / kind, tmp_path / kind)
    start([jobs(k, tmp_path / k, *several, resume=True) for k in STAGES], tmp_path, 2)
    for kind in STAGES:
        expected = losses(alone / kind)
        assert losses(tmp_path / kind) == pytest.approx(expected, rel=1e-5, abs=1e-5), kind
    # What two processes wrote at step 20, one continues to step 22, as the one process does.
    longer = ["trainer.max_steps=22"]
    for where in (tmp_path, alone):
        for kind in STAGES:
            shutil.copytree(where / kind, tmp_path / where.name / kind)
        resumed = [jobs(k, tmp_path / where.name / k, *longer, resume=True) for k in STAGES]
        start(resumed, tmp_path, 1)
    for kind in STAGES:
        expected = losses(tmp_path / alone.name / kind)
        found = losses(tmp_path / tmp_path.name / kind)
        assert len(found) == 22
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5), kind
