"""What a step on tensors that hold nothing keeps and computes is what a real one does."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from unclip.config.load import load_experiment
from unclip.nn.attention import attend, backend
from unclip.planning.kernels import kernels
from unclip.planning.plan import CHECKPOINTING, measure
from unclip.planning.trace import Watch, ask, loss, trace
from unclip.runs.parents import build_net, frozen_clip
from unclip.stages.interface import Given, Share

KINDS = ("clip", "prior", "decoder", "upsampler")
SHARE = Share(32, 1)


@pytest.fixture(scope="module")
def found(minute_experiment):
    """An experiment, over clip/tiny, and its measurement: `found("prior", gpu=True)`."""

    @cache
    def call(kind, gpu=False):
        # Enough layers that not the frozen CLIP needs most.
        deep = ["model.layers=4"] if kind == "prior" else []
        resolved = load_experiment(str(minute_experiment(kind)), deep)
        return resolved, measure(resolved, SHARE, gpu=gpu)

    return call


def peak(live, field=None):
    return max(sum(x) if field is None else getattr(x, field) for x in live)


def test_every_tensor_is_counted_from_when_it_is_made_until_it_is_dropped():
    with FakeTensorMode(), Watch([]) as watch:
        a = torch.zeros(256)  # 1 KiB
        b = a * 2
        c = b.view(16, 16).t()  # a view
        b.add_(1)
        del a, b
        d = torch.cat([c, c])  # 2 KiB, beside the 1 KiB that c still holds
        del c
        torch.zeros(1, dtype=torch.float64)
    assert [live.activations for live in watch.live] == [0, 1024, 2048, 3072, 2056]
    assert d.shape == (32, 16)


def test_a_linear_layer_by_hand():
    """B samples, W wide, float32 under bfloat16 autocast, without bias."""
    batch, width = 8, 16
    with FakeTensorMode():
        net = nn.Linear(width, width, bias=False)
        net.weight.register_post_accumulate_grad_hook(lambda p: watch.claim(p))
        with Watch(net.parameters()) as watch:
            x = torch.zeros(batch, width)
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                y = net(x)
            ahead = watch._now
            y.sum().backward()
    # x, its half and the result's; the weight's half is gone: nobody wants x's gradient
    assert ahead.activations == batch * width * (4 + 2 + 2)
    assert peak(watch.live, "copies") == 2 * width * width
    assert watch._now.gradients == 4 * width * width
    assert watch.flops == 2 * (2 * batch * width * width)  # forward, and the weight's gradient


@pytest.mark.parametrize(
    "kind",
    [k if k != "decoder" else pytest.param(k, marks=pytest.mark.slow) for k in KINDS],
)
def test_pretended_and_real_steps_are_alike(kind, found):
    resolved, pretended = found(kind)
    expected = pretended.traces["none"]
    given, clip_flops, before = Given(), 0, 0
    if kind in ("prior", "decoder"):
        given, seen = ask(frozen_clip(resolved.config.clip), resolved, SHARE)
        clip_flops = seen.flops
        before = peak(seen.live) + 4 * pretended.sizes.trained  # old gradients are there already
    real = trace(build_net(resolved), given, resolved, SHARE)
    assert (real.flops, clip_flops) == (expected.flops, pretended.clip_flops)
    assert max(before, peak(real.live)) == peak(expected.live)
    assert real.offloaded == expected.offloaded == 0


@pytest.mark.parametrize("kind", ["decoder", "upsampler"])
def test_operations_are_those_of_torchs_own_counter(kind, minute_experiment):
    """Attention by its formula, since torch 2.11 does not count a CPU's own."""
    resolved = load_experiment(str(minute_experiment(kind)))
    net, given = build_net(resolved), Given(z_i=torch.zeros(4, 64))
    with backend("math"), FlopCounterMode(display=False) as counter:
        loss(net, resolved, given, Share(4, 1)).backward()
    with backend("math"):
        assert trace(net, given, resolved, Share(4, 1)).flops == counter.get_total_flops()


def test_operations_of_attention_by_hand():
    """Forward q kT and (.) v; backward those of q, k, v and the scores, which are made anew."""
    batch, heads, length, width = 2, 3, 16, 8
    with FakeTensorMode(), kernels(gpu=True, recomputing=False), Watch([]) as watch:
        q = torch.zeros(batch, heads, length, width, requires_grad=True)
        attend(q, q, q).sum().backward()
    assert watch.flops == (2 + 5) * 2 * batch * heads * length**2 * width


@pytest.mark.slow
@pytest.mark.parametrize("gpu", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("kind", KINDS)
def test_recomputation_costs_operations_and_saves_memory(kind, gpu, found):
    traces = found(kind, gpu)[1].traces
    peaks = [peak(traces[how].live, "activations") for how in CHECKPOINTING]
    assert peaks[0] > peaks[1] > peaks[2]
    none, selective, full = (traces[how].flops for how in CHECKPOINTING)
    assert none < full < 1.4 * none  # about the forward pass once more
    if gpu or kind != "clip":  # whose text tower takes another attention on a CPU
        assert selective == none


def plain(kind, minute_experiment, *, samples=4, gpu=False, more=()):
    """One trace, without recomputation, of a stage without a frozen CLIP."""
    resolved = load_experiment(str(minute_experiment(kind)), list(more))
    with FakeTensorMode(), kernels(gpu=gpu, recomputing=False):
        return trace(build_net(resolved), Given(), resolved, Share(samples, 1))


@pytest.mark.parametrize("gpu", [False, True])
def test_what_samples_need_grows_with_their_number(gpu, minute_experiment):
    each = [plain("upsampler", minute_experiment, samples=n, gpu=gpu) for n in (32, 64, 96)]
    peaks = [peak(trace.live, "activations") for trace in each]
    assert each[1].flops == 2 * each[0].flops
    assert peaks[2] - peaks[1] == pytest.approx(peaks[1] - peaks[0], rel=0.01)


def test_of_a_gpu_attention_in_bfloat16_stays_so_and_everything_is_put_back():
    before = (nn.functional.layer_norm, nn.functional.dropout)
    kept = []
    for gpu in (False, True):
        with FakeTensorMode(), kernels(gpu=gpu, recomputing=False), Watch([]) as watch:
            q = torch.zeros(1, 2, 64, 32, dtype=torch.bfloat16)
            attend(q, q, q)
        kept.append(peak(watch.live, "activations"))
    assert kept[1] < kept[0]  # a CPU's way is over float32
    assert (nn.functional.layer_norm, nn.functional.dropout) == before


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_of_the_step_before_live_until_the_forward_pass_is_done(
    accumulate, minute_experiment
):
    """As Lightning has it; when accumulating they live on."""
    more = [f"trainer.accumulate={accumulate}"]
    gradients = [x.gradients for x in plain("upsampler", minute_experiment, more=more).live]
    whole = gradients[-1]
    least = min(gradients[gradients.index(whole) :])
    assert (least == whole) == (accumulate == 2)
    assert least == whole or least == 0


def test_sam_goes_forward_and_back_twice(minute_experiment):
    once, twice = (
        plain("clip", minute_experiment, gpu=True, more=[f"optim.sam_rho={rho}"])
        for rho in (0, 0.1)
    )
    assert twice.flops == 2 * once.flops
    weights = once.live[-1].gradients
    assert peak(twice.live) - peak(once.live) >= weights  # those it comes back to
