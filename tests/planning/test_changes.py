"""What is suggested fits, and the next smaller change does not."""

from __future__ import annotations

import json

import pytest

from unclip.cli import main
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.planning.changes import EIGHT_BIT, LORA, OFFLOAD, smallest_change
from unclip.planning.devices import read_memory
from unclip.planning.plan import HEADROOM, plan, states_of


@pytest.fixture
def planned(minute_experiment):
    def planned(*overrides, memory=None, kind="upsampler"):
        resolved = load_experiment(str(minute_experiment(kind)), list(overrides))
        return plan(resolved, gpus=1, device="h200", mfu=0.4, memory=memory)

    return planned


def least(found):
    return min(row.need.memory.total for row in found.rows if not row.layout.cpu_offload)


def room(size):
    """A device in which so many bytes just fit."""
    return int(size / (1 - HEADROOM)) + 2


def test_an_adapter_trains_alone_and_the_base_is_held_once(planned):
    found = planned("init=x", LORA, "adapter.rank=2")
    memory, sizes = found.rows[0].need.memory, found.sizes
    whole = planned()
    assert sizes.frozen == whole.sizes.trained
    assert memory.gradients == 4 * sizes.trained < whole.rows[0].need.memory.gradients / 2
    assert memory.weights == 4 * (sizes.trained + sizes.frozen)
    assert (memory.optimizer, memory.ema) == (8 * sizes.trained, 4 * sizes.trained)


def test_weights_in_bfloat16_take_half_and_need_no_copies(planned):
    found, mixed = planned("trainer.precision=bf16-true"), planned("trainer.precision=bf16-mixed")
    one, two = found.rows[0].need, mixed.rows[0].need
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(one.memory, name) < 0.6 * getattr(two.memory, name)
    assert one.memory.ema == two.memory.ema
    assert one.other.get("weights in 16 bits", 0) < 0.1 * two.other["weights in 16 bits"]


def test_offloaded_activations_are_in_the_machines_memory(planned):
    here, there = planned(), planned(OFFLOAD)
    assert there.rows[0].need.memory.activations < 0.7 * here.rows[0].need.memory.activations
    assert [row.layout.activation_checkpointing for row in there.rows[:2]] == ["none", "full"]


@pytest.mark.slow
def test_micro_batches_come_first_and_as_few_as_fit(planned):
    wanted = least(planned("trainer.accumulate=2"))
    memory = room(wanted)
    change = smallest_change(planned(memory=memory))
    assert change.overrides == ["trainer.accumulate=2", "trainer.activation_checkpointing=full"]
    assert least(change.plan) == wanted
    assert smallest_change(planned(memory=1000)) is None


@pytest.mark.slow
def test_then_8_bit_moments_and_then_an_adapter(planned, minute_experiment):
    small = "trainer.accumulate=4"
    eight = smallest_change(planned(memory=room(least(planned(small, OFFLOAD, EIGHT_BIT)))))
    assert eight.overrides[0] == EIGHT_BIT
    adapted = room(least(planned("init=x", LORA, small, OFFLOAD)))
    assert states_of(load_experiment(str(minute_experiment("upsampler")))) > adapted
    assert smallest_change(planned("init=x", memory=adapted)).overrides[0] == LORA
    assert smallest_change(planned(memory=adapted)) is None  # nothing to adapt


@pytest.mark.slow
def test_the_command_is_one_that_can_be_typed(minute_experiment, capsys, planned):
    memory = room(least(planned("trainer.accumulate=4")))
    words = ["plan", str(minute_experiment("upsampler")), "--gpus", "1", "--device", "h200"]
    assert main([*words, "--memory", f"{memory / 1e9:.9f}GB"]) == 0
    line = capsys.readouterr().out.strip().splitlines()[-1]
    command = line.removeprefix("run with: unclip train ").split()
    found = load_experiment(command[0], command[1:])
    again = plan(found, gpus=1, device="h200", mfu=0.4, memory=memory)
    assert any(row.fits and row.asked for row in again.rows)
    assert main([*words, "--memory", f"{memory / 1e9:.9f}GB", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["change"] == command[1:]


@pytest.mark.slow  # 30 s
def test_a_stage_of_a_published_cascade_is_planned_without_its_weights(capsys):
    words = ["plan", "karlo/decoder", "--gpus", "1", "--device", "t4", "data.batch_size=1"]
    assert main([*words, "trainer.precision=16-mixed", LORA]) == 0
    out = capsys.readouterr().out
    assert "trained of 901," in out  # million: those of the decoder and of the adapter
    assert "frozen (karlo/clip)" in out
    assert "first that fits: auto" in out
    assert main(["plan", "karlo/decoders", "--gpus", "1", "--device", "t4"]) == 2
    assert "lists no decoders; it has" in capsys.readouterr().err


def test_sizes_of_memory_are_read_and_others_refused():
    assert read_memory("16GB") == 16 * 10**9
    assert read_memory("1.5GiB") == 3 * 2**29
    for word in ("16", "0GB", "-1GB", "many"):
        with pytest.raises(UserError, match=rf"^--memory {word}: must be a size"):
            read_memory(word)


def test_a_t4_computes_in_float16(minute_experiment):
    given = load_experiment(str(minute_experiment("upsampler")), ["trainer.precision=16-mixed"])
    found = plan(given, gpus=1, device="t4", mfu=1.0, hows=("none",))
    assert found.rows[0].seconds == pytest.approx(found.rows[0].flops / 65e12)
