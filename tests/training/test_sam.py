"""SAM: its gradient is the one at w + e, its weights are the very bits of w.

Started by torchrun, this file checks sharded climbs (`sharded_climbs`).
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.runs.parents import Parents
from unclip.runs.train import assemble, train
from unclip.stages.clip.config import ClipConfig
from unclip.stages.clip.network import build_clip
from unclip.stages.clip.stage import contrastive_loss
from unclip.tracking.files import read_metrics
from unclip.training.blocks import checkpoint_blocks
from unclip.training.sam import climb
from unclip.training.world import World

RHO = 0.1
SMALL = ClipConfig(
    embed_dim=16,
    image_size=16,
    patch_size=8,
    vision_width=32,
    vision_layers=2,
    vision_head_width=16,
    context=16,
    text_width=32,
    text_layers=2,
    text_heads=2,
)
RESNET = ["model.vision=resnet", "model.vision_stages=[1,1,1,1]", "model.image_size=32"]


class Quadratic(nn.Module):
    """0.5 w^T A w, w in two parameters."""

    def __init__(self, a):
        super().__init__()
        self.a = a
        self.first = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.rest = nn.Parameter(torch.tensor([0.5]))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(1))

    @property
    def w(self):
        return torch.cat([self.first, self.rest])

    def forward(self):
        return 0.5 * self.w @ self.a @ self.w


def test_on_a_quadratic_the_gradient_is_the_closed_form():
    a = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]])
    net = Quadratic(a)
    w = net.w.detach()
    way = climb(net, RHO)
    way.up([net()])
    assert all(p.grad is None for p in net.parameters())
    e = RHO * a @ w / (a @ w).norm()
    torch.testing.assert_close(net.w.detach(), w + e, rtol=1e-6, atol=1e-6)
    net().backward()
    way.back()
    found = torch.cat([net.first.grad, net.rest.grad])
    torch.testing.assert_close(found, a @ (w + e), rtol=1e-6, atol=1e-6)
    assert torch.equal(net.w.detach(), w)


def test_without_a_gradient_there_is_no_climb():
    net = Quadratic(torch.zeros(3, 3))
    w = net.w.detach()
    climb(net, RHO).up([net()])
    assert torch.equal(net.w.detach(), w)


def small_batch(size=6):
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 40000, (size, 16), generator=draw)
    tokens[:, -1] = 49407
    return torch.rand(size, 3, 16, 16, generator=draw) * 2 - 1, tokens


def small_clip():
    torch.manual_seed(0)
    return build_clip(SMALL)


def sam_gradients(net, half):
    """Gradients of a micro-batch of `small_batch`, as `ClipStage` and Lightning go about it."""
    way = climb(net, RHO)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        way.up([contrastive_loss(*net(*small_batch()))])
        loss = contrastive_loss(*net(*small_batch()))
    loss.backward()
    way.back()
    return {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("how", ["none", "full"])
def test_autocast_and_checkpointing_see_the_weights_it_climbed_to(half, how):
    # Autocast keeps its bfloat16 casts of weights while it lasts: both passes would use those of w.
    def gradients(net):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = contrastive_loss(*net(*small_batch()))
        return torch.autograd.grad(loss, list(net.parameters()))

    by_hand = small_clip()
    with sdpa_kernel(SDPBackend.MATH):
        found = gradients(by_hand)
    scale = RHO / torch.linalg.vector_norm(torch.stack([g.norm() for g in found]))
    with torch.no_grad():
        for p, g in zip(by_hand.parameters(), found):
            p += scale * g
    with sdpa_kernel(SDPBackend.MATH):
        expected = gradients(by_hand)
    net = small_clip()
    checkpoint_blocks(net, how)
    with sdpa_kernel(SDPBackend.MATH):  # Clip's choice on a CPU, which recomputing does not see
        gradients_of_sam = sam_gradients(net, half)
    for (name, g), right in zip(gradients_of_sam.items(), expected, strict=True):
        torch.testing.assert_close(g, right, rtol=1e-5, atol=1e-7, msg=name)
    for p, other in zip(net.parameters(), small_clip().parameters()):
        assert torch.equal(p, other)


def run(experiment, folder, *more):
    resolved = load_experiment(str(experiment), [f"run.dir={folder}", *more])
    train(resolved)
    return folder


def weights(folder):
    return (folder / "artifact" / "weights.safetensors").read_bytes()


def losses(folder):
    return [
        row["train/loss"] for row in read_metrics(folder / "metrics.jsonl") if "train/loss" in row
    ]


@pytest.mark.parametrize("more", [[], [*RESNET, "trainer.accumulate=2", "data.batch_size=8"]])
def test_at_a_learning_rate_of_zero_nothing_moves(minute_experiment, tmp_path, more):
    # With batch normalisation: its running means are those of the passes at w.
    for rho in (0.0, RHO):
        given = [f"run.dir={tmp_path / str(rho)}", f"optim.sam_rho={rho}", *more]
        resolved = load_experiment(str(minute_experiment("clip")), given)
        resolved.config.optim.lr = 0.0
        train(resolved)
    assert weights(tmp_path / "0.0") == weights(tmp_path / str(RHO))
    assert losses(tmp_path / "0.0") == losses(tmp_path / str(RHO))


@pytest.mark.slow
def test_a_radius_of_zero_is_plain_training_and_a_tiny_one_nearly(
    cascade, minute_experiment, tmp_path
):
    experiment = minute_experiment("clip")
    zero = run(experiment, tmp_path / "zero", "optim.sam_rho=0")
    assert weights(zero) == weights(cascade / "clip")
    steps = "trainer.max_steps=8"
    plain = losses(run(experiment, tmp_path / "plain", steps))
    tiny = losses(run(experiment, tmp_path / "tiny", steps, "optim.sam_rho=1e-6"))
    paper = losses(run(experiment, tmp_path / "paper", steps, f"optim.sam_rho={RHO}"))
    assert tiny == pytest.approx(plain, rel=1e-4)
    assert paper[0] == plain[0]  # logged is the loss at w
    assert paper != pytest.approx(plain, rel=1e-3)


@pytest.mark.slow
def test_interrupted_and_resumed_gives_the_same_bits(minute_experiment, tmp_path, monkeypatch):
    from unclip.training.callbacks import Throughput

    experiment = minute_experiment("clip")
    more = [*RESNET, f"optim.sam_rho={RHO}", "trainer.accumulate=2", "trainer.precision=bf16-mixed"]
    whole = run(experiment, tmp_path / "whole", *more)
    folder = tmp_path / "parts"

    def killed(self, trainer, *args, **kwargs):
        if trainer.global_step == 2 and (folder / "checkpoints").exists():
            raise MemoryError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_start", killed)
        with pytest.raises(MemoryError):
            run(experiment, folder, *more)
    train(load_experiment(str(experiment), [f"run.dir={folder}", *more]), resume=True)
    assert weights(folder) == weights(whole)


def test_only_clip_has_it(minute_experiment):
    for kind in ("prior", "ar_prior", "decoder", "upsampler"):
        with pytest.raises(UserError, match="sam_rho: no longer a field: only the stage clip"):
            load_experiment(str(minute_experiment(kind)), ["optim.sam_rho=0.1"])
    with pytest.raises(UserError, match=r"optim\.sam_rho=\S+ must not be negative"):
        load_experiment(str(minute_experiment("clip")), ["optim.sam_rho=-1"])


def torchrun(processes, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, f"--nproc-per-node={processes}", *map(str, arguments)],
        env=env,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def by_hand(resolved, steps, processes):
    """Losses of SAM per replica, each replica's weights a leaf of one process's graph."""
    data, stage, _ = assemble(resolved, Parents(None, None))
    net, made = stage.net.train(), stage.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    loader = data.train_dataloader()
    batches = (batch for _ in range(steps) for batch in loader)

    def loss_and_gradients(copies, batch):
        """Of the global batch's loss, by each replica's copy of the weights."""
        parts = [
            functional_call(net, copy, (batch.image[r::processes], batch.tokens[r::processes]))
            for r, copy in enumerate(copies)
        ]
        z_i, z_t = (torch.stack([part[k] for part in parts], dim=1).flatten(0, 1) for k in range(2))
        target = torch.arange(len(z_i))
        total = 0
        for r, part in enumerate(parts):
            own = target[r::processes]
            total += nn.functional.cross_entropy(part.scale * part.z_i @ z_t.T, own)
            total += nn.functional.cross_entropy(part.scale * part.z_t @ z_i.T, own)
        loss = total / (2 * processes)
        leaves = [p for copy in copies for p in copy.values()]
        found = iter(torch.autograd.grad(loss, leaves))
        return loss.item(), [{name: next(found) for name in copy} for copy in copies]

    def copies(moves):
        return [
            {name: (p.detach() + move.get(name, 0)).requires_grad_() for name, p in w.items()}
            for move in moves
        ]

    curve = []
    for _ in range(steps):
        batch, w = next(batches), dict(net.named_parameters())
        loss, gradients = loss_and_gradients(copies([{}] * processes), batch)
        norms = [torch.cat([g.flatten() for g in copy.values()]).norm() for copy in gradients]
        assert len({round(norm.item(), 6) for norm in norms}) == processes  # each has its own
        moves = [
            {name: RHO * g / norm for name, g in copy.items()}
            for copy, norm in zip(gradients, norms)
        ]
        _, gradients = loss_and_gradients(copies(moves), batch)
        for name, p in w.items():
            p.grad = sum(c[name] for c in gradients)
        curve.append(loss)
        nn.utils.clip_grad_norm_(net.parameters(), resolved.config.trainer.grad_clip)
        optimizer.step()
        schedule.step()
    return curve


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_climb_each_by_itself(minute_experiment, tmp_path, accumulate):
    steps = 10
    given = [
        f"optim.sam_rho={RHO}",
        f"trainer.max_steps={steps}",
        f"trainer.accumulate={accumulate}",
        "data.batch_size=8",
    ]
    experiment = str(minute_experiment("clip"))
    jobs = [
        {
            "experiment": experiment,
            "overrides": [
                *given,
                f"run.dir={tmp_path / strategy}",
                f"trainer.strategy={strategy}",
                "trainer.devices=2",
                "trainer.val_every=4",
            ],
        }
        for strategy in ("ddp", "fsdp")
    ]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    torchrun(2, Path(__file__).parent / "several.py", tmp_path / "jobs.json")
    ddp, fsdp = losses(tmp_path / "ddp"), losses(tmp_path / "fsdp")
    assert len(ddp) == steps
    assert fsdp == pytest.approx(ddp, rel=1e-5)
    whole = load_experiment(experiment, [*given, "trainer.accumulate=1"])  # by any micro-batches
    expected = by_hand(whole, steps, processes=2)
    assert ddp == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_sharded_climb_ends_where_a_whole_one_does():
    torchrun(2, __file__)


def sharded_climbs(world):
    """What `torchrun test_sam.py` does: the weights between the passes, and after them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh("cpu", (world.size,), mesh_dim_names=("data_parallel",))
    rho = 1e-3  # in bfloat16 most of these weights change by no less than 1e-3, by e 3e-5
    for half in (False, True):  # as blocks are gathered on GPUs
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Sequential(nn.Linear(8, 64), nn.GELU()), nn.Linear(64, 8))
        net = copy.deepcopy(plain)
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if half else None,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        for part in (net[0], net):
            fully_shard(part, mesh=mesh["data_parallel"], mp_policy=policy)
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(world.rank))

        def loss(of, x=x, half=half):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                return of(x).float().square().mean()

        expected = climb(plain, rho)
        w = [p.detach().clone() for p in plain.parameters()]
        expected.up([loss(plain)])
        for _ in range(2):  # the second time, from a root that a validation left whole
            way = climb(net, rho)
            way.up([loss(net)])
            for p, right in zip(net.parameters(), plain.parameters(), strict=True):
                assert type(p.data) is torch.Tensor
                assert p.dtype == (torch.bfloat16 if half else torch.float32)
                near = torch.isclose(p, right.to(p.dtype), rtol=1e-6, atol=1e-8)
                assert near.float().mean() > 0.95  # a hair's difference may round the other way
            way.before_last_backward()
            loss(net).backward()
            way.back()
            for p, before in zip(net.parameters(), w, strict=True):
                assert torch.equal(p.full_tensor(), before)  # a row on each process again
            with torch.no_grad():
                loss(net)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    sharded_climbs(World.here())
    torch.distributed.destroy_process_group()
