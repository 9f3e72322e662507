"""`~` in paths, also for an account that has no home."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from unclip.cli import main
from unclip.common.errors import UserError
from unclip.common.home import at_home
from unclip.data.files import cache_folder
from unclip.runs import own


@pytest.fixture
def homeless(monkeypatch):
    def nobody(_):
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("UNCLIP_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


def test_a_path_of_nobody_is_a_line(capsys):
    assert main(["data", "inspect", "scenes", "--out", "~no-such-user/x"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("unclip: error: ~no-such-user/x: there is no home folder for ~; ")
    assert line.count("\n") == 1


def test_without_a_home_the_cache_must_be_named_and_a_run_has_no_mark(homeless, monkeypatch):
    with pytest.raises(UserError, match=r"^~/runs: there is no home folder"):
        at_home("~/runs")
    with pytest.raises(UserError, match=r"^UNCLIP_CACHE: there is no home folder"):
        cache_folder("tars")
    assert own.mark({}) == {}
    monkeypatch.setenv("UNCLIP_CACHE", "/here")
    assert cache_folder("tars") == Path("/here/tars")
