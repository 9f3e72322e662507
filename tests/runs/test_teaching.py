"""Samples on which the weights of ``init`` teach: what these say of them is the target."""

from __future__ import annotations

import shutil

import pytest
import torch

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.planning.plan import plan
from unclip.runs import init
from unclip.runs.parents import parents
from unclip.runs.train import assemble, train
from unclip.stages._diffusion.teaching import Taught
from unclip.weights.merging import merge

STAGES = ("prior", "decoder", "upsampler")
LORA = "adapter.kind=lora"
MIXED = (
    "data.source=mixture",
    "data.mixture.old.source=scenes",
    "data.mixture.new.source=scenes",
)
TAUGHT = (*MIXED, "init_teaches=old")


@pytest.fixture
def resolved(minute_experiment, cascade, tmp_path):
    """A minute experiment that begins from the stage of the cascade."""

    def resolved(kind, *overrides, folder="run", base=None):
        given = [f"run.dir={tmp_path / folder}", f"init={base or cascade / kind}"]
        given += [f"clip={cascade / 'clip'}"] * (kind != "upsampler")
        given += ["model.unet.dropout=0"] * (kind != "prior")
        return load_experiment(str(minute_experiment(kind)), [*given, *overrides])

    return resolved


@pytest.fixture
def begun(resolved):
    """The stage that would be trained, and a batch: half of it old, half new."""

    def begun(kind, *overrides):
        wanted = resolved(kind, *overrides)
        found = assemble(wanted, parents(wanted)._replace(init=init.find(wanted)))
        batch = next(iter(found.data.train_dataloader()))
        assert all(key.startswith(("old/", "new/")) for key in batch.keys)
        return found.stage, batch

    return begun


def loss_of(stage, batch, keys):
    """Of the training step, the batch's samples under other names."""
    batch = batch._replace(keys=list(keys))
    pair = stage.encode(batch) if hasattr(stage, "draw") else batch
    return stage.loss(stage.net, pair, stage.step_random(0, 0, device="cpu"), training=True)["loss"]


def disturb(stage):
    """As after some steps."""
    with torch.no_grad():
        for parameter in stage.net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))


@pytest.mark.parametrize("adapter", [(), (LORA,)], ids=["whole", "adapter"])
@pytest.mark.parametrize("kind", STAGES)
def test_at_first_nothing_is_to_be_learned_from_the_teacher(begun, kind, adapter):
    stage, batch = begun(kind, *TAUGHT, *adapter)
    plain, _ = begun(kind, *MIXED, *adapter)
    old, new = [f"old/{k}" for k in range(4)], [f"new/{k}" for k in range(4)]
    assert loss_of(stage, batch, old) == 0
    truth = loss_of(stage, batch, new)
    assert truth > 0
    assert torch.equal(truth, loss_of(plain, batch, new))
    assert torch.equal(truth, loss_of(plain, batch, old))
    each = [loss_of(stage, batch, [*new[:k], old[k], *new[k + 1 :]]) for k in range(4)]
    assert sum(each).item() == pytest.approx(3 * truth.item(), rel=1e-4)


@pytest.mark.parametrize("adapter", [(), (LORA,)], ids=["whole", "adapter"])
@pytest.mark.parametrize("kind", STAGES)
def test_what_has_changed_is_pulled_back(begun, kind, adapter):
    """And the teacher is the network as it was, whatever trains meanwhile."""
    stage, batch = begun(kind, *TAUGHT, *adapter)
    disturb(stage)
    old = [f"old/{k}" for k in range(4)]
    optimizer = torch.optim.Adam([p for p in stage.net.parameters() if p.requires_grad], 0.003)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = loss_of(stage, batch, old)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0
    assert losses[-1] < 0.5 * losses[0]


def test_the_distance_is_a_mean_over_each_kind_of_channels():
    said, output = torch.zeros(2, 6, 4, 4), torch.zeros(2, 6, 4, 4)
    output[0, :3], output[0, 3:], output[1, 5] = 2.0, 3.0, 3.0
    taught = Taught(torch.tensor([0, 1]), said)
    assert taught.gap(output, 3).tolist() == [4 + 9, 3]
    assert taught.gap(output, 6)[0] == pytest.approx((4 + 9) / 2)


@pytest.mark.parametrize("kind", STAGES)
def test_the_teacher_is_asked_of_its_own_samples_alone(begun, kind):
    stage, batch = begun(kind, *TAUGHT)
    seen = []
    stage._teacher._copy.register_forward_pre_hook(
        lambda _, args, given: seen.append(given["x_t"]), with_kwargs=True
    )
    stage.net.register_forward_pre_hook(
        lambda _, args, given: seen.append(given["x_t"]), with_kwargs=True
    )
    new = ["new/1"] * len(batch.keys)
    loss_of(stage, batch, ["new/1", "old/1", *new[2:]])
    taught, whole = seen
    assert torch.equal(taught, whole[1:2])
    seen.clear()
    loss_of(stage, batch, new)
    assert len(seen) == 1


