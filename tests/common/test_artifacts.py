"""An artifact is whole, or it is not there."""

from __future__ import annotations

import pytest
import torch

from unclip.common import artifacts
from unclip.common.errors import UserError


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_not_written(tmp_path, value):
    weights = {"a": torch.ones(3), "b": torch.tensor([0.0, value])}
    with pytest.raises(UserError, match="b"):
        artifacts.export(
            tmp_path / "found", stage="clip", weights=weights, config={}, provenance={}
        )
    assert list(tmp_path.iterdir()) == []
