"""What checks measure, on a CPU: the command as a user types it, and its parts."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from unclip.cli import main
from unclip.common.tables import markdown
from unclip.machine import engine, report, step
from unclip.machine.check import Machine, Row, Unavailable
from unclip.machine.checks import degradations, environment, sampling, utilisation
from unclip.machine.engine import FAILED, LEFT_OUT, OK, SKIPPED, Progress, Result
from unclip.machine.registry import CHECKS, chosen
from unclip.machine.stages import HostRandom
from unclip.machine.step import Costs
from unclip.planning import devices
from unclip.planning.devices import Device
from unclip.training.random import StepRandom


@pytest.fixture
def machine(tmp_path):
    """This CPU."""
    return Machine("cpu", True, tmp_path)


def test_numbers_drawn_on_the_host_are_those_of_a_cpu_on_any_device():
    given = {"rank": 1, "world": 2, "before": 1, "after": 3}
    here, there = (HostRandom(0, 5, device=device, **given) for device in ("cpu", "meta"))
    plain = StepRandom(0, 5, device="cpu", **given)
    assert torch.equal(here.normal("x", (3, 2)), plain.normal("x", (3, 2)))
    assert torch.equal(here.uniform("t", 3, 2), plain.uniform("t", 3, 2))
    assert torch.equal(here.keep("k", 3, 0.5), plain.keep("k", 3, 0.5))
    assert there.normal("x", (3, 2)).device.type == "meta"


def test_every_check_has_a_name_of_its_own_and_comes_after_what_it_needs():
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    for place, check in enumerate(CHECKS):
        assert set(check.after) <= set(names[:place])
        assert len(set(check.items)) == len(check.items) > 0
    assert [check.name for check in chosen(["train"])] == ["reference", "train"]
    assert [check.name for check in chosen([])] == names


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce GTX 970", None),
    ],
)
def test_a_card_is_found_by_the_name_that_cuda_gives_it(card, name):
    found = devices.of_card(card)
    assert (found and found.name) == name


def test_the_share_of_the_peak_is_work_over_time(machine, monkeypatch):
    net = torch.nn.Linear(10, 100, bias=False)
    monkeypatch.setattr(utilisation, "TrainingStep", lambda *a, **k: SimpleNamespace(net=net))
    monkeypatch.setattr(utilisation, "costs_of", lambda job, machine: Costs(8, 10**9, None))
    monkeypatch.setattr(utilisation, "seconds_of", lambda step, machine, **given: 0.5)
    monkeypatch.setattr(utilisation, "_account", lambda step, machine: Row("where", "there"))
    row, _ = utilisation.measure("prior", machine)
    peak = devices.find("cpu", 1).bfloat16
    assert row.numbers["utilisation"] == pytest.approx(2e9 / peak)
    assert row.numbers["samples"] == 16
    assert row.ok is None  # nothing is expected of a CPU
    monkeypatch.setattr(utilisation, "device_of", lambda machine: Device("h100", 1, 4e9, 1e9))
    row, _ = utilisation.measure("prior", machine)
    assert row.numbers["utilisation"] == 0.5
    assert row.ok is True
    monkeypatch.setattr(utilisation, "device_of", lambda machine: Device("h100", 1, 5e9, 1e9))
    assert utilisation.measure("prior", machine)[0].ok is False


@pytest.mark.parametrize(
    ("memory", "batch"), [(1000, 64), (500, 32), (180, 8), (90, 1), (70, None)]
)
def test_the_batch_is_the_largest_power_of_two_that_the_plan_says_fits(
    machine, monkeypatch, memory, batch
):
    """Of a step of 60 bytes, and 10 more for each sample; 85 % may be filled."""

    class Planned(NamedTuple):
        batch: int

        def planned(self, checkpointing):
            return SimpleNamespace(activations=10 * self.batch)

        def total(self, checkpointing):
            return 60 + 10 * self.batch

    monkeypatch.setattr(step, "_costs", lambda job, batch, machine: Planned(batch))
    monkeypatch.setattr(step, "memory_of", lambda machine: memory)
    job = step.Job("decoder/tiny", (f"{memory}",), 64)
    if batch is None:
        with pytest.raises(Unavailable, match="the plan says 0 GiB for 8 samples"):
            step.costs_of(job, machine)
    else:
        assert step.costs_of(job, machine).batch == batch


@pytest.mark.slow
def test_a_step_of_a_network_is_timed_and_accounted_for(machine):
    """The plan counts at least the products of the transformer's 12 width^2 weights a layer."""
    row, parts = utilisation.measure("prior", machine)
    assert row.numbers["flops"] > 6 * 8 * 32 * 2 * 12 * 128**2 / 2
    assert row.numbers["seconds"] > 0
    assert parts.numbers["products"] > 0
    assert sum(parts.numbers.values()) == pytest.approx(1, abs=1e-6)


