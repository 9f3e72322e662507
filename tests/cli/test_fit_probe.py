"""`unclip fit-probe` and its use in `unclip evaluate images`."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from unclip.cli import main
from unclip.evaluation.linear_probes import table
from unclip.evaluation.linear_probes.probe import load_probe
from unclip.stages.clip.part import load


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """40 images of one brightness each, rated by it."""
    folder = tmp_path_factory.mktemp("rated")
    for k in range(40):
        Image.new("RGB", (20, 16), (6 * k, 3 * k, 255 - 6 * k)).save(folder / f"{k}.png")
    rows = "".join(f"{k}.png,{k / 4}\n" for k in range(40))
    (folder / "ratings.csv").write_text(f"image,rating\n{rows}")
    order = np.random.default_rng(0).integers(0, 40, (80, 2))
    rows = "".join(
        f"{a}.png,{b}.png,{'tie' if a == b else 'first' if a > b else 'second'}\n" for a, b in order
    )
    (folder / "pairs.csv").write_text(f"first,second,choice\n{rows}")
    return folder


def fit(capsys, *words):
    status = main(["fit-probe", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out + err


def scores(folder, clip, images):
    pixels = [np.asarray(Image.open(images / f"{k}.png"))[:, 2:18] for k in (5, 35)]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        return load_probe(folder, clip).scores(clip.model.encode_image(x))


@pytest.mark.parametrize("kind", ["aesthetics", "preference"])
def test_a_table_of_images_becomes_a_probe_that_scores_like_the_raters(
    kind, images, cascade, tmp_path, capsys
):
    table = images / {"aesthetics": "ratings.csv", "preference": "pairs.csv"}[kind]
    out = tmp_path / "probe"
    status, said = fit(capsys, kind, table, "--clip", cascade / "clip", "--out", out)
    assert status == 0, said
    assert "on images not fitted" in said
    dark, bright = scores(out, load(cascade / "clip"), images)
    assert bright > dark
    status, said = fit(capsys, kind, table, "--clip", cascade / "clip", "--out", out)
    assert status == 2
    assert "exists" in said
    words = [images, "--features", f"own:{cascade}", "--size", "16", "--probe", out, "--json"]
    folder = tmp_path / "png"
    folder.mkdir()
    for path in images.glob("*.png"):
        shutil.copy(path, folder)
    words[0] = folder
    assert main(["evaluate", "images", *map(str, words)]) == 0
    found = json.loads(capsys.readouterr().out)
    figure = found["figures"][f"predicted {kind}"]
    assert figure["low"] < figure["value"] < figure["high"]
    if kind == "aesthetics":
        assert figure["value"] == pytest.approx(39 / 8, abs=0.5)
    assert found["conditions"]["probe"]


def test_a_parquet_of_embeddings_is_read_and_each_is_brought_to_unit_length(
    cascade, tmp_path, capsys
):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 16))
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    taste = rng.normal(size=16)
    table = pa.table({"embedding": list(z), "rating": unit @ taste + 2})
    pq.write_table(table, tmp_path / "t.parquet")
    words = ["aesthetics", tmp_path / "t.parquet", "--clip", cascade / "clip"]
    assert fit(capsys, *words, "--out", tmp_path / "p")[0] == 0
    probe = load_probe(tmp_path / "p", load(cascade / "clip"))
    assert probe.weight.numpy() == pytest.approx(taste, rel=1e-3)
    assert probe.bias == pytest.approx(2, abs=1e-3)


def test_another_clip_is_refused(images, cascade, tmp_path, capsys):
    out = tmp_path / "probe"
    words = ["aesthetics", images / "ratings.csv", "--clip", cascade / "clip", "--out", out]
    assert fit(capsys, *words)[0] == 0
    header = json.loads((out / "artifact.json").read_text())
    (out / "artifact.json").write_text(json.dumps({**header, "clip_fingerprint": "0" * 64}))
    words = ["evaluate", "images", images, "--features", f"own:{cascade}", "--probe", out]
    assert main([str(word) for word in words]) == 2
    assert "another CLIP" in capsys.readouterr().err
    words = ["evaluate", "images", images, "--features", "efficientnet_lite0", "--probe", out]
    assert main([str(word) for word in words]) == 2
    assert "reads embeddings of a CLIP" in capsys.readouterr().err
    words = [
        "evaluate",
        "images",
        images,
        "--features",
        f"own:{cascade}",
        "--probe",
        cascade / "clip",
    ]
    assert main([str(word) for word in words]) == 2
    assert "is a clip" in capsys.readouterr().err


def test_laions_weights_are_one_linear_map(cascade, tmp_path, capsys):
    torch.manual_seed(0)
    clip = load(cascade / "clip")
    linear = torch.nn.Linear(16, 1)
    layers = torch.nn.Module()
    layers.layers = torch.nn.Sequential(
        torch.nn.Linear(16, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 4), torch.nn.Dropout(0.2),
        torch.nn.Linear(4, 1),
    )  # fmt: skip
    z = torch.randn(5, 16)
    for name, module, call in (("a", linear, linear), ("b", layers, layers.layers.eval())):
        torch.save(module.state_dict(), tmp_path / f"{name}.pth")
        words = ["aesthetics", "--laion", tmp_path / f"{name}.pth", "--clip", cascade / "clip"]
        status, said = fit(capsys, *words, "--out", tmp_path / name)
        assert status == 0, said
        found = load_probe(tmp_path / name, clip).scores(z)
        assert torch.allclose(found, call(z)[:, 0].double(), atol=1e-6)
    weight = torch.zeros(1, 16)
    wrong = [torch.nn.Linear(12, 1).state_dict(), {"weight": weight, "bias": torch.zeros(3)}]
    for state in wrong:
        torch.save(state, tmp_path / "c.pth")
        words = ["aesthetics", "--laion", tmp_path / "c.pth", "--clip", cascade / "clip"]
        status, said = fit(capsys, *words, "--out", tmp_path / "c")
        assert status == 2
        assert "not linear layers from the 16 features" in said


NONE = "".join(f"none.png,{k}\n" for k in range(10))
ONE = "".join(f"{k % 2}.png,{k}\n" for k in range(12))


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("aesthetics", "image,score\n0.png,1\n", "no column 'rating', only image, score"),
        ("aesthetics", "image,rating\n0.png,good\n", "row 1: rating 'good' is not a number"),
        ("aesthetics", "image,rating\n0.png,1\n", "1 rating; cross-validation needs 10"),
        ("aesthetics", "image,rating\n", "has no rows"),
        ("aesthetics", f"image,rating\n{NONE}", "none.png"),
        (
            "aesthetics",
            "image,image,rating\n" + "a,b,1\na,b,2\n" * 5,
            "2 columns 'image'",
        ),
        (
            "aesthetics",
            f"image,rating\n{NONE},3\n",
            "row 11: '' is not the name",
        ),
        ("aesthetics", "image,rating\n" + "0.png,3\n" * 12, "all ratings are equal"),
        ("aesthetics", f"image,rating\n{ONE}", "2 different images; cross-validation"),
        ("preference", "first,second,choice\n0.png,1.png,tie\n", "0 pairs; cross-validation needs"),
        ("preference", "first,second,choice\n0.png,1.png,both\n", "must be first, second or tie"),
        ("preference", "first,second\n0.png,1.png\n", "no column 'choice'"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_a_line(
    kind, text, said, images, cascade, tmp_path, capsys
):
    for k in (0, 1):
        shutil.copy(images / f"{k}.png", tmp_path)
    (tmp_path / "t.csv").write_text(text)
    words = [kind, tmp_path / "t.csv", "--clip", cascade / "clip", "--out", tmp_path / "p"]
    status, line = fit(capsys, *words)
    assert status == 2
    assert said in line
    assert line.count("unclip: error:") == 1
    assert not (tmp_path / "p").exists()


def test_names_are_text_with_a_mark_in_front_of_them_in_quotes_and_of_digits_alone(
    images, cascade, tmp_path, capsys
):
    for k in range(12):
        shutil.copy(images / f"{k}.png", tmp_path / f"0{k:02}")
    rows = "".join(f'"0{k:02}",{k},a\n' for k in range(12))
    (tmp_path / "t.csv").write_text(f"\ufeffimage,rating,note\n{rows}", encoding="utf-8")
    words = ["aesthetics", tmp_path / "t.csv", "--clip", cascade / "clip"]
    status, said = fit(capsys, *words, "--out", tmp_path / "p")
    assert status == 0, said
    assert "12 ratings of 12 images" in said


def test_a_table_is_checked_before_its_images_are_embedded(
    images, cascade, tmp_path, capsys, monkeypatch
):
    def never(*_):
        raise AssertionError("embedded")

    monkeypatch.setattr(table, "_encoded", never)
    rows = "".join(f"{k}.png,{k}\n" for k in range(39))
    (tmp_path / "r.csv").write_text(f"image,rating\n{rows}39.png,great\n")
    (tmp_path / "p.csv").write_text("first,second,choice\n" + "0.png,1.png,first\n" * 9)
    for kind, name, line in (
        ("aesthetics", "r.csv", "row 1: rating '0' is not a number"),
        ("preference", "p.csv", "9 pairs; cross-validation needs 10"),
    ):
        words = [kind, tmp_path / name, "--clip", cascade / "clip", "--out", tmp_path / "p"]
        status, said = fit(capsys, *words)
        assert status == 2
        assert line in said
    words = ["preference", tmp_path / "no.csv", "--clip", "nowhere", "--out", tmp_path / "p"]
    assert "no.csv: no such table" in fit(capsys, *words)[1]


def test_a_table_or_laions_weights_and_not_both(images, cascade, tmp_path, capsys):
    words = ["--clip", cascade / "clip", "--out", tmp_path / "p"]
    assert "either a table or --laion" in fit(capsys, "aesthetics", *words)[1]
    words += ["--laion", images / "ratings.csv"]
    assert "aesthetics" in fit(capsys, "preference", *words)[1]
    assert "not a plain state dict" in fit(capsys, "aesthetics", *words)[1]
