"""Where commands write: checked first, named apart, and nothing there is replaced unasked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unclip.cli import main
from unclip.cli.image_files import slug
from unclip.cli.outputs import Outputs, unique
from unclip.common.errors import UserError

CAPTIONS = [
    "红色的圆",
    "蓝色的方块",
    "a Cat!",
    "a cat",
    "a  cat.",
    "x" * 70,
    "x" * 71,
    "...",
    "???",
]


@given(st.lists(st.sampled_from(["a", "a-2", "a-3", "b", "b-2"]), max_size=8))
def test_names_become_different_and_those_that_are_stay(names):
    found = unique(names)
    assert len(set(found)) == len(found)
    for name, new in zip(names, found):
        assert new.startswith(name)
    if len(set(names)) == len(names):
        assert found == names


@given(st.text(max_size=100))
def test_a_slug_is_a_file_name(text):
    name = slug(text)
    assert name
    assert len(name.encode()) <= 240
    assert Path(name).name == name


def test_every_caption_has_its_own_image(cascade, tmp_path):
    words = ["--pipeline", str(cascade), "--out", str(tmp_path), "decoder.steps=2"]
    assert main(["sample", *CAPTIONS, *words]) == 0
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [row["caption"] for row in rows] == CAPTIONS
    files = [row["file"] for row in rows]
    assert len(set(files)) == len(CAPTIONS)
    assert {p.name for p in tmp_path.iterdir()} == {*files, "samples.jsonl", "grid.png"}
    assert files[0] == "红色的圆_seed0.png"


def test_a_second_call_leaves_the_first_ones_files(cascade, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["sample", "a", "--pipeline", str(cascade), "--out", str(out), "decoder.steps=2"]
    assert main(words) == 0
    before = {p: p.read_bytes() for p in out.iterdir()}
    capsys.readouterr()
    assert main([*words, "--seed", "0"]) == 0
    assert {p: p.read_bytes() for p in before} == before
    assert {p.name for p in out.iterdir()} - {p.name for p in before} == {
        "a_seed0-2.png",
        "grid-2.png",
        "samples-2.jsonl",
    }
    assert capsys.readouterr().out.strip() == str(out / "grid-2.png")
    assert json.loads((out / "samples-2.jsonl").read_text())["file"] == "a_seed0-2.png"
    assert main([*words, "upsampler.steps=2", "--force"]) == 0
    assert (out / "a_seed0.png").read_bytes() != before[out / "a_seed0.png"]
    assert len(list(out.iterdir())) == 6


def test_stages_given_by_themselves_need_no_cascade(cascade, tmp_path, monkeypatch, capsys):
    """Nor is one looked at that happens to be in the default place."""
    words = ["sample", "a", "decoder.steps=2"]
    for stage in ("clip", "prior", "decoder"):
        words += [f"--{stage}", str(cascade / stage)]
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--out", "one"]) == 0
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "upsampler").symlink_to(cascade / "upsampler")
    assert main([*words, "--out", "two"]) == 0
    images = [(tmp_path / out / "a_seed0.png").read_bytes() for out in ("one", "two")]
    assert images[0] == images[1]
    capsys.readouterr()
    assert main([*words[:-2], "--out", "three"]) == 2  # the decoder is missing
    assert "runs/quickstart/decoder: no such" in capsys.readouterr().err
    assert main([*words, "--upsampler", str(cascade / "upsampler"), "--out", "four"]) == 0
    assert (tmp_path / "four" / "a_seed0.png").read_bytes() != images[0]


def test_an_input_is_never_replaced(cascade, tmp_path, capsys, image):
    words = ["vary", image, "--n", "1", "--iterations", "1", "--pipeline", str(cascade)]
    target = tmp_path / "vary.png"
    Path(image).rename(target)
    words[1] = str(target)
    before = target.read_bytes()
    assert main([*words, "--out", str(tmp_path), "--force"]) == 2
    assert f"{target} is an input; leave out --force" in capsys.readouterr().err
    assert target.read_bytes() == before
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert target.read_bytes() == before


def test_an_evaluation_replaces_no_run_and_no_other_evaluation(cascade, tmp_path, capsys):
    words = ["evaluate", str(cascade), "--n", "1", "decoder.steps=2", "upsampler.steps=2"]
    assert main([*words, f"run.dir={cascade / 'prior'}", "--force"]) == 2
    assert "holds a training run" in capsys.readouterr().err
    assert main([*words, f"run.dir={tmp_path / 'e'}"]) == 0
    assert main([*words, f"run.dir={tmp_path / 'e'}"]) == 2
    assert "holds an evaluation; name another, or add --force" in capsys.readouterr().err
    assert main([*words, f"run.dir={tmp_path / 'e'}", "--force"]) == 0


def test_small_steps_of_theta_keep_their_images(cascade, tmp_path, image):
    words = ["edit", image, "--to", "a star", "--iterations", "1", "--pipeline", str(cascade)]
    assert main([*words, "--out", str(tmp_path / "a"), "--theta", "0.01", "--n", "4"]) == 0
    assert len(list((tmp_path / "a").iterdir())) == 5
    assert main([*words, "--out", str(tmp_path / "b"), "--theta", "0", "--n", "2"]) == 0
    assert len(list((tmp_path / "b").iterdir())) == 3


@pytest.mark.parametrize("command", ["sample", "vary", "edit", "interpolate", "inpaint", "probe"])
def test_more_images_than_any_memory_holds_are_refused_at_once(command, image, capsys):
    words = {
        "sample": ["a"],
        "vary": [image],
        "edit": [image, "--to", "b"],
        "interpolate": [image, image],
        "inpaint": [image, "--mask", image, "--caption", "b"],
        "probe": ["relations"],
    }[command]
    assert main([command, *words, "--n", "1000000000"]) == 2
    assert "--n: 1,000,000,000 images are more than 100,000" in capsys.readouterr().err


def test_captions_files_are_bounded_texts(cascade, tmp_path, capsys):
    (tmp_path / "utf16.txt").write_text("a", encoding="utf-16")
    for file, said in (("/dev/zero", "is larger than 16 MiB"), (tmp_path / "utf16.txt", "UTF-8")):
        assert main(["sample", "--captions", str(file)]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "bom.txt").write_text("a\n", encoding="utf-8-sig")
    out = ["--pipeline", str(cascade), "--out", str(tmp_path / "o"), "decoder.steps=2"]
    assert main(["sample", "--captions", str(tmp_path / "bom.txt"), *out]) == 0
    assert json.loads((tmp_path / "o" / "samples.jsonl").read_text())["caption"] == "a"


def test_one_call_has_one_number(tmp_path):
    (tmp_path / "b.png").touch()
    (tmp_path / "a-2.png").touch()
    out = Outputs(tmp_path, ["a.png", "b.png"], force=False)
    assert [out.path(name).name for name in ("a.png", "b.png")] == ["a-3.png", "b-3.png"]
    out = Outputs(tmp_path, ["a.png", "b.png"], force=True)
    assert out.path("b.png") == tmp_path / "b.png"


@pytest.fixture
def image(tmp_path) -> str:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "a"),
        ("vary", "IMAGE"),
        ("interpolate", "IMAGE", "IMAGE"),
        ("edit", "IMAGE", "--to", "b"),
        ("inpaint", "IMAGE", "--mask", "IMAGE", "--caption", "b"),
        ("probe", "guidance"),
        ("figures",),
    ],
)
def test_a_folder_that_cannot_be_is_said_before_anything_is_loaded(words, image, tmp_path, capsys):
    (tmp_path / "file").write_text("here")
    words = [image if word == "IMAGE" else word for word in words]
    where = ["nowhere"] if words[0] == "figures" else ["--pipeline", "nowhere"]
    assert main([*words, *where, "--out", str(tmp_path / "file" / "x")]) == 2
    assert f"--out {tmp_path / 'file' / 'x'}: {tmp_path / 'file'} is not a folder" in (
        capsys.readouterr().err
    )


def _refuse(*args):
    raise OSError(30, "Read-only file system")


ELSEWHERE = {  # a folder that no account can write to, root included
    "sample red --out {}": "--out",
    "vary IMAGE --out {}": "--out",
    "interpolate IMAGE IMAGE --out {}": "--out",
    "edit IMAGE --to red --out {}": "--out",
    "inpaint IMAGE --caption red --mask IMAGE --out {}": "--out",
    "probe guidance --out {}": "--out",
    "figures nowhere --out {}": "--out",
    "degrade IMAGE --out {}.png": "--out",
    "evaluate prior/tiny --out {}.md": "--out",
    "evaluate nowhere --image {}.png": "--image",
    "evaluate images nowhere --features clip:nowhere --out {}.md": "--out",
    "evaluate images nowhere --features clip:x --save-statistics {}.npz": "--save-statistics",
    "evaluate compare a.json b.json --out {}.md": "--out",
    "fit-probe aesthetics t.csv --clip nowhere --out {}": "--out",
    "embed scenes --clip nowhere --out {}": "--out",
    "data inspect scenes --out {}": "--out",
    "data pack scenes --out {}": "--out",
    "import nowhere --out {}": "--out",
    "export {cascade} --to diffusers --out {}": "--out",
    "runs compare a b --out {}": "--out",
    "share nowhere --to {}.zip": "--to",
    "share nowhere --to {}": "--to",
    "reproduce nowhere.zip --dir {}": "--dir",
    "sweep prior_lr --count 1 --dir {}": "--dir",
    "recipe quickstart --dir {}": "--dir",
    "experiments new mine --from clip/tiny --dir {}": "--dir",
}


@pytest.mark.parametrize("words", ELSEWHERE)
def test_a_place_that_cannot_be_written_is_refused_first(words, image, cascade, capsys):
    given = words.format("/proc/x", cascade=cascade).replace("IMAGE", image)
    capsys.readouterr()
    assert main(given.split()) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith(f"unclip: error: {ELSEWHERE[words]} /proc")
    assert "/proc cannot be written to" in line


def test_a_folder_on_a_read_only_disk_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("os.mkdir", _refuse)
    with pytest.raises(UserError, match="cannot be written to"):
        Outputs(tmp_path / "x", [], force=False)


def test_a_disk_that_fills_up_is_one_line(cascade, tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    words = ["sample", "a", "--pipeline", str(cascade), "decoder.steps=2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "No space left on device" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list((tmp_path / "out").iterdir())


def test_a_named_file_is_not_replaced_unasked(cascade, tmp_path, capsys):
    table = tmp_path / "table.md"
    table.write_text("mine")
    words = ["evaluate", str(cascade), "--n", "1", "decoder.steps=2", "--out", str(table)]
    assert main(words) == 2
    assert "exists; name another file, or add --force" in capsys.readouterr().err
    assert table.read_text() == "mine"
    assert main([*words, "--force"]) == 0
    assert "oracle/colour" in table.read_text()
