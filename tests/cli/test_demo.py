"""`unclip demo` before there is a page."""

from __future__ import annotations

import sys

import pytest

from unclip.cli import main
from unclip.demo.serve import _is_loopback


def refusal(capsys, *words: str) -> str:
    assert main(["demo", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_without_gradio_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "`pip install 'unclip[demo]'`" in refusal(capsys)


@pytest.mark.parametrize("port", ["0", "65536"])
def test_a_port_that_cannot_be_is_refused(capsys, port):
    assert f"--port {port}: give a number from 1 to 65535" in refusal(capsys, "--port", port)


def test_a_missing_folder_is_named(capsys, tmp_path):
    assert "no such folder" in refusal(capsys, "--pipeline", str(tmp_path / "none"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback(host):
    assert _is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.2", "example.org", ""])
def test_elsewhere(host):
    assert not _is_loopback(host)