def test_a_merged_adapter_waits_for_no_teacher(resolved, tmp_path):
    trained = train(resolved("decoder", *TAUGHT, LORA, "trainer.max_steps=1"))
    out = merge([str(trained.artifact)], tmp_path / "merged").path
    again = [f"data.mixture.{name}.source=scenes" for name in ("old", "new")]
    config = load_experiment(str(out / "config.yaml"), ["data.source=scenes", *again]).config
    assert (config.init, config.init_teaches) == (None, None)


def test_the_teacher_is_in_no_checkpoint_and_does_not_train(begun):
    stage, _ = begun("decoder", *TAUGHT)
    plain, _ = begun("decoder", *MIXED)
    assert {*stage.state_dict()} == {*plain.state_dict()}
    assert len([*stage.parameters()]) == len([*plain.parameters()])


def test_validation_measures_the_truth(begun):
    stage, batch = begun("decoder", *TAUGHT)
    draws = stage.step_random(0, 0, device="cpu")
    old = batch._replace(keys=["old/1"] * 4)
    assert stage.loss(stage.sampling_net, old, draws, training=False)["loss"] > 0


@pytest.mark.parametrize("kind", ["prior", pytest.param("decoder", marks=pytest.mark.slow)])
def test_a_resumed_run_has_the_same_teacher(resolved, cascade, tmp_path, kind):
    base = tmp_path / "base"
    shutil.copytree(cascade / kind, base)
    given = [*TAUGHT, "optim.lr=0.01"]
    whole = train(resolved(kind, *given, "trainer.max_steps=4", folder="whole", base=base))
    train(resolved(kind, *given, "trainer.max_steps=2", folder="runs/parts", base=base))
    longer = resolved(kind, *given, "trainer.max_steps=4", folder="runs/parts", base=base)
    base.rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"^--resume: .* needs the weights \w+ that it began from"):
        train(longer, resume=True)
    (tmp_path / "away").rename(base)
    parts = train(longer, resume=True)
    one, two = (artifacts.describe(run.artifact).weights() for run in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["init_teaches=old"],
            r"init_teaches='old': must be a source of data\.mixture \(data\.source",
        ),
        ([*MIXED, "init_teaches=base"], r"must be a source of data\.mixture \(new, old\)"),
        ([*TAUGHT, "init=null"], "init_teaches='old': needs init"),
        (
            [*TAUGHT, "trainer.strategy=fsdp"],
            r"trainer\.strategy='fsdp': must be auto or ddp with init_",
        ),
        (
            [*TAUGHT, "data.embeddings=somewhere"],
            r"data\.embeddings=.*: must be null with init_teaches",
        ),
        (
            [*TAUGHT, "adapter.kind=token", "adapter.token=<sks>"],
            r"init_teaches='old': has no effect with adapter\.kind=token",
        ),
    ],
    ids=["no mixture", "another", "no init", "fsdp", "embeddings", "token"],
)
def test_a_teacher_that_cannot_be_is_refused(minute_experiment, overrides, line):
    given = [] if "init=null" in overrides else ["init=somewhere"]
    with pytest.raises(UserError, match=line):
        load_experiment(str(minute_experiment("prior")), [*given, *overrides])


@pytest.mark.parametrize(
    "alone",
    [("optim.name=adamw8bit",), ("adapter.kind=token", "adapter.token=<sks>"), TAUGHT],
    ids=["8-bit", "token", "teacher"],
)
def test_the_plan_shards_nothing_that_validation_would_refuse_sharded(resolved, alone):
    found = plan(resolved("prior", *alone), gpus=2, device="t4", mfu=0.4)
    assert {row.layout.strategy for row in found.rows} == {"ddp"}
    with pytest.raises(UserError, match="fsdp"):
        resolved("prior", *alone, "trainer.strategy=fsdp")


def test_the_plan_counts_the_teacher(resolved):
    def planned(*overrides):
        found = plan(resolved("prior", *overrides), gpus=2, device="t4", mfu=0.4)
        return found, {row.layout.strategy for row in found.rows}

    (plain, ways), (taught, fewer) = planned(*MIXED), planned(*TAUGHT)
    assert (ways, fewer) == ({"ddp", "fsdp"}, {"ddp"})
    one, two = (found.rows[0].need for found in (plain, taught))
    assert two.other["teacher"] == one.memory.weights - plain.sizes.buffers
    assert two.memory.total == one.memory.total + two.other["teacher"]
    assert 1.2 < taught.rows[0].flops / plain.rows[0].flops < 1.5
    adapted, _ = planned(*TAUGHT, LORA)
    assert "teacher" not in adapted.rows[0].need.other