def test_degraded_images_are_the_same_twice_and_counted(machine):
    speed, same = degradations.measure("bsr_light", machine)
    assert speed.numbers["crops"] > 0
    assert same.ok
    assert same.numbers == {"share": 0, "levels": 0}
    found = degradations._same("it", torch.zeros(1000), torch.full((1000,), 2 / 255))
    assert not found.ok


def test_decibels_are_those_of_the_mean_square():
    assert sampling._psnr(torch.zeros(8), torch.full((8,), 0.02)) == pytest.approx(40)
    assert sampling._psnr(torch.zeros(8), torch.zeros(8)) == pytest.approx(200)


def test_tf32_that_the_environment_forces_is_found(machine, monkeypatch):
    assert [row.ok for row in environment.measure("settings", machine)] == [None, True, None]
    monkeypatch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
    assert [row.ok for row in environment.measure("settings", machine)] == [None, False, None]


def test_the_table_says_first_what_failed():
    rows = [Row("speed", "3 | 4"), Row("loss", "2", "1", False), Row("images", "1", "1", True)]
    results = [
        Result("a", "x", OK, [rows[0], rows[2]]),
        Result("b", "y", FAILED, [rows[1]], "loss"),
        Result("c", "z", FAILED, [], "the process ended: SIGKILL"),
        Result("d", "u", LEFT_OUT, [], "the time was over"),
    ]
    lines = report.lines(results)
    assert [line[0] for line in lines] == ["check", "b", "c", "a", "a", "d"]
    assert lines[1][1:] == ["loss", "2", "1", FAILED]
    assert lines[2][1:] == ["z", "the process ended: SIGKILL", "", FAILED]
    assert lines[3][-1] == ""
    assert lines[4][-1] == OK
    assert report.summary(results) == "1 ok, 2 failed, 1 left out"
    assert all(
        line.count(" | ") == 4 for line in markdown(lines).replace("3 \\| 4", "").splitlines()
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--only trian", "--only trian: no such check; did you mean 'train'?"),
        ("--budget 0", "--budget 0: must be above 0"),
        ("--budget nan", "--budget nan: must be above 0"),
        ("--out pyproject.toml", "--out pyproject.toml: pyproject.toml is not a folder"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_work(words, said, capsys):
    assert main(["check-machine", "--device", "cpu", *words.split()]) == 2
    assert said in capsys.readouterr().err


def test_the_checks_are_listed(capsys):
    assert main(["check-machine", "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [check.name for check in CHECKS]


@pytest.mark.parametrize("state", [OK, FAILED, LEFT_OUT, SKIPPED])
def test_the_command_fails_if_a_check_did_or_was_left_out(state, tmp_path, monkeypatch, capsys):
    rows = [Row("loss", "2", "1", state == OK)]
    result = Result("train", "prior", state, rows, "" if state == OK else "why")
    monkeypatch.setattr(engine, "run", lambda *args, **given: [Progress(result, 1, 1, 65.0)])
    given = ["check-machine", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(given) == (0 if state in (OK, SKIPPED) else 2)
    said = capsys.readouterr().err
    assert "[1/1] train, prior: " in said
    assert "at most 1:05 left" in said
    assert ("first train, prior: why" in said) == (state in (FAILED, LEFT_OUT))
    assert json.loads((tmp_path / "out/machine.json").read_text())["results"][0]["state"] == state
    assert "| train | loss | 2 | 1 |" in (tmp_path / "out/machine.md").read_text()


@pytest.mark.slow
def test_a_cpu_passes(tmp_path, capsys):
    """The whole engine on real checks; the others are run by name, see docs/gpu.md."""
    only = ["train", "sample", "degradations"]
    words = [word for name in only for word in ("--only", name)]
    out = tmp_path / "out"
    given = ["--device", "cpu", "--budget", "30", "--out", str(out), *words]
    assert main(["check-machine", *given]) == 0, capsys.readouterr().err
    found = json.loads((out / "machine.json").read_text())
    skipped = {each["check"] for each in found["results"] if each["state"] == SKIPPED}
    assert {each["state"] for each in found["results"]} == {OK, SKIPPED}
    assert skipped == {"sample"}  # what a CPU does not have
    assert {each["check"] for each in found["results"]} == {"reference", *only}
    table = (out / "machine.md").read_text()
    assert table.startswith("## ")
    assert "| train | float32: decoder | loss " in table
