"""vary, interpolate, edit and inpaint as a new user types them, wrong uses included."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unclip.cli import main
from unclip.cli.image_files import read_mask
from unclip.data.scenes.render import Item, Scene, draw


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Image files of many kinds, and files that are none."""
    folder = tmp_path_factory.mktemp("images")
    item = Item(shape="circle", colour="red", size="large", x=0.3, y=0.5, radius=0.21)
    plain = Image.fromarray(draw(Scene(background="grey", items=(item,)), 24))
    plain.save(folder / "plain.png")
    blue = Image.new("RGB", (40, 30), "blue")
    blue.save(folder / "animated.gif", save_all=True, append_images=[plain.resize((40, 30))])
    turned = Image.Exif()
    turned[274] = 6
    blue.save(folder / "turned.jpg", exif=turned)
    plain.convert("RGBA").save(folder / "alpha.png")
    plain.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(folder / "deep.png")
    Image.new("RGB", (1, 1), "red").save(folder / "tiny.png")
    mask = Image.new("L", (24, 24), 255)
    mask.paste(0, (0, 0, 12, 24))
    mask.save(folder / "mask.png")
    mask.resize((20, 20)).save(folder / "small_mask.png")
    Image.new("L", (24, 24), 255).save(folder / "white.png")
    (folder / "text.png").write_text("hello")
    return folder


@pytest.fixture
def run(cascade, pictures, tmp_path, capsys):
    """Run a command on the cascade: status, standard output, lines of standard error."""

    def call(command: str, *words: str, pipeline: Path = cascade):
        files = {p.name: str(p) for p in pictures.iterdir()}
        given = [files.get(word, word) for word in words]
        more = ["--pipeline", str(pipeline), "--out", str(tmp_path / "out")]
        if command != "inpaint":
            more += ["--iterations", "1"]
        status = main([command, *given, *more])
        printed = capsys.readouterr()
        return status, printed.out.strip(), printed.err

    return call


def written(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "out").iterdir())


def test_vary_writes_each_variation_and_a_figure_and_the_same_bytes_again(run, tmp_path):
    words = ("plain.png", "turned.jpg", "--n", "2", "--seed", "3", "--eta", "0.5")
    status, out, _ = run("vary", *words)
    assert status == 0
    assert out == str(tmp_path / "out" / "vary.png")
    names = ["plain_seed3.png", "plain_seed4.png", "turned_seed3.png", "turned_seed4.png"]
    assert written(tmp_path) == [*names, "vary.png"]
    with Image.open(tmp_path / "out" / names[0]) as picture:
        assert picture.size == (32, 32)
    before = {n: (tmp_path / "out" / n).read_bytes() for n in written(tmp_path)}
    run("vary", *words, "--force")
    assert before == {n: (tmp_path / "out" / n).read_bytes() for n in written(tmp_path)}


def test_interpolate_writes_the_way_with_its_ends(run, tmp_path):
    status, out, _ = run("interpolate", "plain.png", "animated.gif", "--n", "3", "--noise", "fixed")
    assert status == 0
    assert written(tmp_path) == ["interpolate.png", *(f"plain_animated_0{k}.png" for k in range(3))]
    with Image.open(out) as figure:
        assert figure.width > 5 * 128  # both originals, and three between


def test_edit_writes_a_image_for_each_theta_and_reads_every_kind_of_file(run, tmp_path):
    kinds = ["alpha.png", "cmyk.jpg", "deep.png", "tiny.png"]
    captions = ["--from", "a red circle", "--to", "a blue circle"]
    status, _, _ = run("edit", *kinds, *captions, "--theta", "0.3", "--n", "2")
    assert status == 0
    stems = [Path(kind).stem for kind in kinds]
    names = [f"{stem}_theta{theta}.png" for stem in stems for theta in ("0.00", "0.30")]
    assert written(tmp_path) == sorted([*names, "edit.png"])


