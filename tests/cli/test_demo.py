"""`unclip demo` before there is a page."""

from __future__ import annotations

import socket
import sys

import pytest

from unclip.cli import main
from unclip.common.listening import is_loopback


def refusal(capsys, *words: str) -> str:
    assert main(["demo", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_without_gradio_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "`pip install 'unclip[demo]'`" in refusal(capsys)


@pytest.mark.parametrize("port", ["0", "65536"])
def test_a_port_that_cannot_be_is_refused(capsys, port):
    error = refusal(capsys, "--port", port)
    assert error.endswith(f"--port {port}: the port must be from 1 to 65535")


def test_a_taken_port_is_refused(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port}: Address already in use" in refusal(capsys, "--port", str(port))


def test_an_address_of_another_machine_is_refused(capsys):
    error = refusal(capsys, "--host", "192.0.2.1")  # of the block for documentation, RFC 5737
    assert "--host 192.0.2.1 --port 7860: Cannot assign requested address" in error


def test_a_missing_folder_is_named(capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ("--port", str(port), "--pipeline", str(tmp_path / "none"))
    assert "no such folder" in refusal(capsys, *words)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.2", "example.org", ""])
def test_elsewhere(host):
    assert not is_loopback(host)
