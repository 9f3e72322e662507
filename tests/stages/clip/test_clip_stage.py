"""CLIP's training step: its temperature, its logits, its gradient from micro-batches."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.data.batches import ClipBatch
from unclip.embeddings.clip import ClipOutput
from unclip.runs.parents import Parents
from unclip.runs.train import assemble, train
from unclip.stages.clip.cached_gradients import step_loss
from unclip.stages.clip.config import ClipConfig
from unclip.stages.clip.network import build_clip
from unclip.stages.clip.stage import ClipStage, contrastive_loss
from unclip.tracking.files import curves, read_metrics

SMALL = {"embed_dim": 16, "image_size": 32, "text_width": 32, "text_layers": 1, "text_heads": 2}
VIT = {"patch_size": 16, "vision_width": 32, "vision_layers": 1, "vision_head_width": 16}
RESNET = {"vision": "resnet", "vision_stages": [1, 1, 1, 1], "vision_width": 8}


def clip_of(**more):
    torch.manual_seed(0)
    return build_clip(ClipConfig(**SMALL, **{"vision_head_width": 16, "context": 16, **more}))


def batch_of(size):
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 40000, (size, 16), generator=draw)
    tokens[:, -1] = 49407
    names = [str(k) for k in range(size)]
    return ClipBatch(torch.rand(size, 3, 32, 32, generator=draw) * 2 - 1, tokens, names, names)


def split(batch, sizes):
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return [ClipBatch(*(p[s : s + n] for p in batch)) for s, n in zip(starts, sizes)]


def gradients(net, batches):
    found = step_loss(net, lambda b: net(b.image, b.tokens), batches, contrastive_loss)
    for piece in found.pieces:
        piece.backward()
    return found.value, {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize("sizes", [[4, 4], [2, 2, 2, 2], [1, 7]])
def test_cached_gradients_are_those_of_the_whole_batch(sizes):
    batch = batch_of(8)
    whole = clip_of(**VIT)
    loss = contrastive_loss(*whole(batch.image, batch.tokens))
    loss.backward()
    net = clip_of(**VIT)
    value, found = gradients(net, split(batch, sizes))
    torch.testing.assert_close(value, loss.detach(), rtol=1e-6, atol=1e-6)
    for name, parameter in whole.named_parameters():
        away = (found[name] - parameter.grad).norm() / parameter.grad.norm()
        assert away < 1e-5, name


@pytest.mark.parametrize("half", [False, True])
def test_autocast_keeps_no_cast_of_the_pass_without_a_graph(half):
    net = clip_of(**VIT)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        _, found = gradients(net, split(batch_of(4), [2, 2]))
    assert all(g is not None and g.isfinite().all() and g.any() for g in found.values())


def test_means_of_batch_normalisation_see_each_micro_batch_once():
    net = clip_of(**RESNET)
    gradients(net, split(batch_of(8), [4, 4]))
    counted = [m.num_batches_tracked.item() for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert set(counted) == {2}


@pytest.mark.parametrize(
    ("split_by", "message"),
    [
        (["trainer.accumulate=4"], r"1 process x trainer\.accumulate=4"),
        (["trainer.devices=4"], r"4 processes x trainer\.accumulate=1"),
    ],
)
def test_batch_normalisation_of_one_sample_is_refused(minute_experiment, split_by, message):
    resnet = ["model.vision=resnet", "model.vision_stages=[1,1,1,1]", "model.image_size=32"]
    with pytest.raises(
        UserError, match=rf"data\.batch_size=4: leaves one sample at a time \({message}"
    ):
        load_experiment(str(minute_experiment("clip")), [*resnet, *split_by])
    load_experiment(str(minute_experiment("clip")), split_by)  # a transformer has none


def test_one_sample_is_not_contrasted_with_itself(minute_experiment):
    with pytest.raises(UserError, match=r"data\.batch_size=1: must be at least 2"):
        load_experiment(str(minute_experiment("clip")), ["data.batch_size=1"])


def test_a_last_validation_sample_alone_does_not_lower_the_loss(minute_experiment, monkeypatch):
    stage = ClipStage(load_experiment(str(minute_experiment("clip"))).config)
    logged = {}
    monkeypatch.setattr(stage, "log", lambda name, value, **_: logged.update({name: float(value)}))
    z_i, z_t = (nn.functional.normalize(torch.randn(9, 16), dim=-1) for _ in range(2))
    for size in (8, 9):  # of two batches, then with one sample more
        output = ClipOutput(z_i[:size], z_t[:size], torch.tensor(10.0))
        stage._seen.append((output, [str(k) for k in range(size)]))
        stage.on_validation_epoch_end()
        losses = [contrastive_loss(z_i[a : a + 4], z_t[a : a + 4], output.scale) for a in (0, 4)]
        assert logged["val/loss"] == pytest.approx(float(sum(losses)) / 2, rel=1e-6)


def test_logits_are_float32_under_autocast():
    """At temperature 1/100 bfloat16 would round a logit near 90 to a multiple of 0.5."""
    torch.manual_seed(0)
    z = nn.functional.normalize(torch.randn(64, 32), dim=1)
    near = nn.functional.normalize(z + torch.randn(64, 32), dim=1)
    scale = torch.tensor(100.0)
    expected = contrastive_loss(z, near, scale)
    assert expected > 0.01  # of pairs that are told apart it is 0, however it is computed
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(contrastive_loss(z, near, scale), expected)


def test_the_temperature_is_capped_and_comes_down_again(minute_experiment, tmp_path, monkeypatch):
    """Capped in the forward pass, it would have no gradient above 100: frozen for ever."""
    given = [f"run.dir={tmp_path}", "trainer.max_steps=4", "optim.lr=0.05"]
    build = ClipStage.__init__

    def hot(self, experiment):
        build(self, experiment)
        nn.init.constant_(self.net.model.logit_scale, math.log(500.0))

    monkeypatch.setattr(ClipStage, "__init__", hot)
    train(load_experiment(str(minute_experiment("clip")), given))
    rows = curves(read_metrics(tmp_path / "metrics.jsonl"))
    scales = [value for _, value in rows["train/logit_scale"]]
    assert scales[0] == pytest.approx(100.0, rel=1e-5)
    assert all(a > b for a, b in pairwise(scales))  # pairs are told apart by chance alone


def test_an_optimizer_step_upwards_ends_at_the_cap(minute_experiment, tmp_path):
    resolved = load_experiment(str(minute_experiment("clip")), [f"run.dir={tmp_path}"])
    _, stage, _ = assemble(resolved, Parents())
    nn.init.constant_(stage.net.model.logit_scale, math.log(100.0) + 1)
    stage.net.cap_scale()
    scale = stage.net.scale()
    assert scale.item() == pytest.approx(100.0, rel=1e-5)
    scale.backward()
    assert stage.net.model.logit_scale.grad.item() == pytest.approx(100.0, rel=1e-5)
