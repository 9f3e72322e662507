"""A plan's figures against the formulas that they stand for."""

from __future__ import annotations

import re

import pytest
import torch

from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.planning import devices
from unclip.planning import plan as planning
from unclip.planning.memory import Memory
from unclip.planning.plan import measure
from unclip.planning.table import FLOPS, Unit, as_json, hundredths, text, unit
from unclip.planning.trace import given_by
from unclip.runs.parents import count_parameters, frozen_clip
from unclip.stages.interface import Given


@pytest.fixture(scope="module")
def planned(minute_experiment):
    """`planned("upsampler", 4, "h200", *overrides)`; equal steps are gone through once."""
    seen = {}

    def once(resolved, share, *, gpu, hows):
        changed = [k for k in resolved.origins if k.startswith(("model", "optim", "trainer.acc"))]
        key = (resolved.name, share, gpu, *hows, *changed)
        if key not in seen:
            seen[key] = measure(resolved, share, gpu=gpu, hows=hows)
        return seen[key]

    def call(kind, gpus, device, *overrides, mfu=0.4):
        resolved = load_experiment(str(minute_experiment(kind)), list(overrides))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planning, "measure", once)
            return planning.plan(resolved, gpus=gpus, device=device, mfu=mfu)

    return call


@pytest.fixture(scope="module")
def four(planned):
    """The minute upsampler: 4 samples a step in float32, 3 steps, on four H200."""
    return planned("upsampler", 4, "h200", mfu=0.5)


def test_parameters_are_the_networks(four, minute_experiment):
    assert four.sizes.trained == count_parameters(
        load_experiment(str(minute_experiment("upsampler")))
    )


def test_states_are_twenty_bytes_a_parameter(four):
    memory, parameters = four.rows[0].need.memory, four.sizes.trained
    assert memory[:4] == (4 * parameters, 4 * parameters, 8 * parameters, 4 * parameters)


def test_clip_has_no_average_and_muon_one_moment_for_matrices(planned):
    found = planned("clip", 1, "h100", "optim.name=muon")
    memory = found.rows[0].need.memory
    assert memory.ema == 0
    assert memory.gradients < memory.optimizer < 2 * memory.gradients


def test_time_is_operations_over_speed(four):
    for row in four.rows:
        assert row.seconds == pytest.approx(row.flops / (4 * 0.5 * 66.9e12))
        assert row.days == pytest.approx(3 * row.seconds / 86400)
    assert four.flops == four.rows[0].flops
    assert four.clip_flops == 0


@pytest.mark.slow
def test_a_batch_costs_the_same_however_it_is_split(four, planned):
    alone = planned("upsampler", 1, "a100")
    split = planned("upsampler", 2, "a100", "trainer.accumulate=2")
    assert four.flops == alone.flops == split.flops
    assert (four.micro_batch, alone.micro_batch, split.micro_batch) == (1, 4, 1)


def test_the_first_that_fits_is_chosen(four):
    assert four.chosen == four.rows[0]
    assert four.overrides == ["trainer.devices=4"]
    totals = [row.need.memory.total for row in four.rows]
    assert totals[0] > totals[1] > totals[2] > totals[3] > totals[4] > totals[5]
    assert [row.layout.strategy for row in four.rows] == ["ddp"] * 3 + ["fsdp"] * 6
    rows = [row._replace(fits=k >= 5) for k, row in enumerate(four.rows)]
    assert four._replace(rows=rows).overrides == [
        "trainer.devices=4",
        "trainer.strategy=fsdp",
        "trainer.activation_checkpointing=full",
    ]
    rows = [row._replace(fits=False) for row in four.rows]
    assert four._replace(rows=rows).chosen.need.memory.total == min(totals)
    assert "nothing fits" in text(four._replace(rows=rows))


def test_a_device_is_left_some_room(planned, monkeypatch):
    need = planned("upsampler", 1, "h200").rows[0].need.memory.total
    for memory, fits in ((need / 0.92 + 1, True), (need / 0.92 - 1, False)):
        gpu = devices.GPUS[0]._replace(memory=int(memory))
        monkeypatch.setattr(devices, "GPUS", (gpu,))
        assert planned("upsampler", 1, "h200").rows[0].fits == fits


def test_many_gpus_are_several_machines(four):
    assert four._replace(gpus=64).overrides == ["trainer.devices=8", "trainer.nodes=8"]
    assert four._replace(gpus=12).overrides == ["trainer.devices=6", "trainer.nodes=2"]


def test_what_the_experiment_says_is_marked(planned, four):
    assert not any(row.asked for row in four.rows)
    said = ["trainer.strategy=fsdp", "trainer.activation_checkpointing=full"]
    found = planned("upsampler", 2, "h200", *said)
    assert [row.layout for row in found.rows if row.asked] == [("fsdp", "full", False)]
    assert text(found).count("as the experiment says") == 1
    assert found.overrides == [
        "trainer.devices=2",
        "trainer.strategy=ddp",
        "trainer.activation_checkpointing=none",
    ]


def test_what_is_asked_for_is_tried_even_where_it_makes_little_sense(planned):
    found = planned("upsampler", 1, "cpu", "trainer.strategy=fsdp")
    assert found.rows[-1].layout == ("fsdp", "none", False)
    assert found.rows[-1].asked


