"""What is said when a process that loads data is killed, and what ends with a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


PARENT = """
import subprocess, sys
from unclip.common.processes import starting
with starting() as prepare:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], preexec_fn=prepare)
child.wait()
"""
CHILDREN = {  # one that saves itself when it is told, and one that need not
    "told": """
import os, time
print(os.getpid(), flush=True)
time.sleep(60)
""",
    "killed": """
import os, signal, time
from unclip.common.processes import die_with_parent
signal.signal(signal.SIGTERM, signal.SIG_IGN)
die_with_parent(kill=True)
print(os.getpid(), flush=True)
time.sleep(60)
""",
}


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits only to be reaped."""
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells a child")
@pytest.mark.parametrize("child", ["told", "killed"])
def test_a_child_ends_when_its_parent_is_killed(child):
    words = [sys.executable, "-c", PARENT, CHILDREN[child]]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not ended(pid)
        parent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 20
    while not ended(pid) and time.monotonic() < until:
        time.sleep(0.05)
    if not ended(pid):
        os.kill(pid, signal.SIGKILL)
        pytest.fail("it outlived its parent")
