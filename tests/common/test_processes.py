"""What is said when a process that loads data is killed."""

from __future__ import annotations

import pytest

from unclip.common.processes import killed_worker


@pytest.mark.parametrize(
    "said",
    [
        "DataLoader worker (pid 12) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 12, 13) exited unexpectedly",
    ],
)
def test_a_killed_loader_process_is_one_line_with_a_way_out(said):
    line = str(killed_worker(RuntimeError(said)))
    assert line.startswith("data.num_workers: a loader process died (")
    assert "fewer of them" in line


def test_another_error_is_left_alone():
    assert killed_worker(RuntimeError("CUDA error: out of memory")) is None
