"""The same batch on one process or on several, replicated or sharded, gives the same curve."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.nn.transformer import Transformer
from unclip.runs.train import train
from unclip.tracking.files import read_metrics
from unclip.training import strategies
from unclip.training.config import TrainerConfig
from unclip.training.stage import Stage
from unclip.training.world import device_of

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


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"^trainer\.devices=4: this machine has 2 GPUs; ask for"):
        strategies.world_of(4, 1, "auto")
    with pytest.raises(UserError, match=r"^--devices=4: this machine has 2 GPUs"):
        strategies.world_of(4, 1, "gpu", prefix="--")
    assert strategies.world_of(2, 1, "auto") == 2
    assert strategies.world_of(4, 1, "cpu") == 4


@pytest.mark.parametrize(
    ("gpus", "started", "accelerator", "nodes", "expected"),
    [
        (3, None, "auto", 1, 3),
        (3, None, "cpu", 1, 1),
        (0, None, "auto", 1, 1),
        (3, 4, "cpu", 2, 2),
    ],
)
def test_devices_are_counted(monkeypatch, gpus, started, accelerator, nodes, expected):
    """The GPUs that are there, or a machine's share of the processes that torchrun started."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(strategies, "processes_started", lambda: started)
    config = TrainerConfig(devices="auto", accelerator=accelerator, nodes=nodes)
    config.validate()
    strategies.count_devices(config)
    assert config.devices == config.here == expected
    assert config.processes == nodes * expected
    with pytest.raises(UserError, match=r"^trainer\.devices: must be a whole number, or auto"):
        TrainerConfig(devices="all").validate()


def test_a_run_says_how_many_devices_it_has_counted(minute_experiment, tmp_path):
    words = [f"run.dir={tmp_path / 'run'}", "trainer.devices=auto", "trainer.max_steps=1"]
    train(load_experiment(str(minute_experiment("upsampler")), words))
    assert yaml.safe_load((tmp_path / "run/experiment.yaml").read_text())["trainer"]["devices"] == 1


def test_offloaded_weights_leave_the_stage_on_its_device(monkeypatch):
    """Batches, draws and the frozen CLIP go where the stage says it is."""
    there = torch.device("meta")
    monkeypatch.setattr(strategies.ShardedStrategy, "root_device", there)
    strategy = strategies.ShardedStrategy(1, offload=True)
    stage = Stage(SimpleNamespace(averages=False, trainer=TrainerConfig()), nn.Linear(2, 2))
    strategy._lightning_module = strategy.model = stage
    strategy.model_to_device()
    assert stage.device == there
    assert {p.device.type for p in stage.parameters()} == {"cpu"}


@pytest.mark.parametrize(("precision", "blocks"), [("bf16-mixed", torch.bfloat16), ("32", None)])
def test_on_gpus_blocks_alone_are_gathered_in_bfloat16(monkeypatch, precision, blocks):
    """The root has tables, positions and CLIP's temperature."""
    found = []
    monkeypatch.setattr(
        strategies,
        "fully_shard",
        lambda part, *, mesh, mp_policy, offload_policy: found.append(
            (part, mp_policy.param_dtype, mp_policy.reduce_dtype)
        ),
    )

    class Mesh:
        device_type = "cuda"

        def __getitem__(self, name):
            return self

    net = nn.Sequential(Transformer(width=8, layers=2, heads=1, causal=True), nn.Linear(8, 8))
    strategies.shard(net, TrainerConfig(precision=precision, strategy="fsdp"), Mesh())
    assert [dtype for _, dtype, _ in found] == [blocks, blocks, None]
    assert found[-1][0] is net
    assert {reduced for _, _, reduced in found} == {torch.float32}


