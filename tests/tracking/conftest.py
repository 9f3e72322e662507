"""A user of W&B, and a server for him."""

from __future__ import annotations

import os

import pytest
from wandb_server import serving


@pytest.fixture
def client(monkeypatch, tmp_path):
    """A user who has never heard of W&B; `client(NAME=value)` sets what he has."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    import wandb

    yield lambda **given: [monkeypatch.setenv(name, value) for name, value in given.items()]
    wandb.teardown()  # it reads the environment once


@pytest.fixture
def server(client):
    with serving() as server:
        client(**server.environment())
        yield server
