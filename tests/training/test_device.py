"""The device that a stage is fitted or prepared on."""

from __future__ import annotations

import pytest
import torch

from unclip.common.errors import UserError
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