def test_each_process_has_the_gpu_of_its_place(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("SLURM_LOCALID", raising=False)
    assert device_of("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("SLURM_LOCALID", "5")
    assert device_of("gpu") == torch.device("cuda", 5)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of("auto") == torch.device("cuda", 3)
    assert device_of("cpu") == torch.device("cpu")


@pytest.mark.slow
def test_images_can_be_drawn_before_the_first_validation_with_fsdp(jobs, tmp_path):
    """Sampling calls other methods than `forward`; a block must not take itself for a root."""
    every = ["trainer.strategy=fsdp", "trainer.val_every=2", "trainer.sample_every=2"]
    more = [*every, "trainer.max_steps=4", "trainer.devices=1"]
    start([jobs(kind, tmp_path / kind, *more) for kind in ("decoder", "prior")], tmp_path, 1)
    for kind in ("decoder", "prior"):
        rows = read_metrics(tmp_path / kind / "metrics.jsonl")
        assert [row["step"] for row in rows if "val/loss" in row] == [1, 3]


@pytest.mark.slow
def test_one_process_of_a_machine_holds_the_network_whole_and_the_first_alone_exports(
    minute_experiment, tmp_path
):
    """A machine with eight processes would else hold eight networks, averages and artifacts."""
    script = str(Path(__file__).with_name("memory_of_processes.py"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    given = ["trainer.strategy=fsdp", "trainer.devices=2", "trainer.max_steps=1"]
    words = [str(minute_experiment("upsampler")), str(tmp_path), f"run.dir={tmp_path / 'run'}"]
    subprocess.run(
        [*torchrun, "--nproc-per-node=2", script, *words, *given],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
        timeout=300,
    )
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    whole = first["whole"]
    assert first["built"] == {"net": whole, "ema": 0}
    assert second["built"] == {"net": 0, "ema": 0}
    assert first["sum"] == second["sum"]
    for each in (first, second):
        assert each["sharded"]["ema"] == each["sharded"]["net"] < 0.6 * whole
        assert each["same"]
        assert not each["trains"]
    assert first["sharded"]["ema"] + second["sharded"]["ema"] == whole
    assert first["exported"] >= whole
    assert second["exported"] == 0


def trained(folder):
    return [row for row in read_metrics(folder / "metrics.jsonl") if "train/loss" in row]


def losses(folder):
    return [row["train/loss"] for row in trained(folder)]


@pytest.fixture(scope="module")
def jobs(cascade, minute_experiment):
    """The job of a stage in a folder, with more overrides."""

    def job(kind, folder, *more, resume=False):
        given = [f"run.dir={folder}", f"trainer.max_steps={STEPS}", "trainer.checkpoint_every=10"]
        # Else a gradient that is 0 but for rounding moves a weight by a whole learning rate.
        given.append("optim.eps=1e-6")
        if kind not in ("clip", "upsampler"):
            given.append(f"clip={cascade / 'clip'}")
        if kind in ("decoder", "upsampler"):
            given.append("model.unet.dropout=0")  # each process draws its own masks
        if kind == "ar_prior":
            given.append(f"pca={cascade / 'pca'}")
        typed = {each.partition("=")[0] for each in more}
        given = [each for each in given if each.partition("=")[0] not in typed]
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
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_have_the_curve_of_one(alone, jobs, tmp_path, strategy, accumulate):
    more = [f"trainer.strategy={strategy}", "trainer.devices=2", f"trainer.accumulate={accumulate}"]
    start([jobs(kind, tmp_path / kind, *more) for kind in STAGES], tmp_path, 2)
    for kind in STAGES:
        expected, found = losses(alone / kind), losses(tmp_path / kind)
        assert len(expected) == STEPS
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5), kind


@pytest.mark.slow
def test_two_processes_skip_in_float16_the_same_steps(jobs, tmp_path):
    """One process may skip one more or less: its sums in float16 are over other micro-batches."""
    float16 = ["trainer.precision=16-mixed", f"trainer.loss_scale={2**22}", "trainer.accumulate=2"]
    start([jobs("prior", tmp_path / "one", *float16)], tmp_path, 1)
    several = {s: [*float16, f"trainer.strategy={s}", "trainer.devices=2"] for s in ("ddp", "fsdp")}
    start([jobs("prior", tmp_path / s, *more) for s, more in several.items()], tmp_path, 2)
    one, ddp, fsdp = (
        [row["train/skipped_steps"] for row in trained(tmp_path / name)]
        for name in ("one", "ddp", "fsdp")
    )
    assert ddp == fsdp
    assert 2 <= one[-1] < STEPS
    assert abs(one[-1] - ddp[-1]) <= 1
    assert losses(tmp_path / "ddp") == pytest.approx(losses(tmp_path / "fsdp"), rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_an_adapter_of_two_processes_is_that_of_one(jobs, cascade, tmp_path, strategy):
    kinds = ("prior", "decoder")

    def adapting(kind, folder, *more, **how):
        given = ["adapter.kind=lora", f"init={cascade / kind}", "optim.lr=0.01", *more]
        return jobs(kind, folder, *given, **how)

    several = [f"trainer.strategy={strategy}", "trainer.devices=2"]
    start([adapting(k, tmp_path / "one" / k) for k in kinds], tmp_path, 1)
    start([adapting(k, tmp_path / "two" / k, *several) for k in kinds], tmp_path, 2)
    for kind in kinds:
        expected = losses(tmp_path / "one" / kind)
        assert losses(tmp_path / "two" / kind) == pytest.approx(expected, rel=1e-5, abs=1e-5)
        one, two = (artifacts.describe(tmp_path / n / kind).weights() for n in ("one", "two"))
        assert one.keys() == two.keys()
        assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-4
        halfway(tmp_path / "one" / kind, tmp_path / "again" / kind)
    again = [adapting(k, tmp_path / "again" / k, *several, resume=True) for k in kinds]
    start(again, tmp_path, 2)
    for kind in kinds:
        expected = losses(tmp_path / "one" / kind)
        assert losses(tmp_path / "again" / kind) == pytest.approx(expected, rel=1e-5, abs=1e-5)


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
    longer = ["trainer.max_steps=22", "trainer.devices=1", "trainer.strategy=auto"]
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


def test_what_cannot_be_asked_of_fsdp():
    TrainerConfig(strategy="fsdp", memory_format="contiguous").validate()
    with pytest.raises(UserError, match=r"^trainer\.memory_format: must be auto or contiguous"):
        TrainerConfig(strategy="fsdp", memory_format="channels_last").validate()
