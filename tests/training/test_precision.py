"""Float16 skips what overflows and resumes with the same bits; bfloat16 is right on average."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.diffusion.importance import LossHistory
from unclip.runs.train import train
from unclip.tracking.files import curves, read_metrics
from unclip.training import precision, strategies
from unclip.training.config import TrainerConfig
from unclip.training.precision import LossScaling
from unclip.training.rounded_adamw import RoundedAdamW, rounded

CPU = torch.device("cpu")


@pytest.fixture
def run(cascade, minute_experiment, tmp_path):
    """Trains the minute prior: its folder."""

    def run(name, *more, resume=False):
        given = [f"run.dir={tmp_path / name}", f"clip={cascade / 'clip'}"]
        given += ["trainer.checkpoint_every=1", "trainer.keep_checkpoints=9", *more]
        train(load_experiment(str(minute_experiment("prior")), given), resume=resume)
        return tmp_path / name

    return run


def curve(folder, name):
    return [value for _, value in curves(read_metrics(folder / "metrics.jsonl"))[name]]


def weights(folder, step):
    return load_file(folder / f"checkpoints/step_{step:07d}/rank_00000.safetensors")


def same(one, other, *, without=()):
    names = [name for name in one if not name.startswith(without)]
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in names)


def test_overflows_are_skipped_and_a_resumed_run_skips_the_same(run):
    float16 = ["trainer.precision=16-mixed", f"trainer.loss_scale={2**21}", "trainer.accumulate=2"]
    whole = run("whole", *float16, "trainer.max_steps=7")
    skipped = curve(whole, "train/skipped_steps")
    count = int(skipped[-1])
    assert 2 <= count <= 5
    assert skipped[:count] == list(range(1, count + 1))
    assert curve(whole, "train/loss_scale")[:count] == [2.0 ** (20 - k) for k in range(count)]
    assert same(weights(whole, 1), weights(whole, count))  # moments, network and average stay
    after = weights(whole, count + 1)
    assert any(not torch.equal(v, after[k]) for k, v in weights(whole, 1).items() if "ema" in k)
    run("parts", *float16, "trainer.max_steps=2")
    parts = run("parts", "trainer.max_steps=7", resume=True)
    assert same(weights(whole, 7), weights(parts, 7))
    assert curve(parts, "train/skipped_steps") == skipped


def test_a_step_that_does_not_overflow_is_that_of_float32_up_to_rounding(run):
    found = curve(
        run("half", "trainer.precision=16-mixed", "trainer.loss_scale=1024"), "train/loss"
    )
    exact = curve(run("exact"), "train/loss")
    assert found == pytest.approx(exact, rel=5e-3)


class Model:
    """What of Lightning's module a step asks for."""

    global_step = 0
    automatic_optimization = True
    clipped: list[float]

    def _clip(self, net):
        self.clipped = [p.grad.norm().item() for p in net.parameters()]


def scaled_step(scaling, net, optimizer, gradient):
    def closure():
        scaling.gradients.scale(torch.zeros(()))  # as the loss would
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, gradient) * scaling.scale
        return torch.zeros(())

    scaling._after_closure = lambda *_: Model._clip(Model, net)
    scaling.connect(Model, [optimizer], [])
    scaling.optimizer_step(optimizer, Model, closure)


def test_gradients_are_clipped_without_their_scale():
    net = nn.Linear(4, 1, bias=False)
    scaling = LossScaling(CPU, 256.0)
    scaled_step(scaling, net, torch.optim.AdamW(net.parameters(), fused=True), 3.0)
    assert Model.clipped == [6.0]


def test_endless_overflow_ends_in_a_line():
    net, scaling = nn.Linear(2, 2), LossScaling(CPU, 4.0)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    for _ in range(2):
        scaled_step(scaling, net, optimizer, float("nan"))
    with pytest.raises(UserError, match=r"^step 1: .*16-mixed.* 3 steps were skipped; .*optim\.lr"):
        scaled_step(scaling, net, optimizer, float("inf"))


def test_a_loss_that_overflowed_is_not_remembered():
    history = LossHistory(2)
    history.update(torch.tensor([0, 0, 1]), torch.tensor([2.0, float("inf"), float("nan")]))
    assert history.losses.isfinite().all()
    assert history.losses[0].max() == 2


def test_rounding_is_right_on_average_and_keeps_what_bfloat16_holds():
    rng = torch.Generator().manual_seed(0)
    x = torch.tensor([1.0 + 2**-9, -3.1, 1e-8]).repeat(20_000, 1)
    found = rounded(x, rng).float()
    assert len(found[:, 0].unique()) == 2
    torch.testing.assert_close(found.mean(0), x[0], rtol=2e-4, atol=0)
    exact = torch.randn(100).bfloat16()
    assert torch.equal(rounded(exact.float(), rng), exact)


