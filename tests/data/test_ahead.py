"""A thread that makes the next batch."""

from __future__ import annotations

import threading

import pytest

from unclip.data.ahead import ahead
from unclip.data.loader import Loader


def test_the_next_item_is_made_while_one_is_used():
    begun = [threading.Event() for _ in range(3)]

    def items():
        for k, event in enumerate(begun):
            event.set()
            yield k

    found = []
    for item in ahead(items()):
        found.append(item)
        assert all(event.wait(60) for event in begun[: item + 2])
    assert found == [0, 1, 2]


def test_an_error_comes_in_its_turn():
    def items():
        yield 1
        raise KeyError("bad")

    made = ahead(items())
    assert next(made) == 1
    with pytest.raises(KeyError, match="bad"):
        next(made)


def test_an_iteration_that_is_given_up_ends_its_thread():
    made = ahead(iter(range(5)))
    assert next(made) == 0
    made.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("next batch")]


class Numbers:
    """Which thread makes a sample."""

    def __len__(self):
        return 4

    def __getitem__(self, k):
        return k, threading.current_thread().name


def given(workers):
    loader = Loader(Numbers(), batches=[[0, 1], [2, 3]], collate=list, num_workers=workers)
    return list(loader)


def test_a_loader_without_processes_makes_batches_in_a_thread():
    mine = given(0)
    assert [[k for k, _ in batch] for batch in mine] == [[0, 1], [2, 3]]
    assert all(name.startswith("next batch") for batch in mine for _, name in batch)


def test_a_loader_with_processes_needs_no_thread():
    assert all(name == "MainThread" for batch in given(1) for _, name in batch)
