"""The curves of runs side by side."""

from __future__ import annotations

import json
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from unclip.evaluation.protocols import training
from unclip.tracking import comparison
from unclip.tracking.comparison import Compared
from unclip.tracking.report import Finished


def compare(runs, path):
    record = SimpleNamespace(monitor=("val/quality", 1.0))
    comparison._draw([Compared(name, record, {}, {}, runs[name]) for name in runs], path)


def report(runs, path):
    found = []
    for name, curves in runs.items():
        folder = path.parent / name
        folder.mkdir()
        rows = [
            {"step": step, key: value} for key, points in curves.items() for step, value in points
        ]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
        found.append(Finished(folder, folder, {"experiment": name}))
    training.curves(found, path)


@pytest.mark.parametrize("draw", [compare, report])
def test_a_curve_of_one_point_is_seen(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(plt, "close", lambda figure: None)
    one = {"train/loss": [(0, 2.0)], "val/loss": [(0, 3.0)], "val/quality": [(0, 0.5)]}
    many = {name: [*points, (5, 1.0), (9, 0.5)] for name, points in one.items()}
    draw({"one": one, "many": many}, tmp_path / "curves.png")
    lines = [line for axis in plt.gcf().axes for line in axis.lines]
    monkeypatch.undo()
    plt.close("all")
    assert {len(line.get_xdata()) for line in lines} == {1, 3}
    for line in lines:
        assert len(line.get_xdata()) > 1 or line.get_marker() != "None"
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 100
