"""The page of a cascade trained on scenes."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from unclip.data.config import ScenesConfig
from unclip.data.scenes.render import draw as draw_scene
from unclip.evaluation.oracle.oracle import check
from unclip.evaluation.protocols import scenes
from unclip.evaluation.protocols.scenes import OracleReading, render_page
from unclip.tracking.report import Finished

SUMMARY = {
    "parameters": 1234,
    "steps": 10,
    "loss": 0.5,
    "quality": {"name": "val/<script>", "value": 0.25},
    "samples_per_second": 100.0,
    "seconds": 3.0,
    "peak_memory_gib": 0.1,
}


def test_the_page_is_one_file_and_shows_texts_as_they_are(tmp_path):
    sheets = {}
    for name in ("single", "pairs", "cascade", "curves"):
        sheets[name] = tmp_path / "<script>" / f"{name}.png"
        sheets[name].parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(sheets[name])
    runs = [Finished(tmp_path, tmp_path, SUMMARY | {"experiment": "prior/<script>"})]
    figures = {
        "single_object": {"prompts": 7, "colour_and_shape": 0.5, "size": 1.0},
        "two_objects": {"prompts": 2, "relation": 0.0},
        "seconds": 12.3,
    }
    page = render_page(runs, figures, sheets)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 3
    assert "<td>colour and shape</td><td>50%</td>" in page
    assert "<h2>7 single objects</h2>" in page
    assert set(re.findall(r'(?:src|href)="([^"]{0,22})', page)) == {"data:image/png;base64,"}


@pytest.mark.parametrize("most", [1, 2])
def test_the_report_counts_objects_one_by_one_and_says_pairs_where_they_were_trained(
    tmp_path, monkeypatch, capsys, most
):
    """Every image shows the first object that was asked for, and no other."""

    def draw(pipeline, prompts):
        found = []
        for prompt in prompts:
            image = draw_scene(replace(prompt.scene, items=prompt.scene.items[:1]), 64)
            found.append(OracleReading(prompt, image, image, check(image, prompt.scene)))
        return found

    monkeypatch.setattr(scenes, "draw", draw)
    monkeypatch.setattr(scenes, "Pipeline", SimpleNamespace(load=lambda *given: None))
    monkeypatch.setattr(
        scenes, "curves", lambda runs, path: scenes.save(Image.new("RGB", (8, 8)), path)
    )
    trained = ScenesConfig(max_objects=most)
    scenes.report(tmp_path, [], prompts=8, pairs=5, trained=trained, began=time.perf_counter())
    figures = json.loads((tmp_path / "report.json").read_text())
    assert figures["single_object"]["colour_and_shape"] == 1.0
    two = figures["two_objects"]
    assert (two["prompts"], two["objects"], two["both_objects"]) == (5, 0.5, 0.0)
    assert two["both_and_relation"] == 0.0
    said = capsys.readouterr().out
    assert "single objects: colour and shape right in 100% of 8" in said
    line = "two objects: colour and shape right of 50% of 10, of both in 0% of 5"
    assert (line in said) == (most == 2)
