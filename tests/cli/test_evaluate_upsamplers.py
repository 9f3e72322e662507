"""`unclip evaluate` of upsamplers, on a minute one."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from unclip.cli import main


def evaluated(capsys, *words) -> list[dict]:
    assert main(["evaluate", *(str(word) for word in words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_evaluate_compares_an_upsampler_with_plain_resizing(cascade, tmp_path, capsys):
    words = [cascade / "upsampler", "--n", "3", "--batch", "2"]
    table, picture = tmp_path / "t.md", tmp_path / "side.png"
    (row,) = evaluated(capsys, *words, "--out", table, "--image", picture)
    assert (row["low_size"], row["image_size"], row["corruption"]) == (16, 32, "blur")
    assert (row["n"], row["skipped"]) == (3, 0)
    assert set(row["scores"]) == {"bicubic", "lanczos", "ours"}
    assert 0 < row["scores"]["bicubic"]["gradient"] < 1
    lines = table.read_text().splitlines()
    assert lines[0] == f"|  | bicubic | Lanczos | {cascade / 'upsampler'} |"
    assert f"| {row['scores']['ours']['psnr']:.4g} |" in table.read_text()
    with Image.open(picture) as page:
        assert page.width == 8 * 262 + 6
    (whole,) = evaluated(capsys, *words[:3], "--batch", "3")
    (other,) = evaluated(capsys, *words[:3], "--seed", "1")
    for method, scores in row["scores"].items():  # whatever the batches
        # An untrained network's first step makes much of how a batch's sums are rounded.
        rel = 1e-3 if method == "ours" else 1e-5
        assert whole["scores"][method]["psnr"] == pytest.approx(scores["psnr"], rel=rel)
        same = other["scores"][method]["psnr"] == pytest.approx(scores["psnr"], rel=rel)
        assert same == (method != "ours")


def test_clean_small_images_are_easier_than_blurred_ones(cascade, capsys):
    words = [cascade / "upsampler", "--n", "2", "upsampler.steps=2"]
    (clean,) = evaluated(capsys, *words, "--kind", "none")
    (blurred,) = evaluated(capsys, *words)
    assert clean["scores"]["bicubic"]["psnr"] > blurred["scores"]["bicubic"]["psnr"]
    assert clean["corruption"] == "none"
    (bsr,) = evaluated(capsys, *words, "--kind", "bsr_light", "--batch", "2")
    (again,) = evaluated(capsys, *words, "--kind", "bsr_light", "--batch", "1")
    assert bsr["corruption"] == "bsr_light"
    assert clean["scores"]["bicubic"]["psnr"] > bsr["scores"]["bicubic"]["psnr"]
    for name in ("bicubic", "lanczos"):  # an image's corruption does not depend on its batch
        assert bsr["scores"][name] == pytest.approx(again["scores"][name], rel=1e-5)


def test_what_cannot_be_evaluated_is_refused_in_a_line(cascade, tmp_path, capsys):
    upsampler = cascade / "upsampler"

    def error(*words) -> str:
        assert main(["evaluate", *(str(word) for word in words)]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("unclip: error: ")
        return lines[-1]

    assert "priors alone or upsamplers alone" in error(upsampler, cascade / "prior")
    assert "decoder: only priors, upsamplers and cascades" in error(cascade / "decoder")
    assert "--clip: does not apply to upsamplers" in error(upsampler, "--clip", "x")
    assert "--kind: does not apply to priors" in error(cascade / "prior", "--kind", "none")
    assert "--n: must be at least 1" in error(upsampler, "--n", "0")
    assert "corruption.kind" in error(upsampler, "--kind", "fog")
    assert "sampler.steps" in error(upsampler, "upsampler.steps=x")
    assert "no such experiment" in error("upsampler/none_such")
    assert "does not exist" in error(upsampler, "--data", tmp_path / "nowhere.tar")
    source = tmp_path / "small"
    source.mkdir()
    rows = []
    for k in range(300):
        Image.new("RGB", (16, 16)).save(source / f"{k}.png")
        rows.append(json.dumps({"file_name": f"{k}.png", "caption": "black"}))
    (source / "metadata.jsonl").write_text("\n".join(rows))
    message = error(upsampler, "--data", source)
    assert "no held-out image of 32 pixels" in message
    assert "skipped" in message
    broken = tmp_path / "broken"
    shutil.copytree(upsampler / "artifact", broken)
    (broken / "weights.safetensors").write_bytes(b"x")
    assert "not a safetensors file" in error(broken)
