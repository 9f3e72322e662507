"""What an image's PNG says, and that `unclip sample --like` repeats it from that alone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from unclip.cli import main
from unclip.common.images import save
from unclip.common.png_record import CAPTION, KEY, read_record
from unclip.pipeline.pipeline import Pipeline

CHANGED = ("decoder.steps=3", "decoder.guidance=2", "prior.candidates=2")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def sampled(cascade, tmp_path_factory):
    """An image of seed 5 with settings of its own."""
    out = tmp_path_factory.mktemp("sampled")
    words = ["sample", "ein rotes Herz ♥", "--seed", "5", "--pipeline", str(cascade), *CHANGED]
    assert main([*words, "--out", str(out)]) == 0
    return next(out.glob("*_seed5.png"))


def like(path, *words, out) -> int:
    return main(["sample", "--like", str(path), "--out", str(out), *map(str, words)])


def written(path, record):
    """A PNG at ``path`` that says ``record``, text or value."""
    info = PngInfo()
    info.add_itxt(KEY, record if isinstance(record, str) else json.dumps(record))
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


def test_an_image_says_how_it_was_sampled(sampled, cascade):
    record = read_record(sampled)
    assert (record["command"], record["seed"], record["caption"]) == (
        "sample",
        5,
        "ein rotes Herz ♥",
    )
    assert (record["precision"], record["device"]) == ("32", "cpu")
    assert record["cascade"] == Pipeline.load(cascade).cascade.sha256
    assert (record["decoder"]["steps"], record["decoder"]["guidance"]) == (3, 2.0)
    with Image.open(sampled) as image:
        assert image.text[CAPTION] == "ein rotes Herz ♥"
    text = sampled.read_bytes()
    assert str(cascade).encode() not in text


def test_like_repeats_the_file_from_what_it_says(sampled, cascade, tmp_path):
    copy = shutil.copy(sampled, tmp_path / "sent.png")
    assert like(copy, "--pipeline", cascade, out=tmp_path / "again") == 0
    (again,) = (tmp_path / "again").glob("*_seed5.png")
    assert again.read_bytes() == sampled.read_bytes()


def test_what_is_given_besides_wins(sampled, cascade, tmp_path):
    words = ("--seed", 6, "--n", 2, "decoder.steps=2", "--pipeline", cascade)
    assert like(sampled, *words, out=tmp_path) == 0
    records = [read_record(path) for path in sorted(tmp_path.glob("*_seed*.png"))]
    assert [record["seed"] for record in records] == [6, 7]
    assert {record["decoder"]["steps"] for record in records} == {2}
    assert {record["decoder"]["guidance"] for record in records} == {2.0}


def test_another_cascade_is_refused(sampled, cascade, tmp_path, capsys):
    own = ("--decoder", cascade / "decoder", "--clip", cascade / "clip")
    assert like(sampled, *own, "--prior", cascade / "prior", out=tmp_path) == 2
    assert "was sampled from another cascade (sha256 " in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))


def test_the_hash_of_a_cascade_is_of_its_weights_and_not_of_its_samplers(cascade, tmp_path):
    shutil.copytree(cascade, tmp_path / "c")
    wanted = Pipeline.load(cascade).cascade.sha256
    config = next((tmp_path / "c" / "decoder").rglob("artifact/config.yaml"))
    text = config.read_text()
    config.write_text(text.replace("guidance: ", "guidance: 1", 1))
    assert config.read_text() != text
    assert Pipeline.load(tmp_path / "c").cascade.sha256 == wanted
    shutil.rmtree(tmp_path / "c" / "upsampler")
    assert Pipeline.load(tmp_path / "c").cascade.sha256 != wanted
    assert Pipeline.load(cascade, precision="bf16").cascade.sha256 == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "its record of how it was sampled is damaged"),
        ("[1]", "its record of how it was sampled is damaged"),
        ({"format": 2}, "has format 2, this unclip reads 1"),
        ({"command": "vary"}, "was made by `unclip vary` from another image"),
        ({"caption": " "}, "is damaged"),
        ({"caption": 3}, "is damaged"),
        ({"seed": -1}, "seed: -1 must be from 0"),
        ({"seed": "1"}, "must be a whole number"),
        ({"precision": "64"}, "is damaged"),
        ({"precision": ["32"]}, "is damaged"),
        ({"cascade": "0" * 64}, "another cascade (sha256 000000000000"),
        ({"decoder": None}, "must be a section of keys"),
        ({"decoder": {"steps": 0}}, "sampler.steps"),
        ({"upsamplers": []}, "is damaged"),
        ({"upsamplers": 3}, "is damaged"),
    ],
)
def test_what_is_said_wrongly_is_one_line(change, message, sampled, cascade, tmp_path, capsys):
    record = change if isinstance(change, str) else read_record(sampled) | change
    path = written(tmp_path / "x.png", record)
    assert like(path, "--pipeline", cascade, out=tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"unclip: error: {path}: ")
    assert message in line


def test_files_without_a_record_are_one_line(tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.jpg")
    (tmp_path / "text.png").write_text("only a text")
    (tmp_path / "half.png").write_bytes((tmp_path / "plain.png").read_bytes()[:40])
    (tmp_path / "empty.png").touch()
    for name, message in (
        ("plain.png", "does not say how it was sampled"),
        ("photo.jpg", "does not say how it was sampled"),
        ("text.png", "not an image"),
        ("half.png", ""),
        ("empty.png", "not an image"),
        ("gone.png", "no such file"),
        (".", ""),
    ):
        assert like(tmp_path / name, out=tmp_path / "out") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
        assert str(tmp_path / name) in line


@pytest.mark.parametrize("words", [["--captions", "a.txt"], ["--devices", "2"], ["--fast"]])
def test_what_does_not_go_with_like_is_named(words, sampled, tmp_path, capsys):
    assert like(sampled, *words, out=tmp_path) == 2
    assert f"leave out {words[0]}" in capsys.readouterr().err


def test_images_made_from_others_say_from_which_and_how(cascade, tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "b.png")
    keep = np.full((32, 32), 255, np.uint8)
    keep[8:24, 8:24] = 0
    save(np.stack([keep] * 3, -1), tmp_path / "mask.png")
    a, b, mask = (str(tmp_path / name) for name in ("a.png", "b.png", "mask.png"))
    common = ["--pipeline", str(cascade), "decoder.steps=2", "--n", "2"]
    said = {
        "vary": ([a], {"eta": 1.0, "seed": 1}),
        "interpolate": ([a, b], {"noise": "slerp", "at": 1.0, "seed": 0}),
        "edit": ([a, "--from", "red", "--to", "blue"], {"theta": 0.4, "target": "blue"}),
        "inpaint": ([a, "--mask", mask, "--caption", "red"], {"caption": "red", "seed": 1}),
    }
    hashes = {}
    for command, (words, wanted) in said.items():
        out = tmp_path / command
        assert main([command, *words, *common, "--out", str(out)]) == 0
        last = sorted(p for p in out.glob("*.png") if p.stem != command)[-1]
        record = read_record(last)
        assert record["command"] == command
        assert {key: record[key] for key in wanted} == wanted
        hashes[command] = record["images"]
    assert hashes["vary"] == hashes["edit"] == hashes["interpolate"][:1] == hashes["inpaint"][:1]
    assert len(set(hashes["interpolate"])) == 2


def test_shards_say_the_same_as_single_images(cascade, tmp_path):
    for form, name in (("png", "png"), ("tar", "tar")):
        out = tmp_path / name
        words = ["sample", "a red circle", "--devices", "1", "--pipeline", str(cascade)]
        words += ["--device", "cpu", "--format", form, "decoder.steps=2", "--out", str(out)]
        assert main(words) == 0
    shutil.unpack_archive(tmp_path / "tar" / "00000.tar", tmp_path / "open", filter="data")
    (one,) = (tmp_path / "png").rglob("*.png")
    (other,) = (tmp_path / "open").rglob("*.png")
    assert read_record(one) == read_record(other)
    assert like(one, "--pipeline", cascade, out=tmp_path / "again") == 0
    (again,) = (tmp_path / "again").glob("*_seed0.png")
    assert np.array_equal(pixels(again), pixels(one))
