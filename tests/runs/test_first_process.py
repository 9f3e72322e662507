"""A process that another has started ends with it, also while it starts."""

from __future__ import annotations

import os

import pytest

from unclip.common.errors import UserError
from unclip.runs import shards


@pytest.fixture
def asked(monkeypatch) -> list[dict[str, bool]]:
    """How it was asked to die with its parent; two processes share the work."""
    found: list[dict[str, bool]] = []
    monkeypatch.setattr(shards, "die_with_parent", lambda **how: found.append(how))
    monkeypatch.setattr(shards, "world_of", lambda *given, **more: 2)
    monkeypatch.setattr(shards, "Fabric", Launched)
    return found


class Launched:
    def __init__(self, **given):
        pass

    def launch(self):
        self.launched = True


def test_the_second_dies_with_the_first(asked, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(shards._FIRST, str(os.getppid()))
    assert shards._launch(shards.Processes(devices=2)).launched
    assert asked == [{"kill": True}]


def test_the_second_does_not_wait_for_a_first_that_died_before(asked, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(shards._FIRST, "1")
    with pytest.raises(UserError, match="the first process has ended"):
        shards._launch(shards.Processes(devices=2))
    assert asked == [{"kill": True}]


@pytest.mark.parametrize("rank", [None, "0"])  # it says "0" itself once it has started others
def test_the_first_tells_the_others_who_it_is(asked, monkeypatch, rank):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setenv(shards._FIRST, "1")
    assert shards._launch(shards.Processes(devices=2)).launched
    assert os.environ[shards._FIRST] == str(os.getpid())
    assert asked == []


def test_one_that_is_started_by_hand_has_no_first(asked, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv(shards._FIRST, raising=False)
    assert shards._launch(shards.Processes(devices=2)).launched
    assert asked == []
