"""`unclip probe` and `unclip figures` as typed: results, and one line for what cannot be."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from unclip.cli import main, parser

FAST = ["decoder.steps=2", "--n", "2"]


@pytest.fixture(scope="module")
def folder(cascade, tmp_path_factory):
    """The minute cascade without its upsampler and its autoregressive prior."""
    root = tmp_path_factory.mktemp("probed")
    for part in ("clip", "prior", "decoder", "pca"):
        shutil.copytree(cascade / part / "artifact", root / part)
    return root


def told(words, folder, out, capsys, status=0):
    """What a command prints: to stdout where it is to succeed, else its one line."""
    assert main([*words, "--pipeline", str(folder), "--out", str(out)]) == status
    printed = capsys.readouterr()
    if not status:
        return printed.out
    lines = [line for line in printed.err.splitlines() if line.startswith("unclip: error")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("verb", ["binding", "relations", "conditioning", "guidance"])
def test_json_is_all_that_is_printed(verb, folder, tmp_path, capsys):
    printed = told(["probe", verb, "--json", *FAST], folder, tmp_path, capsys)
    assert printed == (tmp_path / f"{verb}.json").read_text()
    assert all(record["n"] in (0, 1, 2) for record in json.loads(printed)["records"])
    assert {p.suffix for p in tmp_path.iterdir()} == {".png", ".json", ".csv", ".md"}


def test_ones_own_captions_have_no_truth_to_count(folder, tmp_path, capsys):
    words = ["probe", "guidance", "a fish", "--decoder-scales", "1", "2", *FAST]
    assert told(words, folder, tmp_path, capsys).strip() == str(tmp_path / "guidance.png")
    assert [p.name for p in tmp_path.iterdir()] == ["guidance.png"]


def test_scales_of_both_make_a_grid(folder, tmp_path, capsys):
    words = ["probe", "guidance", "--prior-scales", "1", "2", "--decoder-scales", "1", "3"]
    printed = told([*words, "--json", *FAST], folder, tmp_path, capsys)
    pairs = [(r["prior"], r["decoder"]) for r in json.loads(printed)["records"]]
    assert pairs == [(1, 1), (1, 3), (2, 1), (2, 3)]


@pytest.mark.parametrize("verb", ["pca", "typographic"])
def test_images_are_scenes_unless_given(verb, folder, tmp_path, capsys):
    file = tmp_path / "mine.png"
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(file)
    own = ["--word", "fish", "--label", "a fish", "--label", "a wall"] * (verb == "typographic")
    steps = ["decoder.steps=2"]
    told(["probe", verb, *steps], folder, tmp_path / "scenes", capsys)
    told(["probe", verb, str(file), *own, *steps], folder, tmp_path / "own", capsys)
    assert (tmp_path / "own" / f"{verb}.csv").is_file()
    assert (tmp_path / "scenes" / f"{verb}.csv").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["binding", "--n", "0"], "--n: must be at least 1"),
        (["guidance", " "], "caption: is empty; give words"),
        (["pca", "--dims", "7"], r"dims=[7]: give numbers in [1, 6], the PCA's components"),
        (["pca", "missing.png"], "missing.png"),
        (["typographic", "--label", "a fish"], "labels: give at least two, to choose between"),
        (["conditioning", "--ar-prior", "nowhere"], "ar_prior=nowhere: no such artifact"),
        (["guidance", "decoder.steps=0"], "decoder.steps"),
        (["relations", "--batch", "0"], "batch=0: must be at least 1"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words, message, folder, tmp_path, capsys):
    assert message in told(["probe", *words], folder, tmp_path, capsys, status=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pca", "--dims", "7"], "dims=[7]: give numbers in [1, 6]"),
        (["pca", "--dims", "0"], "dims=[0]: give"),
        (["pca", "missing.png"], "missing.png"),
        (["typographic", "missing.png", "--word", "a"], "missing.png"),
        (["typographic", "--label", "a fish"], "labels: give at least two"),
        (["typographic", "--word", " "], "word: is empty"),
        (["typographic", "--word", "\U000f0000"], "no font has"),
        (["typographic", "--label", "a", "--label", "\u200b"], "--label: is empty"),
        (["guidance", "\u200b"], "caption: is empty"),
        (
            ["guidance", "--decoder-scales", "1", "-2"],
            "--decoder-scales: each must be in [0, 1000]",
        ),
        (["guidance", "--prior-scales", "nan"], "--prior-scales: each must be in [0, 1000]"),
        (["guidance", "decoder.guidance=2"], "decoder.guidance: is set by --decoder-scales"),
    ],
)
def test_what_is_typed_wrong_is_said_before_a_stage_is_loaded(
    words, message, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("unclip.cli.probe.open_pipeline", lambda args: pytest.fail("was loaded"))
    assert message in told(["probe", *words], folder, tmp_path, capsys, status=2)


def test_a_image_needs_words_to_be_attacked_with(folder, tmp_path, capsys):
    words = ["probe", "typographic", "photo.png"]
    assert "--word: give at least one" in told(words, folder, tmp_path, capsys, status=2)


def test_a_folder_that_is_a_file_is_refused(folder, tmp_path, capsys):
    out = tmp_path / "taken"
    out.write_text("mine")
    words = ["probe", "binding", *FAST]
    assert f"--out {out}: " in told(words, folder, out, capsys, status=2)
    assert out.read_text() == "mine"


def test_a_cascade_without_codec_says_how_to_make_one(folder, tmp_path, capsys):
    other = tmp_path / "cascade"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("pca"))
    line = told(["probe", "pca"], other, tmp_path / "out", capsys, status=2)
    assert "make one with `unclip fit-pca`" in line


@pytest.mark.slow
def test_figures_of_ones_own_images(folder, tmp_path, capsys):
    file = tmp_path / "mine.png"
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(file)
    out = tmp_path / "page"
    words = ["figures", str(folder), "--images", str(file), str(file), "decoder.steps=2"]
    assert main([*words, "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    page = (out / "index.html").read_text(encoding="utf-8")
    assert f"unclip vary {out / 'images' / '0.png'}" in page
    assert f"--pipeline {folder} --seed 0 decoder.steps=2" in page
    for number, verb in ((7, "pca"), (8, "conditioning")):  # their commands draw the same
        command = re.search(rf"<code>unclip (probe {verb} [^<]+)</code>", page)[1]
        assert main([*shlex.split(html.unescape(command)), "--out", str(tmp_path)]) == 0
        own = (out / f"figure_{number:02d}.png").read_bytes()
        assert (tmp_path / f"{verb}.png").read_bytes() == own


SETTINGS = ["prior.steps=2", "prior.temperature=0.5", "decoder.sampler=ddpm", "decoder.steps=2"]


@pytest.mark.slow
def test_figures_use_each_setting_where_it_applies(cascade, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["figures", str(cascade), *SETTINGS, "decoder.guidance=2", "upsampler.steps=2"]
    assert main([*words, "--out", str(out)]) == 0
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "Left out" not in page
    assert "figures 3 to 7 are drawn with DDIM, so decoder.sampler does not apply" in page
    commands = re.findall("<code>(unclip [^<]*--seed [^<]*)</code>", page)
    for command in commands:
        parser().parse_args(shlex.split(html.unescape(command))[1:])
    vary = next(c for c in commands if "vary" in c)
    assert "decoder.steps=2" in vary
    assert "prior." not in vary
    assert "decoder.sampler" not in vary
    guidance = next(c for c in commands if "probe guidance" in c)
    assert "decoder.sampler=ddpm" in guidance
    assert "decoder.guidance" not in guidance
    assert "prior.temperature" not in guidance
    assert "prior.temperature=0.5" in next(c for c in commands if "conditioning" in c)
    before = (out / "index.html").read_bytes()
    assert main([*words, "--out", str(out)]) == 0
    assert (tmp_path / "out-2" / "index.html").is_file()
    assert (out / "index.html").read_bytes() == before


@pytest.mark.parametrize(
    "setting", ["prior.steps=5000", "decoder.steps=5000", "prior.foo=1", "decoder.steps=abc"]
)
def test_figures_check_every_setting_first(folder, tmp_path, capsys, setting):
    assert main(["figures", str(folder), setting, "--out", str(tmp_path / "out")]) == 2
    assert setting.partition("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_scales_are_not_settings_too(folder, tmp_path, capsys):
    words = ["probe", "guidance", "--pipeline", str(folder), "--out", str(tmp_path / "out")]
    assert main([*words, "--decoder-scales", "1", "decoder.guidance=3"]) == 2
    assert "decoder.guidance: is set by --decoder-scales" in capsys.readouterr().err
    assert main([*words, "--prior-scales", "1", "prior.guidance=3"]) == 2
    assert "prior.guidance: is set by --prior-scales" in capsys.readouterr().err


def test_figures_need_a_cascade(tmp_path, capsys):
    assert main(["figures", str(tmp_path / "none")]) == 2
    assert "no such folder; `unclip recipe quickstart` trains one" in capsys.readouterr().err
