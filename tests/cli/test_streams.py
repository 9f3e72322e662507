"""Standard output that lacks letters, is closed, full or read by nobody: never a trace."""

import io
import subprocess
import sys

import pytest
from tiny_data import records, write_sidecars

from unclip.cli import main

LISTED = [sys.executable, "-m", "unclip", "experiments", "list"]


class Kept(io.BytesIO):
    """Can be read after what wrote to it is gone."""

    def close(self):
        pass


def terminal(monkeypatch):
    """Make standard streams of an encoding without most letters."""
    streams = {}
    for name in ("stdout", "stderr"):
        streams[name] = Kept()
        monkeypatch.setattr(sys, name, io.TextIOWrapper(streams[name], encoding="cp1252"))
    return streams


def test_letters_that_the_terminal_lacks_are_spelt_as_escapes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [("кот", image, "кот \U0001f431") for _, image, _ in records(1)]
    write_sidecars(tmp_path / "снимки", rows)
    (tmp_path / "снимки" / "лишний.heic").touch()
    streams = terminal(monkeypatch)
    assert main(["data", "inspect", "снимки", "--workers", "0"]) == 0
    assert b"\\u043b\\u0438\\u0448\\u043d\\u0438\\u0439.heic" in streams["stdout"].getvalue()
    assert main(["data", "inspect", "нет"]) == 2
    sys.stderr.flush()
    assert b"data.source: \\u043d\\u0435\\u0442 does not exist" in streams["stderr"].getvalue()


@pytest.mark.parametrize(
    ("shell", "status", "said"),
    [
        ("{} > /dev/full", 2, "unclip: error: No space left on device\n"),
        ("{} --help > /dev/full", 0, ""),  # argparse says nothing of it
        ("{} >&-", 0, ""),
        ("{} 2>&-", 0, ""),
        ("{} | true; exit ${{PIPESTATUS[0]}}", 0, ""),
    ],
)
def test_an_output_that_takes_nothing_is_no_trace(shell, status, said):
    command = shell.format(" ".join(LISTED))
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (status, said)


def test_an_error_of_the_system_is_one_line(monkeypatch, capsys):
    def full(args):
        raise OSError(28, "No space left on device", "x/weights")

    monkeypatch.setattr(
        "unclip.cli._parse", lambda argv: type("A", (), {"run": staticmethod(full)})()
    )
    assert main([]) == 2
    assert capsys.readouterr().err == "unclip: error: x/weights: No space left on device\n"
