"""What a process has locked is free as soon as it is gone."""

from __future__ import annotations

import fcntl
import os
import signal

from unclip.common.forks import not_inherited


def test_a_fork_keeps_no_lock_of_its_parent(tmp_path):
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    reader, writer = os.pipe()
    with not_inherited(lock):
        child = os.fork()
        if not child:
            os.write(writer, b".")
            signal.pause()
    os.read(reader, 1)  # the child runs
    for descriptor in (lock, reader, writer):
        os.close(descriptor)
    again = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(again)
