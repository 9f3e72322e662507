"""The next batch is made while one is trained on, where no loader process does it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items in the same order, each made by a thread while the one before is in use.

    What making one raises is raised in its turn. When the iteration is given up, the item that is
    being made is still finished.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="next batch") as pool:
        following = pool.submit(next, items, _END)
        while (item := following.result()) is not _END:
            following = pool.submit(next, items, _END)
            yield item  # type: ignore[misc]  # not the end
