"""What a check's process writes of what it measures."""

from __future__ import annotations

import json

from unclip.machine import child
from unclip.machine.check import Check, Row, Unavailable


def measure(item, machine):
    if item == "not here":
        raise Unavailable(f"needs a GPU, not a {machine.device}")
    if item == "raises":
        raise MemoryError("no room\nfor all that")
    return [Row(item, "1", "2", True, {"x": float(machine.small)})]


def test_it_says_what_it_found_and_why_not_and_ends_at_a_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(child, "CHECKS", (Check("it", "", (), measure),))
    file = tmp_path / "lines"
    words = ["it", str(file), "cpu", "small", str(tmp_path), "a", "not here", "b", "raises", "c"]
    monkeypatch.setattr("sys.argv", ["child", *words])
    assert child.main() == 1
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["item"] for line in lines if len(line) == 1] == ["a", "not here", "b", "raises"]
    found = [line for line in lines if len(line) > 1]
    assert found == [
        {"item": "a", "rows": [["a", "1", "2", True, {"x": 1.0}]]},
        {"item": "not here", "skipped": "needs a GPU, not a cpu"},
        {"item": "b", "rows": [["b", "1", "2", True, {"x": 1.0}]]},
        {"item": "raises", "error": "MemoryError: no room"},
    ]
    assert "Traceback" in capsys.readouterr().err