def test_in_float32_it_is_adamw():
    mine, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(mine.state_dict())
    settings = {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-6}
    groups = [{"params": list(mine.parameters()), "weight_decay": 0.3}]
    ours = RoundedAdamW(groups, 0, **settings)
    reference = torch.optim.AdamW(theirs.parameters(), weight_decay=0.3, **settings)
    for _ in range(5):
        for net, optimizer in ((mine, ours), (theirs, reference)):
            net(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(mine.weight, theirs.weight)


def test_small_steps_are_not_lost_in_bfloat16():
    """Each is an eighth of what the weight can change by."""
    weight = nn.Parameter(torch.ones(4096).bfloat16())
    optimizer = RoundedAdamW([weight], 0, lr=2**-11, betas=(0.9, 0.999), eps=0, weight_decay=0)
    for _ in range(32):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert weight.float().mean().item() == pytest.approx(1 - 32 * 2**-11, rel=1e-3)


def test_weights_in_bfloat16_train_resume_and_are_exported_in_float32(run):
    whole = run("whole", "trainer.precision=bf16-true")
    kept = weights(whole, 3)
    kinds = {
        kind: {t.dtype for n, t in kept.items() if n.startswith(kind) and n.endswith("qkv.weight")}
        for kind in ("net.net", "net.ema", "optimizer")
    }
    assert kinds["net.net"] == {torch.bfloat16}
    assert kinds["net.ema"] == {torch.float32}
    states = {t.dtype for n, t in kept.items() if n.endswith("qkv.weight.exp_avg_sq")}
    assert states == {torch.bfloat16}
    run("parts", "trainer.precision=bf16-true", "trainer.max_steps=2")
    parts = run("parts", "trainer.max_steps=3", resume=True)
    assert same(kept, weights(parts, 3))
    exported = load_file(next((whole / "artifact").glob("*.safetensors")))
    assert torch.bfloat16 not in {tensor.dtype for tensor in exported.values()}


@pytest.mark.parametrize("kind", ["bf16-mixed", "bf16-true"])
def test_a_gpu_without_bfloat16_is_named_with_the_fix(monkeypatch, kind):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    line = rf"^trainer\.precision={kind}: Tesla T4 has no bfloat16; use trainer\.precision=16-mixed"
    with pytest.raises(UserError, match=line):
        strategies.build(TrainerConfig(precision=kind))
    precision.require_supported(TrainerConfig(precision=kind), CPU)
    strategies.build(TrainerConfig(precision="16-mixed"))


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["trainer.loss_scale=8"], r"trainer\.loss_scale=8\.0: has no effect without"),
        (["trainer.precision=bf16-true", "trainer.strategy=fsdp"], r"bf16-true does not work with"),
        (["trainer.precision=bf16-true", "optim.name=muon"], r"optim\.name='muon': must be adamw"),
    ],
)
def test_what_does_not_go_together_is_refused(minute_experiment, given, line):
    with pytest.raises(UserError, match=line):
        load_experiment(str(minute_experiment("prior")), given)


def test_sam_is_refused_where_its_gradients_would_be_lost(minute_experiment):
    more = ["trainer.precision=16-mixed", "optim.sam_rho=0.1"]
    with pytest.raises(UserError, match=r"optim\.sam_rho=0\.1: needs trainer\.precision"):
        load_experiment(str(minute_experiment("clip")), more)


def overflow_on_one_process():
    """Run by torchrun: the gradient of the second process's rows alone overflows."""
    from torch.distributed import destroy_process_group, get_rank, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    init_process_group("gloo")
    net = fully_shard(nn.Linear(2, 4), mesh=init_device_mesh("cpu", (2,)))
    before = [p.full_tensor().clone() for p in net.parameters()]
    scaling, optimizer = LossScaling(CPU, 64.0), torch.optim.AdamW(net.parameters(), fused=True)
    for bad in (True, False):

        def closure(bad=bad):
            scaling.gradients.scale(torch.zeros(()))
            net.zero_grad()
            net(torch.ones(1, 2)).sum().backward()
            if bad and get_rank() == 1:
                net.weight.grad.to_local()[-1] = float("inf")
            return torch.zeros(())

        scaling._after_closure = lambda *_: None
        scaling.connect(None, [optimizer], [])
        scaling.optimizer_step(optimizer, Model, closure)
        assert scaling.scale == 32.0
        assert scaling.skipped == 1
        assert scaling.skips is bad
        same = [torch.equal(p.full_tensor(), b) for p, b in zip(net.parameters(), before)]
        assert all(same) if bad else not any(same)
    destroy_process_group()


@pytest.mark.slow
def test_an_overflow_on_one_process_skips_the_step_on_all():
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = [*torchrun, "--nproc-per-node=2", str(Path(__file__))]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    overflow_on_one_process()
