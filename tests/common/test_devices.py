"""The device that a user names."""

import pytest

from unclip.common.devices import find_device
from unclip.common.errors import UserError


@pytest.mark.parametrize("name", ["cpu:1", "mps:1"])
def test_there_is_one_cpu(name):
    with pytest.raises(UserError, match=f"--device {name}: this machine has one {name[:3]}; use"):
        find_device(name)
    assert find_device("cpu:0").type == "cpu"
