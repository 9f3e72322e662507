"""The page of a recipe on somebody's own data: its captions, and no verdict of the oracle."""

from __future__ import annotations

import json
import time

import numpy as np
from PIL import Image

from unclip.data.config import ReadingConfig
from unclip.evaluation.protocols.own_data import held_out_captions, report
from unclip.evaluation.protocols.training import stage_table
from unclip.tracking.report import Finished


def photos(folder, count=40):
    rows = []
    for k in range(count):
        Image.fromarray(np.full((20, 20, 3), k, np.uint8)).save(folder / f"{k}.png")
        rows.append({"file_name": f"{k}.png", "caption": f"a <b>grey</b> square {k}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ReadingConfig(source=str(folder), held_out=0.3)


def test_the_captions_are_held_out_ones(tmp_path):
    data = photos(tmp_path)
    every = held_out_captions(data, 100)
    assert 4 < len(every) < 30
    assert held_out_captions(data, 3) == every[:3]


def test_the_page_shows_them_and_claims_nothing(cascade, tmp_path, capsys):
    data = photos(tmp_path)
    runs = [Finished.load(cascade / kind) for kind in ("clip", "prior", "decoder", "upsampler")]
    page = report(cascade, runs, prompts=3, data=data, began=time.perf_counter() - 1000)
    text = page.read_text(encoding="utf-8")
    assert "3 held-out captions" in text
    assert "oracle" not in text
    assert str(tmp_path) in text
    assert "whole run 100" in capsys.readouterr().out
    with Image.open(cascade / "samples.png") as sheet:
        assert sheet.width > 3 * 32
    for made in ("index.html", "curves.png", "samples.png"):
        (cascade / made).unlink()


def test_a_stage_whose_metrics_were_no_numbers_has_dashes(tmp_path):
    summary = {"experiment": "prior/a", "parameters": 1234, "steps": 5, "seconds": 6.0}
    summary |= {"loss": None, "quality": {"name": "val/cosine", "value": None}}
    summary |= {"samples_per_second": 12.345, "peak_memory_gib": 1.0}
    _, row = stage_table([Finished(tmp_path, tmp_path / "artifact", summary)])
    assert row == ["prior/a", "1,234", "5", "-", "val/cosine -", "12.3", "6 s", "1.0 GiB"]