def test_processes_share_a_cpu(planned):
    one, two = planned("upsampler", 1, "cpu"), planned("upsampler", 2, "cpu")
    assert one.device.memory // 2 == two.device.memory
    assert one.rows[0].seconds == pytest.approx(two.rows[0].seconds)


def numbers(line):
    return [float(x.replace(",", "")) for x in re.findall(r"\d[\d,]*\.\d+", line)]


def test_printed_parts_add_up_to_the_printed_total(planned):
    found = planned("prior", 4, "h200")
    lines = text(found).splitlines()
    table = [line for line in lines if line.startswith(("ddp ", "fsdp "))]
    assert len(table) == len(found.rows) == 9
    for line in table:
        *parts, total = numbers(line)[: len(Memory._fields) + 1]
        assert sum(parts) == pytest.approx(total, abs=1e-6)
    other = next(line for line in lines if line.startswith("other: "))
    assert sum(numbers(other)) == pytest.approx(numbers(table[0])[5], abs=1e-6)
    arithmetic = next(line for line in lines if line.startswith("arithmetic"))
    total, network, clip = numbers(arithmetic)
    assert network + clip == pytest.approx(total)


def test_a_resnet_that_sees_one_sample_at_a_time_is_refused():
    with pytest.raises(UserError, match=r"^data\.batch_size: leaves one sample at a time \(8 proc"):
        planning.plan(
            load_experiment("clip/tiny", ["data.batch_size=8"]), gpus=8, device="h100", mfu=0.4
        )


def test_json_adds_up(four):
    found = as_json(four)
    assert found["parameters"] == four.sizes.trained
    assert found["fits"] is True
    assert (found["strategy"], found["activation_checkpointing"]) == ("ddp", "none")
    for row in found["rows"]:
        assert sum(row["memory"].values()) == row["memory_bytes_per_gpu"]
        assert sum(row["other"].values()) == row["memory"]["other"]
        assert row["gpu_days"] == 4 * row["days"]
    assert found["rows"][0].items() <= found.items()


def test_rounding():
    assert hundredths([1 / 3, 1 / 3, 1 / 3], Unit("", 1.0)) == [34, 33, 33]
    assert hundredths([0.996, 0.996], Unit("", 1.0)) == [100, 99]
    assert hundredths([2.5], Unit("", 0.5), total=500) == [500]
    assert unit(9.9e12, FLOPS, 1000) == ("GFLOP", 1e9)
    assert unit(1e13, FLOPS, 1000) == ("TFLOP", 1e12)


@pytest.mark.parametrize(
    ("gpus", "device", "mfu", "message"),
    [
        (0, "h200", 0.4, "--gpus=0: must be at least 1"),
        (1, "rtx409", 0.4, "--device: unknown device 'rtx409'; did you mean 'rtx4090'?"),
        (1, "h300", 0.4, "--device: unknown device 'h300'; did you mean 'h200'?"),
        (1, "h200", 0.0, "--mfu=0: must be above 0 and at most 1"),
        (1, "h200", 1.5, "--mfu=1.5: must be above 0 and at most 1"),
        (3, "h200", 0.4, "data.batch_size: 4 cannot be split over 3 processes x 1 accumulated"),
    ],
)
def test_what_cannot_be_is_refused(gpus, device, mfu, message, planned):
    with pytest.raises(UserError, match=re.escape(message)):
        planned("upsampler", gpus, device, mfu=mfu)


def test_a_device_without_bfloat16_is_refused_for_it(planned):
    with pytest.raises(UserError, match="has no bfloat16 units; add trainer"):
        planned("upsampler", 1, "t4", "trainer.precision=bf16-mixed")
    assert planned("upsampler", 1, "t4", "trainer.precision=32").rows[0].fits


def test_a_codec_is_not_trained(planned):
    with pytest.raises(UserError, match="is fitted, not trained"):
        planned("pca", 1, "h200")


def test_a_clip_of_open_clip_is_built_without_its_weights():
    with torch.device("meta"):
        clip = frozen_clip("open_clip:RN50/openai")
    assert sum(p.numel() for p in clip.parameters()) == 102_007_137
    assert (clip.embed_dim, clip.context, clip.image_size) == (1024, 77, 224)
    with pytest.raises(UserError, match="has no architecture 'RN5'"):
        frozen_clip("open_clip:RN5/openai")


def test_a_decoder_without_z_i_asks_no_clip(minute_experiment):
    resolved = load_experiment(str(minute_experiment("decoder")), ["model.use_z_i=false"])
    with torch.device("meta"):
        assert given_by(frozen_clip("clip/tiny"), resolved, 2) == Given()


@pytest.mark.slow  # 15 s
def test_the_papers_decoder():
    found = planning.plan(load_experiment("decoder/paper"), gpus=64, device="h200", mfu=0.4)
    assert found.sizes.trained == 3_563_695_622
    assert found.sizes.clip == 986_339_841
    memory = found.rows[0].need.memory
    assert memory[:4] == tuple(n * 3_563_695_622 for n in (4, 4, 8, 4))
