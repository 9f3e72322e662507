"""Who trains in a folder, and how it ended, whatever happened to the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from unclip.common.errors import Interrupted, UserError
from unclip.tracking.status import FILE, run_lock, status_of

HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from unclip.tracking.status import run_lock

with run_lock(Path(sys.argv[1])) as run:
    run.begin()
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("error", "state", "why"),
    [
        (None, "finished", ""),
        (Interrupted("SIGTERM at step 3: saved"), "interrupted", "SIGTERM at step 3: saved"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (UserError("data.source: gone"), "failed", "data.source: gone"),
        (MemoryError("no\nmore"), "failed", "no"),
    ],
)
def test_the_file_says_how_it_ended(tmp_path, error, state, why):
    def run():
        with run_lock(tmp_path) as it:
            it.begin()
            assert status_of(tmp_path).state == "running"
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    found = status_of(tmp_path)
    assert (found.state, found.why) == (state, why)
    assert found.since is not None


def test_a_run_that_never_began_leaves_what_was_said_before(tmp_path):
    with run_lock(tmp_path) as it:
        it.begin()
    with pytest.raises(UserError), run_lock(tmp_path):
        raise UserError("data.source: gone")
    assert status_of(tmp_path).state == "finished"


def test_two_processes_do_not_train_in_one_folder_and_a_dead_one_is_in_nobodys_way(tmp_path):
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert holder.stdout.readline() == b"held\n"
        assert status_of(tmp_path).state == "running"
        with (
            pytest.raises(UserError, match=rf"is training there \(process {holder.pid} on"),
            run_lock(tmp_path),
        ):
            pass
        holder.kill()  # its forked worker lives on
        holder.wait()
        assert status_of(tmp_path).state == "stopped"
        with run_lock(tmp_path) as it:
            it.begin()
        assert status_of(tmp_path).state == "finished"
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"state": 3}', '{"state": "running"}'])
def test_a_damaged_or_stale_file_means_stopped_and_is_taken_over(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    assert status_of(tmp_path).state == "stopped"
    with run_lock(tmp_path) as it:
        it.begin()
    assert json.loads((tmp_path / FILE).read_text())["state"] == "finished"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(UserError, match=r"run\.dir=.*: cannot be written"), run_lock(tmp_path):
        pass
