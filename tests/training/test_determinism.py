"""`trainer.deterministic=strict`: the same bits, or a line that says why not."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
import yaml

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.load import load_experiment, merge_overrides
from unclip.runs.train import train
from unclip.stages.upsampler.stage import UpsamplerStage
from unclip.training import determinism
from unclip.training.callbacks import Throughput
from unclip.training.config import TrainerConfig

KINDS = ("clip", "prior", "ar_prior", "decoder", "upsampler")
STRICT = ("trainer.deterministic=strict", "trainer.threads=1")


@pytest.fixture
def load(cascade, minute_experiment):
    def load(kind, folder, *more):
        given = merge_overrides([f"run.dir={folder}", *STRICT], more)
        if kind not in ("clip", "upsampler"):
            given.append(f"clip={cascade / 'clip'}")
        if kind == "ar_prior":
            given.append(f"pca={cascade / 'pca'}")
        return load_experiment(str(minute_experiment(kind)), given)

    return load


@pytest.mark.parametrize(
    "kind",
    [k if k != "decoder" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS],
)
def test_runs_with_any_workers_killed_or_not_end_with_the_same_bits(
    load, tmp_path, monkeypatch, kind
):
    train(load(kind, tmp_path / "whole", "data.num_workers=0"))

    def killed(self, trainer, *args, **kwargs):
        if trainer.global_step == 2 and (tmp_path / "parts/checkpoints").exists():
            raise MemoryError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_start", killed)
        with pytest.raises(MemoryError):
            train(load(kind, tmp_path / "parts", "data.num_workers=2"))
    train(load(kind, tmp_path / "parts", "data.num_workers=1"), resume=True)
    found = [
        (tmp_path / name / "artifact/weights.safetensors").read_bytes()
        for name in ("whole", "parts")
    ]
    assert found[0] == found[1]


@pytest.mark.slow
def test_kernels_lie_as_asked_and_train_the_same(load, tmp_path, monkeypatch):
    lies = []
    began = Throughput.on_train_batch_start

    def watched(self, trainer, stage, *args):
        lies.append(stage.net.unet.input.weight.is_contiguous(memory_format=torch.channels_last))
        if trainer.global_step == 2 and len(lies) == 3:
            raise MemoryError("killed")
        began(self, trainer, stage, *args)

    monkeypatch.setattr(Throughput, "on_train_batch_start", watched)
    last = "trainer.memory_format=channels_last"
    with pytest.raises(MemoryError):
        train(load("decoder", tmp_path / "parts", last))
    train(load("decoder", tmp_path / "parts", last), resume=True)
    train(load("decoder", tmp_path / "whole", last))
    assert all(lies)
    train(load("decoder", tmp_path / "contiguous"))
    assert not any(lies[-3:])
    weights = [
        artifacts.describe(tmp_path / name).weights() for name in ("whole", "parts", "contiguous")
    ]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])
        assert torch.allclose(tensor, weights[2][name], atol=1e-4)


@pytest.fixture
def switched_off():
    """A command that drew images in this process has left it on."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    yield
    torch.set_deterministic_debug_mode(mode)


def test_what_only_warned_warns_again():
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    with determinism.apply(TrainerConfig(deterministic="strict")):
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_deterministic_debug_mode(mode)


def test_what_is_switched_on_is_switched_back(monkeypatch, switched_off):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with determinism.apply(TrainerConfig(deterministic="strict", threads=2)):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert torch.get_num_threads() == 2
        assert os.environ["OMP_NUM_THREADS"] == "2"  # of processes that are started meanwhile
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    assert torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_fast_lets_cudnn_look_for_the_fastest_and_changes_nothing_else(switched_off):
    with determinism.apply(TrainerConfig()):
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
        assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.benchmark
    with determinism.apply(TrainerConfig(deterministic="strict")):
        assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("how", ["fast", "strict"])
def test_float32_is_not_tf32(how, switched_off):
    """cuDNN's convolutions use it by default, and NVIDIA's containers set it for products."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        with determinism.apply(TrainerConfig(precision="32", deterministic=how)):
            assert not any(backend.allow_tf32 for backend in backends)
        assert all(backend.allow_tf32 for backend in backends)
    finally:
        for backend, allowed in zip(backends, before):
            backend.allow_tf32 = allowed


def test_an_operation_without_a_deterministic_algorithm_is_named(load, tmp_path, monkeypatch):
    def loss(self, net, batch, draws, *, training):
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))

    monkeypatch.setattr(UpsamplerStage, "loss", loss)
    with pytest.raises(UserError, match=r"strict: put_ has no deterministic algorithm on this"):
        train(load("upsampler", tmp_path / "run"))


def test_other_errors_pass():
    with (
        pytest.raises(RuntimeError, match="shapes"),
        determinism.apply(TrainerConfig(deterministic="strict")),
    ):
        raise RuntimeError("shapes")


def test_a_strict_run_says_how_many_threads_it_has(load, tmp_path):
    train(load("upsampler", tmp_path / "run", "trainer.threads=null"))
    stored = yaml.safe_load((tmp_path / "run/experiment.yaml").read_text())
    assert stored["trainer"]["threads"] == torch.get_num_threads() == 1
    with pytest.raises(UserError, match=r"--resume: trainer\.threads: 1 -> 2: "):
        train(load("upsampler", tmp_path / "run", "trainer.threads=2"), resume=True)


@pytest.mark.parametrize(("said", "devices", "pinned"), [("6", 2, 6), (None, 2, 3), (None, 8, 1)])
def test_processes_share_the_cores_unless_somebody_said_how(monkeypatch, said, devices, pinned):
    monkeypatch.setattr(determinism, "torch", SimpleNamespace(get_num_threads=lambda: 6))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    trainer = TrainerConfig(deterministic="strict", devices=devices)
    determinism.pin_threads(trainer)
    assert trainer.threads == pinned
    fast = TrainerConfig(devices=devices)
    determinism.pin_threads(fast)
    assert fast.threads is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("trainer.deterministic=yes", r"trainer\.deterministic=.*must be"),
        ("trainer.threads=0", r"trainer\.threads=0: must be at least 1"),
        ("trainer.attention=xformers", r"must be sdpa or math with trainer\.deterministic=strict"),
    ],
)
def test_settings_that_cannot_be_are_refused(load, tmp_path, given, said):
    with pytest.raises(UserError, match=said):
        load("upsampler", tmp_path, given)
