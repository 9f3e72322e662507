"""No stage makes the host wait for the device between a batch's arrival and the optimizer's step.

On a CPU nothing waits, so the operations that would are refused: those whose result the host needs
in order to go on (a number, a shape that depends on values, a copy to the CPU). BSR plans on the
CPU, which is no waiting: tests/test_waits.py tells the two apart.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from unclip.config.load import load_experiment
from unclip.runs.train import train
from unclip.stages.ar_prior.stage import ArPriorStage
from unclip.stages.clip.stage import ClipStage
from unclip.stages.decoder.stage import DecoderStage
from unclip.stages.diffusion_prior.stage import DiffusionPriorStage
from unclip.stages.upsampler.stage import UpsamplerStage
from unclip.training.stage import Stage

ATEN = torch.ops.aten
WAITING = {
    ATEN._local_scalar_dense.default,  # item(), int(), float(), bool(), slices by a tensor
    ATEN.nonzero.default,
    ATEN.masked_select.default,
    ATEN.equal.default,
    ATEN.repeat_interleave.Tensor,
    ATEN._unique2.default,
    ATEN.unique_consecutive.default,
    ATEN.unique_dim.default,
    ATEN.bincount.default,
}
INDEXING = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default}
TO_THE_HOST = {Tensor.cpu, Tensor.tolist, Tensor.numpy, Tensor.item, Tensor.__array__}


class HostSync(AssertionError):
    """The host would wait for the device."""


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = [i for i in args[1] if i is not None] if func in INDEXING else []
        if func in WAITING or any(i.dtype in (torch.bool, torch.uint8) for i in masks):
            raise HostSync(str(func))
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    """What operations do not show: copies between devices, which on a CPU are none."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        to_cpu = func is Tensor.to and "cpu" in (*args[1:], kwargs.get("device"))
        if func in TO_THE_HOST or to_cpu:
            raise HostSync(func.__name__)
        return func(*args, **kwargs)


def refuse_host_syncs() -> ExitStack:
    """A context in which what would wait raises `HostSync`."""
    stack = ExitStack()
    stack.enter_context(_Operations())
    stack.enter_context(_Methods())
    return stack


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x[0].item(),
        lambda x: bool(x[0] > 0),
        lambda x: x.to("cpu"),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_fill_(x > 0, 0)[x.long() > 1],
        lambda x: torch.where(x > 0),
    ],
)
def test_what_waits_is_refused(waits):
    x = torch.rand(4)
    with refuse_host_syncs(), pytest.raises(HostSync):
        waits(x)
    with refuse_host_syncs():
        torch.where(x > 0, x, x[torch.tensor([0, 1, 2, 3])]).to(torch.float64)


SMALL_TEXT = [f"model.text.{k}" for k in ("context=16", "width=32", "layers=1", "heads=2")]
CASES = [
    ("clip", []),
    ("clip", ["trainer.accumulate=2", "optim.sam_rho=0.05"]),
    ("clip", ["model.vision=resnet", "model.vision_stages=[1,1,1,1]", "model.image_size=32"]),
    ("prior", []),
    ("prior", ["diffusion.timesteps=importance", "diffusion.steps=8", "model.caption=bpe"]),
    ("ar_prior", []),
    ("ar_prior", ["model.caption=bpe", *SMALL_TEXT]),
    ("decoder", ["noise_z_i=0.1", "trainer.accumulate=2"]),
    ("decoder", ["embedding=text", "optim.name=muon"]),
    ("upsampler", []),
    ("upsampler", ["model.noise_levels=4"]),
]


@pytest.mark.parametrize(("kind", "more"), CASES)
@pytest.mark.parametrize("precision", ["32", pytest.param("bf16-mixed", marks=pytest.mark.slow)])
def test_a_step_does_not_wait(
    cascade, minute_experiment, tmp_path, monkeypatch, kind, more, precision
):
    given = [f"run.dir={tmp_path}", "trainer.log_every=100", f"trainer.precision={precision}"]
    if kind not in ("clip", "upsampler"):
        given.append(f"clip={cascade / 'clip'}")
    if kind == "ar_prior":
        given.append(f"pca={cascade / 'pca'}")
    resolved = load_experiment(str(minute_experiment(kind)), [*given, *more])
    checked = []

    def watched(cls, name):
        original = getattr(cls, name)

        def call(self, *args, **kwargs):
            checked.append(name)
            with refuse_host_syncs():
                return original(self, *args, **kwargs)

        monkeypatch.setattr(cls, name, call)

    for stage in (ArPriorStage, ClipStage, DecoderStage, DiffusionPriorStage, UpsamplerStage):
        watched(stage, "training_step")
    for name in ("on_train_batch_start", "backward", "configure_gradient_clipping"):
        watched(Stage, name)
    train(resolved)
    assert {"training_step", "backward", "configure_gradient_clipping"} <= set(checked)
