"""The commands a user types, on minute networks."""

from __future__ import annotations

import json

from PIL import Image

from unclip.cli import main


def test_sample_writes_images_a_grid_and_their_seeds_and_the_same_bytes_again(cascade, tmp_path):
    words = ["sample", "a red circle", "a blue star", "--n", "2", "--pipeline", str(cascade)]
    assert main([*words, "--out", str(tmp_path / "a"), "--batch", "4"]) == 0
    assert main([*words, "--out", str(tmp_path / "b"), "--batch", "4"]) == 0
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == [
        "a-blue-star_seed0.png",
        "a-blue-star_seed1.png",
        "a-red-circle_seed0.png",
        "a-red-circle_seed1.png",
        "grid.png",
        "samples.jsonl",
    ]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    rows = [json.loads(x) for x in (tmp_path / "a" / "samples.jsonl").read_text().splitlines()]
    assert [(r["caption"], r["seed"]) for r in rows][:2] == [
        ("a red circle", 0),
        ("a red circle", 1),
    ]
    with Image.open(tmp_path / "a" / "a-red-circle_seed0.png") as picture:
        assert picture.size == (32, 32)


def test_sample_reads_captions_from_a_file_and_takes_other_settings(cascade, tmp_path):
    (tmp_path / "captions.txt").write_text("a red circle\n\na green heart\n")
    words = ["sample", "--captions", str(tmp_path / "captions.txt"), "--pipeline", str(cascade)]
    more = ["decoder.steps=2", "decoder.guidance=1", "prior.candidates=1"]
    assert main([*words, *more, "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*_seed0.png"))) == 2


def test_overrides_may_follow_options(capsys):
    assert main(["train", "clip/tiny", "--no-such-option"]) == 2
    assert main(["train", "clip/tiny", "--with-parents", "trainer.max_steps=-1"]) == 2
    assert "max_steps" in capsys.readouterr().err
