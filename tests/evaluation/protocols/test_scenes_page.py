"""The page of a cascade trained on scenes."""

from __future__ import annotations

import re

from PIL import Image

from unclip.evaluation.protocols.scenes import render_page
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