def test_edit_by_the_prior_goes_the_whole_way_and_unguided(run, tmp_path):
    captions = ["--from", "a red circle", "--to", "a blue circle", "--n", "2"]

    def last(*more):
        """The last image, and what else was written."""
        assert run("edit", "plain.png", *captions, *more, "--force")[0] == 0
        return (tmp_path / "out/plain_theta1.00.png").read_bytes(), written(tmp_path)

    found, files = last("--direction", "prior")
    assert files == ["edit.png", "plain_theta0.00.png", "plain_theta1.00.png"]
    assert found == last("--direction", "prior", "decoder.guidance=1", "--theta", "1")[0]
    assert found != last("--direction", "prior", "decoder.guidance=3")[0]
    strong = ("--theta", "1", "decoder.guidance=50")  # a minute's decoder hardly sees z_i
    assert last(*strong, "--direction", "prior")[0] != last(*strong)[0]


def test_an_animation_is_its_first_frame_and_a_turned_image_upright(pictures):
    from unclip.cli.image_files import read

    assert (read(pictures / "animated.gif").reshape(-1, 3) == (0, 0, 255)).all()
    assert read(pictures / "turned.jpg").shape == (40, 30, 3)


def test_two_images_of_one_name_keep_two_results(run, pictures, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(pictures / "plain.png", tmp_path / "other" / "plain.png")
    status, _, _ = run("vary", "plain.png", str(tmp_path / "other" / "plain.png"), "--n", "1")
    assert status == 0
    assert written(tmp_path) == ["plain-2_seed0.png", "plain_seed0.png", "vary.png"]


def test_inpaint_keeps_what_is_white_in_the_mask(run, tmp_path, pictures):
    words = ("plain.png", "--mask", "mask.png", "--caption", "a blue star", "--n", "2")
    status, _, _ = run("inpaint", *words, "--resample", "2")
    assert status == 0
    assert written(tmp_path) == ["inpaint.png", "plain_seed0.png", "plain_seed1.png"]
    one, other = (np.asarray(Image.open(tmp_path / "out" / f"plain_seed{k}.png")) for k in (0, 1))
    assert np.array_equal(one[:, 20:], other[:, 20:])
    assert not np.array_equal(one[:, :12], other[:, :12])


@pytest.fixture
def masks(pictures) -> Path:
    """Masks of the left half in every form that means the same."""
    left = np.zeros((24, 24), np.uint8)
    left[:, 12:] = 1
    Image.fromarray(left * 255).convert("1").save(pictures / "bits.png")
    Image.fromarray(left).save(pictures / "ones.png")
    Image.fromarray(left.astype(np.uint16)).save(pictures / "deep_ones.png")
    Image.fromarray(left.astype(np.uint16) * 65535).save(pictures / "deep_mask.png")
    for name, colour in (("black", 0), ("white", 255)):
        rgba = np.full((24, 24, 4), colour, np.uint8)
        rgba[..., 3] = left * 255
        Image.fromarray(rgba).save(pictures / f"alpha_{name}.png")
    return pictures


@pytest.mark.parametrize(
    "name",
    [
        *("mask.png", "bits.png", "ones.png", "deep_ones.png", "deep_mask.png"),
        *("alpha_black.png", "alpha_white.png"),
    ],
)
def test_a_mask_keeps_its_white_or_its_opaque_part(masks, name):
    keep = read_mask(masks / name)
    assert keep.dtype == bool
    assert keep[:, 12:].all()
    assert not keep[:, :12].any()


def test_a_hole_that_no_network_sees_is_refused(run, pictures, tmp_path):
    Image.new("RGB", (60, 24), "red").save(pictures / "wide.png")
    mask = Image.new("L", (60, 24), 255)
    mask.paste(0, (0, 0, 10, 24))
    mask.save(pictures / "edge.png")
    files = [str(pictures / name) for name in ("wide.png", "edge.png")]
    status, _, error = run("inpaint", files[0], "--mask", files[1], "--caption", "a star")
    assert status == 2
    assert "the hole lies outside the middle square" in error
    mask.paste(0, (0, 0, 20, 24))
    mask.save(pictures / "edge.png")
    words = ("--mask", files[1], "--caption", "a star", "--n", "1", "--resample", "1")
    assert run("inpaint", files[0], *words)[0] == 0


def test_a_long_caption_is_cut_and_said_to_be(run):
    long = "a red circle " * 100
    status, _, error = run("edit", "plain.png", "--to", long, "--n", "2")
    assert status == 0
    assert "has 302 tokens; the first 16 are read" in error
    status, _, error = run("edit", "plain.png", "--to", "a blue circle", "--n", "2")
    assert "tokens" not in error


EDIT = ("--to", "a blue circle")
STAR = ("--caption", "a star")
FILL = ("--mask", "mask.png", *STAR)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("vary", "missing.png"), "unclip: error: missing.png: does not exist"),
        (("vary", "text.png"), "not an image that can be read"),
        (("vary", "plain.png", "--n", "0"), "--n: must be at least 1"),
        (("vary", "plain.png", "--eta", "1.5"), "eta=1.5: must be in [0, 1]"),
        (("vary", "plain.png", "--batch", "0"), "batch=0: must be at least 1"),
        (("vary", "plain.png", "--inversion", "x"), "inversion=x: must be one of guided_diffusion"),
        (("vary", "plain.png", "decoder.steps=1"), "decoder.steps"),
        (("interpolate", "plain.png", "text.png"), "not an image that can be read"),
        (("interpolate", "plain.png", "tiny.png", "--n", "1"), "--n: must be at least 2"),
        (("edit", "plain.png", "--to", " "), "--from, --to: a caption is empty"),
        (("edit", "plain.png", "--from", "", *EDIT), "--from, --to: a caption is empty"),
        (("edit", "plain.png", "--theta", "2", *EDIT), "--theta: 2.0 must be in [0, 1]"),
        (("edit", "plain.png", "--from", "a blue circle", *EDIT), "nothing to change"),
        (("inpaint", "plain.png", "--mask", "mask.png", "--caption", ""), "--caption: is empty"),
        (("inpaint", "plain.png", *FILL, "--n", "0"), "--n: must be at least 1"),
        (("inpaint", "plain.png", "--mask", "small_mask.png", *STAR), "is 20x20 pixels"),
        (("inpaint", "plain.png", "--mask", "white.png", *STAR), "keeps everything; paint"),
        (("inpaint", "plain.png", "--mask", "text.png", *STAR), "not an image that can be read"),
        (("inpaint", "plain.png", *FILL, "decoder.sampler=heun"), "heun: cannot inpaint"),
    ],
)
def test_wrong_uses_are_one_line_and_write_nothing(run, tmp_path, words, message):
    status, out, error = run(*words)
    assert status == 2
    assert out == ""
    last = error.strip().splitlines()[-1]
    assert last.startswith("unclip: error: ")
    assert message in last
    assert not (tmp_path / "out").exists()


def test_a_missing_part_is_named_by_what_needs_it_alone(run, cascade, tmp_path):
    for kind in ("clip", "decoder"):
        shutil.copytree(cascade / kind / "artifact", tmp_path / "few" / kind)
    assert run("vary", "plain.png", "--n", "1", pipeline=tmp_path / "few")[0] == 0
    status, _, error = run("inpaint", "plain.png", *FILL, pipeline=tmp_path / "few")
    assert status == 2
    assert "prior: this cascade has none" in error
    shutil.rmtree(tmp_path / "few" / "decoder")
    status, _, error = run("vary", "plain.png", pipeline=tmp_path / "few")
    assert status == 2
    assert "decoder missing in it" in error


def test_a_folder_that_cannot_be_written_to_is_named(cascade, pictures, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["vary", str(pictures / "plain.png"), "--n", "1", "--iterations", "1"]
    assert main([*words, "--pipeline", str(cascade), "--out", str(tmp_path / "file")]) == 2
    assert f"--out {tmp_path / 'file'}: " in capsys.readouterr().err
