"""Locks that die with the process that took them, whatever it has forked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_own: set[int] = set()


def _let_go() -> None:
    for descriptor in _own:
        os.close(descriptor)
    _own.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def not_inherited(descriptor: int) -> Iterator[None]:
    """While it lasts, forked processes close ``descriptor``.

    Otherwise a loader worker would keep a file locked when its process was killed.
    """
    _own.add(descriptor)
    try:
        yield
    finally:
        _own.discard(descriptor)
