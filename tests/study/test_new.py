"""What `unclip study new` makes, and what it refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from study.conftest import CAPTIONS, make, write_arm

from unclip.cli import main
from unclip.common.errors import UserError
from unclip.study.catches import mosaic, ruined
from unclip.study.study import load_study
from unclip.study.votes import Vote, Votes


def pixels(study, name):
    return np.asarray(Image.open(study.image(name)))


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def error(capsys, *words):
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_each_pair_has_an_image_of_each_side_and_of_one_caption(study):
    for question, side in (("photorealism", 16), ("caption", 16), ("diversity", 4 * 16 + 3)):
        pairs = study.of(question, catch=False)
        assert len({pair.caption for pair in pairs}) == len(pairs) == 20
        for pair in pairs:
            a, b = pixels(study, pair.a), pixels(study, pair.b)
            assert a.shape == b.shape == (side, side, 3)
            assert a[:16, :16].max() < 100 < b[:16, :16].min()
    asked = {q: [p.caption for p in study.of(q, catch=False)] for q in study.questions}
    assert asked["photorealism"] == asked["caption"] == asked["diversity"]


def test_the_first_image_of_a_grid_is_the_one_shown_alone(study):
    alone = {p.caption: pixels(study, p.b) for p in study.of("caption", catch=False)}
    for pair in study.of("diversity", catch=False):
        assert np.array_equal(pixels(study, pair.b)[:16, :16], alone[pair.caption])


def test_of_a_catch_pair_the_right_answer_is_a(study):
    for question in study.questions:
        assert len(study.of(question, catch=True)) == 3
    for pair in study.of("diversity", catch=True):
        grid = pixels(study, pair.b)
        cells = [grid[y : y + 16, x : x + 16] for y in (0, 17, 34, 51) for x in (0, 17, 34, 51)]
        assert all(np.array_equal(cell, cells[0]) for cell in cells)
        assert not np.array_equal(pixels(study, pair.a), grid)
    for pair in study.of("photorealism", catch=True):
        a, b = (pixels(study, name).astype(float) for name in (pair.a, pair.b))
        assert np.abs(np.diff(b, axis=0)).mean() > 1.5 * np.abs(np.diff(a, axis=0)).mean()


def test_a_catch_pair_does_not_tell_whose_an_image_of_another_pair_is(arms, tmp_path):
    found = make(arms, tmp_path / "s", questions=["caption"], catch=20)
    pairs, catches = (found.of("caption", catch=catch) for catch in (False, True))
    assert not {n for p in pairs for n in (p.a, p.b)} & {n for p in catches for n in (p.a, p.b)}
    dark = sum(pixels(found, pair.a).max() < 100 for pair in catches)
    assert 3 <= dark <= 17  # 20 fair coins: all but once in 2,000


def test_nothing_that_a_rater_is_sent_names_a_side(study):
    names = [text for pair in study.pairs.values() for text in (pair.id, pair.a, pair.b)]
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in names)
    assert len({pair.id for pair in study.pairs.values()}) == 69


def test_a_mosaic_puts_images_row_by_row():
    images = [np.full((2, 2, 3), k, np.uint8) for k in range(4)]
    found = mosaic(images)
    assert found.shape == (5, 5, 3)
    assert [found[y, x, 0] for y in (0, 3) for x in (0, 3)] == [0, 1, 2, 3]
    assert (found[2] == 255).all()


def test_a_ruined_image_is_reproducible_and_has_the_same_size():
    image = np.random.default_rng(0).integers(0, 256, (37, 37, 3), dtype=np.uint8)
    assert np.array_equal(ruined(image, 3), ruined(image, 3))
    assert not np.array_equal(ruined(image, 3), ruined(image, 4))
    assert ruined(image, 3).shape == image.shape


def test_the_same_command_resumes_with_the_same_bytes(arms, study, tmp_path):
    shutil.copytree(study.folder, tmp_path / "s")
    (tmp_path / "s/manifest.json").unlink()
    (tmp_path / "s/pairs.jsonl").unlink()
    image = next((tmp_path / "s/shown").iterdir())
    image.write_bytes(image.read_bytes()[:-1])
    with pytest.raises(UserError, match="is not finished; run the same `unclip study new` again"):
        load_study(tmp_path / "s")
    make(arms, tmp_path / "s")
    assert files(tmp_path / "s") == files(study.folder)


def test_another_study_in_the_same_folder_is_refused_and_replaced_only_without_votes(
    arms, tmp_path
):
    how = {"questions": ["caption"]}
    study = make(arms, tmp_path / "s", n=4, **how)
    with pytest.raises(UserError, match=r"was started with study\.n 4, this is 5"):
        make(arms, tmp_path / "s", n=5, **how)
    study = make(arms, tmp_path / "s", n=5, force=True, **how)
    votes = Votes(study.folder / "votes.sqlite")
    votes.add([Vote(next(iter(study.pairs)), "Ada", "a", "b")])
    votes.close()
    before = files(study.folder)
    with pytest.raises(UserError, match="holds 1 vote, which --force does not replace"):
        make(arms, tmp_path / "s", n=4, force=True, **how)
    assert files(study.folder) == before
    make(arms, tmp_path / "s", n=5, **how)
    assert len(Votes(study.folder / "votes.sqlite").all()) == 1


def test_other_images_in_the_same_folder_are_refused(arms, tmp_path):
    shutil.copytree(arms, tmp_path / "arms")
    make(tmp_path / "arms", tmp_path / "s", questions=["caption"])
    shutil.copyfile(tmp_path / "arms/b/img/3_0.png", tmp_path / "arms/b/img/2_0.png")
    with pytest.raises(UserError, match=r"was started with arms\.b\.images"):
        make(tmp_path / "arms", tmp_path / "s", questions=["caption"])


@pytest.mark.parametrize(
    "change",
    [
        {"study": {"questions": [], "seed": 1}},
        {"study": {"questions": "caption", "seed": 1}},
        {"study": {"questions": ["colour"], "seed": 1}},
        {"study": {"questions": ["caption"], "seed": 1.5}},
        {"study": 5},
        {"arms": {"a": {"source": "a"}}},
        {"arms": {"a": {"source": "a"}, "b": {"source": 3}}},
        {"pairs_sha256": None},
    ],
)
def test_a_manifest_that_does_not_say_all_is_named(change, study, tmp_path):
    shutil.copytree(study.folder, tmp_path / "s")
    file = tmp_path / "s/manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=r"manifest\.json: damaged, or of another version; run the"):
        load_study(tmp_path / "s")


def test_what_is_damaged_is_named(study, tmp_path):
    shutil.copytree(study.folder, tmp_path / "s")
    image = next((tmp_path / "s/shown").iterdir())
    image.unlink()
    with pytest.raises(UserError, match=f"{image.name}: is missing"):
        load_study(tmp_path / "s")
    (tmp_path / "s/pairs.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"pairs\.jsonl: damaged"):
        load_study(tmp_path / "s")
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="`unclip study new"):
            load_study(place)


@pytest.mark.parametrize("word", ["decoder.steps=2", "--fast"])
def test_settings_of_samplers_are_refused_where_nothing_is_sampled(word, arms, tmp_path, capsys):
    words = ["study", "new", "--a", arms / "a", "--b", arms / "b", "--n", 2, word]
    words += ["--questions", "caption", "--out", tmp_path / "s"]
    assert main([str(each) for each in words]) == 2
    assert f"{word}: --a and --b are images, of which none is sampled" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_two_cascades_are_sampled_and_the_power_is_said_first(cascade, tmp_path, capsys):
    (tmp_path / "c.txt").write_text("a red circle\na blue star\na green heart\n")
    other = tmp_path / "other"
    shutil.copytree(cascade, other)
    words = ["study", "new", "--a", cascade, "--b", other, "--captions", tmp_path / "c.txt"]
    words += ["--n", 2, "--questions", "caption", "--out", tmp_path / "s", "--device", "cpu"]
    words = [str(word) for word in [*words, "decoder.steps=2"]]
    assert main([*words, "--dry-run", "--difference", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("2 judgements per question, one of each caption: tell no share")
    assert "783 for 55 %" in said[1]
    assert said[2] == "a difference of 3 points: needs 2,178"
    assert said[3].startswith("to sample: 2 images from ")
    assert not (tmp_path / "s").exists()
    capsys.readouterr()
    assert main(words) == 2  # the copy draws the same
    assert "--b: has the same images as --a" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "s")
    shutil.rmtree(other / "upsampler")
    assert main(words) == 2
    assert "--a have 32 pixels a side, of --b 16" in capsys.readouterr().err
    words += ["--size", "16", "--force"]
    sampled = {
        name: (tmp_path / "s" / name).stat().st_mtime_ns for name in ("a/images", "b/images")
    }
    assert main(words) == 0
    for name, then in sampled.items():  # nothing was sampled again
        assert (tmp_path / "s" / name).stat().st_mtime_ns == then
    found = load_study(tmp_path / "s")
    assert [found.title(arm) for arm in "ab"] == [str(cascade), str(other)]
    recorded = found.manifest["sampled"]["a"]
    assert len(recorded["cascade"]["fingerprint"]) == 64
    assert recorded["settings"]["decoder"]["steps"] == 2
    rows = [json.loads(x) for x in (tmp_path / "s/b/samples.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [0, 1]
    for pair in found.of("caption", catch=False):
        [row] = [row for row in rows if row["caption"] == pair.caption]
        assert np.array_equal(
            pixels(found, pair.b), np.asarray(Image.open(tmp_path / "s/b" / row["file"]))
        )
    before = files(tmp_path / "s")
    assert main(words[:-1]) == 0
    assert files(tmp_path / "s") == before


def test_bad_words_are_one_line_before_any_work(arms, tmp_path, capsys):
    cascade = tmp_path / "cascade"
    (cascade / "decoder").mkdir(parents=True)
    out, a, b = tmp_path / "s", arms / "a", arms / "b"
    base = ("study", "new", "--out", out)

    def line(*words):
        return error(capsys, *base, *words)

    both = ("--a", a, "--b", b)
    assert "--questions beauty: must be of" in line(*both, "--questions", "beauty")
    assert "twice" in line(*both, "--questions", "caption", "caption")
    assert "--n: is 0" in line(*both, "--n", 0)
    assert "--catch: is 5" in line(*both, "--n", 4, "--catch", 5)
    assert "--difference" in line(*both, "--difference", "nan")
    assert f"--n 21: is more than the {CAPTIONS} different captions" in line(*both, "--n", 21)
    assert "no such cascade or folder" in line("--a", "none", "--b", b)
    assert "--captions FILE" in line("--a", cascade, "--b", cascade)
    same = line("--a", a, "--b", a, "--n", 4, "--questions", "caption")
    assert "--b: has the same images as --a" in same
    (tmp_path / "c.txt").write_text("unheard of\n")
    assert "of none of the captions" in line(*both, "--captions", tmp_path / "c.txt", "--n", 1)
    assert not out.exists()


def test_images_of_two_sizes_are_refused_or_brought_to_one(arms, tmp_path):
    write_arm(tmp_path / "b", 120, captions=4, side=24)
    (tmp_path / "a").symlink_to(arms / "a")
    how = {"n": 4, "questions": ["photorealism"]}
    with pytest.raises(UserError, match="--size 24 brings both to one"):
        make(tmp_path, tmp_path / "s", **how)
    found = make(tmp_path, tmp_path / "s", size=8, **how)
    assert {pixels(found, p.a).shape for p in found.pairs.values()} == {(8, 8, 3)}
