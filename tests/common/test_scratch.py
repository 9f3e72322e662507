"""What a killed process leaves goes with the next call; what another still uses stays."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from unclip.common.scratch import scratch_folder


def in_a_child(parent: Path) -> int:
    """A process that has a scratch folder with a file in it until it is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with scratch_folder(parent, ".export-") as folder:
            (folder / "weights").write_bytes(b"half")
            os.write(writer, b".")
            signal.pause()
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return child


def end(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_what_a_killed_process_left_goes_and_what_is_used_stays(tmp_path):
    killed = in_a_child(tmp_path)
    end(killed)
    (left,) = tmp_path.iterdir()
    working = in_a_child(tmp_path)
    (used,) = tmp_path.iterdir()
    assert used != left
    (tmp_path / ".import-x").mkdir()
    (tmp_path / ".export-mine").symlink_to(tmp_path / ".import-x")
    with scratch_folder(tmp_path, ".export-") as own:
        assert {*tmp_path.iterdir()} == {
            *(used, own),
            *(tmp_path / name for name in (".import-x", ".export-mine")),
        }
        assert (used / "weights").read_bytes() == b"half"
    assert not own.exists()
    end(working)
