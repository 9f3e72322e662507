"""The device that a stage is fitted or prepared on."""

from __future__ import annotations

import pytest
import torch

from unclip.common.devices import widest
from unclip.common.errors import UserError
from unclip.training import strategies
from unclip.training.config import TrainerConfig
from unclip.training.world import device_of


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_of("auto") == device_of("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match=r"^trainer.accelerator cuda: this machine has no CUDA GPU"):
        device_of("gpu")


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert device_of("auto") == device_of("gpu") == torch.device("cuda", 2)


def test_mps_is_refused_where_it_is_not_and_holds_one_process(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    line = r"^trainer\.accelerator=mps: this machine has no MPS device; use auto or cpu"
    with pytest.raises(UserError, match=line):
        strategies.build(TrainerConfig(accelerator="mps"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for more in ({"devices": 2}, {"strategy": "fsdp"}):
        with pytest.raises(UserError, match=r"accelerator=mps: is for one process"):
            strategies.build(TrainerConfig(accelerator="mps", **more))
    found = strategies.build(TrainerConfig(accelerator="mps"))
    assert found.root_device == device_of("mps") == torch.device("mps")


def test_numbers_are_as_wide_as_the_device_has_them():
    assert widest(torch.device("cpu")) == widest(torch.device("cuda")) == torch.float64
    assert widest(torch.device("mps")) == torch.float32
