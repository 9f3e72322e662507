"""One thing is no plural, and no message writes its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import unclip
from unclip.common.counted import about, counted

SOURCE = Path(unclip.__file__).parent
OWN_PLURAL = re.compile(r"""\{["']e?s["'] (?:\*|if)|\{[^{}]*\} (?:processes|shards|trials)\b""")


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (0, "image", "0 images"),
        (1, "process", "1 process"),
        (2, "process", "2 processes"),
        (1, "held-out caption", "1 held-out caption"),
        (12345, "accumulated batch", "12,345 accumulated batches"),
    ],
)
def test_one_thing_is_no_plural(count, noun, said):
    assert counted(count, noun) == said


def test_no_message_makes_a_plural_of_its_own():
    found = [
        f"{path.name}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if OWN_PLURAL.search(line) and path.name != "counted.py"
    ]
    assert not found


def test_times_as_one_says_them():
    assert [about(s) for s in (8.4, 89, 90, 5399, 9000)] == [
        *("8 s", "89 s", "2 min", "90 min", "2.5 h")
    ]
